"""Two machines on a network of their own: how they find each other, and what is said where they cannot."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from enchufe.access.interfaces import ALONE
from enchufe.access.known import KnownMachines
from enchufe.access.state import Folder
from tests.namespaces import Machine, no_multicast
from tests.secured.people import MIB, Person, generated, two_people

BOUND = 20.0  # seconds: for machines that are busy with something else; three is what it is to take


UNREACHABLE = {
    "no route": ("ip", "route", "add", "unreachable", "203.0.113.0/24"),
    "forbidden": ("ip", "route", "add", "prohibit", "203.0.113.0/24"),
    "silence": ("ip", "route", "add", "blackhole", "203.0.113.0/24"),
    "nobody answers": ("ip", "route", "add", "203.0.113.0/24", "via", "10.98.0.1"),
}


@pytest.fixture
def people(tmp_path: Path, machines: tuple[Machine, Machine]) -> Iterator[tuple[Person, Person]]:
    with two_people(tmp_path, machines) as people:
        yield people


def tell(what: str, seconds: float) -> None:
    """A measurement, for `pytest -s`."""
    print(f"\n{what}: {seconds:.2f} s to the first byte")


def test_send_shows_a_code(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    sender = ana.send(file)
    code = sender.code()
    began = time.monotonic()
    receiver = blas.receive(code)
    receiver.wait_for("progress")
    seconds = time.monotonic() - began
    tell("receive CODE", seconds)
    assert (receiver.end(), sender.end()) == (0, 0)
    assert (blas.inbox / file.name).read_text() == file.read_text()
    assert seconds < BOUND


def test_receive_shows_a_code(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    receiver = blas.receive()
    code = receiver.code()
    began = time.monotonic()
    sender = ana.send(file, options=("--to", code))
    receiver.wait_for("progress")
    seconds = time.monotonic() - began
    tell("send --to CODE", seconds)
    assert (receiver.end(), sender.end()) == (0, 0)
    assert (blas.inbox / file.name).read_text() == file.read_text()
    assert seconds < BOUND


def test_a_known_name_is_found_where_it_is_now(people: tuple[Person, Person], file: Path) -> None:
    """On a port that is another each time."""
    ana, blas = people
    sender = ana.send(file, options=("--remember",))
    assert blas.receive(sender.code(), "--remember").end() == 0
    assert sender.end() == 0
    (name,) = blas.known()
    sender = ana.send(file)
    sender.code()
    began = time.monotonic()
    receiver = blas.receive(f"@{name}")
    receiver.wait_for("progress")
    tell("receive @name", time.monotonic() - began)
    assert (receiver.end(), sender.end()) == (0, 0)


def test_a_known_name_that_has_moved_is_found(
    people: tuple[Person, Person], machines: tuple[Machine, Machine], file: Path
) -> None:
    """Where it was before, nobody says so much as no; that is not waited for as somebody who is there is."""
    ana, blas = people
    sender = ana.send(file, options=("--remember",))
    assert blas.receive(sender.code(), "--remember").end() == 0
    assert sender.end() == 0
    (name,) = blas.known()
    KnownMachines(Folder(str(blas.state / "enchufe"))).met(name, "203.0.113.7:4444")
    machines[1].do(*UNREACHABLE["nobody answers"])
    sender = ana.send(file)
    receiver = blas.receive(f"@{name}", "--timeout", "600")
    assert (receiver.end(), sender.end()) == (0, 0)


@pytest.mark.parametrize("moving", [0, 1], ids=["the listener", "the dialer"])
def test_an_address_that_changes_in_the_middle(
    people: tuple[Person, Person], machines: tuple[Machine, Machine], tmp_path: Path, moving: int
) -> None:
    """As by DHCP, or from one access point to the next: nobody says a code again, and what has come is kept."""
    ana, blas = people
    file = generated(tmp_path / "large", 24 * MIB)
    patience = ("--timeout", "2", "--retry", "60")
    sender = ana.send(file, options=("--limit", "8MB/s", *patience))
    receiver = blas.receive(sender.code(), *patience)
    receiver.wait_for("progress", lambda event: event["bytes"] > 4 * MIB)
    machine = machines[moving]
    machine.do("ip", "address", "flush", "dev", "link0")
    machine.do("ip", "address", "add", f"10.98.0.{70 + moving}/24", "dev", "link0")
    assert (receiver.end(), sender.end()) == (0, 0), (receiver.events, sender.events)
    assert (blas.inbox / file.name).read_bytes() == file.read_bytes()
    assert receiver.receipt["sent_bytes"] < 21 * MIB


def test_a_sender_that_has_come_to_another_address_is_found(
    people: tuple[Person, Person], machines: tuple[Machine, Machine], file: Path
) -> None:
    """As from one Wi-Fi to another; the code stays, and the link is shown anew."""
    ana, blas = people
    machines[0].do("ip", "-6", "address", "flush", "dev", "link0")
    sender = ana.send(file)
    code = sender.code()
    machines[0].do("ip", "address", "del", f"{machines[0].ipv4()}/24", "dev", "link0")
    machines[0].do("ip", "address", "add", "10.98.0.77/24", "dev", "link0")
    again = sender.wait_for("code", count=2)
    assert again["code"] == code
    receiver = blas.receive(code)
    assert (receiver.end(), sender.end()) == (0, 0)
    assert receiver.named("connected")[0]["peer"].startswith("10.98.0.77:")
    assert "enchufe://10.98.0.77:" in again["link"]


def port_of(address: str) -> str:
    return address.rpartition(":")[2]


@pytest.mark.parametrize("way", ["address", "code and address", "link"])
def test_where_multicast_is_blocked(
    people: tuple[Person, Person], machines: tuple[Machine, Machine], file: Path, way: str
) -> None:
    ana, blas = people
    no_multicast(machines[0])
    sender = ana.send(file)
    code, link = sender.code(), sender.link()
    where = f"{machines[0].ipv4()}:{port_of(sender.address)}"
    began = time.monotonic()
    if way == "address":
        receiver = blas.receive(where, code=code)
    elif way == "code and address":
        receiver = blas.receive(code, "--to", where)
    else:
        receiver = blas.receive(link)
    receiver.wait_for("progress")
    tell(way, time.monotonic() - began)
    assert (receiver.end(), sender.end()) == (0, 0)


def test_nobody_is_found_where_multicast_is_blocked(
    people: tuple[Person, Person], machines: tuple[Machine, Machine], file: Path
) -> None:
    """Then it is said what helps."""
    ana, blas = people
    no_multicast(machines[0])
    sender = ana.send(file)
    receiver = blas.receive(sender.code())
    assert receiver.end() == 4
    assert "--to host:port" in receiver.error["hint"]
    assert "link" in receiver.error["hint"]


def test_a_machine_on_no_network_says_so(
    people: tuple[Person, Person], machines: tuple[Machine, Machine], file: Path
) -> None:
    ana, blas = people
    machines[0].do("ip", "link", "set", "link0", "down")
    sender = ana.send(file)
    sender.code()
    assert [told["message"] for told in sender.named("unannounced")] == [ALONE]
    sender = ana.send(file, options=("--interface", "lo"))
    sender.code()
    assert ["chosen" in told["message"] for told in sender.named("unannounced")] == [True]
    machines[1].do("ip", "link", "set", "link0", "down")
    receiver = blas.receive("7-zoo-zoo-zoo")
    assert receiver.end() == 4
    assert receiver.error["message"] == ALONE


@pytest.mark.parametrize("way", list(UNREACHABLE))
def test_where_the_other_machine_cannot_be_reached(
    people: tuple[Person, Person], machines: tuple[Machine, Machine], file: Path, way: str
) -> None:
    """Two networks behind routers: an error that says so, and what to do."""
    ana, blas = people
    machines[1].do(*UNREACHABLE[way])
    sender = ana.send(file)
    cert = sender.link().partition("#")[2]
    for arguments in (
        (f"enchufe://203.0.113.7:{port_of(sender.address)}/#{cert}",),
        (sender.code(), "--to", f"203.0.113.7:{port_of(sender.address)}"),
    ):
        receiver = blas.receive(*arguments, "--timeout", "3")
        assert receiver.end() == 4
        assert "203.0.113.7" in receiver.error["message"]
        for word in ("router", "forward", "--listen", "VPN"):
            assert word in receiver.error["hint"]
        assert not receiver.named("retrying")


def test_where_the_machine_is_there_and_nobody_listens(
    people: tuple[Person, Person], machines: tuple[Machine, Machine]
) -> None:
    """Then no router is in the way, and nothing is said of any."""
    _, blas = people
    receiver = blas.receive("7-zoo-zoo-zoo", "--to", f"{machines[0].ipv4()}:9")
    assert receiver.end() == 4
    assert "router" not in receiver.error["hint"]
    assert "listening" in receiver.error["hint"]


def link_local(machine: Machine) -> str:
    """Its address that holds on the first link alone, RFC 4291 appendix A, of the hardware's."""
    return f"fe80::ff:fe00:{machine.number}"


def test_an_address_of_one_link(people: tuple[Person, Person], machines: tuple[Machine, Machine], file: Path) -> None:
    """Listened on with the interface; the link leaves that out, since the other side's is called otherwise."""
    ana, blas = people
    machines[1].do("ip", "link", "set", "link0", "down")
    machines[1].do("ip", "link", "set", "link0", "name", "cable")
    machines[1].do("ip", "link", "set", "cable", "up")
    sender = ana.send(file, options=("--listen", f"[{link_local(machines[0])}%link0]:0", "--no-announce"))
    assert sender.address.startswith(f"[{link_local(machines[0])}%link0]:")
    assert sender.link().startswith(f"enchufe://[{link_local(machines[0])}]:")
    assert (blas.receive(sender.link()).end(), sender.end()) == (0, 0)
    sender = ana.send(file, options=("--listen", f"[{link_local(machines[0])}%link0]:0", "--no-announce"))
    where = f"[{link_local(machines[0])}%cable]:{port_of(sender.address)}"
    assert (blas.receive(where, code=sender.code()).end(), sender.end()) == (0, 0)


def test_a_link_whose_addresses_hold_on_no_link_of_ours(
    people: tuple[Person, Person], machines: tuple[Machine, Machine]
) -> None:
    _, blas = people
    machines[1].do("ip", "link", "set", "link0", "down")
    receiver = blas.receive("enchufe://[fe80::1]:9000/#code=7-abandon-ability-able")
    assert receiver.end() == 4
    assert "no interface here" in receiver.error["message"]
