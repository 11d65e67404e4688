"""Codes, links and tokens are seen by nobody who was not told: in no process list, file, log or packet."""

from __future__ import annotations

import os
import pty
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from enchufe.access.codes import Code
from enchufe.errors import LocalProtocolError
from enchufe.session import Options, SendingSession
from enchufe.store import Source
from enchufe.transports import Listener, parse_address, tls
from tests.namespaces import Machine
from tests.secured.observing import Processes, Tap, files_below
from tests.secured.people import HERE, MIB, Person, Run, generated, sitting_at, two_people
from tests.sessions.encrypted import contexts, dial_plain
from tests.sessions.relay import Bend, Relay, Way

CONTENT = b"lo que nadie debe leer " * 40_000
NAME = "nomina-secreta.ods"


@pytest.fixture
def people(tmp_path: Path, machines: tuple[Machine, Machine]) -> Iterator[tuple[Person, Person]]:
    with two_people(tmp_path, machines) as people:
        yield people


@pytest.fixture
def neighbours(tmp_path: Path) -> Iterator[tuple[Person, Person]]:
    """On one machine."""
    with two_people(tmp_path) as people:
        yield people


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / NAME
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def terminal() -> Iterator[tuple[int, str]]:
    """Our end of one, and its name."""
    ours, theirs = pty.openpty()
    yield ours, os.ttyname(theirs)
    os.close(ours)
    os.close(theirs)


# Names that every announcement has: "local" is a word of codes, too.
OF_MDNS = b"_enchufe._tcp.local _services._dns-sd._udp.local"


def secrets_of(code: str) -> list[bytes]:
    """What must not be seen: the words together, however they are put."""
    words = code.split("-")[1:]
    return [between.join(words).encode() for between in ("-", " ", "")]


def check_nowhere(secrets: list[bytes], *places: bytes) -> None:
    for place in places:
        for secret in secrets:
            assert secret not in place


def typed_at(terminal: tuple[int, str], person: Person, where: str, code: str) -> Run:
    """Somebody who is asked for the code, and types it."""
    ours, name = terminal
    receiver = person.receive(where, program=sitting_at(name))
    asked = b""
    while b"the code that the other side shows" not in asked:
        asked += os.read(ours, 4096)
    os.write(ours, code.encode() + b"\n")
    return receiver


@pytest.mark.parametrize("way", ["variable", "terminal", "variable and link"])
def test_a_code(
    people: tuple[Person, Person],
    machines: tuple[Machine, Machine],
    file: Path,
    terminal: tuple[int, str],
    way: str,
) -> None:
    ana, blas = people
    with Tap(machines[1]) as tap, Processes() as processes:
        sender = ana.send(file, options=("--verbose",))
        code = sender.code()
        where = f"{machines[0].ipv4()}:{sender.address.rpartition(':')[2]}"
        if way == "terminal":
            receiver = typed_at(terminal, blas, where, code)
        else:
            link = sender.link().rpartition("&code=")[0]
            receiver = blas.receive(where if way == "variable" else link, "--verbose", code=code)
        assert (receiver.end(), sender.end()) == (0, 0)
    assert (blas.inbox / NAME).read_bytes() == CONTENT
    secrets = secrets_of(code)
    assert any(b"receive" in arguments for arguments in processes.arguments)
    check_nowhere(secrets, *processes.arguments)
    given = [number for number, said in processes.environments.items() if code.encode() in said]
    assert set(given) <= ({receiver.process.pid} if way != "terminal" else set())
    check_nowhere(secrets, sender.told, receiver.told, receiver.output)
    check_nowhere(secrets, *files_below(ana.folder), *files_below(blas.folder))
    shown = [line for line in sender.output.splitlines() if code.encode() in line]
    assert [line.split(b'"event": ')[1].split(b",")[0] for line in shown] == [b'"code"']
    assert tap.announcements()
    check_nowhere([*secrets, NAME.encode(), b"nadie debe leer"], *tap.packets, b"".join(tap.packets))
    for word in map(str.encode, code.split("-")[1:]):
        if word not in OF_MDNS:
            check_nowhere([word], *tap.announcements())
    assert sum(map(len, tap.packets)) > 1000


@pytest.mark.parametrize("sends", [True, False], ids=["drop", "read"])
def test_a_token(neighbours: tuple[Person, Person], file: Path, sends: bool) -> None:
    """Whose link is an argument, since there it was typed: nowhere else."""
    ana, blas = neighbours
    service = blas if sends else ana
    recorded: list[bytes] = []

    def keep(_offset: int, piece: bytes) -> bytes:
        recorded.append(piece)
        return piece

    def choose(_way: Way) -> Bend:
        return keep

    with Relay(choose) as relay:
        link = service.do("token", "new", "--to", relay.address, "--scope", "drop,read").stdout.strip()
        token = link.rpartition("token=")[2].encode()
        here = (*HERE, "--tokens", "--verbose")
        listener = blas.receive(*here) if sends else ana.send(file, options=here)
        relay.to = listener.address
        dialer = ana.send(file, options=("--to", link)) if sends else blas.receive(link, "--verbose")
        assert (dialer.end(), listener.end()) == (0, 0)
    told = [dialer.output, dialer.told, listener.output, listener.told]
    check_nowhere([token], *told, *files_below(ana.folder), *files_below(blas.folder), b"".join(recorded))
    listed = service.do("token", "list", "--json").stdout + service.do("token", "list").stdout
    check_nowhere([token], listed.encode())


def test_a_token_in_no_list_of_processes(neighbours: tuple[Person, Person], file: Path) -> None:
    """The whole link where a code is asked for."""
    ana, blas = neighbours
    receiver = blas.receive(*HERE, "--tokens")
    link = blas.do("token", "new", "--to", receiver.address).stdout.strip()
    token = link.rpartition("token=")[2].encode()
    with Processes() as processes:
        sender = ana.send(file, options=("--to", receiver.address), code=link)
        assert (sender.end(), receiver.end()) == (0, 0)
    assert receiver.named("paired")[0]["way"] == "token"
    check_nowhere([token], *processes.arguments, sender.output, sender.told, receiver.output, receiver.told)
    assert {number for number, said in processes.environments.items() if token in said} <= {sender.process.pid}
    broken = ana.send(file, options=("--to", receiver.address), code=f"{link}%")
    assert broken.end() == 2
    check_nowhere([token], broken.output, broken.told)


@pytest.mark.parametrize("sends", [True, False], ids=["sender dials", "receiver dials"])
@pytest.mark.parametrize("streams", ["1", "4"])
def test_what_crosses_is_in_no_stream(
    neighbours: tuple[Person, Person], tmp_path: Path, sends: bool, streams: str
) -> None:
    """Neither content nor names nor the code, whichever stream carries them."""
    ana, blas = neighbours
    folder = tmp_path / "carpeta-secreta"
    folder.mkdir()
    (folder / NAME).write_bytes(CONTENT * 12)
    for number in range(50):
        (folder / f"carta-secreta-{number}").write_bytes(CONTENT[: 100 * number])
    recorded: dict[Way, bytearray] = {}

    def choose(way: Way) -> Bend:
        kept = recorded.setdefault(way, bytearray())

        def keep(_offset: int, piece: bytes) -> bytes:
            kept.extend(piece)
            return piece

        return keep

    options = ("--streams", streams, "--compress", "never")
    with Relay(choose) as relay:
        if sends:
            listener = blas.receive(*HERE, "--streams", streams)
            relay.to = listener.address
            dialer = ana.send(folder, options=("--to", relay.address, *options), code=listener.code())
        else:
            listener = ana.send(folder, options=(*HERE, *options))
            relay.to = listener.address
            dialer = blas.receive(relay.address, "--streams", streams, code=listener.code())
        assert (dialer.end(), listener.end()) == (0, 0)
    assert len({way.stream for way in recorded}) == int(streams)
    assert sum(map(len, recorded.values())) > len(CONTENT) * 12
    unseen = [*secrets_of(listener.code()), b"secreta", b"nadie debe leer"]
    check_nowhere(unseen, *map(bytes, recorded.values()))


WRONG = ["7-zoo-zoo", "7-zoo-zoo-zooo", "0-zoo-zoo-zoo", "7-ábaco-zoo-zoo", "no code at all"]


@pytest.mark.parametrize("code", WRONG)
def test_a_code_that_is_none_is_not_repeated(neighbours: tuple[Person, Person], code: str) -> None:
    """Nearly right is a secret too."""
    _, blas = neighbours
    receiver = blas.receive("127.0.0.1:9", code=code)
    assert receiver.end() == 2
    told = receiver.output + receiver.told
    check_nowhere([code.encode()], told)
    assert "code" in receiver.error["message"]


def test_code_and_link_in_an_error(neighbours: tuple[Person, Person]) -> None:
    """What fails with a secret at hand does not say it."""
    _, blas = neighbours
    code = str(Code.new("english"))
    link = f"enchufe://127.0.0.1:9/#code={code}"
    for run in (blas.receive("127.0.0.1:9", code=code), blas.receive(link), blas.receive(code, "--to", "127.0.0.1:9")):
        assert run.end() == 4
        check_nowhere(secrets_of(code), run.output, run.told)
    broken = blas.receive(f"enchufe://127.0.0.1:9/path#code={code}")
    assert broken.end() == 2
    check_nowhere(secrets_of(code), broken.output, broken.told)


@pytest.mark.parametrize("encrypted", [True, False])
def test_no_session_has_one_half_encrypted(tmp_path: Path, encrypted: bool) -> None:
    """Over TLS without a secret its other streams would go in plain text; they did so once."""
    path = generated(tmp_path / "one", MIB)
    with Listener(parse_address("127.0.0.1:0")) as listener, closing(Source([path])) as source:
        plain = dial_plain(listener.addresses[0])
        over = tls.over(plain, contexts()[1], server_side=False) if encrypted else plain
        options = Options(secret=None if encrypted else bytes(32))
        with over, pytest.raises(LocalProtocolError, match="encrypted together, or none"):
            SendingSession(over, source, options, lambda _event: None)
