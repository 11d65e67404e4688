"""Lines: every message is a line of text or of anything else without line ends."""

from __future__ import annotations

from enchufe.buffer import ReceiveBuffer
from enchufe.errors import LocalProtocolError
from enchufe.framing.base import TooBig
from enchufe.framing.delimited import MAX_LINE, Delimited, DelimitedDecoder


class Lines(Delimited):
    r"""Messages that end with a line feed. `\r\n` is taken for one too, as by Go's bufio.Scanner; `\n` is written.
    Where the other side wants `\r\n`, as SMTP and Redis do, that is `Delimited(b"\r\n")`.

    What stands before the end of the stream without a line feed may be half a command, so it is a fault by default:
    SMTP and Redis must not act on it. Who reads text that people or `printf` wrote wants `last_line`.

    Args:
        max_size: bytes of the longest line, its end not counted. The default is bufio.Scanner's, 64 KiB.
        on_too_big: "close" or "skip", see `Framing` and `Delimited`.
        last_line: the bytes behind the last line feed are a line too, if there are any.
    """

    def __init__(self, max_size: int = MAX_LINE, *, on_too_big: TooBig = "close", last_line: bool = False) -> None:
        super().__init__(b"\n", max_size, on_too_big=on_too_big)
        self.last_line = last_line
        self.longest_end = len(b"\r\n")

    def options(self) -> dict[str, object]:
        """What it was made with, by the names of the arguments."""
        return {"max_size": self.max_size, "on_too_big": self.on_too_big, "last_line": self.last_line}

    def decoder(self) -> DelimitedDecoder:
        """A decoder for one connection."""
        return LinesDecoder(self) if self.last_line else DelimitedDecoder(self)

    def check_content(self, message: bytes | bytearray) -> None:
        r"""Raise LocalProtocolError where the message is not one line: it holds `\n`, or ends with `\r`."""
        super().check_content(message)
        if message.endswith(b"\r"):
            raise LocalProtocolError(
                r"the line ends with \r, which the other side would take for a part of the line's end",
                hint="Use a framing that carries lengths: it takes any bytes.",
            )

    def pieces(self, data: bytes) -> list[bytes]:
        """`data` cut at every line end; the last piece is what none followed."""
        if b"\r" in data:
            data = data.replace(b"\r\n", b"\n")
        return data.split(b"\n")

    def size_before(self, buffer: ReceiveBuffer, end: int) -> int:
        """The size of the line whose line feed stands at `end` of the buffer."""
        return end - 1 if end and buffer.view(end - 1, end).tobytes() == b"\r" else end


class LinesDecoder(DelimitedDecoder):
    """The decoder of `Lines` where the last line needs no end."""

    __slots__ = ()

    def _rest(self, buffer: ReceiveBuffer) -> list[bytes]:
        size = self._framing.size_before(buffer, len(buffer))
        kept = not self.skipping and self._framing.keeps(size)
        lines = [buffer.peek(size)] if kept else []
        self.skipping = False
        self._drop(buffer, len(buffer))
        return lines
