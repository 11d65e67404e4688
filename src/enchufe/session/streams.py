"""A stream other than 0: one more connection of a transfer, with a thread that moves data over it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from enchufe.buffer import ReceiveBuffer
from enchufe.entry import BLOCK_SIZE
from enchufe.errors import BusyError, ClosedError
from enchufe.session.carrier import Carrier, Plain
from enchufe.transfer.message import CONTROL_SIZE
from enchufe.transfer.messages import Hello, frame
from enchufe.transports import Transport, tcp
from enchufe.waiting import drive, start


class Owner(Protocol):
    """The session of a stream."""

    async def run_stream(self, stream: Stream) -> None:
        """Move data over it until it ends."""

    def stream_ended(self, stream: Stream, error: BaseException | None) -> None:
        """It has ended."""


class Stream:
    """One connection and its thread.

    Attributes:
        begun: whether it is known at both ends.
        over: whether nothing crosses any more.

    Args:
        owner: what it is a stream of.
        number: from 1 on.
        carrier, buffer: where it was dialed to us, and what came after its HELLO.
        dial, hello: where we are to dial it, and what to say then.
        secret: what its keys come from, where we are to dial it and it is to be sealed.
    """

    def __init__(
        self,
        owner: Owner,
        number: int,
        *,
        carrier: Carrier | None = None,
        buffer: ReceiveBuffer | None = None,
        dial: Callable[[], Transport] | None = None,
        hello: Hello | None = None,
        secret: bytes | None = None,
    ) -> None:
        self.number = number
        self.begun = carrier is not None
        self.over = False
        self.buffer = buffer or ReceiveBuffer(BLOCK_SIZE + 2 * CONTROL_SIZE)
        self._owner = owner
        self._carrier = carrier
        self._transport = None if carrier is None else carrier.transport
        self._dial = dial
        self._hello = hello
        self._secret = secret
        self._stopped = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"enchufe stream {number}", daemon=True)

    @property
    def carrier(self) -> Carrier:
        """What moves its bytes."""
        assert self._carrier is not None
        return self._carrier

    def start(self) -> bool:
        """Begin; False where this process has no thread left."""
        try:
            start(self._thread)
        except BusyError:
            return False
        return True

    def join(self) -> None:
        """Wait for its thread, after `stop`; one that is still dialing ends by itself, and touches nothing."""
        with self._lock:
            dials = self._transport is None
        if not dials:
            self._thread.join()

    def stop(self) -> None:
        """End its connection; from any thread."""
        with self._lock:
            self._stopped = True
            if self._transport is not None:
                self._transport.hang_up()  # its thread may be using it

    def _run(self) -> None:
        try:
            self._connect()
            drive(self._owner.run_stream(self))
        except BaseException as error:  # noqa: BLE001 (raised where the session is waited for)
            self._end(error)
        else:
            self._end(None)

    def _end(self, error: BaseException | None) -> None:
        with self._lock:
            if self._transport is not None:
                self._transport.close()
        self.over = True
        self._owner.stream_ended(self, error)

    def _connect(self) -> None:
        if self._dial is None or self._hello is None:
            tcp.tune(self.carrier.transport)
            return
        transport = self._dial()
        with self._lock:
            self._transport = transport
            if self._stopped:
                raise ClosedError("the transfer is over")
        tcp.tune(transport)
        said = Hello(self._hello.role, self._hello.session, self._hello.epoch, self.number)
        deadline = transport.waiter.now() + 10.0
        self._carrier = carrier = drive(self._carrying(transport, deadline))
        drive(carrier.send(frame(said), deadline))
        self.begun = True

    async def _carrying(self, transport: Transport, deadline: float) -> Carrier:
        if self._secret is None:
            return Plain(transport)
        from enchufe.session.sealed import Sealed  # noqa: PLC0415 (slow to import, and not everybody needs it)

        return await Sealed.dial(transport, self._secret, self.number, deadline)
