"""Connection: messages both ways, a transport and a framing put together. The same class on both ends."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Generator, Iterator, Sequence
from functools import partial
from itertools import chain, groupby
from types import TracebackType, coroutine
from typing import Any, ClassVar, Final, Self, cast

from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.errors import BrokenError, ClosedError, EnchufeError, LocalProtocolError
from enchufe.file import ConnectionFile
from enchufe.framing.base import JOIN_BELOW, Framing, checked
from enchufe.framing.sized import BATCHED, SizedFraming
from enchufe.transports import Transport, advance
from enchufe.transports.shared_memory import SharedMemoryTransport
from enchufe.transports.stream import INTERRUPTED, LOST
from enchufe.waiting import Ticket, Turnstile, drive

# Tuning. Bytes asked for at first, so that small messages cost little memory, and at the most.
_LEAST: Final = 4096
_MOST: Final = 65536
# Messages handed out before the other connections have their turn; and bytes sent, at least where messages are larger.
_TURN: Final = 256
_PORTION: Final = 1 << 19
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

# Seconds that replies which were held back have to leave a connection that is closed already.
_PARTING: Final = 30.0

# What connections have in hand that have nothing: thousands of idle ones share it, and nobody can put anything in.
_NONE: Final = cast("list[bytes]", ())


@coroutine
def _done_at_once() -> Generator[None, None, None]:
    return
    yield


async def _nothing() -> None:
    """What is to be awaited where nothing is left to do."""


DONE: Final = cast("Coroutine[Any, Any, None]", _done_at_once())
"""The same, for everybody and at less cost: whoever awaits a generator that has ended goes on at once."""

drive(DONE)

_Reply = bytes | tuple[Buffer, ...]
"""What is held back: a small message, to be framed with its like, or the pieces of framed ones."""


class Connection:
    """Messages over a transport.

    One task or thread may receive while others send: each message goes out whole, since who comes second waits (so a
    signal handler must not send). Iterating yields messages until the other side's clean end.

    Where `gathers` is set, as a server sets it, what the task that receives sends while received messages are still in
    hand is held back until the last of them was handed out, so that the replies to all of them go out in one call, or
    a few where there are many. They go before this task waits for anything through enchufe, when `flush` is called, and
    when the handler ends; only where a handler blocks by other means (a sleep, a lock) with messages in hand must it
    call `flush` first. What another task or thread sends does not wait for more to be handed out.

    Args:
        transport: the bytes; this owns it from here on.
        framing: how messages are told apart.
        timeout: seconds that any one send, flush, receive or end may take; None: no limit. A receive that has replies
            to send first has as long for those.
        deadline: when the connection ends at the latest, on the waiter's clock; None: never.
        gathers: see above.

    Attributes:
        received: messages so far.
    """

    _beats: ClassVar = False  # whether there is more to `_patience` than the timeout

    __slots__ = (
        "_answered",
        "_aside",
        "_asked",
        "_at_end",
        "_batch",
        "_behind",
        "_buffer",
        "_closing",
        "_data",
        "_decoder",
        "_done",
        "_file",
        "_flushing",
        "_framed_size",
        "_kept",
        "_large",
        "_later",
        "_mark",
        "_mixed",
        "_most",
        "_plain",
        "_ready",
        "_receive_whole",
        "_receiver",
        "_rest",
        "_sent",
        "_split",
        "_thread",
        "_unhurried",
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
        self._unhurried = not self._beats
        self._sent = 0
        self._answered = 0  # so many messages are handed out once all that was asked is answered
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
        # How many are decoded at once at the most, where the framing changes between them; None: all.
        self._most: int | None = None
        self._speak(framing)
        # Who received what is in hand; and what it has sent since, which is held back. No other thread adds to that,
        # and whoever flushes takes from its front: so it needs no lock. Another task of a loop may add small ones
        # behind those, which costs less to allow than to ask who it is.
        self._receiver: object = None
        # What a send gives where nothing is left to do. asyncio and trio, known by that they want to be told of async
        # generators, make tasks of nothing but coroutines.
        self._done = DONE if sys.get_asyncgen_hooks().finalizer is None else None
        self._thread = transport.waiter.me if gathers and transport.waiter.blocks else None
        self._kept: list[_Reply] = _NONE  # type: ignore[assignment]
        self._framed_size = 0  # bytes in it that are framed
        self._mixed = False  # whether any ever were: else all in it are small ones
        # What was taken and is on its way: nothing may go in between.
        self._rest: Sequence[Buffer] = ()
        # Who sends, one at a time, be it held back or not. A loop needs it only once somebody has had to wait.
        self._flushing: Turnstile | None = Turnstile() if transport.waiter.blocks else None
        self._aside = False  # who is in there is beside who sent that, and waits so that nobody else has to
        self._closing = False
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
        return self._sent + sum(type(one) is bytes for one in self._kept)

    @property
    def at_end(self) -> bool:
        """Whether the other side's end has come; messages before it may still be in hand."""
        return self._at_end if self._file is None else self._file.at_end

    def send(self, *messages: Buffer) -> Coroutine[Any, Any, None]:
        """Send messages, gathered in one call where the kernel lets us.

        To be awaited at once: what is held back is so when this returns.

        Raises:
            LocalProtocolError: the framing cannot carry one of them (nothing was sent), or this is a file now.
            BrokenError, ClosedError, DeadlineExceeded: as `Transport.send`.
        """
        if (
            (kept := self._kept)  # a small reply behind another
            and len(messages) == 1
            and type(message := messages[0]) is bytes
            and len(message) < self._plain
            and ((thread := self._thread) is None or thread() == self._receiver)
        ):
            kept.append(message)
            return self.flush() if len(kept) >= _TOGETHER else self._done or _nothing()
        if (
            (kept or self._rest or (self._ready and self.gathers))
            and self.transport.waiter.me() == self._receiver
            and not self._closing
        ):
            return self.flush() if self._keep(messages) else self._done or _nothing()
        return self._send(messages)

    async def _send(self, messages: Sequence[Buffer]) -> None:
        """Send what is not held back, behind what is. Raises as `send`."""
        if self._closing or self._file is not None:
            raise self._over()
        deadline: float | None = None
        pieces = self.framing.encode(messages[0]) if len(messages) == 1 else self._encoded(messages)
        size = len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces))
        flushing = self._flushing
        ticket: Ticket = []
        count = 0
        try:
            if flushing is not None:  # else nothing was ever held back
                if flushing.try_enter(ticket) is not ticket:
                    deadline = self._deadline()
                    await flushing.enter(ticket, self.transport.waiter, deadline)
                if self._kept or self._rest:
                    deadline = self._deadline() if deadline is None else deadline
                    await self._send_kept(deadline)
            self._sent += len(messages)
            count = self.transport.try_send(pieces)
            if count != size:
                if flushing is None:  # a loop, where nobody else has had a turn since
                    flushing = self._flushing = Turnstile()
                    flushing.try_enter(ticket)
                await self.transport.send(pieces, self._deadline() if deadline is None else deadline, count)
                count = size
            if flushing is not None:
                flushing.leave(ticket)
        except BaseException:  # in there too
            if 0 < count < size:  # before the transport had heard of the rest
                self.transport.poison(INTERRUPTED)
            if flushing is not None:
                flushing.leave(ticket)
            raise
        if flushing is not None and (self._kept or self._rest):  # who receives left it to us
            await self.flush(deadline)
        if self._sent % _TURN == 0 or (
            size >= _LEAST and (sent := self.transport.bytes_sent) // _PORTION != (sent - size) // _PORTION
        ):
            await self.transport.waiter.pause()

    async def flush(self, deadline: float | None = None) -> None:
        """Send what is held back, if anything is, and what was written into a file. Raises as `send` does.

        One that times out or is cancelled loses nothing: the next one goes on where it stood.

        Args:
            deadline: on the waiter's clock; None: as `timeout` allows.
        """
        if self._file is not None:
            await self._file.flush()
        flushing = self._flushing
        while flushing is not None and (self._kept or self._rest):
            ticket: Ticket = []
            try:
                if flushing.try_enter(ticket) is not ticket:  # another task does it, and what is held back meanwhile
                    deadline = self._deadline() if deadline is None else deadline  # once: it holds for all that follows
                    await flushing.enter(ticket, self.transport.waiter, deadline)
                await self._send_kept(deadline)
                flushing.leave(ticket)
            except BaseException:
                flushing.leave(ticket)
                raise

    @property
    def unsent(self) -> bool:
        """Whether anything is held back, or on its way by `flush`."""
        return bool(self._kept or self._rest)

    async def receive(self) -> bytes | None:
        """The next message; None at the other side's clean end.

        A receive that times out or is cancelled loses nothing: the next one goes on where it stood.

        Raises:
            RemoteProtocolError: the peer broke the framing, or its stream ended inside a message.
            LocalProtocolError: this is a file now.
            BrokenError, ClosedError, DeadlineExceeded: as `Transport.receive`.
        """
        if not (self._ready or await self._refill()):
            return None
        message = self._ready[-1]  # in this order, and by no call: a signal is handled behind one
        del self._ready[-1]
        return message

    def in_hand(self) -> bytes | None:
        """The next message, where it is decoded already; None where it is to be received."""
        if not self._ready:
            return None
        message = self._ready[-1]  # as in `receive`
        del self._ready[-1]
        return message

    async def ask(self, message: Buffer) -> bytes:
        """Send one message and receive one answer.

        Where that was interrupted, cancelled, or too late, the answer may still come. It is not taken for the next
        one's: `receive` gives it, and until then nothing more is asked; with a heartbeat, not at all.

        Raises:
            LocalProtocolError: the answer to an earlier one is still to be received; nothing was sent.
            BrokenError: the other side ended instead of answering. ClosedError: this end is stopping. And whatever
                `send` and `receive` raise.
        """
        handed_out = self.received - len(self._ready) - len(self._later)
        if handed_out < self._answered and not (self._at_end or self._closing or self.transport.sends_no_more):
            raise LocalProtocolError(
                "the answer to what was asked before has not been received",
                hint="Receive it when it comes, or go on with a new connection.",
            )
        self._answered = handed_out + 1  # first: nobody knows where an interruption comes
        gone = self.transport.bytes_sent
        try:
            await self.send(message)
            answer = await self.receive()
        except BaseException:
            if self.transport.bytes_sent == gone and not self.unsent:  # it has not gone
                self._answered = handed_out
            elif self._beats:  # which are counted as messages, and are no answers
                self._answered = sys.maxsize
            raise
        if answer is None and self.transport.stopped:
            raise ClosedError("this end is stopping, and waits for no answer")
        if answer is None:
            raise BrokenError(f"{self.peer} ended the conversation without an answer")
        return answer

    async def end(self) -> None:
        """Half-close: "I am done sending, still listening"."""
        deadline = self._deadline()
        await self.flush(deadline)
        await self.transport.end(deadline)

    def reframe(self, framing: Framing) -> None:
        """Go on with another framing, from the first byte behind the last message that was handed out.

        Where another thread is sending what was held back, that is waited for.

        Raises:
            LocalProtocolError: the old framing is in the middle of a message that it skips, the new one is none, or
                this is a file now.
            DeadlineExceeded: the other thread took too long.
        """
        checked(framing)
        if self._file is not None:
            raise self._over()
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
            # As it may be again: what is decoded ahead in vain must not cost more than the rest.
            self._most = handed_out
            self._ready = self._later = _NONE
            self._behind = True
        with self._alone():
            if self._kept:
                framed = tuple(self._framed(self._kept[:]))
                self._mixed = True
                self._kept[:] = [framed]
            self._speak(framing)

    def file(self) -> ConnectionFile:
        """Go on without messages: read and write as in a file, from the first byte behind the last message.

        The connection belongs to the file from here on.

        Raises:
            LocalProtocolError, DeadlineExceeded: as `reframe`.
        """
        self.reframe(self.framing)
        with self._alone():
            held = b"".join((*self._rest, *self._framed(self._kept[:])))
            self._rest, self._kept = (), []
        self._file = ConnectionFile(
            self.transport,
            self._buffer,
            self.timeout,
            written=held,
            at_end=self._at_end,
            deadline=self.deadline,
            sending=self._flushing,
        )
        return self._file

    def close(self) -> None:
        """Close both directions; what was received and not asked for is lost. Closing again does nothing.

        Held back replies that the other side has no room for go on leaving, for a while, where others have their turn
        meanwhile; in a thread of its own that is waited for.
        """
        if self._closing:
            return
        if self._file is not None:
            self._file.leave()
            return
        flushing = self._flushing
        if flushing is None or not self.gathers or (flushing.taken and not self._aside):  # who is sending learns of it
            self._end_now()
            return
        self._closing = True
        self._plain = 0  # no small reply is kept behind another
        soon = self.transport.waiter.now() + _PARTING
        self.deadline = soon if self.deadline is None else min(self.deadline, soon)
        if self._aside or self._flush_some():
            if self._aside or self.transport.waiter.me() != self._receiver:  # somebody may be receiving
                self.transport.receive_no_more()
            self.transport.waiter.beside(self._part())
        else:
            self._end_now()

    def __aiter__(self) -> AsyncIterator[bytes]:
        # A step of a generator costs less than a coroutine for each message. But asyncio starts a task for one that is
        # left before its end, and trio warns of it.
        return self._messages() if sys.get_asyncgen_hooks().finalizer is None else self

    async def _messages(self) -> AsyncGenerator[bytes, None]:
        while self._ready or await self._refill():
            try:  # to take it as `receive` does would cost each of them more than to tell that it is lost
                message = self._ready.pop()
            except BaseException:
                self._lose()
                raise
            yield message

    async def __anext__(self) -> bytes:
        # As `receive`, but for one step less.
        if not (self._ready or await self._refill()):
            raise StopAsyncIteration
        try:
            return self._ready.pop()
        except BaseException:
            self._lose()
            raise

    def _lose(self) -> None:
        """What a signal handler raised has lost something: receive nothing of what comes behind the gap, and say so."""
        self._ready = self._later = _NONE
        self._behind = False  # first, by no call: another signal may come behind one
        self.transport.cut_off(LOST)
        self._buffer = ReceiveBuffer()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _refill(self) -> bool:
        """Have a message in hand: False at the end."""
        if self._closing or self._file is not None:
            raise self._over()
        if (self._kept or self._rest) and not self._aside:
            await self.flush()
        transport = self.transport
        idle: float | None = None
        if self._batch >= _HALVED:
            if self._later:
                if self._batch > _TURN:
                    await transport.waiter.pause()
                self._hand_out(_TURN)
                return True
            idle = transport.waiter.idle() if self.gathers else None
        deadline = self.deadline if self._unhurried and self.timeout is None else self._patience()
        self._ready = _NONE
        if self._data:
            self._data = b""
        elif not self._behind:
            self._buffer.release()
        noted = -1  # bytes that had come when all that had come was put away
        try:
            if self._behind and self._decode():
                return True
            while not self._at_end:
                noted = transport.bytes_received
                if self._behind:
                    await self._receive_behind(deadline)
                else:
                    if self._large and await self._receive_large(deadline):
                        return True
                    asked = self._asked
                    data = await transport.receive(asked, deadline)
                    if not (count := len(data)):
                        self._end_came()
                        break
                    if count == asked or asked > _LEAST:
                        self._expect(count)
                    messages, taken = self._split(data)
                    if taken < count:
                        self._buffer.append(memoryview(data)[taken:])
                        self._behind = True
                    if messages:
                        self._data = data
                        if len(messages) == 1:  # as in a conversation
                            self._ready = messages
                            self._batch = 1
                            self.received += 1
                        elif idle is None or len(messages) < _HALVED or transport.waiter.idle() - idle <= _IDLE:
                            self._take(messages, _TURN)
                        else:
                            self._take(messages, min(len(messages) // 2, _TURN))
                        return True
                if self._decode():
                    return True
            noted = -1
            return self._decode()
        except EnchufeError:
            raise
        except BaseException:  # a signal handler's, or it is cancelled
            if transport.has_taken(noted):
                self._lose()
            raise

    # These two stand apart since a thousand idle connections wait above, each with its locals.

    async def _receive_behind(self, deadline: float | None) -> None:
        """Receive into the buffer, which holds something already."""
        buffer = self._buffer
        lacking = min(self._decoder.lacking, max(_TRUSTED, len(buffer)))
        space = buffer.space(lacking or _LEAST)
        # Up to a large message's end and not beyond, so that the next one can come in one copy.
        count = await self.transport.receive_into(space[:lacking] if self._large and lacking else space, deadline)
        buffer.received(count)
        if not count:
            self._end_came()

    def _end_came(self) -> None:
        if self._closing:  # it is our own
            raise self._over()
        self._at_end = True

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
        most = 1 if decoder.skipping else self._most
        self._mark = buffer.mark()
        messages = decoder.decode(buffer, self._at_end, most)
        self._take(messages, _TURN)
        if messages and self._most is not None:
            self._most = 2 * self._most if self._most < _TURN else None
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
        if batch > 1 and self.gathers:
            self._receiver = self.transport.waiter.me()
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

    # What is held back.

    def _keep(self, messages: Sequence[Buffer]) -> bool:
        """Keep them for `flush`: whether so much is kept by now that it is to go."""
        small = len(messages) == 1 and type(messages[0]) is bytes and len(messages[0]) < self._plain
        pieces = () if small else self._encoded(messages)
        if not self._kept:
            if self._kept is _NONE:
                self._kept = []
                self._flushing = self._flushing or Turnstile()
            self.transport.waiter.before_waiting(self._flush_now)
        if small:
            self._kept.append(cast("bytes", messages[0]))
            return len(self._kept) >= _TOGETHER
        self._mixed = True  # first: another thread may take it at once
        self._kept.append(
            tuple([one if type(one) is bytes else bytes(one) for one in pieces])
        )  # the rest is the caller's
        self._framed_size += sum(map(len, pieces))
        self._sent += len(messages)
        return self._framed_size >= _HELD

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """No other thread takes what is kept meanwhile; in a loop nobody can."""
        flushing = self._flushing
        if flushing is None or not (self._kept or self._rest) or not self.transport.waiter.blocks:
            yield
            return
        ticket: Ticket = []
        try:
            drive(flushing.enter(ticket, self.transport.waiter, self._deadline()))
            yield
        finally:
            flushing.leave(ticket)

    async def _send_kept(self, deadline: float | None) -> None:
        """Send all that is held back, for who has entered. Raises as `flush`."""
        while not self._send_some():
            deadline = self._deadline() if deadline is None else deadline
            await self.transport.until_room(deadline)

    def _send_some(self) -> bool:
        """Send as much of what is held back as goes without waiting, for who has entered: whether that was all."""
        try:
            while self._next_rest():
                if not (count := self.transport.try_send(self._rest)):
                    return False
                self._rest = () if count == sum(map(len, self._rest)) else advance(self._rest, count)
        except EnchufeError:
            raise
        except BaseException:  # a signal handler's, between what went and the note of it
            self.transport.poison(INTERRUPTED)
            raise
        return True

    def _next_rest(self) -> bool:
        """Take what is kept, where nothing is on its way; whether anything is then. For who has entered."""
        if not self._rest and (kept := self._kept):
            batch = kept[:]
            del kept[: len(batch)]  # more may have come behind it
            self._framed_size = 0
            self._rest = self._framed(batch)
        return bool(self._rest)

    def _framed(self, kept: Sequence[_Reply]) -> Sequence[Buffer]:
        """The pieces of what was kept, in one where they are small."""
        if not self._mixed:
            self._sent += len(kept)
            return (self.framing.encode_plain(cast("Sequence[bytes]", kept)),)
        pieces: list[Buffer] = []
        for kind, run in groupby(kept, type):
            together = list(run)
            if kind is bytes:
                self._sent += len(together)
                pieces.append(self.framing.encode_plain(cast("Sequence[bytes]", together)))
            else:
                pieces += chain.from_iterable(cast("list[tuple[Buffer, ...]]", together))
        return [b"".join(pieces)] if sum(map(len, pieces)) < len(pieces) * JOIN_BELOW else pieces

    def _flush_now(self) -> None:
        """Before this task waits: what does not go at once goes beside it, or first where nobody else has a turn."""
        if (self._kept or self._rest) and not self._closing and self._flush_some():
            self.transport.waiter.beside(self._flush_quietly())

    def _flush_some(self) -> bool:
        """Send as much of what is held back as goes without waiting; whether more could go later."""
        flushing = self._flushing
        if flushing is None:
            return False
        ticket: Ticket = []
        try:
            if flushing.try_enter(ticket) is not ticket:
                # A thread that sends sees to it; a task may be cancelled before.
                return not self.transport.waiter.blocks
            return not self._send_some()
        except EnchufeError:
            pass  # it is told to whoever uses this next
        finally:
            flushing.leave(ticket)
        return False

    def _over(self) -> EnchufeError:
        """Why there are no messages here any more."""
        if self._file is None:
            return ClosedError("this end was closed")
        return LocalProtocolError("the connection belongs to its file", hint="Read from that, and write into it.")

    async def _flush_quietly(self) -> None:
        self._aside = True
        try:
            with contextlib.suppress(EnchufeError):  # as above
                await self.flush()
        finally:
            self._aside = False

    async def _part(self) -> None:
        await self._flush_quietly()
        self._end_now()

    def _end_now(self) -> None:
        if self.unsent:
            self.transport.poison("it was closed before all was sent")  # that is no orderly end
        self.transport.close()

    def _encoded(self, messages: Sequence[Buffer]) -> Sequence[Buffer]:
        """What stands for them on the wire."""
        if set(map(type, messages)) == {bytes} and max(map(len, messages)) < self._plain:
            return (self.framing.encode_plain(cast("Sequence[bytes]", messages)),)
        return list(chain.from_iterable(map(self.framing.encode, messages)))

    def _patience(self) -> float | None:
        """When a receive that begins now gives up."""
        return self._deadline()

    def _deadline(self) -> float | None:
        if self.timeout is None:
            return self.deadline
        soon = self.transport.waiter.now() + self.timeout
        return soon if self.deadline is None or soon < self.deadline else self.deadline
