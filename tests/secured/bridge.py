"""Somebody in the middle who ends TLS on both sides, with a certificate of his own, and hands on what is inside."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from enchufe.access import dialing_context, listener_certificate, listening_context

_PIECE = 65536

Change = Callable[[bool, bytes], bytes]
"""What becomes of what is said inside; True: by the dialer."""


def _unchanged(_there: bool, piece: bytes) -> bytes:
    return piece


class Bridge:
    """Accepts on `address` from `with` on, and dials `to` for each connection.

    Attributes:
        heard: all that he saw inside, by connection: what the dialer said, what it heard.
        dialed: whether connections are ended by him, by connection; else they went straight through.
    """

    def __init__(self, to: str, change: Change = _unchanged, *, straight: int = 0) -> None:
        host, _, port = to.rpartition(":")
        self._to = (host, int(port))
        self._change = change
        self._straight = straight  # so many connections pass untouched
        certificate = listener_certificate()
        self.certificate = certificate.sha256
        self._listening = listening_context(certificate)
        self._dialing = dialing_context()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.heard: list[tuple[bytearray, bytearray]] = []
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        self.cut()
        for thread in self._threads[1:]:
            thread.join(60)
        stay = [thread for thread in self._threads if thread.is_alive()]
        for sock in self._sockets:
            sock.close()
        assert not stay, f"its connections do not end: {stay}"

    def cut(self) -> None:
        """End every connection that there is."""
        for sock in list(self._sockets):
            with suppress(OSError):
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                self._sockets.append(near)
                thread = threading.Thread(target=self._join, args=(near,))
                self._threads.append(thread)
                thread.start()

    def _join(self, near: socket.socket) -> None:
        heard = (bytearray(), bytearray())
        ends = len(self.heard) >= self._straight
        self.heard.append(heard)
        try:
            far = socket.create_connection(self._to)
            self._sockets.append(far)
            if ends:
                near = self._listening.wrap_socket(near, server_side=True)
                self._sockets.append(near)
                far = self._dialing.wrap_socket(far)
                self._sockets.append(far)
        except OSError:
            near.close()
            return
        self._carry(near, far, heard, ends)
        near.close()
        far.close()

    def _carry(self, near: socket.socket, far: socket.socket, heard: tuple[bytearray, bytearray], ends: bool) -> None:
        """Both ways in one thread, until one side ends: a TLS connection is nothing for two threads at once."""
        with suppress(OSError, ValueError):
            while True:
                for source in _readable(near, far):
                    there = source is near
                    sink = far if there else near
                    piece = source.recv(_PIECE)
                    if not piece:
                        _goodbye(sink)
                        return
                    heard[0 if there else 1].extend(piece)
                    sink.sendall(self._change(there, piece) if ends else piece)


def _readable(*socks: socket.socket) -> list[socket.socket]:
    pending: list[socket.socket] = [sock for sock in socks if isinstance(sock, ssl.SSLSocket) and sock.pending()]
    return pending or select.select(socks, (), ())[0]


def _goodbye(sock: socket.socket) -> None:
    """That no more comes is said in TLS too; who answers or not, it is over."""
    if isinstance(sock, ssl.SSLSocket):
        sock.settimeout(1.0)
        sock.unwrap()
