"""What a person or a script sees of a transfer: events as JSON lines, as progress bars, or as plain sentences."""

from __future__ import annotations

import os
import shlex
import sys
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, Protocol

from enchufe import events
from enchufe.cli import output
from enchufe.errors import BusyError, StoreError
from enchufe.printable import printable
from enchufe.waiting import start

if TYPE_CHECKING:
    from rich.progress import Progress as Bars


_WIDE: Final = 60  # columns of a terminal that has room for a bar and all that stands beside it

_DRAWN: Final = 0.1  # seconds between two drawings of the bar, and of what was told meanwhile above it
_TOGETHER: Final = 1000  # lines that are drawn at once: the bar under them costs as much as a hundred

_FOREVER: Final = 100 * 3600.0  # seconds: from then on nobody wants to know


class Screen(Protocol):
    """Where events go."""

    def show(self, event: events.Event) -> None:
        """Show one."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def screen(*, as_json: bool, quiet: bool, verbose: bool, sending: bool, plain: bool, looking: bool = False) -> Screen:
    """The screen that the options and the terminal ask for."""
    if as_json:
        return JsonLines()
    person = Sentences(quiet=quiet, verbose=verbose, sending=sending, plain=plain)
    if looking:
        return Inventory(person)
    if quiet or not sys.stderr.isatty():
        return person
    return ProgressBars(person)


class JsonLines:
    """One object a line on standard output; once that fails, what went wrong as sentences on standard error."""

    def __init__(self, hurry: output.Hurry | None = None) -> None:
        from json import dumps  # noqa: PLC0415 (slow to import, and not everybody needs it)

        self._dumps = dumps
        self._hurry = hurry
        self._failed = False

    def show(self, event: events.Event) -> None:
        """Print it at once: somebody may be waiting for it.

        Raises:
            StoreError: standard output cannot be written.
        """
        if not self._failed:
            try:
                told = {**event.as_dict(), "time": round(time.time(), 3)}
                output.write(self._dumps(told).encode() + b"\n", hurry=self._hurry)
            except StoreError:
                self._failed = True
                if not isinstance(event, events.Failed):
                    raise
            else:
                return
        if isinstance(event, events.Failed):
            output.tell("\n".join(failure(event)) + "\n", self._hurry)

    def close(self) -> None:
        """Nothing to do."""


class Sentences:
    """A line on standard error for what matters; with `quiet` only for what went wrong."""

    def __init__(self, *, quiet: bool, verbose: bool, sending: bool, plain: bool) -> None:
        self._quiet = quiet
        self._plain = plain
        self._verbose = verbose
        self._sending = sending
        self._socket = ""  # that we listen on: it is announced to nobody
        self._cut = False

    def show(self, event: events.Event) -> None:
        """Print what there is to say."""
        output.tell("".join(f"{line}\n" for line in self.lines(event)))

    def close(self) -> None:
        """Nothing to do."""

    def lines(self, event: events.Event) -> list[str]:
        """The lines for an event."""
        match event:
            case events.Listening(address) if address.startswith("unix:"):
                self._socket = shlex.quote(address)
            case events.Failed():
                return failure(event)
            case events.File(action="refused" | "left out" | "started over"):
                return [f"{event.action}: {shown_path(event.path)} ({event.reason})"]
            case events.Code():
                return self._code(event)
        if self._quiet:
            return []
        match event:
            case events.Listening(address):
                return [f"listening on {address}, for: {self._counterpart(address)}"] if self._plain else []
            case events.WrongCode(left):
                return [f"somebody said a wrong code; {left} more, and it lets nobody in"] if left else []
            case events.CodeGone():
                return ["the code lets nobody in any more: it is too old, or was said wrong three times"]
            case events.Unannounced(message):
                return [f"{message}: the other side needs the link, or the address and the code"]
            case events.Paired(way, name):
                return [f"the other side has the {way}" if name is None else f"the other side is {printable(name)}"]
            case events.Remembered(name):
                return [_remembered(name)]
            case events.Connected(peer):
                return [f"connected to {shown_peer(peer)}"]
            case events.Offered(entries, size, unsized):
                return [f"{entries:,} {'entry' if entries == 1 else 'entries'}, {all_bytes(size, unsized or 0)}"]
            case events.File() if self._verbose:
                return [f"{event.action}: {shown_path(event.path)} ({in_bytes(event.bytes)})"]
            case events.Landed(path):
                return [f"received {shown_path(path)}"]
            case events.Looked():
                return [
                    "the other side only looked at what is offered, and took nothing; waiting for somebody who takes it"
                ]
            case events.Retrying(message, seconds):
                self._cut = True
                return [f"cut: {message}; trying again in {seconds:.1f} s"]
            case events.Receipt():
                return self._receipt(event)
        return []

    def _counterpart(self, address: str) -> str:
        """The command to run on the other side."""
        where = to_dial(address)
        return f"enchufe receive {where} --plain" if self._sending else f"enchufe send PATH --to {where} --plain"

    def _code(self, event: events.Code) -> list[str]:
        """What to do on the other side, by whoever is told the code; once."""
        if self._socket:
            return [f"on the other side: {self._at_socket(event.code)}"]
        lines = [f"on the other side: {self._secured(event.code)}"]
        if event.link:
            lines.append(f"or, from where it is not found: {self._secured(shlex.quote(event.link))}")
        return lines

    def _secured(self, target: str) -> str:
        return f"enchufe receive {target}" if self._sending else f"enchufe send PATH --to {target}"

    def _at_socket(self, code: str) -> str:
        if self._sending:
            return f"enchufe receive {code} --to {self._socket}"
        return f"enchufe send PATH --to {self._socket}, which asks for the code: {code}"

    def _receipt(self, event: events.Receipt) -> list[str]:
        done = "sent" if self._sending else "received"
        place = "on the other side's disk" if self._sending else "on disk"
        crossed = min(event.sent_bytes, event.bytes)
        rate = f" ({in_bytes(crossed / event.seconds if event.seconds else 0)}/s)"  # of nothing that was there
        partly = crossed < event.bytes
        lines = [
            f"{done} {counted(event.files, 'file')}, {in_bytes(event.bytes)} in {event.seconds:.2f} s"
            f"{' since the last cut' if self._cut else ''}{'' if partly else rate}, verified and {place}"
        ]
        if partly:
            rest = "was there, is zeros, or shrank" if self._sending else "was there, or is zeros"
            when = "since then" if self._cut else "this time"
            lines.append(f"{in_bytes(crossed)} of it crossed {when}{rate}, the rest {rest}")
        if event.skipped:
            lines.append(f"skipped {counted(event.skipped, 'file')} that were there")
        if event.left_out:
            lines.append(f"left out {event.left_out}, listed above" if self._sending else f"left out {event.left_out}")
        lines.append(f"digest {event.digest.hex()}")
        return lines


def _remembered(name: str | None) -> str:
    if name is None:
        return "the other side is not remembered: it did not say --remember"
    return f"remembered as {printable(name)}: @{printable(name)} needs no code from now on"


class Inventory:
    """What is offered, a line each on standard output; all else as sentences. A bar would be in their way."""

    def __init__(self, sentences: Sentences) -> None:
        self._sentences = sentences

    def show(self, event: events.Event) -> None:
        """Print it.

        Raises:
            StoreError: standard output cannot be written.
        """
        if isinstance(event, events.Entry):
            output.write(f"{_entry(event)}\n".encode())
            return
        self._sentences.show(event)
        if isinstance(event, events.Paired) and event.way == "code" and self._sentences.lines(event):
            output.tell("this look uses the code up: the other side shows another one\n")

    def close(self) -> None:
        """Nothing to do."""


def _entry(event: events.Entry) -> str:
    """Size or kind, and the name with what belongs to it."""
    path = shown_path(event.path)
    if event.kind == "file":
        return f"{all_bytes(event.bytes or 0, event.bytes is None):>12}  {path}"
    more = "/" if event.target is None else f" -> {printable(event.target)}"
    return f"{event.kind:>12}  {path}{more}"


class ProgressBars:
    """Sentences, and under them a bar with rate, time left and files, while bytes move."""

    def __init__(self, sentences: Sentences) -> None:
        self._sentences = sentences
        self._lock = threading.RLock()
        self._bars: Bars | None = None
        self._lines: list[str] = []  # told, and not drawn yet
        self._closed = threading.Event()
        self._task: Any = None
        self._offered = False  # all there is: before that nobody knows how much it will be
        self._wide = True

    def show(self, event: events.Event) -> None:
        """Print it above the bar, or move the bar."""
        match event:
            case events.Progress():
                self._move(event)
            case events.Connected():
                self._print(event)
                self._offered = False
                self._start()
            case events.Offered():
                self._print(event)
                self._offered = True
            case events.Code():
                self._print(event)
                self._show_qr(event)
            case events.Receipt() | events.Failed() | events.Looked() | events.Retrying():
                self.close()
                self._sentences.show(event)
            case _:
                self._print(event)

    def close(self) -> None:
        """Stop drawing."""
        with self._lock:
            if self._bars is not None:
                self._draw(self._bars)
                self._closed.set()
                self._bars.stop()
                self._bars = None

    def _show_qr(self, event: events.Code) -> None:
        if not event.link:
            return
        from enchufe.access.links import Link  # noqa: PLC0415 (slow to import, and seldom needed)
        from enchufe.cli.qr import qr  # noqa: PLC0415 (as above)

        under = self._sentences.lines(event)
        link = Link.parse(event.link)
        for addresses in (link.addresses, link.addresses[:1]):  # all need more room than the likeliest alone
            text = str(replace(link, addresses=addresses))
            code = qr(text, sys.stderr, under=under, colour="NO_COLOR" not in os.environ)
            if code is not None:
                output.tell(code)
                return

    def _print(self, event: events.Event) -> None:
        with self._lock:
            if self._bars is not None:
                self._lines += self._sentences.lines(event)
                if len(self._lines) >= _TOGETHER:
                    self._draw(self._bars)
                return
        self._sentences.show(event)

    def _keep_drawing(self, bars: Bars, closed: threading.Event) -> None:
        while not closed.wait(_DRAWN):
            with self._lock:
                if not closed.is_set():
                    self._draw(bars)

    def _draw(self, bars: Bars) -> None:
        """Draw the bar, and what was told above it just as it is. With the lock."""
        from rich.segment import Segment, Segments  # noqa: PLC0415 (as below)

        if self._lines:
            told = "".join(f"{line}\n" for line in self._lines)
            bars.console.print(Segments([Segment(told)]), soft_wrap=True)
            self._lines.clear()
        else:
            bars.refresh()

    def _start(self) -> None:
        from rich.console import Console  # noqa: PLC0415 (slow to import, and seldom needed)
        from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

        console = Console(file=output.telling())  # the terminal may go, and the transfer hears of that by a signal
        # Not rich's own speed and time left: it begins anew whenever the total grows, and knows of no pauses.
        figures = TextColumn("{task.description}", markup=False)
        self._wide = console.width >= _WIDE
        columns = [BarColumn(), figures] if self._wide else [figures]
        # Not rich's own drawing: it takes most of a millisecond for a line above the bar, and reads smileys in it.
        bars = Progress(*columns, console=console, transient=True, auto_refresh=False)
        self._task = bars.add_task("", total=None)
        closed = threading.Event()
        drawing = threading.Thread(target=self._keep_drawing, args=(bars, closed), name="enchufe bars", daemon=True)
        with self._lock:
            try:
                start(drawing)
            except BusyError:  # better without a bar than not at all
                return
            bars.start()
            self._bars, self._closed = bars, closed

    def _move(self, event: events.Progress) -> None:
        if self._bars is None:  # it was closed for a question
            self._start()
        if self._bars is not None:
            if event.bytes > event.total:  # as with standard input, whose size nobody knows
                self._offered = False
            total = event.total if self._offered else None
            told = figures(event, offered=self._offered, wide=self._wide)
            self._bars.update(self._task, completed=event.bytes, total=total, description=told)


def figures(event: events.Progress, *, offered: bool, wide: bool) -> str:
    """How far it is, how fast, and how long it will take.

    It is no part of a whole that is not known, and not 100 % before the receipt.

    Args:
        offered: whether the total is all there is.
        wide: whether there is room for all of it.
    """
    done = offered and event.bytes >= event.total
    part = f"{99 if done else 100 * event.bytes // event.total:2}%" if offered else in_bytes(event.bytes)
    pace = "getting it on disk" if done else f"{in_bytes(event.rate)}/s"
    if not wide:
        return f"{part} {pace}"
    of = in_bytes(event.bytes)
    if event.bytes <= event.total:
        of += f" of {in_bytes(event.total)}{'' if offered else ' so far'}"
    left = ""
    if offered and not done and event.rate and (seconds := (event.total - event.bytes) / event.rate) < _FOREVER:
        left = f" {_clock(seconds)} left"
    return f"{part + ' ' if offered else ''}{of} {pace}{left}, {counted(event.files, 'file')}"


def _clock(seconds: float) -> str:
    """`0:12`, `1:02:03`."""
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


def to_dial(address: str) -> str:
    """What another machine dials where somebody listens on `address`."""
    host, colon, port = address.rpartition(":")
    if colon and host in ("[::]", "0.0.0.0"):  # noqa: S104 (names what it means)
        return f"HOST:{port}"
    if host.startswith("[") and "%" in host:  # what the interface is called there, nobody here knows
        return f"{host.partition('%')[0]}%INTERFACE]:{port}"
    return address


def failure(event: events.Failed) -> list[str]:
    """What to print of an error: what happened, and what to do."""
    return [f"enchufe: {event.message}", *([f"  {event.hint}"] if event.hint else [])]


def shown_path(path: events.Path) -> str:
    """A path of names from outside."""
    return "/".join(printable(name) for name in path)


def shown_peer(peer: str) -> str:
    """Where the other side is; who dials a Unix socket has no address."""
    return "a program on this machine" if peer == "unix:" else printable(peer)


def counted(count: int, what: str) -> str:
    """`1 file`, `2 files`."""
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def in_bytes(size: float) -> str:
    """A size for a person, in powers of ten as disks and networks are sold."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def all_bytes(size: int, unsized: int) -> str:
    """The size of files, and of so many more of which nobody knows how big they are."""
    if not unsized:
        return in_bytes(size)
    return f"{in_bytes(size)}+" if size else "size unknown"
