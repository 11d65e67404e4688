"""The question before anything is received: who offers what, all of it on request, and yes or no from the terminal."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from typing import Final

import click

from enchufe.cli import output, terminal
from enchufe.cli.show import Screen, all_bytes, counted, shown_peer
from enchufe.entry import Kind
from enchufe.errors import StoreError
from enchufe.printable import printable
from enchufe.session.consent import Ask, Item, Offering, Root

_YES: Final = frozenset({"y", "yes", "s", "si", "sí"})
_NO: Final = frozenset({"", "n", "no"})
_LIST: Final = frozenset({"l", "list", "lista"})
_CHOICE: Final = "Take it? y yes, n no, l list all of it [n] "
_SHORT_CHOICE: Final = "Take it? y yes, n no [n] "
_MORE: Final = "-- Enter goes on, q ends the list -- "
_INDENT: Final = 14  # columns before a name: no name, however long, puts anything of its own to their left
_AROUND: Final = 4  # lines of a screen that are not the list: two above, the question, and where the cursor stands
_SMALLEST: Final = (40, 10)  # columns and lines that we count on, whatever the terminal says


def asking(
    shown: Screen, *, plain: bool, yes: bool, no_input: bool, as_json: bool = False, quiet: bool = False
) -> Ask | None:
    """What asks whether to take what is offered, as the options say; None: it is taken.

    Raises:
        click.UsageError: somebody is to be asked, and cannot be.
    """
    if plain or yes:
        return None
    why = (
        "--no-input forbids to ask"
        if no_input
        else "--json and --quiet ask nothing"
        if as_json or quiet
        else "there is no terminal to ask on"
        if (found := terminal.opened()) is None
        else ""
    )
    if why or found is None:
        raise click.UsageError(f"{why}, and what is offered is taken only with a yes: say --yes")
    prompt = Prompt(found, shown)
    # After Ctrl-Z, what the shell showed until `fg` stands below the question.
    signal.signal(signal.SIGCONT, lambda _number, _frame: prompt.show_again())
    return prompt


class Prompt:
    """Asks on a terminal; what it has to say goes to standard error where that is one, too.

    Args:
        terminal: its descriptor.
        shown: leaves the screen alone while the question stands.
    """

    def __init__(self, terminal: int, shown: Screen) -> None:
        self._terminal = terminal
        self._shown = shown
        self._output = 2 if os.isatty(2) else terminal
        self._typed = b""
        self._standing = ""  # what waits for an answer

    def show_again(self) -> None:
        """Show what waits for an answer once more; from any thread, at any time."""
        self._say(self._standing)

    def __call__(self, offering: Offering) -> bool:
        """Show it and ask; no where there is nobody to answer, or nothing to be answered any more."""
        self._shown.close()
        columns, lines = self._size()
        every = list(islice(_lines(map(_item, offering), columns), lines - _AROUND + 1))
        short = len(every) <= lines - _AROUND
        items = "".join(every) if short else _summary(offering, columns, lines - _AROUND)
        offered = f"{_offer(offering)}:\n{items}"
        self._say(offered)
        self._forget_typed()
        while True:
            answer = self._ask(_SHORT_CHOICE if short else _CHOICE, offering, offered)
            if answer is None or answer in _NO:
                return False
            if answer in _YES:
                return True
            if answer in _LIST and not self._list(offering):
                return False

    def _list(self, offering: Offering) -> bool:
        """Show all of it, a screen at a time; False where nobody is there any more."""
        columns, lines = self._size()
        rows = _lines(map(_item, offering), columns)
        page = list(islice(rows, lines - 1))
        while page:
            self._say("".join(page))
            page = list(islice(rows, lines - 1))
            if page:
                answer = self._ask(_MORE, offering)
                if answer is None:
                    return False
                if answer.startswith("q"):
                    break
        return True

    def _ask(self, question: str, offering: Offering, about: str = "") -> str | None:
        """A line that was typed; None where there will be none, or where it matters no more.

        Args:
            about: what stands above the question.
        """
        self._standing = about + question
        try:
            self._say(question)
            return self._line(offering)
        finally:
            self._standing = ""

    def _line(self, offering: Offering) -> str | None:
        while b"\n" not in self._typed:
            poller = select.poll()
            poller.register(self._terminal, select.POLLIN)
            poller.register(offering, select.POLLIN)
            ready = [descriptor for descriptor, _ in poller.poll()]
            if self._terminal not in ready or offering.fileno() in ready:
                self._say("\n")
                return None
            try:
                typed = os.read(self._terminal, 4096)
            except OSError:  # the terminal is gone
                return None
            if not typed:  # Ctrl-D
                self._say("\n")
                return None
            self._typed += typed
        line, _, self._typed = self._typed.partition(b"\n")
        return line.decode(errors="replace").strip().casefold()

    def _forget_typed(self) -> None:
        """What was typed before the question is no answer to it."""
        self._typed = b""
        with suppress(termios.error):
            termios.tcflush(self._terminal, termios.TCIFLUSH)

    def _say(self, text: str) -> None:
        with suppress(StoreError):  # then there is no answer, either
            output.write(text.encode(sys.stderr.encoding or "utf-8", "backslashreplace"), self._output)

    def _size(self) -> tuple[int, int]:
        try:
            columns, lines = os.get_terminal_size(self._output)
        except OSError:
            return _SMALLEST
        return max(columns, _SMALLEST[0]), max(lines, _SMALLEST[1])


def _offer(offering: Offering) -> str:
    """Who offers how much."""
    peer = shown_peer(offering.peer)
    who = peer if offering.name is None else f"{printable(offering.name)} ({peer})"
    total = offering.total
    what = f"{who} offers {_contents(total)}, {all_bytes(total.bytes, total.unsized)}"
    return f"{what}, of which {total.refused:,} cannot be taken" if total.refused else what


def _contents(root: Root) -> str:
    counts = ((root.files, "file"), (root.folders, "folder"), (root.links, "link"))
    return ", ".join(counted(count, what) for count, what in counts if count)


def _item(item: Item) -> tuple[str, str]:
    """What stands left of a name, and the name with what belongs to it."""
    name = "/".join(map(printable, item.path))
    if item.kind is Kind.DIRECTORY:
        left, name = "folder", f"{name}/"
    elif item.kind is Kind.SYMLINK:
        left, name = "link", f"{name} -> {printable(item.target)}"
    else:
        left = all_bytes(item.size or 0, item.size is None)
    return left, f"{name} (not taken: {item.refusal})" if item.refusal else name


def _summary(offering: Offering, columns: int, lines: int) -> str:
    """A line for each root; where they are too many, for the first ones."""
    roots = offering.roots
    rows = list(islice(_lines(map(_root, roots), columns), lines + 1))
    if len(rows) <= lines:
        return "".join(rows)
    return "".join(rows[: lines - 1]) + f"{'...':>{_INDENT - 2}}  {counted(len(roots), 'name')} in all\n"


def _root(root: Root) -> tuple[str, str]:
    name = printable(root.name)
    if root.kind is Kind.DIRECTORY:
        return all_bytes(root.bytes, root.unsized), f"{name}/ ({_contents(root)})"
    return ("link" if root.kind is Kind.SYMLINK else all_bytes(root.bytes, root.unsized)), name


def _lines(rows: Iterable[tuple[str, str]], columns: int) -> Iterator[str]:
    """Lines that fit the screen, which no terminal has to wrap: what continues a name is indented like it."""
    room = columns - _INDENT - 1
    for left, name in rows:
        before = f"{left:>{_INDENT - 2}}  "
        for part in _parts(name, room):
            yield f"{before}{part}\n"
            before = " " * _INDENT


def _parts(text: str, room: int) -> Iterator[str]:
    """`text` cut into pieces of so many columns at the most."""
    if text.isascii():  # and printable, so one column each
        yield from (text[at : at + room] for at in range(0, len(text), room))
        return
    part, used = "", 0
    for character in text:
        width = _width(character)
        if used + width > room:
            yield part
            part, used = "", 0
        part += character
        used += width
    yield part


def _width(character: str) -> int:
    """Columns that a printable character may take."""
    if unicodedata.combining(character):
        return 0
    # Ambiguous ones count as wide: a line too short does no harm.
    return 2 if unicodedata.east_asian_width(character) in "WFA" else 1
