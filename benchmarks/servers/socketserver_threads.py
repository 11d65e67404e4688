"""The standard library's threading server, with its files."""

from __future__ import annotations

import contextlib
import socketserver

from benchmarks.servers.wire import LENGTH, framed, listen, total, words


class Handler(socketserver.StreamRequestHandler):
    """Echoes or counts."""

    disable_nagle_algorithm = True

    def handle(self) -> None:
        """One connection."""
        messages = 0
        with contextlib.suppress(ConnectionError):
            while len(head := self.rfile.read(4)) == 4:
                message = self.rfile.read(LENGTH.unpack(head)[0])
                if echoes:
                    self.wfile.write(framed(message))
                else:
                    messages += 1
            if not echoes:
                self.wfile.write(framed(total(messages)))


class Server(socketserver.ThreadingTCPServer):
    """On a socket that listens already."""

    daemon_threads = True


if __name__ == "__main__":
    echoes, _ = words()
    with Server(("", 0), Handler, bind_and_activate=False) as server:
        server.socket.close()
        server.socket = listen()
        server.serve_forever()
