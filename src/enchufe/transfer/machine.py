"""What both machines share: the state, the bytes received, the one door for what goes out.

A machine touches no socket, no disk and no clock. Bytes go in by `receive_data` (or straight into `buffer`), what
they mean comes out by `next_event`; what is to be said goes through `send`, which answers with the bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Final

from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.entry import BLOCK_SIZE
from enchufe.errors import (
    BrokenError,
    BusyError,
    EnchufeError,
    NoSpaceError,
    Refused,
    RemoteProtocolError,
    StoreError,
    VerificationError,
)
from enchufe.printable import printable
from enchufe.transfer.message import CONTROL_SIZE, Message, Role, Type
from enchufe.transfer.messages import VERSION, Code, Error, Hello, frame, next_message
from enchufe.transfer.states import State, Way, step

_NO_PIPE: Final = ", unless a pipe was read or written."


class Machine(ABC):
    """One side of one transfer.

    Attributes:
        state: where it stands; `transfer.states` says what that allows.
        buffer: what was received and not read yet: whoever receives may write into it.
        lacking: how many bytes the next message lacks at least; 1 where nobody has looked.
        peer: the other side's HELLO, once it came.
    """

    role: ClassVar[Role]

    def __init__(self) -> None:
        self.state = State.START
        self.buffer = ReceiveBuffer(BLOCK_SIZE + 2 * CONTROL_SIZE)
        self.lacking = 1
        self.peer: Hello | None = None
        self._features = 0

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.state.value}>"

    def receive_data(self, data: Buffer) -> None:
        """Bytes from the peer."""
        self.buffer.append(data)

    def next_event(self) -> Message | None:
        """The next message that means something to whoever runs this machine, checked; None asks for bytes.

        Its payloads are good until more is received.

        Raises:
            RemoteProtocolError: the peer broke the protocol.
            EnchufeError: the peer ended the transfer; the class says why, see `told_by_peer`.
        """
        while True:
            message = next_message(self.buffer)
            if isinstance(message, int):
                self.lacking = message
                return None
            self.lacking = 1
            after = step(self.role, self.state, Way.GOT, message.type)
            if isinstance(message, Error):
                self.state = after
                if message.code is Code.LOOKED and self.role is Role.RECEIVER:  # nobody ends well by that but us
                    raise RemoteProtocolError("the peer, which sends, says that it only looked")
                raise told_by_peer(message)
            if isinstance(message, Hello):
                self._greet(message)
            self._got(message)
            self.state = after
            if message.type is not Type.PING:
                return message

    def send(self, message: Message) -> list[Buffer]:
        """The bytes to send for `message`, in pieces.

        Raises:
            LocalProtocolError: it must not be said now, or is wrong.
        """
        after = step(self.role, self.state, Way.SENT, message.type)
        if isinstance(message, Hello):
            self._features = message.features
        self._sent(message)
        self.state = after
        return frame(message)

    def agreed(self, feature: int) -> bool:
        """Whether both sides have said that they can do that."""
        return self.peer is not None and bool(self._features & self.peer.features & feature)

    def end_of_stream(self) -> None:
        """The peer's stream has ended.

        Raises:
            BrokenError: it must not end yet.
        """
        if self.state is not State.DONE or len(self.buffer):
            raise BrokenError(
                "the other side went away before the transfer was done",
                hint=f"Send it again: what had arrived is kept{_NO_PIPE}",
            )

    def _greet(self, hello: Hello) -> None:
        if hello.role is self.role:
            both = "send" if self.role is Role.SENDER else "receive"
            raise RemoteProtocolError(f"both sides want to {both}", hint="One side sends, the other receives.")
        # Each speaks every version between its two: the lower of the two highest, if both reach it.
        if min(hello.highest, VERSION) < max(hello.lowest, VERSION):
            raise VersionError(f"the peer speaks versions {hello.lowest} to {hello.highest}, this is {VERSION}")
        self.peer = hello

    @abstractmethod
    def _got(self, message: Message) -> None:
        """Check and take note of what the peer said."""

    @abstractmethod
    def _sent(self, message: Message) -> None:
        """Check and take note of what is about to be said."""


class InterruptedThere(BrokenError):
    """Whoever ran the other side ended it: a cut, but one that nobody should try to mend at once."""

    hint = f"Run it again on both sides: what had arrived is kept{_NO_PIPE}"

    @property
    def kind(self) -> str:
        """As of any cut."""
        return "broken"


class TakenOver(BrokenError):
    """A newer attempt goes on with it: whoever comes again must not take it back, or they end each other for ever."""

    hint = "Another run of the same command goes on with it, and keeps what had arrived."
    kind = InterruptedThere.kind


class Looked(Refused):
    """Whoever came only looked at what is offered: nothing went wrong, and nothing was taken."""

    hint = ""

    @property
    def kind(self) -> str:
        """As of any refusal."""
        return "refused"


class VersionError(RemoteProtocolError):
    """The peer speaks no version that we speak."""

    hint = "Update the older of the two."


# Theirs to tell: whose fault an error is, seen from the side that raised it.
_CODES: Final = (
    (VersionError, Code.VERSION),
    (VerificationError, Code.VERIFICATION),
    (RemoteProtocolError, Code.PROTOCOL),
    (NoSpaceError, Code.NO_SPACE),
    (StoreError, Code.STORE),
    (Looked, Code.LOOKED),
    (Refused, Code.REFUSED),
    (BusyError, Code.BUSY),
    (TakenOver, Code.TAKEN_OVER),
)


def told_to_peer(error: BaseException) -> Error:
    """What to tell the peer of an error on this side: its kind, and words that give nothing away."""
    if isinstance(error, KeyboardInterrupt):
        return Error(Code.INTERRUPTED, "interrupted")
    for kind, code in _CODES:
        if isinstance(error, kind):
            # Our paths and disk are not the peer's business.
            return Error(code, "" if isinstance(error, StoreError) else str(error))
    return Error(Code.INTERNAL, "")


def told_by_peer(error: Error) -> EnchufeError:
    """The exception for an ERROR from the peer."""
    words = f": {printable(error.message)}" if error.message else ""
    match error.code:
        case Code.NO_SPACE:
            return Refused(
                "the other side's disk is full",
                hint=f"Make room on it, and send again: what had arrived is kept{_NO_PIPE}",
            )
        case Code.STORE:
            return Refused(f"the other side could not use its disk{words}", hint="Its own message says why.")
        case Code.VERIFICATION:
            return VerificationError(f"the other side found what arrived damaged{words}")
        case Code.BUSY:
            return BusyError(f"the other side is busy{words}")
        case Code.INTERRUPTED:
            return InterruptedThere("the other side was interrupted")
        case Code.TAKEN_OVER:
            return TakenOver("a newer connection of the same transfer has taken over there")
        case Code.LOOKED:
            return Looked("the other side only looked at what is offered, and took nothing")
        case Code.VERSION:
            return VersionError(f"the versions do not fit{words}")
        case Code.INTERNAL:
            return BrokenError(f"the other side failed{words}", hint="Its own message says why.")
        case _:
            return Refused(f"the other side refused{words}")
