"""What somebody types, or a program writes to our standard input: as messages."""

from __future__ import annotations

import os
import re
import select
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, Literal

from enchufe.errors import EnchufeError, LocalProtocolError, StoreError

STDIN: Final = 0
_READ_SIZE: Final = 65536
_ESCAPES: Final = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\"}
_ESCAPE: Final = re.compile(rb"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.?)", re.DOTALL)

Notation = Literal["raw", "text", "escapes", "hex"]
"""How messages are typed: "raw" knows no lines, the others take each line for a message."""


def unescape(line: bytes) -> bytes:
    r"""`line` with its escapes replaced; they are all those that `printable` writes, and `\0`.

    Raises:
        LocalProtocolError: there is no such escape.
    """

    def replaced(found: re.Match[bytes]) -> bytes:
        escape = found[1].decode("utf-8", "replace")
        if escape[:1] in ("u", "U") and len(escape) > 1:
            try:
                return chr(int(escape[1:], 16)).encode()
            except (ValueError, OverflowError):  # a surrogate, or beyond Unicode
                pass
        elif escape[:1] == "x" and len(escape) == 3:
            return bytes.fromhex(escape[1:])
        elif escape in _ESCAPES:
            return _ESCAPES[escape]
        raise LocalProtocolError(
            f"there is no escape \\{escape}", hint=r"Escapes are \r, \n, \t, \0, \\, \xNN, \uNNNN and \UNNNNNNNN."
        )

    return _ESCAPE.sub(replaced, line)


def from_hex(line: bytes) -> bytes:
    """The bytes whose hexadecimal digits `line` holds, with spaces between bytes or without.

    Raises:
        LocalProtocolError: it holds something else.
    """
    try:
        return bytes.fromhex(line.decode("ascii"))
    except ValueError:
        raise LocalProtocolError(
            f"{line.decode(errors='backslashreplace')!r} is not hexadecimal", hint="Type bytes as 00 0a ff."
        ) from None


_READERS: Final[dict[Notation, Callable[[bytes], bytes]]] = {"text": bytes, "escapes": unescape, "hex": from_hex}


class Input:
    """Standard input, read in a thread of its own, so that nobody waits for it who should hear the other side.

    What is read is never poll()ed for: it may be a file, which epoll refuses, and a read in a daemon thread keeps
    nobody from ending the program.

    Args:
        notation: how messages are typed.
        max_size: bytes of the longest line.
        take: gets the messages that came together. What it raises, and what cannot be read, ends the input; on a
            terminal a LocalProtocolError is only told to `complain`, for the next line may be typed better.
        finish: called once when the input has ended, with what ended it other than its end.
        complain: see `take`.

    Attributes:
        is_terminal: somebody sits there.
        empty: nothing has come.
    """

    def __init__(
        self,
        notation: Notation,
        max_size: int,
        take: Callable[[list[bytes]], None],
        finish: Callable[[EnchufeError | None], None],
        complain: Callable[[EnchufeError], None],
    ) -> None:
        self.is_terminal = os.isatty(STDIN)
        self.empty = True
        self._read_line = _READERS.get(notation)
        self._max_size = max_size
        self._take = take
        self._finish = finish
        self._complain = complain
        self._changed = threading.Condition()
        self._ended = False
        self._given_up = False
        self._busy = time.monotonic()

    def start(self) -> None:
        """Begin to read."""
        threading.Thread(target=self._run, name="enchufe input", daemon=True).start()

    def give_up(self) -> None:
        """Nobody is interested any more: `outlast` returns."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()

    def outlast(self, silence: float) -> bool:
        """Wait until it has ended, or no byte came for `silence` seconds: whether it has ended.

        A terminal is not waited for: who sits there sees that the other side has gone.
        """
        began = time.monotonic()
        with self._changed:
            while not (self._ended or self._given_up or self.is_terminal):
                left = max(began, self._busy) + silence - time.monotonic()
                if left <= 0:
                    break
                self._changed.wait(left)
            return self._ended

    def _run(self) -> None:
        fault: EnchufeError | None = None
        try:
            for messages in self._batches():
                try:
                    self._take(messages)
                except LocalProtocolError as error:
                    if not self.is_terminal:
                        raise
                    self._complain(error)
                self._busy = time.monotonic()
        except EnchufeError as error:
            fault = error
        self._finish(fault)
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _batches(self) -> Iterator[list[bytes]]:
        """The messages that came together, each time some came."""
        if self._read_line is None:
            while data := self._read():
                yield [data]
            return
        begun: list[bytes] = []  # of a line whose end has not come
        size = 0
        while data := self._read():
            *whole, rest = data.split(b"\n")
            if whole:
                whole[0] = b"".join((*begun, whole[0]))
                begun, size = [], 0
                yield from self._understood(whole)
            begun.append(rest)
            size += len(rest)
            # Two digits and a space a byte, or \UNNNNNNNN: a limit on what is kept, the framing has its own.
            if size > 10 * self._max_size + _READ_SIZE:
                raise LocalProtocolError(
                    f"a line of standard input is over the framing's max_size of {self._max_size}",
                    hint="Raise --max-size on both sides, or use --raw.",
                )
        if size:
            yield from self._understood([b"".join(begun)])

    def _understood(self, lines: list[bytes]) -> Iterator[list[bytes]]:
        assert self._read_line is not None
        messages = []
        for line in lines:
            try:
                messages.append(self._read_line(line))
            except LocalProtocolError as error:
                if messages:
                    yield messages
                    messages = []
                if not self.is_terminal:
                    raise
                self._complain(error)
        if messages:
            yield messages

    def _read(self) -> bytes:
        while True:
            try:
                data = os.read(STDIN, _READ_SIZE)
            except BlockingIOError:  # somebody we share it with made it so
                poller = select.poll()
                poller.register(STDIN, select.POLLIN)
                poller.poll()
                continue
            except OSError as error:
                raise StoreError(f"cannot read standard input: {error.strerror}") from error
            self._busy = time.monotonic()
            self.empty = self.empty and not data
            return data
