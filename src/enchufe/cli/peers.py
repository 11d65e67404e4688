"""`enchufe peers`: the machines that are known here, and by what this one is known."""

from __future__ import annotations

from typing import Any

from enchufe.access.identity import Identity, fingerprint
from enchufe.access.known import KnownMachines, Machine
from enchufe.cli import output
from enchufe.cli.short import ended, shown_time, write_json, write_lines
from enchufe.printable import printable


def list_all(*, as_json: bool) -> int:
    """List them: the exit code."""

    def run() -> None:
        machines = KnownMachines().all()
        if as_json:
            write_json({"peers": [_as_dict(machine) for machine in machines]})
        else:
            write_lines(map(_line, machines))
            if not machines:
                output.tell("no machine is known here yet: send or receive with --remember\n")

    return ended(run)


def name(old: str, new: str) -> int:
    """Call a machine otherwise: the exit code."""

    def run() -> None:
        machine = KnownMachines().rename(_plain(old), _plain(new))
        output.tell(f"{_plain(old)} is now {machine.name}\n")

    return ended(run)


def remove(name: str) -> int:
    """Forget a machine: the exit code."""

    def run() -> None:
        machine = KnownMachines().remove(_plain(name))
        output.tell(f"{machine.name} is not known any more\n")

    return ended(run)


def show(name: str | None, *, as_json: bool) -> int:
    """Show a machine's fingerprint, or without a name this machine's: the exit code."""

    def run() -> None:
        machine = None if name is None else KnownMachines().existing(_plain(name))
        public = Identity.mine().public if machine is None else machine.public
        if as_json:
            own = {"name": None, "public": public.hex(), "fingerprint": fingerprint(public)}
            write_json(own if machine is None else _as_dict(machine))
        else:
            write_lines([fingerprint(public), public.hex()])

    return ended(run)


def _plain(name: str) -> str:
    """A name without the sign that makes it a target."""
    return name.removeprefix("@")


def _as_dict(machine: Machine) -> dict[str, Any]:
    return {
        "name": machine.name,
        "public": machine.public.hex(),
        "fingerprint": fingerprint(machine.public),
        "addresses": list(machine.addresses),
        "added": machine.added,
        "met": machine.met,
    }


def _line(machine: Machine) -> str:
    seen = printable(machine.addresses[0]) if machine.addresses else "nowhere"
    return f"{machine.name}  {shown_time(machine.met)}  {seen}"
