"""What a server promises, whatever its engine: its options, and what happens to one accepted connection."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from enchufe.connection import Connection
from enchufe.errors import BusyError, EnchufeError, LocalProtocolError
from enchufe.framing.base import Framing
from enchufe.transports import Listener, Transport
from enchufe.waiting import Waiter

Handler = Callable[[Connection], Awaitable[None]]
"""What a server does with a connection: it is closed when this returns, however it returns."""

log = logging.getLogger("enchufe.server")


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What a server keeps to.

    Attributes:
        framing: how messages are told apart.
        max_connections: how many at once; while there are that many nobody is accepted, so that the others
            wait in the kernel's queue. None: no limit.
        idle_timeout: seconds a receive or send of a handler may take before the connection is closed;
            None: no limit.
        drain: seconds that handlers get to finish when the server stops, before their connections are closed.
    """

    framing: Framing
    max_connections: int | None = None
    idle_timeout: float | None = None
    drain: float = 10.0

    def __post_init__(self) -> None:
        if self.max_connections is not None and self.max_connections < 1:
            raise LocalProtocolError(f"max_connections must be at least 1, not {self.max_connections}")
        if self.drain < 0:
            raise LocalProtocolError(f"drain must not be negative: {self.drain}")


async def serve_connection(handler: Handler, transport: Transport, options: ServerOptions) -> None:
    """Run `handler` on one accepted connection to its end; whatever goes wrong ends this connection only."""
    connection = Connection(transport, options.framing, timeout=options.idle_timeout)
    try:
        await handler(connection)
    except LocalProtocolError:
        log.exception("the handler misused its connection to %s", connection.peer)
    except EnchufeError as error:
        log.info("connection to %s ended: %s", connection.peer, error)
    except Exception:  # a handler's bug must not take the others' server down
        log.exception("the handler failed on its connection to %s", connection.peer)
    finally:
        connection.close()


class Acceptor:
    """Accepts from several listeners in turn, and tells when there is no room rather than spinning.

    Attributes:
        full: this process has no descriptor left; accepting again is useless until something was closed.
    """

    def __init__(self, listeners: list[Listener]) -> None:
        self._listeners = listeners
        self.full = False
        self.interests = [interest for listener in listeners for interest in listener.interests]

    def try_accept(self, waiter: Waiter) -> Transport | None:
        """A connection that is there already, or None; sets `full`, and logs it once until there is room again."""
        try:
            for _ in self._listeners:
                # The one asked first is asked last the next time: none starves another.
                listener = self._listeners.pop(0)
                self._listeners.append(listener)
                accepted = listener.try_accept(waiter)
                if accepted is not None:
                    self.full = False
                    return accepted
        except BusyError as error:
            if not self.full:
                log.warning("%s; accepting pauses", error)
            self.full = True
            return None
        self.full = False
        return None

    def close(self) -> None:
        """Stop listening; who is still queued is refused."""
        for listener in self._listeners:
            listener.close()
