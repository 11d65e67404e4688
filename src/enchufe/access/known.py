"""The machines that this one knows: a name, its key, and where it was last seen."""

from __future__ import annotations

import re
import time
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

from enchufe.access.state import Book, Folder, moment
from enchufe.dataclass import dataclass
from enchufe.errors import LocalProtocolError, Refused
from enchufe.printable import printable
from enchufe.store.names import folded

FILE: Final = "peers.json"
LONGEST: Final = 64  # bytes of a name, as docs/access.md has it
_KEY: Final = 32  # bytes
_ADDRESSES: Final = 8  # last seen of one machine
_NAMELESS: Final = "machine"

_SUGGESTED: Final = re.compile(r"[^A-Za-z0-9._-]+")
_CHOSEN: Final = re.compile(r"[^\W_][\w.-]*")


class ChangedKey(Refused):
    """Who calls itself by the name of a known machine has another key.

    Attributes:
        told: to that one.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            f"this is not the {name} that is known here: its key is another. Either that machine was set up anew, or"
            " this is a second one of that name, or somebody pretends to be it",
            hint=f"Compare `enchufe peers show` there with `enchufe peers show {name}` here. Set up anew:"
            f" `enchufe peers remove {name}`, and meet it again. A second one: `enchufe peers name {name} OTHER`.",
        )
        self.told = Refused(
            f"it knows {name} by another key than yours. If your machine was set up anew, have `enchufe peers remove"
            f" {name}` run on that side, and meet again; without --remember you can come as you are"
        )


@dataclass(frozen=True, slots=True)
class Machine:
    """A machine that is known.

    Attributes:
        name: what it is called here.
        public: its key, 32 bytes.
        addresses: where it was seen, the last one first.
        added: when, in seconds since 1970.
        met: when last, in seconds since 1970.
    """

    name: str
    public: bytes
    addresses: tuple[str, ...]
    added: int
    met: int


class KnownMachines:
    """All machines that are known here, for every process of this user.

    Every call reads what is on disk by then, and may raise StoreError: it cannot be read or written, is not private, or
    is damaged.

    Args:
        folder: where they are kept; None: the state folder.
        now: the time, in seconds since 1970.
    """

    def __init__(self, folder: Folder | None = None, now: Callable[[], float] = time.time) -> None:
        self._book = Book(folder or Folder(), FILE, _parse, _pack)
        self._now = now

    def all(self) -> list[Machine]:
        """Every one, in the order in which they were added."""
        return list(self._book.read().values())

    def name_of(self, public: bytes) -> str | None:
        """What the machine with this key is called; None where it is not known."""
        machine = _holding(self._book.read(), public)
        return machine.name if machine is not None else None

    def check(self, name: str, public: bytes) -> None:
        """Make sure that nothing here speaks against knowing a machine that calls itself so, the disk included.

        Raises:
            ChangedKey: that name belongs to another key.
        """
        _check(self._book.read(), suggested_name(name), public)
        self._book.rehearse()

    def add(self, name: str, public: bytes, address: str | None = None) -> Machine:
        """Know a machine from now on; what it has become. One that is known keeps the name that it has.

        Args:
            name: what it calls itself.
            public: its key.
            address: where it was met.

        Raises:
            ChangedKey: that name belongs to another key.
        """
        if len(public) != _KEY:
            raise ValueError(f"{len(public)} bytes are no public key")
        name = suggested_name(name)
        with self._book.changing() as machines:
            machine = _check(machines, name, public)
            if machine is None:
                now = int(self._now())
                machine = Machine(name, public, (), now, now)
            machines[machine.name] = machine = self._seen(machine, address)
        return machine

    def met(self, name: str, address: str | None = None) -> None:
        """Note that a machine was met just now; one that was removed meanwhile stays so."""
        with self._book.changing() as machines:
            machine = _called(machines, name)
            if machine is not None:
                machines[machine.name] = self._seen(machine, address)

    def rename(self, old: str, new: str) -> Machine:
        """Call a machine otherwise.

        Raises:
            LocalProtocolError: there is no such machine, `new` is no name, or another machine has it.
        """
        new = chosen_name(new)
        with self._book.changing() as machines:
            machine = _existing(machines, old)
            taken = _called(machines, new)
            if taken is not None and taken != machine:
                raise LocalProtocolError(
                    f"another machine is called {taken.name}", hint="Choose another name, or remove that one first."
                )
            renamed = replace(machine, name=new)
            kept = [renamed if each == machine else each for each in machines.values()]
            machines.clear()
            machines.update((each.name, each) for each in kept)
        return renamed

    def remove(self, name: str) -> Machine:
        """Forget a machine; what it was.

        Raises:
            LocalProtocolError: there is no such machine.
        """
        with self._book.changing() as machines:
            return machines.pop(_existing(machines, name).name)

    def existing(self, name: str) -> Machine:
        """The one that is called so, in whatever case.

        Raises:
            LocalProtocolError: there is none.
        """
        return _existing(self._book.read(), name)

    def _seen(self, machine: Machine, address: str | None) -> Machine:
        addresses = machine.addresses
        if address is not None:
            addresses = (address, *(each for each in addresses if each != address))[:_ADDRESSES]
        return replace(machine, addresses=addresses, met=int(self._now()))


def suggested_name(text: str) -> str:
    """A name made of what the other side calls itself: at most 64 of a-z, A-Z, 0-9, `-`, `_` and `.`.

    Accents go and all else becomes a hyphen, so that no letter only looks like another one.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKD", text[:LONGEST]) if not unicodedata.combining(c))
    return _SUGGESTED.sub("-", plain).strip("-._")[:LONGEST] or _NAMELESS


def chosen_name(text: str) -> str:
    """A name that a user gave: letters, digits, `-`, `_` and `.`, the first a letter or digit, 64 bytes of UTF-8.

    Raises:
        LocalProtocolError: it is none.
    """
    name = unicodedata.normalize("NFC", text)
    if not _CHOSEN.fullmatch(name) or len(name.encode()) > LONGEST:
        raise LocalProtocolError(
            f"'{printable(text)}' cannot be a name here",
            hint=f"Take at most {LONGEST} letters, digits, -, _ and ., with a letter or digit first.",
        )
    return name


def _called(machines: dict[str, Machine], name: str) -> Machine | None:
    wanted = _folded(name)
    return next((machine for machine in machines.values() if _folded(machine.name) == wanted), None)


def _folded(name: str) -> str:
    return folded(name.encode("utf-8", "surrogateescape"))


def _holding(machines: dict[str, Machine], public: bytes) -> Machine | None:
    return next((machine for machine in machines.values() if machine.public == public), None)


def _check(machines: dict[str, Machine], name: str, public: bytes) -> Machine | None:
    """The machine with this key, if it is known.

    Raises:
        ChangedKey: it is not, and that name belongs to another.
    """
    machine = _holding(machines, public)
    taken = _called(machines, name)
    if machine is None and taken is not None:
        raise ChangedKey(taken.name)
    return machine


def _existing(machines: dict[str, Machine], name: str) -> Machine:
    machine = _called(machines, name)
    if machine is None:
        raise LocalProtocolError(
            f"no machine is known as '{printable(name)}'", hint="`enchufe peers` lists those that are."
        )
    return machine


def _parse(name: str, record: dict[str, Any]) -> Machine:
    public = bytes.fromhex(record["public"])
    if len(public) != _KEY:
        raise ValueError("no key")
    return Machine(name, public, tuple(map(str, record["addresses"])), moment(record["added"]), moment(record["met"]))


def _pack(machine: Machine) -> dict[str, Any]:
    return {
        "public": machine.public.hex(),
        "addresses": list(machine.addresses),
        "added": machine.added,
        "met": machine.met,
    }
