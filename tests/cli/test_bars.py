"""The bar of a transfer: what it says before all is offered, in a pause, after a cut, and before the receipt."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import threading

import pytest

from enchufe import events
from enchufe.cli.show import ProgressBars, Sentences, figures
from tests.until import until

MB = 10**6


def progress(done: int, total: int, rate: float = 0.0) -> events.Progress:
    return events.Progress(done * MB, total * MB, 3, rate * MB)


@pytest.mark.parametrize(
    ("event", "offered", "wide", "narrow"),
    [
        (progress(900, 1000, 50), False, "900.0 MB of 1.0 GB so far 50.0 MB/s, 3 files", "900.0 MB 50.0 MB/s"),
        (progress(900, 1000, 50), True, "90% 900.0 MB of 1.0 GB 50.0 MB/s 0:02 left, 3 files", "90% 50.0 MB/s"),
        (progress(9, 10_000, 1), True, " 0% 9.0 MB of 10.0 GB 1.0 MB/s 2:46:31 left, 3 files", " 0% 1.0 MB/s"),
        (progress(9, 10_000), True, " 0% 9.0 MB of 10.0 GB 0 bytes/s, 3 files", " 0% 0 bytes/s"),
        (progress(9, 10_000, 1e-6), True, " 0% 9.0 MB of 10.0 GB 1 bytes/s, 3 files", " 0% 1 bytes/s"),
        (progress(9999, 10_000, 1), True, "99% 10.0 GB of 10.0 GB 1.0 MB/s 0:01 left, 3 files", "99% 1.0 MB/s"),
        (
            progress(1000, 1000, 50),
            True,
            "99% 1.0 GB of 1.0 GB getting it on disk, 3 files",
            "99% getting it on disk",
        ),
        (progress(1000, 1000, 50), False, "1.0 GB of 1.0 GB so far 50.0 MB/s, 3 files", "1.0 GB 50.0 MB/s"),
        (progress(9, 0, 1), False, "9.0 MB 1.0 MB/s, 3 files", "9.0 MB 1.0 MB/s"),
        (progress(0, 0), True, "99% 0 bytes of 0 bytes getting it on disk, 3 files", "99% getting it on disk"),
    ],
)
def test_figures(event: events.Progress, offered: bool, wide: str, narrow: str) -> None:
    assert figures(event, offered=offered, wide=True) == wide
    assert figures(event, offered=offered, wide=False) == narrow


def test_there_is_one_bar_however_often_it_is_cut() -> None:
    """None while it waits to try again: what it showed last is not true any more. Each is drawn by a thread."""
    others = threading.active_count()
    bars = ProgressBars(Sentences(quiet=False, verbose=False, sending=True, plain=True))
    for _ in range(3):
        bars.show(events.Connected("there"))
        bars.show(events.Offered(1, 10))
        bars.show(events.Progress(5, 10, 0, 1.0))
        assert threading.active_count() == others + 1
        bars.show(events.Retrying("the link is gone", 0.1))
        until(lambda: threading.active_count() == others)
    bars.close()


TOLD = 5000
LONG = "long " * 40
TELLS_MUCH = f"""
from enchufe import events
from enchufe.cli.show import ProgressBars, Sentences

bars = ProgressBars(Sentences(quiet=False, verbose=False, sending=True, plain=True))
bars.show(events.Connected("there"))
bars.show(events.Progress(5, 10, 0, 1.0))
for number in range({TOLD}):
    name = b":smile: [bold]x[/bold] %d" % number
    bars.show(events.File((name,), 0, "left out", None, "it vanished"))
bars.show(events.File(({LONG.encode()!r},), 0, "left out", None, "it vanished"))
bars.close()
"""


def test_what_is_told_above_the_bar_is_shown_as_it_is_and_with_few_bars() -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "TERM": "xterm"}
    with subprocess.Popen([sys.executable, "-c", TELLS_MUCH], stderr=theirs, env=environment) as teller:
        os.close(theirs)
        shown = b""
        while piece := _read(ours):
            shown += piece
    os.close(ours)
    assert teller.returncode == 0
    for number in range(TOLD):
        assert b"left out: :smile: [bold]x[/bold] %d (it vanished)\r\n" % number in shown
    assert b"left out: %s (it vanished)\r\n" % LONG.encode() in shown
    assert shown.count(b"\x1b[2K") < TOLD / 4  # each time that a bar makes room


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # nobody is at the other end any more
        return b""


def test_what_is_told_is_not_kept_until_more_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    bars = ProgressBars(Sentences(quiet=False, verbose=False, sending=True, plain=True))
    bars.show(events.Connected("there"))
    bars.show(events.File((b"a",), 0, "left out", None, "it vanished"))
    told = ""

    def is_told() -> bool:
        nonlocal told
        told += capfd.readouterr().err
        return "left out: a (it vanished)\n" in told

    try:
        until(is_told)
    finally:
        bars.close()


def test_where_no_thread_is_left_there_is_no_bar(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    bars = ProgressBars(Sentences(quiet=False, verbose=False, sending=True, plain=True))
    bars.show(events.Connected("there"))
    bars.show(events.Progress(5, 10, 0, 1.0))
    bars.show(events.File((b"a",), 0, "left out", None, "it vanished"))
    bars.close()
    assert capfd.readouterr().err == "connected to there\nleft out: a (it vanished)\n"


def test_what_nobody_knows_the_size_of_is_at_no_per_cent() -> None:
    """As with `tar c . | enchufe send -`, which was on its way to the disk from the first byte on."""
    bars = ProgressBars(Sentences(quiet=False, verbose=False, sending=True, plain=True))
    try:
        bars.show(events.Connected("there"))
        bars.show(events.Offered(1, 0))
        bars.show(progress(1, 0, 1))
        assert bars._bars is not None
        (task,) = bars._bars.tasks
        assert task.total is None
        assert task.description == "1.0 MB 1.0 MB/s, 3 files"
    finally:
        bars.close()


def lines(*told: events.Event) -> str:
    sentences = Sentences(quiet=False, verbose=False, sending=False, plain=True)
    return "\n".join(line for event in told for line in sentences.lines(event))


def test_the_rate_is_of_what_crossed() -> None:
    whole = events.Receipt(2, 1000 * MB, 1000 * MB, 0, 0, 10.0, bytes(32))
    rest = events.Receipt(2, 1000 * MB, 50 * MB, 0, 0, 10.0, bytes(32))
    assert "1.0 GB in 10.00 s (100.0 MB/s), verified and on disk" in lines(whole)
    assert "crossed" not in lines(whole)
    assert "1.0 GB in 10.00 s, verified and on disk" in lines(rest)
    assert "50.0 MB of it crossed this time (5.0 MB/s), the rest was there, or is zeros" in lines(rest)
    after = lines(events.Retrying("cut", 0.1), rest)
    assert "1.0 GB in 10.00 s since the last cut, verified and on disk" in after
    assert "50.0 MB of it crossed since then (5.0 MB/s), the rest was there, or is zeros" in after
