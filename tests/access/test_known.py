"""Machines that are known: a name belongs to one key, and a changed key is a hard stop."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enchufe.access.known import FILE, ChangedKey, KnownMachines, chosen_name, suggested_name
from enchufe.access.state import Folder, packed, unpacked
from enchufe.errors import LocalProtocolError, Refused, StoreError
from tests.access.conftest import Clock

LAPTOP, DESK, THIRD = (bytes([n]) * 32 for n in (1, 2, 3))


@pytest.fixture
def known(folder: Folder, clock: Clock) -> KnownMachines:
    return KnownMachines(folder, clock)


def test_nobody_is_known_at_first(known: KnownMachines, folder: Folder) -> None:
    assert known.all() == []
    assert known.name_of(LAPTOP) is None
    assert not os.path.exists(folder.path)


def test_what_was_added_is_found_by_name_and_by_key(known: KnownMachines, folder: Folder) -> None:
    added = known.add("laptop", LAPTOP, "192.0.2.1:9000")
    assert (added.name, added.public, added.addresses, added.added, added.met) == (
        "laptop", LAPTOP, ("192.0.2.1:9000",), 1000, 1000,
    )  # fmt: skip
    again = KnownMachines(folder)
    assert again.existing("laptop") == again.existing("LapTop") == added
    assert again.name_of(LAPTOP) == "laptop"
    assert again.name_of(DESK) is None
    assert os.stat(f"{folder.path}/{FILE}").st_mode & 0o777 == 0o600


@pytest.mark.parametrize("name", ["laptop", "LAPTOP", "láptop", "\tlaptop."])
def test_a_name_with_another_key_is_a_hard_stop(known: KnownMachines, name: str) -> None:
    before = known.add("laptop", LAPTOP, "192.0.2.1:9000")
    with pytest.raises(ChangedKey, match="its key is another") as caught:
        known.add(name, DESK, "192.0.2.9:9000")
    assert isinstance(caught.value, Refused)
    assert "enchufe peers remove laptop" in caught.value.hint
    assert known.all() == [before]
    known.remove("laptop")
    assert known.add(name, DESK).public == DESK


def test_a_known_key_keeps_its_name_whatever_it_calls_itself(known: KnownMachines, clock: Clock) -> None:
    known.add("laptop", LAPTOP, "a:1")
    known.add("desk", DESK, "b:1")
    clock.now = 2000.0
    machine = known.add("desk", LAPTOP, "c:1")  # not even the name of another
    assert (machine.name, machine.addresses, machine.added, machine.met) == ("laptop", ("c:1", "a:1"), 1000, 2000)
    assert [each.name for each in known.all()] == ["laptop", "desk"]


def test_addresses_are_kept_the_last_first_and_not_for_ever(known: KnownMachines, clock: Clock) -> None:
    known.add("laptop", LAPTOP, "a:1")
    for n in range(20):
        known.met("laptop", f"host:{n}")
    known.met("laptop", "host:18")
    clock.now = 5000.0
    known.met("laptop")
    machine = known.existing("laptop")
    assert machine.addresses[:3] == ("host:18", "host:19", "host:17")
    assert len(machine.addresses) == 8
    assert machine.met == 5000


def test_who_was_removed_meanwhile_stays_removed(known: KnownMachines) -> None:
    known.add("laptop", LAPTOP)
    known.remove("laptop")
    known.met("laptop", "a:1")
    assert known.all() == []


def test_renaming(known: KnownMachines) -> None:
    known.add("laptop", LAPTOP)
    known.add("desk", DESK)
    assert known.rename("laptop", "portátil").name == "portátil"
    assert known.existing("PORTA\u0301TIL") == known.existing("portátil")
    assert [each.name for each in known.all()] == ["portátil", "desk"]
    assert known.rename("desk", "Desk").name == "Desk"
    with pytest.raises(LocalProtocolError, match="another machine is called Desk"):
        known.rename("portátil", "desk")
    with pytest.raises(LocalProtocolError, match="no machine is known"):
        known.rename("laptop", "x")
    with pytest.raises(LocalProtocolError, match="no machine is known"):
        known.remove("laptop")


@pytest.mark.parametrize(
    "name",
    ["", " ", "a b", "-x", ".x", "_x", "a/b", "a\n", "\x1b[31mx", "a" * 65, "ñ" * 33, "a\u202eb", "\udcff", "@x"],
)
def test_what_is_no_name_is_not_chosen(known: KnownMachines, name: str) -> None:
    machine = known.add("laptop", LAPTOP)
    for choose in (chosen_name, lambda name: known.rename("laptop", name)):
        with pytest.raises(LocalProtocolError, match="cannot be a name") as caught:
            choose(name)
        assert str(caught.value).isprintable()
    assert known.all() == [machine]


@pytest.mark.parametrize("name", ["a", "a" * 64, "ñ" * 32])
def test_a_name_has_64_bytes_at_the_most(name: str) -> None:
    assert chosen_name(name) == name


@pytest.mark.parametrize(
    ("suggested", "made"),
    [
        ("laptop", "laptop"),
        ("José's Mac", "Jose-s-Mac"),
        ("\x1b]0;owned\x07\x1b[2Jroot", "0-owned-2Jroot"),
        ("../../etc/passwd", "etc-passwd"),
        ("--help", "help"),
        ("l\u0430ptop", "l-ptop"),  # a Cyrillic letter that looks like an a
        ("\u202epotpal", "potpal"),
        ("", "machine"),
        ("\x00\x1b", "machine"),
        ("端末", "machine"),
        ("a" * 100, "a" * 64),
        ("\ufdfa" * 64, "machine"),
        ("\udcff\ud800x", "x"),
    ],
)
def test_a_suggested_name_is_made_safe(suggested: str, made: str) -> None:
    assert suggested_name(suggested) == made


@given(st.text())
def test_every_suggested_name_could_have_been_chosen(text: str) -> None:
    name = suggested_name(text)
    assert chosen_name(name) == name
    assert name.isascii() and name.isprintable()


ADDING = """
import sys
from enchufe.access.known import KnownMachines
from enchufe.access.state import Folder, packed, unpacked
known = KnownMachines(Folder(sys.argv[1]))
for i in range(25):
    known.add(f"m-{sys.argv[2]}-{i}", bytes([int(sys.argv[2]), i]) * 16, "a:1")
"""


def test_processes_that_add_at_once_lose_nothing(known: KnownMachines, folder: Folder) -> None:
    many = [subprocess.Popen([sys.executable, "-c", ADDING, folder.path, str(n)]) for n in range(3)]
    assert [each.wait(120) for each in many] == [0] * 3
    assert {each.name: each.public for each in known.all()} == {
        f"m-{n}-{i}": bytes([n, i]) * 16 for n in range(3) for i in range(25)
    }


@pytest.mark.parametrize(
    ("key", "value"),
    [("met", 10**30), ("added", 10**30), ("public", ""), ("public", "00" * 31), ("public", "00" * 33)],
)
def test_a_time_that_no_calendar_has_and_a_key_of_another_size_are_damage(
    known: KnownMachines, folder: Folder, key: str, value: object
) -> None:
    known.add("laptop", LAPTOP)
    with folder.locked() as opened:
        content = unpacked((opened.read(FILE) or b""), FILE)
        content["laptop"][key] = value
        opened.write(FILE, packed(content))
    with pytest.raises(StoreError, match="damaged"):
        known.all()


def test_a_damaged_file_is_told_and_never_begun_anew(known: KnownMachines, folder: Folder) -> None:
    known.add("laptop", LAPTOP)
    whole = folder.read(FILE)
    assert whole is not None
    for content in (b"", whole[: len(whole) // 2], whole.replace(b"0101", b"0201", 1)):
        with folder.locked() as opened:
            opened.write(FILE, content)
        with pytest.raises(StoreError, match="damaged"):
            known.name_of(LAPTOP)
        with pytest.raises(StoreError, match="damaged"):
            known.add("desk", DESK)
        assert folder.read(FILE) == content


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_has_32_bytes(known: KnownMachines, size: int) -> None:
    with pytest.raises(ValueError, match="public key"):
        known.add("x", bytes(size))


def test_to_ask_whether_a_machine_can_be_known_tries_the_disk(known: KnownMachines, folder: Folder) -> None:
    known.check("laptop", LAPTOP)
    assert os.listdir(folder.path).count(FILE) == 1
    assert known.all() == []
