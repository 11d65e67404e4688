"""The shape all framings share: how messages become bytes, and bytes messages again.

A framing is an immutable description, shared by any number of connections: `framing.encode(message)`. What must be
remembered between two reads of one connection (how far a line was searched, how much of an oversized message is
still to be skipped) lives in the decoder it hands out: `framing.decoder()`. Neither owns the bytes: they stay in
the connection's ReceiveBuffer until a message is whole, and what is left over is there for the next framing.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Final, Literal, NoReturn

from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.checks import check_whole
from enchufe.errors import LocalProtocolError, RemoteProtocolError

TooBig = Literal["close", "skip"]

# The limit where nobody says otherwise, in bytes: tokio-util's `LengthDelimitedCodec` has the same.
MAX_SIZE: Final = 8 * 1024 * 1024

# Tuning, not protocol. Below so many bytes one copy costs less than one more piece for the kernel to gather.
JOIN_BELOW: Final = 16 * 1024
# How many bytes are copied out of the buffer to be split in one go: wide while that pays, narrow where it does not.
NARROW: Final = 256
WIDE: Final = 64 * 1024


Split = Callable[[bytes], tuple[list[bytes], int]]
"""Takes the messages at the front of some bytes that need no special care, and says how many bytes they took."""


def _take_nothing(data: bytes) -> tuple[list[bytes], int]:  # noqa: ARG001
    return [], 0


class Decoder(ABC):
    """One connection's way from bytes to messages.

    Between two messages a decoder is as good as new: it may be replaced by another there.

    Attributes:
        skipping: it is in the middle of a message it drops, not between two.
        lacking: bytes that the message in hand still lacks; 0 where nobody knows.
    """

    __slots__ = ("lacking", "skipping")

    def __init__(self) -> None:
        self.skipping = False
        self.lacking = 0

    @abstractmethod
    def decode(self, buffer: ReceiveBuffer, at_end: bool = False, most: int | None = None) -> list[bytes]:
        """Take whole messages out of `buffer`, all of them by default; an empty list asks for more bytes.

        Where messages are returned, what was taken ends with the last of them: a fault or a message to be skipped
        behind it is left to the next call. So no message is lost with a fault, and another framing can go on there.

        Args:
            buffer: what has arrived; what belongs to no whole message stays in it.
            at_end: no more bytes will come.
            most: take that many messages at the most, at least 1, and not a byte behind the last of them.

        Raises:
            RemoteProtocolError: a message is too big (nothing of its body was kept), malformed, or cut by the end.
                The faulty bytes stay: every further call raises it again.
        """


class Framing(ABC):
    """How one message is told from the next. Two framings of the same class and options are equal.

    Attributes:
        max_size: bytes of the longest message allowed, either way.
        on_too_big: what a decoder does with a longer one: "close" raises, "skip" drops it and goes on.
        plain: `bytes` that are fewer than so many can always be sent, and many of them framed together; 0: none.
    """

    max_size: int
    on_too_big: TooBig
    plain: int = 0

    def __init__(self, max_size: int, on_too_big: TooBig) -> None:
        check_whole("max_size", max_size)
        if on_too_big not in ("close", "skip"):
            raise LocalProtocolError(f'on_too_big is "close" or "skip", not {on_too_big!r}')
        self.max_size = max_size
        self.on_too_big = on_too_big

    @abstractmethod
    def encode(self, message: Buffer) -> Sequence[Buffer]:
        """The bytes to send for `message`, in pieces to be gathered; a big message is among them uncopied.

        Raises:
            LocalProtocolError: this framing cannot carry that message.
        """

    def encode_plain(self, messages: Sequence[bytes]) -> bytes:
        """The bytes to send for messages, one or more, all of which have fewer bytes than `plain`."""
        return b"".join([piece for message in messages for piece in self.encode(message)])

    @abstractmethod
    def decoder(self) -> Decoder:
        """A decoder for one connection."""

    def splitter(self) -> Split:
        """The fast lane: a function that takes the plain messages at the front of some bytes.

        For bytes that have just arrived and begin between two messages. What it leaves, all of it where a framing has
        no such lane, goes into the buffer, and to a decoder.
        """
        return _take_nothing

    def options(self) -> dict[str, object]:
        """What it was made with, by the names of the arguments."""
        return {"max_size": self.max_size, "on_too_big": self.on_too_big}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.options().items())})"

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and repr(other) == repr(self)

    def __hash__(self) -> int:
        return hash(repr(self))

    def check_size(self, size: int) -> None:
        """Raise LocalProtocolError where a message of `size` bytes is too big to send."""
        if size > self.max_size:
            raise LocalProtocolError(
                f"a message of {size} bytes is over this framing's max_size of {self.max_size}",
                hint="Raise max_size on both sides, or send it in parts.",
            )

    def keeps(self, size: int | None = None) -> bool:
        """Whether a message of `size` bytes from the peer is to be kept (None: nobody knows, but it is too big).

        Raises:
            RemoteProtocolError: it is too big, and `on_too_big` is "close".
        """
        if size is not None and size <= self.max_size:
            return True
        if self.on_too_big == "close":
            self.too_big(size)
        return False

    def too_big(self, size: int | None = None) -> NoReturn:
        """Raise what "close" means for a message of `size` bytes (None: nobody knows) from the peer."""
        told = "a message" if size is None else f"a message of {size} bytes"
        raise RemoteProtocolError(
            f"the peer sent {told}, over max_size of {self.max_size}",
            hint='Raise max_size if such messages are meant, or pass on_too_big="skip" to go on without them.',
        )


def octets(message: Buffer, what: str = "a message") -> Buffer:
    """`message`, or what else it is, in a form whose `len()` counts its bytes.

    Raises:
        LocalProtocolError: it is not bytes at all.
    """
    if isinstance(message, (bytes, bytearray)):
        return message
    if isinstance(message, memoryview):
        # A view of wider items would be counted in items, and the peer told too short a length.
        return message if message.ndim == 1 and message.itemsize == 1 and message.c_contiguous else message.tobytes()
    raise LocalProtocolError(
        f"{what} is bytes, not {type(message).__name__}", hint="Text becomes bytes by text.encode()."
    )


def gather(size: int, *pieces: Buffer) -> Sequence[Buffer]:
    """`pieces`, which hold a message of `size` bytes: joined where it is small, uncopied where it is big."""
    return (b"".join(pieces),) if size < JOIN_BELOW else pieces


def window(taken: int) -> int:
    """How many bytes to split next after `taken` of the last ones were messages.

    Never much more than was useful the last time: a peer whose messages make every batch end at once could else
    have the whole buffer copied for each of them.
    """
    wanted = 2 * taken
    if wanted < NARROW:
        return NARROW
    return wanted if wanted < WIDE else WIDE


def truncated(held: int) -> RemoteProtocolError:
    """The error for an end of the stream inside a message of which `held` bytes came."""
    return RemoteProtocolError(
        f"the peer's stream ended inside a message, {held} bytes into it",
        hint="The other side died or was cut: what it was sending last did not arrive whole.",
    )


def checked(framing: object) -> Framing:
    """`framing`, where it is one.

    Raises:
        LocalProtocolError: it is none: a name, or a class that was not called.
    """
    if isinstance(framing, Framing):
        return framing
    raise LocalProtocolError(f"this is no framing: {framing!r}", hint="Make one, such as framing.Lines().")
