"""tcp: dial by happy eyeballs (RFC 8305), listen on every address a name has."""

from __future__ import annotations

import errno
import itertools
import os
import socket
import struct
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

from enchufe.errors import BrokenError, DeadlineExceeded, EnchufeError, LocalProtocolError
from enchufe.transports.addresses import TcpAddress
from enchufe.transports.stream import Transport
from enchufe.waiting import NO_ROOM, WRITE, Interest, Sleeper, Waiter, no_room, start

NAME: Final = "tcp"

_REFUSED: Final = "Check the address, that the other side is listening, and that no firewall stands between."
_APART: Final = (
    "Check the address. Two machines behind routers of their own do not reach each other: forward a port on one router"
    " to the machine behind it, which listens there (--listen :PORT), or have both in one network or VPN."
)
_WHICH_LINK: Final = "Name the interface that leads there, as it is called here: [fe80::1%eth0]:9000."
_ATTEMPT_DELAY: Final = 0.25  # seconds before the next address is tried too: RFC 8305 section 5

# A peer that vanished is found within about a minute, whether we wait for it (keepalive: first probe
# after 30 s of silence, then three, 10 s apart) or it does not acknowledge what we sent (user timeout).
# macOS calls the first by a name of its own; without it, it comes after two hours.
_KEEPIDLE: Final = "TCP_KEEPALIVE" if sys.platform == "darwin" else "TCP_KEEPIDLE"
_KEEPALIVE: Final = ((_KEEPIDLE, 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
_USER_TIMEOUT: Final = 60_000  # milliseconds: RFC 5482

NEAR: Final = 0.002  # seconds of round trip: this machine, or another of the same network
_NEAR_CONTROL: Final = b"cubic"
_FAR_CONTROL: Final = b"bbr"
# Where they stand in Linux's struct tcp_info. What is smoothed counts how long the other side takes to answer, since it
# acknowledges as it does: over what agrees on keys first, a loopback seems to have 1.5 ms, or 40 on a busy machine. The
# least is the path's own; kernels tell it since 4.6.
RTT: Final = 68  # tcpi_rtt
_LEAST_RTT: Final = 148  # tcpi_min_rtt

_SocketAddress = tuple[Any, ...]
_Found = tuple[socket.AddressFamily, _SocketAddress]


def set_options(sock: socket.socket) -> None:
    """What every connection wants: no delay for small messages, and word of a peer that died."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (*_KEEPALIVE, ("TCP_USER_TIMEOUT", _USER_TIMEOUT)):
        option = getattr(socket, name, None)  # not every system has every one
        if option is not None:
            try:
                sock.setsockopt(socket.IPPROTO_TCP, option, value)
            except OSError as error:
                if error.errno != errno.ENOPROTOOPT:  # nor does every kernel know what its Python does
                    raise


def transport(sock: socket.socket, waiter: Waiter) -> Transport:
    """A transport over a connected socket, with the options set.

    Raises:
        BrokenError: the other side was gone before we came to it.
    """
    try:
        set_options(sock)
        local, peer = sys.intern(_written(sock.getsockname())), _written(sock.getpeername())  # a server's are all one
    except OSError as error:
        waiter.forget(sock)
        sock.close()
        raise BrokenError("the other side left at once") from error
    return Transport(sock, waiter, name=NAME, local=local, peer=peer)


def tune(transport: Transport) -> float | None:
    """Suit a connection that will carry much to its path: the seconds a round trip has taken at the least, or None if
    that is unknown.

    Near, cubic: bbr's pacing halves loopback. Far, bbr where it may be had: it does not take each loss for congestion.
    """
    if sys.platform != "linux" or transport.name not in (NAME, "tls"):
        return None
    sock = transport._sock
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LEAST_RTT + 4)
        (microseconds,) = struct.unpack_from("=I", told, RTT)
        if len(told) == _LEAST_RTT + 4:
            microseconds = min(microseconds, *struct.unpack_from("=I", told, _LEAST_RTT))
    except (OSError, struct.error):  # it goes as it goes; an emulated kernel, as qemu-user's, tells less
        return None
    trip: float = microseconds / 1e6
    with suppress(OSError):  # most kernels let only root have bbr, if they have it
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _NEAR_CONTROL if trip < NEAR else _FAR_CONTROL)
    return trip


def is_one_machine(transport: Transport) -> bool:
    """Whether both ends are on this machine, as far as their addresses tell; sockets that are no TCP are so always."""
    local, _, _ = transport.local.rpartition(":")
    peer, _, _ = transport.peer.rpartition(":")
    return transport.name not in (NAME, "tls") or local == peer


def is_slowed_by_losses(transport: Transport) -> bool:
    """Whether what this side sends is: each lost packet counts as congestion, as for all that there is beside bbr."""
    if sys.platform != "linux":  # where it cannot be chosen as there
        return True
    try:
        control = transport._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
    except (AttributeError, OSError):  # an emulated kernel; a stream of another kind
        return True
    return control.rstrip(b"\0") != _FAR_CONTROL


async def connect(address: TcpAddress, waiter: Waiter, deadline: float | None = None) -> Transport:
    """Dial: every address of the host, v6 and v4 in turn, a quarter second apart; the first to answer wins.

    Raises:
        BrokenError: the name is unknown or nobody answers there.
        DeadlineExceeded: nobody answered until `deadline`, not even whoever knows the name's addresses.
        BusyError: there is no descriptor for it.
    """
    return await connect_any([address], waiter, deadline)


async def connect_any(addresses: Sequence[TcpAddress], waiter: Waiter, deadline: float | None = None) -> Transport:
    """As `connect`, of a machine that is known by several addresses.

    Raises:
        BrokenError: no name is known or nobody answers at any.
        DeadlineExceeded: nobody answered until `deadline`, not even whoever knows the name's addresses.
        BusyError: there is no descriptor for it.
    """
    found = await _found(addresses, waiter, deadline)
    attempts: dict[socket.socket, str] = {}
    failures: list[str] = []
    waiting = iter(_interleaved(found))
    next_start = waiter.now()
    more = True
    try:
        while more or attempts:
            if more and (waiter.now() >= next_start or not attempts):
                candidate = next(waiting, None)
                if candidate is None:
                    more = False
                    continue
                next_start = waiter.now() + _ATTEMPT_DELAY
                winner = _start(candidate, attempts, failures)
            else:
                winner = await _first_ready(attempts, failures, waiter, next_start if more else None, deadline)
            if winner is not None:
                attempts.pop(winner, None)
                return transport(winner, waiter)
    finally:
        for sock in attempts:
            waiter.forget(sock)
            sock.close()
    raise _unreachable(addresses, failures)


async def _found(addresses: Sequence[TcpAddress], waiter: Waiter, deadline: float | None) -> list[_Found]:
    """`_look_up_any`, until `deadline`: a resolver may take half a minute, and nothing interrupts it."""
    if deadline is None:
        return await waiter.offload(_look_up_any, addresses)
    with suppress(BrokenError):  # digits need no resolver
        return [one for address in addresses for one in _look_up(address, socket.AI_NUMERICHOST)]
    lookup = _LOOKUPS.get(wanted := tuple(addresses))
    if lookup is None or not lookup.is_alive():  # as one is that was left behind by a fork
        lookup = _LOOKUPS[wanted] = _Lookup(wanted)
        start(lookup)
    try:
        await lookup.wait(waiter, deadline)
    except DeadlineExceeded:
        told = ", ".join(address.host for address in addresses)
        raise DeadlineExceeded(
            f"looking up {told} took longer than the time allowed", hint="Write the address in digits, or try again."
        ) from None
    if lookup.unknown is not None:
        raise BrokenError(str(lookup.unknown), hint=lookup.unknown.hint) from lookup.unknown
    return lookup.found


class _Lookup(threading.Thread):
    """`_look_up_any` in a thread: one for all that ask the same, as who tries again and again while nobody answers."""

    def __init__(self, addresses: tuple[TcpAddress, ...]) -> None:
        super().__init__(name="enchufe resolver", daemon=True)
        self._addresses = addresses
        self._sleepers: list[Sleeper] = []
        self._answered = False
        self.found: list[_Found] = []
        self.unknown: BrokenError | None = None

    def run(self) -> None:
        """Until the resolver answers."""
        try:
            self.found = _look_up_any(self._addresses)
        except BrokenError as error:
            self.unknown = error
        finally:
            _LOOKUPS.pop(self._addresses, None)
            self._answered = True  # first: who comes now does not sleep
            for sleeper in self._sleepers[:]:
                sleeper.wake()

    async def wait(self, waiter: Waiter, deadline: float) -> None:
        """Until it has answered.

        Raises:
            DeadlineExceeded: it had not, at `deadline`.
        """
        sleeper = waiter.sleeper()
        self._sleepers.append(sleeper)
        try:
            if not self._answered:
                await sleeper.sleep(deadline)
        finally:
            self._sleepers.remove(sleeper)


# Those that run. Without a lock, which a fork could leave taken: at the worst the same is asked twice.
_LOOKUPS: Final[dict[tuple[TcpAddress, ...], _Lookup]] = {}


def _start(candidate: _Found, attempts: dict[socket.socket, str], failures: list[str]) -> socket.socket | None:
    """Begin one attempt; the socket if it succeeded at once."""
    family, where = candidate
    try:
        sock = socket.socket(family, socket.SOCK_STREAM | getattr(socket, "SOCK_CLOEXEC", 0))
    except OSError as error:
        if error.errno in NO_ROOM:
            raise no_room(f"no socket for {_written(where)}", error) from error
        failures.append(f"{_written(where)}: {error.strerror}")
        return None
    sock.setblocking(False)
    code = sock.connect_ex(where)
    if code == 0:
        return sock
    if code in (errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR):
        attempts[sock] = _written(where)
    else:
        sock.close()
        failures.append(f"{_written(where)}: {os.strerror(code)}")
    return None


async def _first_ready(
    attempts: dict[socket.socket, str],
    failures: list[str],
    waiter: Waiter,
    next_start: float | None,
    deadline: float | None,
) -> socket.socket | None:
    """Wait for one of the attempts, or until the next may start: the socket that is connected."""
    interests: list[Interest] = [(sock, WRITE) for sock in attempts]
    until = min((moment for moment in (next_start, deadline) if moment is not None), default=None)
    try:
        ready = await waiter.wait(interests, until)
    except DeadlineExceeded:
        if deadline is not None and waiter.now() >= deadline:
            tried = ", ".join(attempts.values())
            raise DeadlineExceeded(f"no answer from {tried} in the time allowed", hint=_APART) from None
        return None
    for sock in [sock for sock in attempts if any(sock is thing for thing, _ in ready)]:
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code == 0:
            return sock
        failures.append(f"{attempts.pop(sock)}: {os.strerror(code)}")
        waiter.forget(sock)
        sock.close()
    return None


def _unreachable(addresses: Sequence[TcpAddress], failures: list[str]) -> BrokenError:
    # Whoever says no is there.
    there = any(failure.endswith(os.strerror(errno.ECONNREFUSED)) for failure in failures)
    hint = _REFUSED if there else _WHICH_LINK if any(address.lacks_link for address in addresses) else _APART
    return BrokenError(f"could not reach {', '.join(map(str, addresses))} ({'; '.join(failures)})", hint=hint)


def listen(address: TcpAddress, backlog: int) -> list[socket.socket]:
    """Listening sockets, one for each address the host has, all on the same port; port 0 takes a free one.

    Raises:
        LocalProtocolError: the port is taken or reserved, or the address is not this machine's.
    """
    found: list[_Found] = [(socket.AF_INET6, ("::", address.port)), (socket.AF_INET, ("0.0.0.0", address.port))]  # noqa: S104
    if address.host:
        found = _look_up(address, socket.AI_PASSIVE)
    # With port 0 the kernel picks one on the first address; it may be taken on the next: pick again.
    for last_try in itertools.chain([False] * 15, [True]):
        try:
            return _bind_all(found, address, backlog)
        except _PortTaken:
            if last_try:
                raise
    raise AssertionError("unreachable")


class _PortTaken(LocalProtocolError):
    """The port the kernel picked for one address is taken on another."""


def _bind_all(found: list[_Found], address: TcpAddress, backlog: int) -> list[socket.socket]:
    bound: list[socket.socket] = []
    port = address.port
    try:
        for family, (host, _, *link) in found:
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError:
                if len(found) > 1:
                    continue  # a kernel without v6: the other addresses do
                raise
            bound.append(sock)
            sock.setblocking(False)
            if os.name == "posix":  # elsewhere it would let two listeners share a port
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                sock.bind((host, port, *link))
                sock.listen(backlog)
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL and family == socket.AF_INET6 and len(found) > 1:
                    bound.pop().close()  # v6 is compiled in but switched off
                    continue
                raise
            port = sock.getsockname()[1]
    except OSError as error:
        for sock in bound:
            sock.close()
        if error.errno == errno.EADDRINUSE and address.port == 0:
            raise _PortTaken(f"no port is free on all addresses of {address}") from error
        raise _cannot_listen(address, error) from error
    return bound


def _cannot_listen(address: TcpAddress, error: OSError) -> EnchufeError:
    if error.errno == errno.EADDRINUSE:
        return LocalProtocolError(
            f"{address} is taken by another program", hint="Choose another port; port 0 takes a free one."
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return LocalProtocolError(
            f"ports below 1024 are reserved, and {address} is one", hint="Choose a port from 1024 up."
        )
    if error.errno == errno.EADDRNOTAVAIL:
        return LocalProtocolError(
            f"{address.host} is not an address of this machine",
            hint="Listen on one of this machine's own addresses, or on :port for all of them.",
        )
    if error.errno in NO_ROOM:
        return no_room(f"cannot listen on {address}", error)
    return BrokenError(f"cannot listen on {address}: {error.strerror}")


def written(sock: socket.socket) -> str:
    """A bound socket's own address as people write it."""
    return _written(sock.getsockname())


def _written(where: _SocketAddress) -> str:
    host, port, *v6 = where
    return str(TcpAddress(f"{host}%{_link(v6[1])}" if v6 and v6[1] else host, port))


def _link(number: int) -> str:
    """The name of the interface on which alone an address holds (RFC 4007 section 11)."""
    try:
        return socket.if_indextoname(number)
    except OSError:  # it is gone: its number does as well
        return str(number)


def _look_up_any(addresses: Sequence[TcpAddress]) -> list[_Found]:
    """What the names stand for; one that stands for nothing matters only where all do."""
    found: list[_Found] = []
    unknown: BrokenError | None = None
    for address in addresses:
        try:
            found += _look_up(address, 0)
        except BrokenError as error:
            unknown = error
    if not found and unknown is not None:
        raise unknown
    return list(dict.fromkeys(found))


def _look_up(address: TcpAddress, flags: int) -> list[_Found]:
    try:
        host = address.host or "localhost"
        # A str is encoded by a codec whose tables take long to import, and is the same in the end unless it is foreign.
        known = host.encode() if host.isascii() else host
        answers = socket.getaddrinfo(known, address.port, type=socket.SOCK_STREAM, flags=flags)
    except (OSError, UnicodeError) as error:
        raise BrokenError(
            f"the name {address.host!r} is unknown",
            hint="Check the spelling, or write the address in digits.",
        ) from error
    return list(dict.fromkeys((family, where) for family, _, _, _, where in answers))


def _interleaved(found: list[_Found]) -> list[_Found]:
    """The families in turn, beginning with the one the resolver prefers: RFC 8305 section 4."""
    first = [one for one in found if one[0] == found[0][0]]
    other = [one for one in found if one[0] != found[0][0]]
    pairs = itertools.zip_longest(first, other)
    return [one for pair in pairs for one in pair if one is not None]
