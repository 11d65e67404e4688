"""FixedLength: every message has the same size, and nothing else is on the wire."""

from __future__ import annotations

from collections.abc import Sequence

from enchufe.buffer import Buffer
from enchufe.checks import check_whole
from enchufe.errors import LocalProtocolError
from enchufe.framing.base import octets
from enchufe.framing.sized import Frame, SizedFraming


class FixedLength(SizedFraming):
    """Messages of `size` bytes each: the first answer of the Socket Programming HOWTO.

    Args:
        size: bytes of every message, 1 or more (of messages of nothing nobody could tell how many there are).

    Raises:
        LocalProtocolError: `size` is under 1, or no whole number.
    """

    def __init__(self, size: int) -> None:
        check_whole("size", size, 1)
        super().__init__(size, "close")
        self.size = size
        self.head = 1
        self._frame = Frame(0, 0, size, b"", True)

    def options(self) -> dict[str, object]:
        """What it was made with, by the names of the arguments."""
        return {"size": self.size}

    def encode(self, message: Buffer) -> Sequence[Buffer]:
        """The message as it is.

        Raises:
            LocalProtocolError: it is shorter or longer than `size`.
        """
        message = octets(message)
        if len(message) != self.size:
            raise LocalProtocolError(
                f"a message of {len(message)} bytes where every message has {self.size}",
                hint="Pad it, or use a framing that carries lengths.",
            )
        return (message,)

    def measure(self, data: memoryview) -> Frame | None:  # noqa: ARG002
        """The same frame whatever `data` holds: see `SizedFraming.measure`."""
        return self._frame

    def split(self, data: bytes) -> tuple[list[bytes], int]:
        """The messages at the front of `data`: see `SizedFraming.split`."""
        size = self.size
        taken = len(data) - len(data) % size
        return [data[start : start + size] for start in range(0, taken, size)], taken
