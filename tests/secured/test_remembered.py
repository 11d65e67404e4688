"""Machines that remember each other, with the commands: how that begins, what it is good for, and what ends it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from enchufe.access.known import KnownMachines
from enchufe.access.state import Folder
from tests.secured.people import HERE, Person

REMEMBERING = (*HERE, "--remember")
CHANGED = ("another key", "remove")


def acquainted(ana: Person, blas: Person, file: Path) -> str:
    """What each is called by the other, after a transfer with --remember on both sides."""
    sender = ana.send(file, options=REMEMBERING)
    receiver = blas.receive(sender.address, "--remember", code=sender.code())
    assert (receiver.end(), sender.end()) == (0, 0)
    (name,) = blas.known()
    assert ana.known() == [name]
    assert [run.named("remembered")[0]["name"] for run in (sender, receiver)] == [name, name]
    return name


def start_anew(person: Person) -> None:
    """His machine was set up anew: it has another key, and knows nobody."""
    shutil.rmtree(person.state)


def test_both_remember_and_need_no_code(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    name = acquainted(ana, blas, file)
    sender = ana.send(file, options=HERE)
    receiver = blas.receive(f"@{name}", "--to", sender.address)
    assert (receiver.end(), sender.end()) == (0, 0)
    assert [run.named("paired") for run in (sender, receiver)] == [
        [{"v": 1, "event": "paired", "way": "key", "name": name}],
        [{"v": 1, "event": "paired", "way": "key", "name": name}],
    ]
    receiver = ana.receive(*HERE)
    sender = blas.send(file, options=("--to", f"@{name}"))
    sender_elsewhere = blas.send(file, options=("--to", f"enchufe://{receiver.address}/"), code=receiver.code())
    assert sender_elsewhere.end() == 0
    assert receiver.end() == 0
    sender.kill()


def test_one_remembers_alone(people: tuple[Person, Person], file: Path) -> None:
    """Nobody is pinned who does not want it, and that is told."""
    ana, blas = people
    sender = ana.send(file, options=REMEMBERING)
    receiver = blas.receive(sender.address, code=sender.code())
    assert (receiver.end(), sender.end()) == (0, 0)
    assert sender.named("remembered") == [{"v": 1, "event": "remembered"}]
    sender = ana.send(file, options=HERE)
    receiver = blas.receive(sender.address, "--remember", code=sender.code())
    assert (receiver.end(), sender.end()) == (0, 0)
    assert receiver.named("remembered") == [{"v": 1, "event": "remembered"}]
    assert ana.known() == blas.known() == []


def test_one_removes_the_other(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    name = acquainted(ana, blas, file)
    assert ana.do("peers", "remove", name).returncode == 0
    ana.receive(*HERE).kill()  # she listens to nobody that she knows
    sender = ana.send(file, options=HERE)
    receiver = blas.receive(f"@{name}", "--to", sender.address)
    assert receiver.end() == 3
    assert receiver.error["kind"] in ("another_machine", "unknown_machine")
    assert not receiver.named("offer")
    assert blas.do("peers", "remove", name).returncode == 0
    gone = blas.receive(f"@{name}", "--to", sender.address)
    assert gone.end() == 2
    assert "known" in gone.error["message"]


def test_a_removed_machine_is_told_so_by_who_knows_others(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    name = acquainted(ana, blas, file)
    KnownMachines(Folder(str(ana.state / "enchufe"))).add("another", bytes(31) + b"\1")
    assert ana.do("peers", "remove", name).returncode == 0
    sender = ana.send(file, options=HERE)
    receiver = blas.receive(f"@{name}", "--to", sender.address)
    assert receiver.end() == 3
    assert receiver.error["kind"] == "unknown_machine"
    assert "--remember" in receiver.error["hint"]


def test_another_key_behind_a_name_is_a_hard_stop(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    name = acquainted(ana, blas, file)
    start_anew(ana)
    for options in (HERE, REMEMBERING):
        sender = ana.send(file, options=options)
        receiver = blas.receive(f"@{name}", "--to", sender.address)
        assert receiver.end() == 3
        assert receiver.error["kind"] == "another_machine"
        assert "another key" in receiver.error["message"]
        assert "peers remove" in receiver.error["hint"]
        assert not receiver.named("offer")
        assert not receiver.named("paired")
        sender.kill()


def test_another_key_at_the_address_where_it_was(people: tuple[Person, Person], file: Path) -> None:
    """The address was remembered when it was met: nobody has to give it."""
    ana, blas = people
    sender = ana.send(file, options=REMEMBERING)
    address = sender.address
    assert blas.receive(address, "--remember", code=sender.code()).end() == 0
    assert sender.end() == 0
    (name,) = blas.known()
    start_anew(ana)
    sender = ana.send(file, options=("--listen", address, "--no-announce"))
    sender.code()
    receiver = blas.receive(f"@{name}", "--interface", "lo")
    assert receiver.end() == 3
    assert receiver.error["kind"] == "another_machine"


@pytest.mark.parametrize("anew", ["listener", "dialer"])
def test_pairing_anew_under_the_same_name_is_a_hard_stop(people: tuple[Person, Person], file: Path, anew: str) -> None:
    """Whoever knows that name by another key takes nothing and sends nothing; the other is told."""
    ana, blas = people
    name = acquainted(ana, blas, file)
    (blas.inbox / file.name).unlink()
    start_anew(ana if anew == "listener" else blas)
    sender = ana.send(file, options=REMEMBERING)
    receiver = blas.receive(sender.address, "--remember", code=sender.code())
    assert receiver.end() == 3
    if anew == "dialer":
        assert sender.end() == 3
        assert f"peers remove {name}" in receiver.error["message"]
        assert "without --remember" in receiver.error["message"]
    stopped = receiver if anew == "listener" else sender
    assert stopped.error["kind"] == "changed_key"
    assert name in stopped.error["message"]
    assert f"peers remove {name}" in stopped.error["hint"]
    for run in (sender, receiver):
        assert not run.named("offer")
        assert not run.named("receipt")
    assert not list(blas.inbox.glob("*"))


def test_after_a_hard_stop_of_the_dialer_the_listener_has_a_new_code(people: tuple[Person, Person], file: Path) -> None:
    """The first was used, and nothing came of it."""
    ana, blas = people
    name = acquainted(ana, blas, file)
    start_anew(ana)
    sender = ana.send(file, options=REMEMBERING)
    assert blas.receive(sender.address, "--remember", code=sender.code()).end() == 3
    assert blas.do("peers", "remove", name).returncode == 0
    receiver = blas.receive(sender.address, "--remember", code=sender.code(2))
    assert (receiver.end(), sender.end()) == (0, 0)
    assert blas.known() == [name]


def test_what_is_kept_of_a_machine(people: tuple[Person, Person], file: Path) -> None:
    """Its public key, its name, where it was met: and of this one a private key that stays in its file."""
    ana, blas = people
    name = acquainted(ana, blas, file)
    listed = json.loads(blas.do("peers", "list", "--json").stdout)["peers"][0]
    assert listed["name"] == name
    own = json.loads(ana.do("peers", "show", "--json").stdout)
    assert own["public"] == listed["public"]
    assert own["fingerprint"] == listed["fingerprint"]
    folder = ana.state / "enchufe"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}
