"""The ceiling for Python: epoll, one buffer for all, bytes sent back as they came, lengths read only to count."""

from __future__ import annotations

import select
import socket

from benchmarks.servers.wire import LENGTH, framed, listen, total, words


class Counter:
    """Counts messages in the bytes of one connection."""

    def __init__(self) -> None:
        self.messages = 0
        self._rest = b""

    def take(self, data: memoryview) -> None:
        """Count what ends in `data`."""
        whole = self._rest + data
        start = 0
        while len(whole) - start >= 4 and (end := start + 4 + LENGTH.unpack_from(whole, start)[0]) <= len(whole):
            start = end
            self.messages += 1
        self._rest = whole[start:]


def accept() -> None:
    """Let one in."""
    connection, _ = listening.accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connections[connection.fileno()] = connection, Counter()
    poller.register(connection, select.EPOLLIN)


def serve(descriptor: int) -> None:
    """Take what one has sent."""
    connection, counter = connections[descriptor]
    try:
        size = connection.recv_into(buffer)
        if size and echoes:
            connection.sendall(buffer[:size])
        elif size:
            counter.take(buffer[:size])
        elif not echoes:
            connection.sendall(framed(total(counter.messages)))
    except ConnectionError:
        size = 0
    if not size:
        connections.pop(descriptor)[0].close()


if __name__ == "__main__":
    echoes, _how = words()
    listening = listen()
    buffer = memoryview(bytearray(65536))
    connections: dict[int, tuple[socket.socket, Counter]] = {}
    poller = select.epoll()
    poller.register(listening, select.EPOLLIN)
    while True:
        for ready, _events in poller.poll():
            if ready == listening.fileno():
                accept()
            else:
                serve(ready)
