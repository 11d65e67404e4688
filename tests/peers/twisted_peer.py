"""An echo in Twisted: `twisted_peer.py PROTOCOL WHAT [PORT]`.

It dials PORT, or listens on a free one and prints it. WHAT it does on its one connection: `echo`; `drip`, an echo that
leaves byte by byte; `big`, three messages of which the middle one has 200 bytes; `cut`, a message and a half.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterable
from typing import Any

from twisted.internet import protocol, reactor
from twisted.protocols import basic
from twisted.python.failure import Failure

LONGEST = 1 << 20
# What Twisted makes of reactor is known at run time only.
loop: Any = reactor


class Talk(protocol.Protocol):
    """What a protocol says when it is connected and when a message came; `say` is its own way to send one."""

    what = "echo"

    def connectionMade(self: Any) -> None:
        if self.what == "drip":
            self.transport = Drip(self.transport)
        elif self.what == "big":
            for message in (b"a", b"x" * 200, b"b"):
                self.say(message)
            self.transport.loseConnection()
        elif self.what == "cut":
            self.say(b"a")
            half = Half(self.transport)
            self.transport = half
            self.say(b"x" * 200)
            half.loseConnection()

    def stringReceived(self: Any, string: bytes) -> None:
        self.say(string)

    def lineReceived(self: Any, line: bytes) -> None:
        self.say(line)

    def connectionLost(self, reason: Failure = protocol.connectionDone) -> None:
        loop.stop()


class Drip:
    """A transport that sends every byte by itself, in turns of the reactor."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport
        self._left: deque[int] = deque()
        transport.setTcpNoDelay(True)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if not self._left:
            loop.callLater(0, self._send)
        self._left.extend(data)

    def writeSequence(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))

    def _send(self) -> None:
        self._transport.write(bytes([self._left.popleft()]))
        if self._left:
            loop.callLater(0, self._send)


class Half:
    """A transport that sends the first half of everything."""

    def __init__(self, transport: Any) -> None:
        self._transport = transport

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        self._transport.write(data[: len(data) // 2])

    def writeSequence(self, pieces: Iterable[bytes]) -> None:
        self.write(b"".join(pieces))


class Int8(Talk, basic.Int8StringReceiver):
    say = basic.Int8StringReceiver.sendString


class Int16(Talk, basic.Int16StringReceiver):
    say = basic.Int16StringReceiver.sendString


class Int32(Talk, basic.Int32StringReceiver):
    MAX_LENGTH = LONGEST
    say = basic.Int32StringReceiver.sendString


class Netstring(Talk, basic.NetstringReceiver):
    MAX_LENGTH = LONGEST
    say = basic.NetstringReceiver.sendString


class Line(Talk, basic.LineReceiver):
    MAX_LENGTH = LONGEST
    say = basic.LineReceiver.sendLine


class LineFeed(Line):
    delimiter = b"\n"


PROTOCOLS = {
    "int8": Int8,
    "int16": Int16,
    "int32": Int32,
    "netstring": Netstring,
    "line": Line,
    "line-feed": LineFeed,
}


def main(name: str, what: str, port: str = "") -> None:
    Talk.what = what
    if port:
        factory: Any = protocol.ClientFactory.forProtocol(PROTOCOLS[name])
        loop.connectTCP("127.0.0.1", int(port), factory)
    else:
        factory = protocol.ServerFactory.forProtocol(PROTOCOLS[name])
        print(loop.listenTCP(0, factory, interface="127.0.0.1").getHost().port, flush=True)
    loop.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
