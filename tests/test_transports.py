"""tcp and unix keep the published contract; dialing and listening do what people expect."""

from __future__ import annotations

import asyncio
import fcntl
import inspect
import itertools
import os
import resource
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

import enchufe
from enchufe import aio, framing, transports
from enchufe.connection import Connection
from enchufe.engines.loop import Loop
from enchufe.errors import (
    BrokenError,
    BusyError,
    ClosedError,
    DeadlineExceeded,
    EnchufeError,
    LocalProtocolError,
)
from enchufe.file import ConnectionFile
from enchufe.testing import CHECKS, check_transport, contract
from enchufe.transports import Listener, TcpAddress, Transport, UnixAddress, inherited, parse_address, stream, tcp, unix
from enchufe.transports.stream import advance
from enchufe.waiting import READ, WRITE, BlockingWaiter, Doorbell, Sleeper, Ticket, Turnstile, drive
from tests.framed import framed
from tests.namespaces import two_machines
from tests.reserved import reserved_port
from tests.until import until

WAITER = BlockingWaiter()
V6 = socket.has_ipv6 and Path("/proc/net/if_inet6").exists() and bool(Path("/proc/net/if_inet6").read_text())
ADDRESSES = ["127.0.0.1:0", pytest.param("[::1]:0", marks=pytest.mark.skipif(not V6, reason="no v6 here")), "unix"]


def dial(address: str, timeout: float = 10.0) -> Transport:
    return drive(transports.connect(parse_address(address), WAITER, WAITER.now() + timeout))


@contextmanager
def connected(address: str, folder: Path) -> Iterator[tuple[Transport, Transport]]:
    where = f"unix:{folder / 'socket'}" if address == "unix" else address
    with Listener(parse_address(where)) as listener:
        near = dial(listener.addresses[0])
        far = drive(listener.accept(WAITER, deadline=WAITER.now() + 10))
        assert far is not None
        yield near, far


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_contract(address: str, tmp_path: Path) -> None:
    def make_pair() -> tuple[Transport, Transport]:
        with connected(address, tmp_path) as pair:
            return pair

    check_transport(make_pair)


def test_the_contract_finds_a_broken_transport(tmp_path: Path) -> None:
    class Lossy(Transport):
        def try_send(self, pieces: Any) -> int:
            super().try_send([piece[:1] for piece in pieces[:1]])
            return sum(map(len, pieces))

    def make_pair() -> tuple[Transport, Transport]:
        near, far = socket.socketpair()
        one = Lossy(near, WAITER, name="lossy", local="", peer="")
        return one, Transport(far, WAITER, name="lossy", local="", peer="")

    with pytest.raises(AssertionError), pytest.MonkeyPatch.context() as patch:
        patch.setattr(contract, "_LONG", 0.3)
        check_transport(make_pair)


def test_every_check_of_the_contract_runs() -> None:
    named = {name for name in vars(contract) if name.startswith("check_")} - {"check_transport"}
    assert named == {check.__name__ for check in CHECKS}


def test_options_are_set(tmp_path: Path) -> None:
    with connected("127.0.0.1:0", tmp_path) as pair:
        for end in pair:
            sock = end._sock
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
            end.close()


def test_in_a_loop_a_socket_never_blocks_though_the_system_has_no_word_for_that_with_each_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stream, "_NOW", 0)
    loop = Loop()
    near, far = socket.socketpair()
    for sock in (near, far):
        sock.settimeout(0.2)  # in which the test is over, and fails
    with far, Transport(near, loop, name="unix", local="", peer="") as transport:
        assert transport.try_peek() is None
        assert transport.try_receive(1) is None
        assert transport.try_receive_into(bytearray(1)) is None
        while transport.try_send([bytes(1 << 20)]):
            pass
        assert transport.bytes_sent
    loop.close()


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="nobody tells the round trip here")
def test_who_is_near_is_sent_to_as_suits_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcp, "NEAR", 3600.0)  # however slow this machine is just now
    with connected("127.0.0.1:0", tmp_path) as (near, far), near, far:
        near._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")
        assert tcp.tune(near) is not None
        control = near._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, 16)
        assert control.rstrip(b"\0") == b"cubic"


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="nobody tells the round trip here")
def test_the_round_trip_is_known_where_the_congestion_control_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So it is with bbr and a user who is not root; such a link is no nearer for that."""
    monkeypatch.setattr(tcp, "_NEAR_CONTROL", b"missing")
    monkeypatch.setattr(tcp, "_FAR_CONTROL", b"missing")
    with connected("127.0.0.1:0", tmp_path) as (near, far):
        trip = tcp.tune(near)
        near.close()
        far.close()
    assert trip is not None
    assert trip > 0


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="nobody tells the round trip here")
def test_who_is_near_and_takes_long_to_answer_is_near_all_the_same(tmp_path: Path) -> None:
    """As whoever agrees on keys first: it acknowledges what it was told with its answer, or 40 ms later."""
    with connected("127.0.0.1:0", tmp_path) as (near, far), near, far:
        for _ in range(8):
            far._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
            near._sock.send(b"?")
            time.sleep(0.02)
            far._sock.send(far._sock.recv(1))
            assert near._sock.recv(1)
        told = near._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
        smoothed = int.from_bytes(told[tcp.RTT : tcp.RTT + 4], sys.byteorder) / 1e6
        assert smoothed > tcp.NEAR
        trip = tcp.tune(near)
        assert trip is not None
        assert trip < smoothed / 2


@pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="nobody tells the round trip here")
def test_a_kernel_that_tells_less_than_the_round_trip_is_no_failure(tmp_path: Path) -> None:
    """As qemu-user's, which gives four bytes of any option of TCP."""

    class Emulated(socket.socket):
        def getsockopt(self, level: int, option: int, size: int = 0) -> Any:
            return super().getsockopt(level, option, min(size, 4))

    with connected("127.0.0.1:0", tmp_path) as (near, far), near, far:
        near._sock = Emulated(fileno=near._sock.detach())
        assert tcp.tune(near) is None


@pytest.mark.parametrize("system", ["freebsd14", "openbsd7", "darwin"])
def test_elsewhere_a_path_is_unknown_and_nothing_is_chosen_for_it(
    system: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FreeBSD's struct tcp_info has something else where Linux's has the least round trip, and only there and on Linux
    is there a TCP_CONGESTION."""
    monkeypatch.setattr(sys, "platform", system)
    if system != "freebsd14":
        monkeypatch.delattr(socket, "TCP_CONGESTION", raising=False)
    if system == "darwin":
        monkeypatch.delattr(socket, "TCP_INFO", raising=False)
    with connected("127.0.0.1:0", tmp_path) as (near, far), near, far:
        assert tcp.tune(near) is None
        assert tcp.is_slowed_by_losses(near)


@pytest.mark.skipif(sys.platform != "linux", reason="who waits in the kernel is asked for by Linux's option")
def test_a_receive_that_blocks_does_so_briefly(tmp_path: Path) -> None:
    """On a machine of 32 bits too, where a struct timeval has one of two sizes."""
    with connected("127.0.0.1:0", tmp_path) as (near, far), near, far:
        with pytest.raises(BlockingIOError):
            near._sock.recv(1)


@pytest.mark.parametrize("option", ["TCP_KEEPIDLE", "TCP_USER_TIMEOUT", "SO_RCVTIMEO"])
def test_an_option_that_the_kernel_does_not_know_is_gone_without(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not hasattr(socket, option):
        pytest.skip("nor does this Python")
    monkeypatch.setattr(socket, option, 30_000)
    with connected("127.0.0.1:0", tmp_path) as (near, far), near, far:
        drive(near.send([b"there"]))
        assert drive(far.receive(100)) == b"there"
        with pytest.raises(DeadlineExceeded):
            drive(far.receive(100, WAITER.now() + 0.01))


def test_a_killed_peer_is_found(tmp_path: Path) -> None:
    code = "import socket,sys;s=socket.create_connection(('127.0.0.1',int(sys.argv[1])));s.send(b'x');input()"
    with Listener(parse_address("127.0.0.1:0")) as listener:
        port = listener.addresses[0].rpartition(":")[2]
        peer = subprocess.Popen([sys.executable, "-c", code, port], stdin=subprocess.PIPE)
        with drive(listener.accept(WAITER)) as transport:  # type: ignore[union-attr]
            drive(transport.receive_into(bytearray(1)))
            drive(transport.send([b"unread"]))
            peer.kill()
            peer.wait()
            with pytest.raises(BrokenError):
                drive(transport.receive_into(bytearray(1), WAITER.now() + 10))
        assert peer.stdin is not None
        peer.stdin.close()


# Addresses


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("host:9000", TcpAddress("host", 9000)),
        (":0", TcpAddress("", 0)),
        ("[::1]:80", TcpAddress("::1", 80)),
        ("unix:/run/x", UnixAddress("/run/x")),
    ],
)
def test_addresses(text: str, address: object) -> None:
    assert parse_address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "host",
        "host:",
        "host:x",
        "host:-1",
        "host:65536",
        "host:٣",
        "::1:80",
        "unix:",
        "unix:a\0",
        "unix:/" + "x" * 107,
    ],
)
def test_no_addresses(text: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        parse_address(text)
    assert caught.value.hint


def test_a_url_is_no_address() -> None:
    for text in ("tcp://localhost:9000", "http://localhost/"):
        with pytest.raises(LocalProtocolError, match="URL"):
            parse_address(text)


# Dialing


def resolve_to(monkeypatch: pytest.MonkeyPatch, *where: tuple[str, int]) -> None:
    answers = [(socket.AF_INET6 if ":" in h else socket.AF_INET, socket.SOCK_STREAM, 6, "", (h, p)) for h, p in where]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_arguments, **_options: answers)


@contextmanager
def deaf() -> Iterator[tuple[str, int]]:
    """An address that answers nothing: a listener whose queue is full."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()
        for filler in fillers:
            filler.close()


def test_a_deaf_first_address_does_not_keep_us_from_the_second(monkeypatch: pytest.MonkeyPatch) -> None:
    with deaf() as nobody, Listener(parse_address("127.0.0.1:0")) as listener:
        port = int(listener.addresses[0].rpartition(":")[2])
        resolve_to(monkeypatch, nobody, ("127.0.0.1", port))
        with dial("name:1") as transport:
            assert transport.peer == f"127.0.0.1:{port}"


def test_a_refused_first_address_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    with Listener(parse_address("127.0.0.1:0")) as listener, reserved_port() as closed:
        port = int(listener.addresses[0].rpartition(":")[2])
        resolve_to(monkeypatch, ("127.0.0.1", closed), ("127.0.0.1", port))
        dial("name:1").close()


def test_nobody_anywhere_names_every_address(monkeypatch: pytest.MonkeyPatch) -> None:
    with reserved_port() as first, reserved_port("127.0.0.2") as second:
        resolve_to(monkeypatch, ("127.0.0.1", first), ("127.0.0.2", second))
        with pytest.raises(BrokenError, match=rf"127\.0\.0\.1:{first}.*127\.0\.0\.2:{second}") as caught:
            dial("name:1")
    assert caught.value.hint


def test_dialing_heeds_its_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    with deaf() as nobody:
        resolve_to(monkeypatch, nobody)
        with pytest.raises(DeadlineExceeded, match="no answer"):
            dial("name:1", timeout=2)


def test_families_take_turns() -> None:
    v6 = [(socket.AF_INET6, (f"::{n}", 1)) for n in range(3)]
    v4 = [(socket.AF_INET, ("127.0.0.1", 1))]
    assert tcp._interleaved([*v6, *v4]) == [v6[0], v4[0], v6[1], v6[2]]


def test_an_unknown_name_and_a_missing_socket() -> None:
    with pytest.raises(BrokenError, match="unknown"):
        dial("no-such-name.invalid:1")
    with pytest.raises(BrokenError, match="could not reach"):
        dial("unix:/nowhere/at/all")


# Listening


def test_port_0_is_one_port_on_all_addresses() -> None:
    with Listener(parse_address("localhost:0")) as listener:
        assert len({address.rpartition(":")[2] for address in listener.addresses}) == 1
        for address in listener.addresses:
            dial(address).close()
    with Listener(parse_address(":0")) as everywhere:
        dial(f"127.0.0.1:{everywhere.addresses[-1].rpartition(':')[2]}").close()


def test_an_address_of_one_link_is_listened_on_and_told_with_its_link() -> None:
    code = """
import enchufe
from enchufe import framing

async def peer(connection):
    async for _ in connection:
        await connection.send(connection.peer.encode())

with enchufe.Server(peer, "[fe80::ff:fe00:1%link0]:0", framing=framing.Lines()) as server:
    with enchufe.connect(*server.addresses, framing=framing.Lines(), timeout=20) as connection:
        print(*server.addresses, connection.peer, connection.ask(b"").decode())
"""
    with two_machines() as (one, _):
        done = subprocess.run(one.python(code), check=True, capture_output=True, text=True, timeout=60)
    listening, dialed, came = done.stdout.split()
    assert listening == dialed
    assert {address.rpartition(":")[0] for address in (dialed, came)} == {"[fe80::ff:fe00:1%link0]"}


def test_addresses_that_cannot_be_listened_on(tmp_path: Path) -> None:
    with Listener(parse_address("127.0.0.1:0")) as listener:
        for address, told in [
            (listener.addresses[0], "taken"),
            ("192.0.2.1:0", "not an address of this machine"),
            (f"unix:{tmp_path}/no/such/folder", "cannot listen"),
        ]:
            with pytest.raises(LocalProtocolError, match=told) as caught:
                Listener(parse_address(address))
            assert caught.value.hint


def test_reserved_ports_are_explained() -> None:
    told = tcp._cannot_listen(TcpAddress("localhost", 80), PermissionError(13, "Permission denied"))
    assert isinstance(told, LocalProtocolError)
    assert "reserved" in str(told)
    assert told.hint


def test_a_dead_socket_file_is_replaced_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with Listener(UnixAddress(str(path))):
        with pytest.raises(LocalProtocolError, match="taken"):
            Listener(UnixAddress(str(path)))
        assert stat.S_ISSOCK(path.stat().st_mode)
    assert not path.exists()
    path.write_text("precious")
    with pytest.raises(LocalProtocolError, match="taken"):
        Listener(UnixAddress(str(path)))
    assert path.read_text() == "precious"


def test_of_several_that_begin_to_listen_at_once_one_does(tmp_path: Path) -> None:
    """Beside a dead socket file; and whoever closes removes nobody's but its own."""
    where = UnixAddress(str(tmp_path / "socket"))
    together = threading.Barrier(4)
    listeners: list[Listener] = []

    def begin() -> None:
        together.wait()
        with suppress(LocalProtocolError):
            listeners.append(Listener(where))

    for _ in range(50):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(where.path)
        beginning = [threading.Thread(target=begin) for _ in range(4)]
        for thread in beginning:
            thread.start()
        for thread in beginning:
            thread.join()
        (listener,) = listeners
        with dial(str(where)):
            pass
        listener.close()
        assert not os.path.exists(where.path)
        listeners.clear()


def test_who_left_on_the_way_to_a_worker_takes_no_other_descriptor_along() -> None:
    with Listener(parse_address("127.0.0.1:0")) as listener:
        with socket.create_connection(("127.0.0.1", int(listener.addresses[0].rpartition(":")[2]))) as client:
            until(lambda: select.select([listener._sockets[0]], [], [], 0)[0])
            descriptor = listener._sockets[0].accept()[0].detach()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
        others: list[int] = []

        def as_soon_as_it_is_free(_frame: object, event: str, argument: object) -> None:
            if event == "c_return" and getattr(argument, "__name__", "") == "close" and not others:
                others.append(fcntl.fcntl(0, fcntl.F_DUPFD, descriptor))  # as another thread may

        sys.setprofile(as_soon_as_it_is_free)
        try:
            assert listener.adopt(descriptor, WAITER) is None
        finally:
            sys.setprofile(None)
    assert others == [descriptor]
    os.close(descriptor)


def test_what_is_adopted_is_inherited_by_nobody() -> None:
    with Listener(parse_address("127.0.0.1:0")) as listener:
        with socket.create_connection(("127.0.0.1", int(listener.addresses[0].rpartition(":")[2]))):
            until(lambda: select.select([listener._sockets[0]], [], [], 0)[0])
            descriptor = listener._sockets[0].accept()[0].detach()
            os.set_inheritable(descriptor, True)  # as it comes where there is no MSG_CMSG_CLOEXEC
            transport = listener.adopt(descriptor, WAITER)
            assert transport is not None
            with transport:
                assert not os.get_inheritable(transport.fileno())


def test_what_is_no_socket_is_not_adopted() -> None:
    with Listener(parse_address("127.0.0.1:0")) as listener:
        descriptor = os.open(os.devnull, os.O_RDONLY)
        assert listener.adopt(descriptor, WAITER) is None
        with pytest.raises(OSError):
            os.fstat(descriptor)


def test_a_socket_file_of_another_stays_when_one_closes(tmp_path: Path) -> None:
    where = UnixAddress(str(tmp_path / "socket"))
    first = Listener(where)
    os.unlink(where.path)
    with Listener(where):
        first.close()
        with dial(str(where)):
            pass


def test_accepting_stops_when_told_and_when_closed() -> None:
    listener = Listener(parse_address("127.0.0.1:0"))
    stop = Doorbell()
    stop.ring()
    assert drive(listener.accept(WAITER, stop=stop)) is None
    with pytest.raises(DeadlineExceeded):
        drive(listener.accept(WAITER, deadline=WAITER.now() + 0.05))
    listener.close()
    with pytest.raises(ClosedError):
        listener.try_accept(WAITER)
    stop.close()


def test_a_dropped_listener_warns() -> None:
    listener = Listener(parse_address("127.0.0.1:0"))
    with pytest.warns(ResourceWarning, match="unclosed"):
        listener.__del__()


@pytest.mark.parametrize("address", ADDRESSES)
def test_what_a_fork_drops_goes_on_here(address: str, tmp_path: Path) -> None:
    with connected(address, tmp_path) as (near, far), near, far:
        where = f"unix:{tmp_path / 'other'}" if address == "unix" else address
        with Listener(parse_address(where)) as listener:
            child = os.fork()
            if not child:
                with suppress(BaseException):
                    # As at the end of a program. A warning would be an error.
                    for copied in (near, far, listener):
                        copied.__del__()
                    os._exit(0)
                os._exit(1)
            assert os.waitpid(child, 0)[1] == 0
            drive(near.send([b"still here"]))
            assert drive(far.receive(100, WAITER.now() + 10)) == b"still here"
            dial(listener.addresses[0]).close()


def test_advance() -> None:
    assert advance([b"ab", b"", b"cd"], 0) == [b"ab", b"", b"cd"]
    assert advance([b"ab", b"", b"cd"], 3) == [b"d"]
    assert advance([b"ab"], 2) == []


# Waiting


def test_waiting_for_a_set_tells_which() -> None:
    (near, far), (other, silent) = socket.socketpair(), socket.socketpair()
    with near, far, other, silent:
        near.send(b"x")
        assert drive(WAITER.wait([(far, READ), (other, READ)])) == [(far, READ)]
        ready = drive(WAITER.wait([(far, READ), (far, 2), (other, READ)], WAITER.now() - 1))
        assert sorted(interest for _, interest in ready) == [1, 2]
        silent.close()
        assert drive(WAITER.wait([(other, READ)])) == [(other, READ)]


def test_waiting_for_what_is_closed_is_your_fault() -> None:
    near, far = socket.socketpair()
    near.close()
    with far, pytest.raises(LocalProtocolError, match="closed"):
        drive(WAITER.wait_one(near, READ))


def test_signals_that_come_often_do_not_put_a_deadline_off() -> None:
    """Whoever sends them: a timer of this process, or another process."""
    ticks = 0

    def tick(*_: object) -> None:
        nonlocal ticks
        ticks += 1
        assert ticks < 500, "the deadline never came"

    ours, theirs = socket.socketpair()
    waiter = BlockingWaiter()
    before = signal.signal(signal.SIGUSR1, tick)
    with theirs, unix.transport(ours, waiter) as transport:
        ticking = subprocess.Popen(["sh", "-c", f"while kill -USR1 {os.getpid()}; do sleep 0.01; done"])
        try:
            until(lambda: ticks > 0)
            with pytest.raises(DeadlineExceeded):
                drive(transport.receive(1, waiter.now() + 0.2))
        finally:
            ticking.kill()
            ticking.wait()
            signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_close_that_cuts_a_send_is_no_orderly_end(meanwhile: bool, tmp_path: Path) -> None:
    """Nor is one after it: what went may end with a whole message."""
    with connected("127.0.0.1:0", tmp_path) as (near, far), far:
        told: list[EnchufeError] = []

        def send() -> None:
            try:
                drive(near.send([bytes(20_000_000)], near.waiter.now() + (20 if meanwhile else 0.1)))
            except EnchufeError as error:
                told.append(error)

        sending = threading.Thread(target=send)
        sending.start()
        if meanwhile:
            until(lambda: near._full)
            near.close()
        sending.join()
        if not meanwhile:
            with pytest.raises(BrokenError):
                drive(near.end())
            near.close()
        assert type(told[0]) is (ClosedError if meanwhile else DeadlineExceeded)
        with pytest.raises(BrokenError):
            while drive(far.receive(1 << 20, far.waiter.now() + 10)):
                pass


def test_nobody_waits_for_what_one_who_cut_the_connection_did_not_take() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        with tcp.transport(listening.accept()[0], WAITER) as transport:
            while transport.try_send([bytes(65536)]):
                pass
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
            theirs.close()
            with pytest.raises(BrokenError):
                drive(transport.send([b"more"], WAITER.now() + 20))
            deadline = WAITER.now() + 20
            drive(transport.until_taken(deadline))
            assert WAITER.now() < deadline


def test_nor_for_one_of_the_same_machine_to_read_it(tmp_path: Path) -> None:
    with connected(f"unix:{tmp_path}/s", tmp_path) as (near, far), near, far:
        drive(near.send([b"answer"]))
        deadline = WAITER.now() + 20
        drive(near.until_taken(deadline))
        assert WAITER.now() < deadline
        near.abort()
        assert drive(far.receive(100)) == b"answer"


def test_an_answer_that_comes_before_its_deadline_costs_one_poll_and_one_receive() -> None:
    ours, theirs = socket.socketpair()
    waiter = BlockingWaiter()
    calls: list[str] = []

    def note(_frame: object, event: str, function: Any) -> None:
        if event == "c_call":
            calls.append(function.__name__)

    def answer() -> None:
        while theirs.recv(16):
            time.sleep(0.002)  # so that it is waited for
            theirs.sendall(b"answer")

    answering = threading.Thread(target=answer)
    with theirs, unix.transport(ours, waiter) as transport:
        transport._interruptible = False  # a profile shows no receive that is to be interrupted
        answering.start()
        for after_the_first in [None, *[note] * 10]:
            sys.setprofile(after_the_first)
            transport.try_send([b"question"])
            drive(transport.receive(4096, waiter.now() + 10))
        sys.setprofile(None)
        transport.hang_up()
        answering.join()
    assert (calls.count("recv"), calls.count("poll")) == (10, 2 * 10)  # select.poll() makes what asks


def test_who_waits_for_a_turn_needs_no_descriptor_and_comes_in_order() -> None:
    turnstile, came = Turnstile(), list[int]()
    first: Ticket = []
    assert turnstile.try_enter(first) is first

    def come(number: int) -> None:
        ticket: Ticket = []
        drive(turnstile.enter(ticket, BlockingWaiter(), WAITER.now() + 20))
        came.append(number)
        turnstile.leave(ticket)

    def waiting(count: int) -> bool:
        return len(turnstile._queue) == count

    threads = [threading.Thread(target=come, args=[number]) for number in range(20)]
    before = len(os.listdir("/proc/self/fd"))
    for number, thread in enumerate(threads, 1):
        thread.start()
        until(partial(waiting, number))
    assert len(os.listdir("/proc/self/fd")) == before
    turnstile.leave(first)
    for thread in threads:
        thread.join()
    assert came == list(range(20))
    assert not turnstile.taken


def test_threads_that_meet_again_and_again_change_places_less_often_than_they_come() -> None:
    turnstile, came = Turnstile(), list[int]()
    waiter = BlockingWaiter()

    def flood(number: int) -> None:
        for _ in range(3000):
            ticket: Ticket = []
            drive(turnstile.enter(ticket, waiter))
            came.append(number)
            null.write(b"x")  # as a send does, this lets other threads run
            turnstile.leave(ticket)

    with open(os.devnull, "wb", buffering=0) as null:
        threads = [threading.Thread(target=flood, args=[number]) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sum(one != other for one, other in itertools.pairwise(came)) < len(came) / 3


def test_who_comes_again_and_again_keeps_nobody_out() -> None:
    turnstile, came = Turnstile(), threading.Event()
    first: Ticket = []
    assert turnstile.try_enter(first) is first

    def come() -> None:
        for _ in range(20):
            ticket: Ticket = []
            drive(turnstile.enter(ticket, BlockingWaiter(), WAITER.now() + 20))
            turnstile.leave(ticket)
        came.set()

    thread = threading.Thread(target=come)
    thread.start()
    while not came.is_set():
        os.sched_yield()  # as long as a send takes, with the turn
        turnstile.leave(first)
        drive(turnstile.enter(first := [], WAITER))
    thread.join()


def test_who_waits_for_a_turn_does_first_what_is_due_before_a_wait() -> None:
    turnstile, done = Turnstile(), list[bool]()
    first: Ticket = []
    assert turnstile.try_enter(first) is first
    WAITER.before_waiting(lambda: done.append(True))
    with pytest.raises(DeadlineExceeded):
        drive(turnstile.enter([], WAITER, WAITER.now() + 0.01))
    assert done == [True]


def test_who_waits_for_a_turn_in_vain_lets_the_next_have_it() -> None:
    turnstile = Turnstile()
    first: Ticket = []
    second: Ticket = []
    assert turnstile.try_enter(first) is first
    with pytest.raises(DeadlineExceeded):
        drive(turnstile.enter(second, WAITER, WAITER.now() + 0.01))
    turnstile.leave(second)
    assert turnstile.taken
    turnstile.leave(first)
    assert not turnstile.taken


class ByHand(BlockingWaiter):
    """A waiter whose sleepers sleep until the test goes on with them."""

    blocks = False

    def sleeper(self) -> Sleeper:
        return Handed()


class Handed:
    awake = False

    @types.coroutine
    def sleep(self, deadline: float | None = None) -> Iterator[None]:
        while not self.awake:
            yield

    def wake(self) -> None:
        assert not self.awake
        self.awake = True


def test_whatever_the_order_one_is_in_and_in_the_end_nobody() -> None:
    """Three that come, go on and leave, and are cancelled at any moment, also when they were woken just then."""
    for order in itertools.product(range(6), repeat=6):
        turnstile = Turnstile()
        steps: dict[int, Generator[Any, Any, None]] = {}
        inside: list[int] = []

        def visit(who: int, turnstile: Turnstile = turnstile, inside: list[int] = inside) -> Generator[Any, Any, None]:
            ticket: Ticket = []
            try:
                yield from turnstile.enter(ticket, ByHand()).__await__()
                assert not inside
                inside.append(who)
                yield
                inside.remove(who)
            except asyncio.CancelledError:
                inside[:] = [one for one in inside if one != who]
                raise
            finally:
                turnstile.leave(ticket)

        for number in (*order, *[0, 1, 2] * 5):
            who, cancels = number % 3, number >= 3
            try:
                if who not in steps and not cancels:
                    steps[who] = visit(who)
                    next(steps[who])
                elif who in steps:
                    steps[who].throw(asyncio.CancelledError) if cancels else next(steps[who])
            except (StopIteration, asyncio.CancelledError):
                pass
        assert all(inspect.getgeneratorstate(visiting) == inspect.GEN_CLOSED for visiting in steps.values()), order
        assert not turnstile.taken, order
        assert not turnstile._queue, order


def interrupted(point: int, action: Callable[[], object]) -> bool:
    """Do it, interrupted at its so-manieth point where a signal may be handled: a call's start, or its end in C.

    False where it was over before.
    """
    left = point

    def interrupt(_frame: object, event: str, _about: object) -> None:
        nonlocal left
        if event in ("call", "c_return") and (left := left - 1) == 0:
            raise KeyboardInterrupt

    sys.setprofile(interrupt)
    try:
        action()
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(None)
    return left <= 0


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")  # interrupted before it began
@pytest.mark.parametrize("how", ["at once", "held back", "as a file"])
def test_an_interruption_leaves_the_turn_to_the_next(how: str) -> None:
    def comes(point: int) -> bool:
        ours, theirs = socket.socketpair()
        connection = Connection(unix.transport(ours, WAITER), framing.LengthPrefixed(4), gathers=how == "held back")
        turnstile = connection._flushing
        assert turnstile is not None
        with theirs, closing(connection):
            theirs.sendall(framed(b"one", b"two"))
            assert drive(connection.receive()) == b"one"
            talk = connection.file() if how == "as a file" else connection
            drive(talk.write(b"answer") if isinstance(talk, ConnectionFile) else talk.send(b"answer"))
            came = interrupted(point, lambda: drive(talk.flush() if how != "at once" else connection.send(b"answer")))
            assert not turnstile.taken
            return came

    assert next(point for point in itertools.count(1) if not comes(point)) > 10


def test_an_interruption_of_who_leaves_keeps_nobody_waiting() -> None:
    turnstile = Turnstile()

    def come() -> None:
        ticket: Ticket = []
        drive(turnstile.enter(ticket, BlockingWaiter(), WAITER.now() + 20))
        turnstile.leave(ticket)

    def comes(point: int) -> bool:
        ticket: Ticket = []
        assert turnstile.try_enter(ticket) is ticket
        thread = threading.Thread(target=come)
        thread.start()
        until(lambda: turnstile._queue)
        came = interrupted(point, lambda: turnstile.leave(ticket))
        turnstile.leave(ticket)
        thread.join(20)
        assert not thread.is_alive()
        assert not turnstile.taken
        return came

    assert next(point for point in itertools.count(1) if not comes(point)) > 3


def test_a_doorbell_rung_twice_is_rung_once() -> None:
    bell = Doorbell()
    for _ in range(100_000):
        bell.ring()
    drive(WAITER.wait_one(bell, READ, WAITER.now() + 1))
    bell.clear()
    with pytest.raises(DeadlineExceeded):
        drive(WAITER.wait_one(bell, READ, WAITER.now() + 0.01))
    bell.close()
    bell.close()
    bell.ring()


def test_no_descriptor_is_left_behind(tmp_path: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for address in ("127.0.0.1:0", "unix"):
        with connected(address, tmp_path) as (near, far):
            near.close()
            far.close()
    with reserved_port() as closed, pytest.raises(BrokenError):
        dial(f"127.0.0.1:{closed}")
    assert len(os.listdir("/proc/self/fd")) == before


# Turns, ends, and what is to be done before a wait


class Counting(BlockingWaiter):
    """As an event loop's: it counts the turns that the others are given, and nobody blocks in the kernel."""

    blocks = False

    def __init__(self) -> None:
        super().__init__()
        self.pauses = 0

    async def pause(self) -> None:
        self.pauses += 1


@pytest.mark.parametrize("into", [False, True])
def test_the_others_have_their_turn_though_there_is_always_more(into: bool) -> None:
    waiter = Counting()
    ours, theirs = socket.socketpair()
    with theirs, unix.transport(ours, waiter) as near:
        for _ in range(100):
            theirs.send(bytes(1000))  # as much as is asked for below: nothing tells that it was all
            if into:
                assert drive(near.receive_into(bytearray(1000))) == 1000
            else:
                assert len(drive(near.receive(1000))) == 1000
    assert waiter.pauses >= 3


def test_the_others_have_their_turn_though_much_is_taken_at_once() -> None:
    waiter = Counting()
    ours, theirs = socket.socketpair()
    with theirs, unix.transport(ours, waiter) as near:
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        for _ in range(10):
            theirs.send(bytes(150_000), socket.MSG_DONTWAIT)
            assert drive(near.receive_into(bytearray(150_000))) == 150_000
    assert waiter.pauses >= 3


@pytest.mark.parametrize("as_file", [False, True])
def test_the_others_have_their_turn_though_the_other_side_takes_all_that_is_sent(as_file: bool) -> None:
    waiter = Counting()
    ours, theirs = socket.socketpair()
    with theirs, unix.transport(ours, waiter) as near:
        connection = Connection(near, framing.LengthPrefixed())
        file = connection.file() if as_file else None
        for _ in range(30):
            if file is not None:
                drive(file.write(bytes(70_000)))
            else:
                drive(connection.send(bytes(70_000)))
            while select.select([theirs], [], [], 0)[0]:
                theirs.recv(1 << 20)
    assert waiter.pauses >= 3


def test_the_others_have_their_turn_while_what_comes_is_dropped() -> None:
    waiter = Counting()
    ours, theirs = socket.socketpair()
    with theirs, unix.transport(ours, waiter) as near:
        theirs.send(bytes(100_000))
        theirs.shutdown(socket.SHUT_WR)
        drive(near.drop(0.0, waiter.now() + 20))
    assert waiter.pauses >= 1


@pytest.mark.parametrize("bell", [False, True], ids=["shut", "bell"])
@pytest.mark.parametrize("into", [False, True])
@pytest.mark.parametrize("address", ["127.0.0.1:0", "unix"])
def test_what_comes_after_a_stop_is_not_received(address: str, into: bool, bell: bool, tmp_path: Path) -> None:
    def receive() -> bytes:
        view = bytearray(4)
        return bytes(view[: drive(near.receive_into(view))]) if into else drive(near.receive(4))

    with connected(address, tmp_path) as (near, far), near, far:
        doorbell = Doorbell()
        near.waiter = BlockingWaiter(doorbell if bell else None)
        drive(far.send([b"before"]))
        drive(near.wait(READ))
        near.stop_receiving()
        for _ in range(3):
            if bell or address != "unix":  # a Unix socket that is shut takes no more
                drive(far.send([b"after"]))
            near.stop_receiving()
        assert [receive(), receive(), receive(), receive()] == [b"befo", b"re", b"", b""]
        doorbell.close()


@pytest.mark.parametrize("sending", [False, True])
def test_whoever_is_cut_off_is_woken_and_closes_as_cut(sending: bool, tmp_path: Path) -> None:
    outcome: list[BaseException] = []

    def use() -> None:
        try:
            while True:
                drive(near.send([bytes(1 << 20)]) if sending else near.receive_into(bytearray(1)))
        except ClosedError as error:
            outcome.append(error)

    with connected("127.0.0.1:0", tmp_path) as (near, far), far:
        user = threading.Thread(target=use)
        user.start()
        until(lambda: near._full) if sending else None
        near.cut_off("its time was over")
        user.join(20)
        assert not user.is_alive()
        for call in (lambda: near.try_receive(1), lambda: near.try_send([b"x"]), lambda: drive(near.wait(WRITE))):
            with pytest.raises(ClosedError, match="its time was over"):
                call()
        near.close()
        near.close()
        with pytest.raises(BrokenError):
            while drive(far.receive(1 << 20)):
                pass
    assert "its time was over" in str(outcome[0])


def test_a_thread_does_what_is_due_whichever_waiter_it_waits_by() -> None:
    ours, theirs = socket.socketpair()
    done: list[bool] = []
    with theirs, unix.transport(ours, BlockingWaiter()) as near:
        theirs.send(b"xy")
        BlockingWaiter().before_waiting(lambda: done.append(True))
        assert drive(near.receive(1)) == b"x"
        assert drive(near.receive(1)) == b"y"
    assert done == [True]  # and once


@pytest.mark.skipif(not V6, reason="no v6 here")
def test_an_address_of_one_link_says_which() -> None:
    with pytest.raises(BrokenError) as caught:
        dial("[fe80::1]:9")
    assert "Name the interface" in caught.value.hint


def test_who_is_not_there_is_named_as_it_was_called(tmp_path: Path) -> None:
    with pytest.raises(BrokenError, match="could not reach shm:"):
        dial(f"shm:{tmp_path / 'nobody'}")
    with pytest.raises(LocalProtocolError, match="cannot listen on shm:"):
        Listener(parse_address(f"shm:{tmp_path / 'missing' / 'folder'}"))


def test_a_descriptor_that_was_not_handed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inherited, "_FIRST", 1_000_000)  # no process has so many
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_PID", str(os.getpid()))
    with pytest.raises(LocalProtocolError, match="is no socket"):
        inherited.listeners()


def test_a_system_that_does_not_say_what_has_arrived_reads_all_that_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "fcntl", None)
    with connected("127.0.0.1:0", tmp_path) as (near, far), near, far:
        drive(far.send([b"before"]))
        drive(near.wait(READ))
        near.stop_receiving()
        assert [drive(near.receive(4)), drive(near.receive(4)), drive(near.receive(4))] == [b"befo", b"re", b""]
        drive(near.until_taken(near.waiter.now() + 20))


def test_a_system_without_fcntl_has_all_but_shared_memory() -> None:
    code = """
import sys
sys.modules.update(dict.fromkeys(["fcntl", "termios", "grp", "pwd", "resource"]))
import os
del os.memfd_create
import enchufe
from enchufe import framing

async def echo(connection):
    async for message in connection:
        await connection.send(message)

for engine in "threads", "events":
    with enchufe.Server(echo, "127.0.0.1:0", framing=framing.Lines(), engine=engine) as server:
        with enchufe.connect(*server.addresses, framing=framing.Lines(), timeout=20) as connection:
            print(connection.ask(b"hola").decode())
try:
    enchufe.connect("shm:/tmp/nowhere", framing=framing.Lines())
except enchufe.LocalProtocolError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert not done.stderr
    assert done.stdout.splitlines()[:2] == ["hola", "hola"]
    assert "shared memory needs" in done.stdout


def is_free(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return True
    return False


@contextmanager
def so_few_descriptors(count: int) -> Iterator[None]:
    """So many may be opened, and no more."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = filter(is_free, itertools.count())
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, count, None)), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def idle(_: Connection) -> None:
    """Nothing."""


@pytest.mark.parametrize(("engine", "count"), [("threads", 7), ("events", 10), ("processes", 7)])
def test_a_server_that_has_too_few_descriptors_is_none_and_keeps_none(engine: str, count: int, tmp_path: Path) -> None:
    serve = enchufe.Server  # imported while there is a descriptor for that
    for few in range(count):
        open_before = len(os.listdir("/proc/self/fd"))
        with so_few_descriptors(few), pytest.raises(BusyError, match="Too many open files"):
            serve(idle, f"unix:{tmp_path / 's'}", framing=framing.Lines(), engine=engine)
        assert len(os.listdir("/proc/self/fd")) == open_before
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("engine", ["threads", "events", "processes"])
def test_a_server_that_has_no_thread_is_none(engine: str, tmp_path: Path) -> None:
    where = f"unix:{tmp_path / 's'}"
    open_before = len(os.listdir("/proc/self/fd"))
    before = threading.stack_size(1 << 50)  # there is no room for it
    try:
        with pytest.raises(BusyError, match="no thread"):
            enchufe.Server(idle, where, framing=framing.Lines(), engine=engine)
    finally:
        threading.stack_size(before)
    assert len(os.listdir("/proc/self/fd")) == open_before
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("kind", ["localhost:0", "unix:{}/s", "shm:{}/s"])
def test_who_dials_without_a_descriptor_is_told(kind: str, tmp_path: Path) -> None:
    connect = enchufe.connect  # imported while there is a descriptor for that
    with enchufe.Server(idle, kind.format(tmp_path), framing=framing.Lines()) as server:
        with so_few_descriptors(0), pytest.raises(BusyError) as caught:
            connect(server.addresses[0], framing=framing.Lines(), timeout=5)
        assert "ulimit" in caught.value.hint


@pytest.fixture
def resolver_is_back(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The resolver hangs, for all but numeric addresses, until this is set."""
    back = threading.Event()
    look_up: Any = socket.getaddrinfo

    def hang(host: Any, *args: Any, flags: int = 0, **options: Any) -> Any:
        if not flags & socket.AI_NUMERICHOST:
            back.wait(20)
        return look_up(host, *args, flags=flags, **options)

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    return back


def test_who_dials_again_and_again_while_the_resolver_hangs_takes_one_thread(resolver_is_back: threading.Event) -> None:
    def dial(seconds: float) -> None:
        drive(tcp.connect(TcpAddress("localhost", port), WAITER, WAITER.now() + seconds)).close()

    def resolvers() -> int:
        return sum(thread.name == "enchufe resolver" for thread in threading.enumerate())

    with socket.create_server(("127.0.0.1", 0)) as there:
        port = there.getsockname()[1]
        for _ in range(3):
            with pytest.raises(DeadlineExceeded, match="looking up"):
                dial(0.01)
        assert resolvers() == 1
        with ThreadPoolExecutor() as several:
            dialing = [several.submit(dial, 20) for _ in range(3)]
            resolver_is_back.set()
            for one in dialing:
                one.result()


@pytest.mark.parametrize("runs", ["blocking", "events", "asyncio", "trio"])
def test_a_resolver_that_hangs_keeps_nobody_from_a_timeout(runs: str, resolver_is_back: threading.Event) -> None:
    async def dial(waiter: Any) -> None:
        with socket.create_server(("127.0.0.1", 0)) as there:
            port = there.getsockname()[1]
            with pytest.raises(DeadlineExceeded, match="looking up"):
                await tcp.connect(TcpAddress("localhost", port), waiter, waiter.now() + 0.1)
            assert not resolver_is_back.is_set()
            with await tcp.connect(TcpAddress("127.0.0.1", port), waiter, waiter.now() + 10):
                pass
            resolver_is_back.set()
            with await tcp.connect(TcpAddress("localhost", port), waiter, waiter.now() + 10):
                pass

    async def hosted() -> None:
        await dial(aio.host())

    if runs == "blocking":
        drive(dial(WAITER))
    elif runs == "events":
        loop = Loop()
        try:
            loop.run(dial(loop))
        finally:
            loop.close()
    elif runs == "asyncio":
        asyncio.run(hosted())
    else:
        trio.run(hosted)
