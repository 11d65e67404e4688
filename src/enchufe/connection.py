"""Connection: messages both ways, a transport and a framing put together. The same class on both ends."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import Self

from enchufe.buffer import Buffer, ReceiveBuffer
from enchufe.errors import BrokenError, LocalProtocolError
from enchufe.framing.base import Framing
from enchufe.transports import Transport


class Connection:
    """Messages over a transport.

    One task may receive while another sends. Iterating yields messages until the other side's clean end.

    Args:
        transport: the bytes; this owns it from here on.
        framing: how messages are told apart.
        timeout: seconds that any one send, receive or end may take; None: no limit.
    """

    def __init__(self, transport: Transport, framing: Framing, *, timeout: float | None = None) -> None:
        self.transport = transport
        self.framing = framing
        self.timeout = timeout
        self._decoder = framing.decoder()
        self._buffer = ReceiveBuffer()
        self._ready: deque[bytes] = deque()
        self._at_end = False
        # The batch of messages decoded last: where its bytes began, how many it held.
        self._mark = 0
        self._batch = 0

    def __repr__(self) -> str:
        return f"<Connection {type(self.framing).__name__} over {self.transport!r}>"

    @property
    def peer(self) -> str:
        """The other end's address, as people write it."""
        return self.transport.peer

    async def send(self, *messages: Buffer) -> None:
        """Send messages, gathered in one call where the kernel lets us.

        Raises:
            LocalProtocolError: the framing cannot carry one of them (nothing was sent).
            BrokenError, ClosedError, DeadlineExceeded: as `Transport.send`.
        """
        if len(messages) == 1:
            pieces = self.framing.encode(messages[0])
        else:
            pieces = [piece for message in messages for piece in self.framing.encode(message)]
        await self.transport.send(pieces, self._deadline())

    async def receive(self) -> bytes | None:
        """The next message; None at the other side's clean end.

        A receive that times out or is cancelled loses nothing: the next one goes on where it stood.

        Raises:
            RemoteProtocolError: the peer broke the framing, or its stream ended inside a message.
            BrokenError, ClosedError, DeadlineExceeded: as `Transport.receive_into`.
        """
        if self._ready:
            return self._ready.popleft()
        deadline = self._deadline()
        while True:
            if self._decode():
                return self._ready.popleft()
            if self._at_end:
                return None
            count = await self.transport.receive_into(self._buffer.space(), deadline)
            if count:
                self._buffer.received(count)
            else:
                self._at_end = True

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
        await self.transport.end(self._deadline())

    def reframe(self, framing: Framing) -> None:
        """Go on with another framing, from the first byte behind the last message that was handed out.

        Raises:
            LocalProtocolError: the old framing is in the middle of a message that it skips.
        """
        if self._decoder.skipping and not self._ready:
            raise LocalProtocolError(
                "cannot change the framing in the middle of a message that is being skipped",
                hint="Receive until the next message first.",
            )
        if self._ready:
            # Decoded ahead: put their bytes back, and take only what was handed out again.
            handed_out = self._batch - len(self._ready)
            self._buffer.rewind(self._mark)
            self.framing.decoder().decode(self._buffer, self._at_end, handed_out)
            self._ready.clear()
        self.framing = framing
        self._decoder = framing.decoder()

    def close(self) -> None:
        """Close both directions; what was received and not asked for is lost. Closing again does nothing."""
        self.transport.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        message = await self.receive()
        if message is None:
            raise StopAsyncIteration
        return message

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _decode(self) -> bool:
        """Decode what is in hand: whether any message came of it."""
        # In the middle of a skipped message a batch could not be decoded again, so one at a time.
        most = 1 if self._decoder.skipping else None
        self._mark = self._buffer.mark()
        self._ready.extend(self._decoder.decode(self._buffer, self._at_end, most))
        self._batch = len(self._ready)
        return self._batch > 0

    def _deadline(self) -> float | None:
        return None if self.timeout is None else self.transport.waiter.now() + self.timeout
