"""Connection: messages both ways, a transport and a framing put together. The same class on both ends."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Sequence
from functools import partial
from itertools import chain
from types import TracebackType
from typing import Any, ClassVar, Final, Self, cast

from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.errors import BrokenError, EnchufeError, LocalProtocolError
from enchufe.file import ConnectionFile
from enchufe.framing.base import JOIN_BELOW, Framing
from enchufe.framing.sized import BATCHED, SizedFraming
from enchufe.transports import Transport, advance
from enchufe.transports.shared_memory import SharedMemoryTransport

# Tuning. Bytes asked for at first, so that small messages cost little memory, and at the most.
_LEAST: Final = 4096
_MOST: Final = 65536
# Messages handed out before the other connections have their turn.
_TURN: Final = 256
# Bytes of replies that are held back, at the most, to go out together.
_HELD: Final = 65536
# So many messages or more, that came after more seconds of idleness than a call to send takes, are handed out in two
# halves: the other side, which waits for replies to all it has sent, goes on with the one while the other is answered.
_HALVED: Final = 64
_IDLE: Final = 20e-6
# Replies of fewer bytes are framed when they go out, so many at a time.
_SMALL: Final = 256
_TOGETHER: Final = _HELD // _SMALL
# Bytes of room that a message gets at once on its length's word, however little of it came.
_TRUSTED: Final = 65536

# What connections have in hand that have nothing: thousands of idle ones share them, and nobody puts anything in.
_NONE: Final[list[bytes]] = []
_NOTHING: Final[list[Buffer]] = []


class Connection:
    """Messages over a transport.

    One task may receive while another sends. Iterating yields messages until the other side's clean end.

    Where `gathers` is set, as a server sets it, a message sent while received ones are still in hand is held back
    until the last of them was handed out, so that the replies to all of them go out in one call, or a few where there
    are many. They go before this task waits for anything through enchufe, when `flush` is called, and when the handler
    ends; only where a handler blocks by other means (a sleep, a lock) with messages in hand must it call `flush` first.

    Args:
        transport: the bytes; this owns it from here on.
        framing: how messages are told apart.
        timeout: seconds that any one send, receive or end may take; None: no limit.
        deadline: when the connection ends at the latest, on the waiter's clock; None: never.
        gathers: see above.

    Attributes:
        received: messages so far.
    """

    _beats: ClassVar = False  # whether there is more to `_patience` than the timeout

    __slots__ = (
        "_asked",
        "_at_end",
        "_batch",
        "_behind",
        "_buffer",
        "_data",
        "_decoder",
        "_file",
        "_flushing",
        "_held",
        "_held_size",
        "_large",
        "_later",
        "_mark",
        "_plain",
        "_ready",
        "_receive_whole",
        "_sent",
        "_split",
        "_unframed",
        "deadline",
        "framing",
        "gathers",
        "received",
        "timeout",
        "transport",
    )

    def __init__(
        self,
        transport: Transport,
        framing: Framing,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        gathers: bool = False,
    ) -> None:
        self.transport = transport
        self.timeout = timeout
        self.deadline = deadline
        self.gathers = gathers
        self.received = 0
        self._sent = 0
        self._buffer = ReceiveBuffer()
        self._at_end = False
        self._asked = _LEAST
        # Messages decoded and not handed out, the next one last: those whose turn it is, and those that come after.
        # How many there were, and where their bytes are: in `_data` where they came by the fast lane, else in the
        # buffer from `_mark` on.
        self._ready = _NONE
        self._later = _NONE
        self._batch = 0
        self._data = b""
        self._mark = 0
        # The buffer holds something, or the decoder is in the middle of something: no fast lane.
        self._behind = False
        self._speak(framing)
        # What is held back: framed, and behind that small messages that are framed together.
        self._held: list[Buffer] = _NOTHING
        self._held_size = 0
        self._unframed = _NONE
        self._flushing = False  # held back replies are on their way: nothing may go in between
        self._file: ConnectionFile | None = None

    def __repr__(self) -> str:
        return f"<Connection {type(self.framing).__name__} over {self.transport!r}>"

    @property
    def peer(self) -> str:
        """The other end's address, as people write it."""
        return self.transport.peer

    @property
    def sent(self) -> int:
        """Messages so far, with those held back."""
        return self._sent + len(self._unframed)

    @property
    def at_end(self) -> bool:
        """Whether the other side's end has come; messages before it may still be in hand."""
        return self._at_end if self._file is None else self._file.at_end

    async def send(self, *messages: Buffer) -> None:
        """Send messages, gathered in one call where the kernel lets us.

        Raises:
            LocalProtocolError: the framing cannot carry one of them (nothing was sent).
            BrokenError, ClosedError, DeadlineExceeded: as `Transport.send`.
        """
        if unframed := self._unframed:
            # A small reply behind another.
            if len(messages) == 1 and type(message := messages[0]) is bytes and len(message) < self._plain:
                unframed.append(message)
                if len(unframed) >= _TOGETHER:
                    await self.flush()
                return
        elif not (self._held or self._flushing) and not (self._ready and self.gathers):
            # One step less for what nearly every call is.
            pieces = self.framing.encode(messages[0]) if len(messages) == 1 else self._encoded(messages)
            size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
            self._sent += len(messages)
            count = self.transport.try_send(pieces)
            if count != size:
                await self.transport.send(pieces, self._deadline(), count)
            if self._sent % _TURN == 0:
                await self.transport.waiter.pause()
            return
        if self._hold(messages):
            await self.flush()

    def begin(self, *messages: Buffer) -> Coroutine[Any, Any, None] | None:
        """`send`, for who cannot await: None where the messages are held back, else what is still to be run."""
        if unframed := self._unframed:
            if len(messages) == 1 and type(message := messages[0]) is bytes and len(message) < self._plain:
                unframed.append(message)
                return self.flush() if len(unframed) >= _TOGETHER else None
        elif not (self._held or self._flushing) and not (self._ready and self.gathers):
            return self.send(*messages)
        return self.flush() if self._hold(messages) else None

    async def flush(self) -> None:
        """Send what is held back, if anything is, and what was written into a file. Raises as `send` does."""
        if self._file is not None:
            await self._file.flush()
        while self._flushing:  # by another task, which then takes what is held back meanwhile
            await self.transport.waiter.pause()
        while self._held or self._unframed:
            pieces = self._gathered()
            self._held = _NOTHING
            self._flushing = True
            try:
                await self.transport.send(pieces, self._deadline())
            except BaseException:
                self.transport.poison("replies that were held back could not be sent")
                raise
            finally:
                self._flushing = False

    async def receive(self) -> bytes | None:
        """The next message; None at the other side's clean end.

        A receive that times out or is cancelled loses nothing: the next one goes on where it stood.

        Raises:
            RemoteProtocolError: the peer broke the framing, or its stream ended inside a message.
            BrokenError, ClosedError, DeadlineExceeded: as `Transport.receive`.
        """
        if not (self._ready or await self._refill()):
            return None
        return self._ready.pop()

    def in_hand(self) -> bytes | None:
        """The next message, where it is decoded already; None where it is to be received."""
        return self._ready.pop() if self._ready else None

    async def ask(self, message: Buffer) -> bytes:
        """Send one message and receive one answer.

        Raises:
            BrokenError: the other side ended instead of answering. And whatever `send` and `receive` raise.
        """
        await self.send(message)
        answer = await self.receive()
        if answer is None:
            raise BrokenError(f"{self.peer} ended the conversation without an answer")
        return answer

    async def end(self) -> None:
        """Half-close: "I am done sending, still listening"."""
        await self.flush()
        await self.transport.end(self._deadline())

    def reframe(self, framing: Framing) -> None:
        """Go on with another framing, from the first byte behind the last message that was handed out.

        Raises:
            LocalProtocolError: the old framing is in the middle of a message that it skips.
        """
        if self._decoder.skipping and not (self._ready or self._later):
            raise LocalProtocolError(
                "cannot change the framing in the middle of a message that is being skipped",
                hint="Receive until the next message first.",
            )
        if left := len(self._ready) + len(self._later):
            # Decoded ahead: put their bytes back, and take only what was handed out again.
            handed_out = self._batch - left
            if self._data:
                self._buffer = ReceiveBuffer()
                self._buffer.append(self._data)
            else:
                self._buffer.rewind(self._mark)
            self.framing.decoder().decode(self._buffer, self._at_end, handed_out)
            self.received -= left
            self._ready = self._later = _NONE
            self._behind = True
        self._frame_held()
        self._speak(framing)

    def file(self) -> ConnectionFile:
        """Go on without messages: read and write as in a file, from the first byte behind the last message.

        The connection belongs to the file from here on.

        Raises:
            LocalProtocolError: as `reframe`.
        """
        self.reframe(self.framing)
        held, self._held = b"".join(self._held), _NOTHING
        self._file = ConnectionFile(self.transport, self._buffer, self.timeout, written=held, at_end=self._at_end)
        return self._file

    def close(self) -> None:
        """Close both directions; what was received and not asked for is lost. Closing again does nothing."""
        self._flush_now()
        self.transport.close()

    def __aiter__(self) -> AsyncIterator[bytes]:
        # A step of a generator costs less than a coroutine for each message. But asyncio starts a task for one that is
        # left before its end, and trio warns of it.
        return self._messages() if sys.get_asyncgen_hooks().finalizer is None else self

    async def _messages(self) -> AsyncGenerator[bytes, None]:
        while self._ready or await self._refill():
            yield self._ready.pop()

    async def __anext__(self) -> bytes:
        # As `receive`, but for one step less.
        if not (self._ready or await self._refill()):
            raise StopAsyncIteration
        return self._ready.pop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _refill(self) -> bool:
        """Have a message in hand: False at the end."""
        if self._unframed or self._held:
            await self.flush()
        transport = self.transport
        if self._later:
            if self._batch > _TURN:
                await transport.waiter.pause()
            self._hand_out(_TURN)
            return True
        idle = transport.waiter.idle() if self.gathers and self._batch >= _HALVED else None
        deadline = self.deadline if self.timeout is None and not self._beats else self._patience()
        self._ready = _NONE
        fast, self._data = self._data, b""
        if self._behind:
            if self._decode():
                return True
        elif not fast:
            self._buffer.release()
        while not self._at_end:
            if self._behind:
                await self._receive_behind(deadline)
            else:
                if self._large and await self._receive_large(deadline):
                    return True
                asked = self._asked
                data = await transport.receive(asked, deadline)
                if not (count := len(data)):
                    self._at_end = True
                    break
                if count == asked or asked > _LEAST:
                    self._expect(count)
                messages, taken = self._split(data)
                if taken < count:
                    self._buffer.append(memoryview(data)[taken:])
                    self._behind = True
                if messages:
                    self._data = data
                    if idle is None or len(messages) < _HALVED or transport.waiter.idle() - idle <= _IDLE:
                        self._take(messages, _TURN)
                    else:
                        self._take(messages, min(len(messages) // 2, _TURN))
                    return True
            if self._decode():
                return True
        return self._decode()

    # These two stand apart since a thousand idle connections wait above, each with its locals.

    async def _receive_behind(self, deadline: float | None) -> None:
        """Receive into the buffer, which holds something already."""
        buffer = self._buffer
        lacking = min(self._decoder.lacking, max(_TRUSTED, len(buffer)))
        space = buffer.space(lacking or _LEAST)
        # Up to a large message's end and not beyond, so that the next one can come in one copy.
        count = await self.transport.receive_into(space[:lacking] if self._large and lacking else space, deadline)
        buffer.received(count)
        self._at_end = not count

    async def _receive_large(self, deadline: float | None) -> bool:
        """Have a large message in hand that came in one copy; False where it does not come so."""
        message = None if self._receive_whole is None else await self._receive_whole(deadline)
        if message is None:
            self._large = False
            return False
        self._ready = [message]
        self._batch = 1
        self.received += 1
        return True

    def _decode(self) -> bool:
        """Decode what is in the buffer: whether any message came of it."""
        buffer, decoder = self._buffer, self._decoder
        # In the middle of a skipped message a batch could not be decoded again, so one at a time.
        most = 1 if decoder.skipping else None
        self._mark = buffer.mark()
        messages = decoder.decode(buffer, self._at_end, most)
        self._take(messages, _TURN)
        self._behind = decoder.skipping or len(buffer) > 0
        if self._receive_whole is not None and len(messages) == 1:
            self._large = len(messages[0]) >= BATCHED
        return bool(messages)

    def _speak(self, framing: Framing) -> None:
        """From here on messages are told apart like this."""
        self.framing = framing
        self._decoder = framing.decoder()
        self._split = framing.splitter()
        self._plain = min(framing.plain, _SMALL)
        self._receive_whole = self._whole()
        # The last message was large, and the next one may be received in one copy.
        self._large = False

    def _take(self, messages: list[bytes], first: int) -> None:
        """They have come: have so many of them in hand `first`."""
        self._batch = batch = len(messages)
        self.received += batch
        messages.reverse()
        if batch > first:
            self._later = messages
            self._hand_out(first)
        else:
            self._ready = messages

    def _hand_out(self, count: int) -> None:
        """Have so many more in hand."""
        self._ready = self._later[-count:]
        del self._later[-count:]

    def _whole(self) -> Callable[[float | None], Coroutine[Any, Any, bytes | None]] | None:
        """How to receive a large message in one copy, where transport and framing can."""
        framing, transport = self.framing, self.transport
        # Bytes that wait for the rest of their message are a sign of life that nobody would notice.
        if self._beats or not isinstance(framing, SizedFraming) or not isinstance(transport, SharedMemoryTransport):
            return None
        return partial(transport.receive_frame, framing.head, framing.extent) if framing.head else None

    def _expect(self, count: int) -> None:
        """`count` bytes came of those asked for: ask for more or less the next time."""
        if count == self._asked:
            self._asked = min(4 * self._asked, _MOST)
        elif 4 * count < self._asked:
            self._asked = max(self._asked // 2, _LEAST)

    def _flush_now(self) -> None:
        """Send as much of what is held back as goes without waiting; a cut is told to whoever uses this next."""
        if (self._held or self._unframed) and not self._flushing:
            with contextlib.suppress(EnchufeError):
                pieces = self._gathered()
                self._held = advance(pieces, self.transport.try_send(pieces))
                self._held_size = sum(map(len, self._held))

    def _encoded(self, messages: Sequence[Buffer]) -> Sequence[Buffer]:
        """What stands for them on the wire."""
        if set(map(type, messages)) == {bytes} and max(map(len, messages)) < self._plain:
            return (self.framing.encode_plain(cast("Sequence[bytes]", messages)),)
        return list(chain.from_iterable(map(self.framing.encode, messages)))

    def _hold(self, messages: Sequence[Buffer]) -> bool:
        """Keep them for `flush`: whether so much is held by now that it is to go."""
        if len(messages) == 1 and type(message := messages[0]) is bytes and len(message) < self._plain:
            self._begin_to_hold()
            self._unframed = [message]  # there was none: `send` and `begin` see to those behind it
            return False
        pieces = self._encoded(messages)
        self._begin_to_hold()
        self._frame_held()
        self._held += [piece if type(piece) is bytes else bytes(piece) for piece in pieces]  # the rest is the caller's
        self._held_size += sum(map(len, pieces))
        self._sent += len(messages)
        return self._held_size >= _HELD

    def _begin_to_hold(self) -> None:
        if not (self._unframed or self._held):
            self.transport.waiter.before_waiting(self._flush_now)
            self._held, self._held_size = [], 0

    def _frame_held(self) -> None:
        """Frame what is held back and is not framed."""
        if unframed := self._unframed:
            framed = self.framing.encode_plain(unframed)
            self._held.append(framed)
            self._held_size += len(framed)
            self._sent += len(unframed)
            self._unframed = _NONE

    def _gathered(self) -> list[Buffer]:
        """What is held back, in one piece where the pieces are small."""
        self._frame_held()
        return [b"".join(self._held)] if self._held_size < len(self._held) * JOIN_BELOW else self._held

    def _patience(self) -> float | None:
        """When a receive that begins now gives up."""
        return self._deadline()

    def _deadline(self) -> float | None:
        if self.timeout is None:
            return self.deadline
        soon = self.transport.waiter.now() + self.timeout
        return soon if self.deadline is None or soon < self.deadline else self.deadline
