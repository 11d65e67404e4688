"""Secured transfers that are cut or killed, with the commands: what goes on by itself, and what needs a new code."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.secured.people import MIB, Person, Run, generated
from tests.sessions.kept import kept_bytes
from tests.sessions.relay import Bend, CuttingRelay, Relay, Way, cut_at

SIZE = 24 * MIB
SLOW = ("--limit", "8MB/s", "--compress", "never")
NEVER = ("--compress", "never")

either_dials = pytest.mark.parametrize("sends", [True, False], ids=["sender dials", "receiver dials"])


@pytest.fixture
def big(tmp_path: Path) -> Path:
    return generated(tmp_path / "big", SIZE)


class Transfer:
    """Ana sends to Blas; one of them dials.

    Attributes:
        sends: whether she does.
    """

    def __init__(self, people: tuple[Person, Person], big: Path, *, sends: bool) -> None:
        self.ana, self.blas = people
        self.big = big
        self.sends = sends
        self.dialer: Run
        self.listener: Run

    def listen(self, *options: str, speed: tuple[str, ...] = SLOW, where: str = "127.0.0.1:0") -> Run:
        here = ("--listen", where, "--no-announce", *options)
        self.listener = self.blas.receive(*here) if self.sends else self.ana.send(self.big, options=(*here, *speed))
        return self.listener

    def dial(self, target: str, *options: str, code: str | None = None, speed: tuple[str, ...] = SLOW) -> Run:
        if self.sends:
            self.dialer = self.ana.send(self.big, options=("--to", target, *options, *speed), code=code)
        else:
            self.dialer = self.blas.receive(target, *options, code=code)
        return self.dialer

    @property
    def sender(self) -> Run:
        return self.dialer if self.sends else self.listener

    @property
    def receiver(self) -> Run:
        return self.listener if self.sends else self.dialer

    def wait_until_half(self) -> None:
        self.receiver.wait_for("progress", lambda event: event["bytes"] >= 8 * MIB)

    def check_nothing_shows(self) -> int:
        """What is kept for the next attempt."""
        assert [path.name for path in self.blas.inbox.iterdir()] == [".enchufe"]
        kept = kept_bytes(self.blas.inbox)
        assert kept >= 4 * MIB
        return kept

    def check_done(self, kept: int | None = None) -> None:
        assert (self.dialer.end(), self.listener.end()) == (0, 0)
        assert (self.blas.inbox / "big").read_bytes() == self.big.read_bytes()
        assert [path.name for path in self.blas.inbox.iterdir()] == ["big"]
        assert self.sender.receipt["digest"] == self.receiver.receipt["digest"]
        if kept is not None:
            assert self.sender.receipt["sent_bytes"] == self.receiver.receipt["sent_bytes"] == SIZE - kept


@either_dials
@pytest.mark.parametrize("streams", ["1", "3"])
def test_a_cut_is_gone_on_from_by_a_pass(people: tuple[Person, Person], big: Path, sends: bool, streams: str) -> None:
    """Twice; nobody types a code again, and the dialer is known by what both have from before."""
    transfer = Transfer(people, big, sends=sends)
    with CuttingRelay(5 * MIB, 6 * MIB, there=sends, kept=lambda: kept_bytes(transfer.blas.inbox) > 0) as relay:
        relay.to = transfer.listen("--streams", streams, speed=NEVER).address
        code = transfer.listener.code()
        transfer.dial(relay.address, "--streams", streams, code=code, speed=NEVER)
        transfer.check_done()
    cuts = len(transfer.dialer.named("retrying"))
    assert 1 <= cuts <= 2
    assert [event["way"] for event in transfer.dialer.named("paired")] == ["code"]
    assert [event["way"] for event in transfer.listener.named("paired")] == ["code"]
    assert transfer.sender.receipt["sent_bytes"] < SIZE


@either_dials
def test_a_stream_is_cut_and_the_others_go_on(people: tuple[Person, Person], big: Path, sends: bool) -> None:
    def choose(way: Way) -> Bend | None:
        return cut_at(3 * MIB) if way.stream == 2 and way.there == sends else None

    transfer = Transfer(people, big, sends=sends)
    with Relay(choose, expects=3) as relay:
        relay.to = transfer.listen("--streams", "3", speed=NEVER).address
        transfer.dial(relay.address, "--streams", "3", code=transfer.listener.code(), speed=NEVER)
        transfer.check_done()
    assert not transfer.dialer.named("retrying")
    assert relay.streams == {(0, 0), (0, 1), (0, 2)}


@either_dials
def test_no_retry(people: tuple[Person, Person], big: Path, sends: bool) -> None:
    """Then it ends at the first cut, and a new run with the new code goes on."""
    transfer = Transfer(people, big, sends=sends)
    with CuttingRelay(9 * MIB, there=sends, kept=lambda: kept_bytes(transfer.blas.inbox) >= 4 * MIB) as relay:
        relay.to = transfer.listen("--retry", "0" if not sends else "30", speed=NEVER).address
        code = transfer.listener.code()
        assert transfer.dial(relay.address, "--retry", "0", "--streams", "1", code=code, speed=NEVER).end() == 4
    if sends:
        code = transfer.listener.code(2)
    else:
        assert transfer.listener.end() == 4
        code = transfer.listen(speed=NEVER).code()
    kept = transfer.check_nothing_shows()
    transfer.dial(transfer.listener.address, code=code)
    transfer.check_done(kept)


@either_dials
def test_the_dialer_is_killed(people: tuple[Person, Person], big: Path, sends: bool) -> None:
    """The listener shows a new code; with that the next run sends what is missing."""
    transfer = Transfer(people, big, sends=sends)
    listener = transfer.listen()
    first = listener.code()
    transfer.dial(listener.address, code=first)
    transfer.wait_until_half()
    transfer.dialer.kill()
    second = listener.code(2)
    assert second != first
    assert f"code={second}" in listener.link(2)
    kept = transfer.check_nothing_shows()
    refused = (
        transfer.blas.receive(listener.address, code=first)
        if not sends
        else transfer.ana.send(big, options=("--to", listener.address), code=first)
    )
    assert refused.end() == 3
    transfer.dial(listener.address, code=second)
    transfer.check_done(kept)


@either_dials
def test_the_listener_is_killed(people: tuple[Person, Person], big: Path, sends: bool) -> None:
    """The dialer says that it is gone, and does not ask whoever listens there now for anything."""
    transfer = Transfer(people, big, sends=sends)
    listener = transfer.listen()
    transfer.dial(listener.address, "--retry", "3", code=listener.code())
    transfer.wait_until_half()
    listener.kill()
    assert transfer.dialer.end() == 4
    assert transfer.dialer.error["hint"]
    kept = transfer.check_nothing_shows()
    listener = transfer.listen()
    transfer.dial(listener.address, code=listener.code())
    transfer.check_done(kept)


@either_dials
def test_the_listener_is_killed_and_started_again_meanwhile(
    people: tuple[Person, Person], big: Path, sends: bool
) -> None:
    """The dialer finds somebody there who does not know it: that ends it, and a new code goes on."""
    transfer = Transfer(people, big, sends=sends)
    listener = transfer.listen()
    address = listener.address
    transfer.dial(address, code=listener.code())
    transfer.wait_until_half()
    listener.kill()
    listener = transfer.listen(where=address)
    assert transfer.dialer.end() == 3
    assert transfer.dialer.error["kind"] == "unknown_machine"
    assert "does not remember" in transfer.dialer.error["message"]
    assert "new code" in transfer.dialer.error["hint"]
    kept = transfer.check_nothing_shows()
    transfer.dial(address, code=listener.code())
    transfer.check_done(kept)


@either_dials
@pytest.mark.parametrize("victim", ["dialer", "listener"])
def test_a_known_machine_goes_on_without_any_code(
    people: tuple[Person, Person], big: Path, sends: bool, victim: str
) -> None:
    transfer = Transfer(people, big, sends=sends)
    small = generated(big.with_name("small"), 10)
    meeting = Transfer(people, small, sends=sends)
    address = meeting.listen("--remember").address
    meeting.dial(address, "--remember", code=meeting.listener.code())
    assert (meeting.dialer.end(), meeting.listener.end()) == (0, 0)
    (transfer.blas.inbox / "small").unlink()
    (name,) = transfer.ana.known()
    listener = transfer.listen(where=address)
    listener.code()
    transfer.dial(f"@{name}")
    transfer.wait_until_half()
    if victim == "dialer":
        transfer.dialer.kill()
        listener.wait_for("error")
        kept = transfer.check_nothing_shows()
        transfer.dial(f"@{name}")
        transfer.check_done(kept)
        assert len(listener.named("code")) == 1
    else:
        listener.kill()
        transfer.listen(where=address)
        transfer.check_done()
        assert transfer.dialer.named("retrying")
    assert {event["way"] for event in transfer.listener.named("paired")} == {"key"}
