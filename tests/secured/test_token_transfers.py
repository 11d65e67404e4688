"""Tokens, with the commands: what they let somebody do, how much of it, and for how long."""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.secured.people import HERE, MIB, PATIENCE, Person, Run, generated
from tests.sessions.relay import CuttingRelay

SERVING = (*HERE, "--tokens")
SLOW = ("--limit", "4MB/s", "--compress", "never", "--streams", "1")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return generated(tmp_path / "scan.pdf", 100_000)


def link_of(person: Person, *options: str) -> str:
    """A new token's link, to an address that `aimed` replaces."""
    made = person.do("token", "new", "--to", "127.0.0.1:9", *options)
    assert made.returncode == 0, made
    return made.stdout.strip()


def aimed(link: str, address: str) -> str:
    return link.replace("127.0.0.1:9/", f"{address}/")


def tokens(person: Person) -> list[dict[str, Any]]:
    listed: list[dict[str, Any]] = json.loads(person.do("token", "list", "--json").stdout)["tokens"]
    return listed


def check_denied(dialer: Run, listener: Run) -> None:
    assert dialer.end() == 3
    assert dialer.error["kind"] == "token_refused"
    assert "used up, or for something else" in dialer.error["message"]
    assert not dialer.named("offer")
    assert not listener.named("paired")
    assert not listener.named("offer")


def test_a_token_for_dropping(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    link = link_of(blas, "--name", "scanner")
    for number in (1, 2):
        receiver = blas.receive(*SERVING)
        sender = ana.send(file, options=("--to", aimed(link, receiver.address)))
        assert (sender.end(), receiver.end()) == (0, 0)
        assert receiver.named("paired") == [{"v": 1, "event": "paired", "way": "token", "name": "scanner"}]
        assert tokens(blas)[0]["used"] == number * 100_000
    sender = blas.send(file, options=SERVING)
    check_denied(ana.receive(aimed(link, sender.address)), sender)


def test_a_token_for_reading(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    link = link_of(ana, "--scope", "read")
    sender = ana.send(file, options=SERVING)
    receiver = blas.receive(aimed(link, sender.address))
    assert (sender.end(), receiver.end()) == (0, 0)
    assert (blas.inbox / file.name).read_bytes() == file.read_bytes()
    assert tokens(ana)[0]["used"] == 100_000
    receiver = ana.receive(*SERVING)
    check_denied(blas.send(file, options=("--to", aimed(link, receiver.address))), receiver)


def test_a_quota_is_for_all_transfers_together(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    link = link_of(blas, "--quota", "250kB")
    for used in (100_000, 200_000):
        receiver = blas.receive(*SERVING)
        sender = ana.send(file, options=("--to", aimed(link, receiver.address)))
        assert (sender.end(), receiver.end()) == (0, 0)
        assert tokens(blas)[0]["used"] == used
    receiver = blas.receive(*SERVING)
    sender = ana.send(file, options=("--to", aimed(link, receiver.address)))
    assert sender.end() in (3, 7)
    assert tokens(blas)[0]["used"] == 200_000
    assert len(list(blas.inbox.iterdir())) == 2


def test_a_quota_for_reading_is_one_too(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    link = link_of(ana, "--scope", "read", "--quota", "150kB")
    sender = ana.send(file, options=SERVING)
    assert blas.receive(aimed(link, sender.address)).end() == 0
    assert sender.end() == 0
    sender = ana.send(file, options=SERVING)
    assert blas.receive(aimed(link, sender.address)).end() == 3
    assert sender.end() == 3
    assert "token" in sender.error["message"]
    assert 100_000 <= tokens(ana)[0]["used"] <= 150_000
    assert [path.name for path in blas.inbox.iterdir() if path.name != ".enchufe"] == [file.name]


@pytest.mark.parametrize("drops", [True, False], ids=["drop", "read"])
def test_a_cut_is_charged_once(people: tuple[Person, Person], tmp_path: Path, drops: bool) -> None:
    """What the next connection need not send is not paid twice."""
    ana, blas = people
    big = generated(tmp_path / "big", 12 * MIB)
    service = blas if drops else ana
    link = link_of(service, "--scope", "drop" if drops else "read", "--quota", "14MiB")
    with CuttingRelay(6 * MIB, there=drops) as relay:
        if drops:
            receiver = blas.receive(*SERVING)
            relay.to = receiver.address
            sender = ana.send(big, options=("--to", aimed(link, relay.address), *SLOW))
        else:
            sender = ana.send(big, options=(*SERVING, *SLOW))
            relay.to = sender.address
            receiver = blas.receive(aimed(link, relay.address))
        assert (sender.end(), receiver.end()) == (0, 0)
    assert (sender if drops else receiver).named("retrying")
    assert (blas.inbox / "big").read_bytes() == big.read_bytes()
    used = tokens(service)[0]["used"]
    assert 12 * MIB <= used <= 14 * MIB
    assert {each["way"] for each in (receiver if drops else sender).named("paired")} == {"token"}


def test_an_expired_token(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    link = link_of(blas, "--expires", "1s")
    receiver = blas.receive(*SERVING)
    receiver.code()
    while tokens(blas)[0]["state"] == "good":
        pass
    check_denied(ana.send(file, options=("--to", aimed(link, receiver.address))), receiver)


def test_a_revoked_token(people: tuple[Person, Person], file: Path) -> None:
    """It is good for nothing from that moment on, with the listener that runs already."""
    ana, blas = people
    link = link_of(blas, "--name", "scanner")
    receiver = blas.receive(*SERVING)
    receiver.code()
    assert blas.do("token", "revoke", "scanner").returncode == 0
    check_denied(ana.send(file, options=("--to", aimed(link, receiver.address))), receiver)


def test_a_token_that_is_revoked_between_a_cut_and_its_return(people: tuple[Person, Person], tmp_path: Path) -> None:
    ana, blas = people
    big = generated(tmp_path / "big", 12 * MIB)
    link = link_of(blas, "--name", "scanner")
    revoked = threading.Event()
    # Less than is taken from a token at first: or the sender could hear of it while it is inside.
    with CuttingRelay(3 * MIB, there=True, kept=revoked.is_set) as relay:
        receiver = blas.receive(*SERVING)
        relay.to = receiver.address
        sender = ana.send(big, options=("--to", aimed(link, relay.address), *SLOW))
        receiver.wait_for("progress")
        assert blas.do("token", "revoke", "scanner").returncode == 0
        revoked.set()
        assert sender.end() == 3
    assert sender.error["kind"] == "token_refused"
    assert [path.name for path in blas.inbox.iterdir()] == [".enchufe"]


def test_tokens_are_not_asked_for_where_nobody_said_so(people: tuple[Person, Person], file: Path) -> None:
    ana, blas = people
    link = link_of(blas)
    receiver = blas.receive(*HERE)
    sender = ana.send(file, options=("--to", aimed(link, receiver.address)))
    assert sender.end() == 3
    assert sender.error["kind"] == "another_machine"  # its certificate is not the lasting one


def test_another_certificate_than_the_links(people: tuple[Person, Person], file: Path, tmp_path: Path) -> None:
    """Somebody else with tokens of his own listens at that address: he hears of none of ours."""
    ana, blas = people
    link = link_of(blas)
    receiver = ana.receive(*SERVING)
    sender = blas.send(file, options=("--to", aimed(link, receiver.address)))
    assert sender.end() == 3
    assert sender.error["kind"] == "another_machine"
    assert "certificate" in sender.error["message"]
    assert "link" in sender.error["hint"]


def test_an_inbox_whose_socket_a_service_manager_keeps_is_there_for_whoever_comes_between_two_runs(
    people: tuple[Person, Person], file: Path
) -> None:
    """Who dials while none runs waits for the next, as at a systemd socket unit; without it he is refused, and ends."""
    ana, blas = people
    hand_over = (
        "import os, sys; os.dup2(int(sys.argv[1]), 3); os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()));"
        "os.execv(sys.executable, [sys.executable, *sys.argv[2:]])"
    )
    with socket.create_server(("127.0.0.1", 0)) as kept:
        link = aimed(link_of(blas), f"127.0.0.1:{kept.getsockname()[1]}")
        for _ in range(2):
            sender = ana.send(file, options=("--to", link))
            select.select([kept], [], [], PATIENCE)
            _, *command = blas.command("receive", *("--tokens", "--listen", "systemd:", "--no-announce", "--yes"))
            subprocess.run(
                [sys.executable, "-c", hand_over, str(kept.fileno()), *command, "-o", str(blas.inbox)],
                env=blas.environment(),
                pass_fds=[kept.fileno()],
                timeout=PATIENCE,
                check=True,
            )
            assert sender.end() == 0
    assert len([path for path in blas.inbox.iterdir() if path.is_file()]) == 2
