"""Somebody between two commands: with a TLS certificate of his own, with what he has recorded, with changes."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest

from enchufe.access.known import KnownMachines
from enchufe.access.state import Folder
from tests.secured.bridge import Bridge
from tests.secured.people import HERE, MIB, Person, Run, generated
from tests.sessions.relay import Bend, Relay, Way, flip_at

SLOW = ("--limit", "6MB/s", "--compress", "never", "--streams", "1")
HEADER = 5


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return generated(tmp_path / "nomina-secreta.ods", 123_457)


def types_of(heard: bytes) -> list[int]:
    """The types of the frames that crossed inside TLS."""
    types, at = [], 0
    while at < len(heard):
        types.append(heard[at])
        at += HEADER + int.from_bytes(heard[at + 1 : at + HEADER], "big")
    return types


def check_learnt_nothing(bridge: Bridge, file: Path, *secrets: str) -> None:
    """He saw access frames and nothing of what would follow, no name and no code."""
    for heard in bridge.heard:
        for direction in heard:
            assert all(kind == 64 or 64 < kind < 75 for kind in types_of(bytes(direction)))
            for secret in (file.name, file.stem, *secrets):
                assert secret.encode() not in direction


def check_refused(dialer: Run, kind: str) -> None:
    assert dialer.end() == 3
    assert dialer.error["kind"] == kind
    assert dialer.error["hint"]
    assert not dialer.named("paired")
    assert not dialer.named("connected")
    assert not dialer.named("offer")


@pytest.mark.parametrize("sends", [True, False], ids=["sender dials", "receiver dials"])
def test_by_code(people: tuple[Person, Person], file: Path, sends: bool) -> None:
    """Each of his tries is a guess, the third is the last; nobody gets anything."""
    ana, blas = people
    listener = blas.receive(*HERE) if sends else ana.send(file, options=HERE)
    code = listener.code()
    with Bridge(listener.address) as bridge:
        for _ in range(3):
            if sends:
                dialer = ana.send(file, options=("--to", bridge.address), code=code)
            else:
                dialer = blas.receive(code, "--to", bridge.address)
            check_refused(dialer, "wrong_code")
    assert listener.end() == 3
    assert len(bridge.heard) == 3
    check_learnt_nothing(bridge, file, code, *code.split("-")[1:])
    assert not list(blas.inbox.glob("*"))


def test_by_link(people: tuple[Person, Person], file: Path) -> None:
    """Whose certificate it must be: then he hears not even the first word."""
    ana, blas = people
    sender = ana.send(file, options=HERE)
    with Bridge(sender.address) as bridge:
        link = sender.link().replace(sender.address, bridge.address)
        check_refused(blas.receive(link), "another_machine")
    assert [len(there) for there, _ in bridge.heard] == [0]
    assert blas.receive(sender.link()).end() == 0


@pytest.mark.parametrize("sends", [True, False], ids=["sender dials", "receiver dials"])
def test_by_key(people: tuple[Person, Person], file: Path, sends: bool) -> None:
    """He sits where the machine was last."""
    ana, blas = people
    sender = ana.send(file, options=(*HERE, "--remember"))
    assert blas.receive(sender.address, "--remember", code=sender.code()).end() == 0
    (name,) = blas.known()
    (blas.inbox / file.name).unlink()
    listener = blas.receive(*HERE) if sends else ana.send(file, options=HERE)
    with Bridge(listener.address) as bridge:
        dialing = ana if sends else blas
        KnownMachines(Folder(str(dialing.state / "enchufe"))).met(name, bridge.address)
        if sends:
            check_refused(ana.send(file, options=("--to", f"@{name}", "--interface", "lo")), "another_machine")
        else:
            check_refused(blas.receive(f"@{name}", "--to", bridge.address), "another_machine")
    check_learnt_nothing(bridge, file, name)
    assert bridge.heard
    assert not list(blas.inbox.glob("*"))


def test_by_token(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    receiver = blas.receive(*HERE, "--tokens")
    with Bridge(receiver.address) as bridge:
        link = blas.do("token", "new", "--to", bridge.address).stdout.strip()
        check_refused(ana.send(file, options=("--to", link)), "another_machine")
    assert [len(there) for there, _ in bridge.heard] == [0]
    direct = link.replace(bridge.address, receiver.address)
    assert ana.send(file, options=("--to", direct)).end() == 0


def test_who_comes_again(people: tuple[Person, Person], tmp_path: Path) -> None:
    """The first connection went straight through and is cut; at the next he is in between: no pass helps there."""
    ana, blas = people
    big = generated(tmp_path / "nomina-secreta.ods", 8 * MIB)
    receiver = blas.receive(*HERE, "--streams", "1")
    with Bridge(receiver.address, straight=1) as bridge:
        sender = ana.send(big, options=("--to", bridge.address, *SLOW), code=receiver.code())
        receiver.wait_for("progress")
        bridge.cut()
        assert sender.end() == 3
        assert sender.error["kind"] == "unknown_machine"
        assert len(sender.named("paired")) == 1
    assert len(bridge.heard) == 2
    del bridge.heard[0]
    check_learnt_nothing(bridge, big)
    assert not [path for path in blas.inbox.iterdir() if path.name != ".enchufe"]


class Recording(Relay):
    """Keeps all that crosses, by direction."""

    def __init__(self) -> None:
        self.recorded: dict[Way, bytearray] = {}
        super().__init__(self._record)

    def _record(self, way: Way) -> Bend:
        kept = self.recorded.setdefault(way, bytearray())

        def bend(_offset: int, piece: bytes) -> bytes:
            kept.extend(piece)
            return piece

        return bend


def say_again(address: str, said: bytes) -> bytes:
    """What somebody hears who says what was recorded, to the end."""
    host, _, port = address.rpartition(":")
    heard = bytearray()
    with socket.create_connection((host, int(port)), timeout=30) as sock, suppress(ConnectionError):
        sending = threading.Thread(target=lambda: _all(sock, said))
        sending.start()
        while piece := sock.recv(65536):
            heard += piece
        sending.join()
    return bytes(heard)


def _all(sock: socket.socket, said: bytes) -> None:
    with suppress(OSError):
        sock.sendall(said)
        sock.shutdown(socket.SHUT_WR)


def test_a_recorded_conversation_is_of_no_use(people: tuple[Person, Person], tmp_path: Path) -> None:
    """While the listener still runs, and to one that was started with the same keys."""
    ana, blas = people
    big = generated(tmp_path / "nomina-secreta.ods", 6 * MIB)
    receiver = blas.receive(*HERE, "--tokens")
    with Recording() as relay:
        relay.to = receiver.address
        link = blas.do("token", "new", "--to", relay.address).stdout.strip()
        sender = ana.send(big, options=("--to", link, "--limit", "3MB/s", "--compress", "never", "--streams", "2"))
        receiver.wait_for("progress")
        said = {way: bytes(kept) for way, kept in relay.recorded.items() if way.there}
        assert {way.stream for way in said} == {0, 1}
        for way, bytes_said in said.items():
            heard = say_again(receiver.address, bytes_said)
            # To a stream, a fresh STREAM or nothing; to TLS, its handshake and the refusal of what does not fit.
            assert len(heard) < 4096, way
        assert (sender.end(), receiver.end()) == (0, 0)
    assert (blas.inbox / big.name).read_bytes() == big.read_bytes()
    assert len(receiver.named("paired")) == 1
    after = blas.receive(*HERE, "--tokens")
    for kept in [bytes(kept) for way, kept in relay.recorded.items() if way.there]:
        say_again(after.address, kept)
    again = ana.send(big, options=("--to", link.replace(relay.address, after.address)))
    assert (again.end(), after.end()) == (0, 0)
    assert len(after.named("paired")) == 1


@pytest.mark.parametrize("sends", [True, False], ids=["sender dials", "receiver dials"])
def test_who_changes_what_is_in_a_sealed_stream(people: tuple[Person, Person], tmp_path: Path, sends: bool) -> None:
    """It ends, and what was on it goes on another."""
    big = generated(tmp_path / "big", 6 * MIB)

    def choose(way: Way) -> Bend | None:
        return flip_at(200_000, 4) if way.stream == 1 and way.there == sends else None

    with Relay(choose) as relay:
        sender, receiver = through(relay, people, big, sends=sends)
        assert (sender.end(), receiver.end()) == (0, 0)
    assert (people[1].inbox / "big").read_bytes() == big.read_bytes()
    assert sender.receipt["digest"] == receiver.receipt["digest"]


@pytest.mark.parametrize("sends", [True, False], ids=["sender dials", "receiver dials"])
def test_who_changes_what_is_in_stream_0(people: tuple[Person, Person], tmp_path: Path, sends: bool) -> None:
    """Both sides say so; nothing shows, and with a new code it goes on."""
    ana, blas = people
    big = generated(tmp_path / "big", 6 * MIB)

    def choose(way: Way) -> Bend | None:
        return flip_at(3_000_000, 4) if way.stream == 0 and way.there == sends else None

    with Relay(choose) as relay:
        sender, receiver = through(relay, people, big, "--streams", "1", sends=sends)
        dialer, listener = (sender, receiver) if sends else (receiver, sender)
        assert dialer.end() in (3, 5)
        assert dialer.error["hint"]
    if not sends:
        assert sender.end() in (3, 4, 5)  # a reset may overtake what the other one says
        assert not sender.named("receipt")
        sender = ana.send(big, options=(*HERE, "--compress", "never"))
        receiver = blas.receive(sender.address, code=sender.code())
    else:
        assert listener.wait_for("error")["kind"] in ("remote_protocol", "broken")
        assert [path.name for path in blas.inbox.iterdir()] == [".enchufe"]
        sender = ana.send(big, options=("--to", listener.address), code=listener.code(2))
    assert (sender.end(), receiver.end()) == (0, 0)
    assert (blas.inbox / "big").read_bytes() == big.read_bytes()
    assert receiver.receipt["sent_bytes"] < big.stat().st_size


def through(relay: Relay, people: tuple[Person, Person], big: Path, *options: str, sends: bool) -> tuple[Run, Run]:
    """A sender and a receiver, with the relay between."""
    ana, blas = people
    never = ("--compress", "never", *options)
    if sends:
        receiver = blas.receive(*HERE)
        relay.to = receiver.address
        return ana.send(big, options=("--to", relay.address, *never), code=receiver.code()), receiver
    sender = ana.send(big, options=(*HERE, *never))
    relay.to = sender.address
    return sender, blas.receive(relay.address, code=sender.code())
