"""tls keeps the published contract, says what is wrong with a peer, and gets on with other people's TLS."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import ssl
import subprocess
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme

from enchufe import transports
from enchufe.buffer import Buffer
from enchufe.connection import Connection
from enchufe.engines import events, threads
from enchufe.engines.loop import Loop
from enchufe.errors import (
    BrokenError,
    ClosedError,
    DeadlineExceeded,
    EnchufeError,
    LocalProtocolError,
    Refused,
    RemoteProtocolError,
)
from enchufe.framing import LengthPrefixed
from enchufe.heartbeat import BeatingConnection, Heartbeat
from enchufe.server import Acceptor, ServerOptions
from enchufe.testing import CHECKS, check_transport
from enchufe.testing.contract import check_a_send_not_begun_poisons_nothing
from enchufe.transports import Listener, TcpAddress, Transport, parse_address, tcp, tls
from enchufe.transports.certificates import CertificateError, fingerprint
from enchufe.transports.tls import TlsTransport
from enchufe.transports.tls_machine import PLAIN, RECORD, TlsMachine, records
from enchufe.waiting import READ, BlockingWaiter, Doorbell, Waiter, drive
from tests.beside import Beside
from tests.framed import framed
from tests.test_heartbeat import Scripted as ByTheClock
from tests.until import until

WAITER = BlockingWaiter()
ADDRESSES = ["127.0.0.1:0", "unix"]
PATIENCE = 60.0  # seconds after which something hangs


@dataclass(frozen=True)
class Authority:
    """An authority's files, and one of a server that it vouches for."""

    cafile: str
    certfile: str
    keyfile: str

    @property
    def client(self) -> ssl.SSLContext:
        return tls.client_context(self.cafile)

    @property
    def server(self) -> ssl.SSLContext:
        return tls.server_context(self.certfile, self.keyfile)


def new_authority(folder: Path, *names: str, expired: bool = False) -> Authority:
    folder.mkdir(exist_ok=True)
    ca = trustme.CA()
    past = datetime(2020, 1, 1, tzinfo=UTC)
    issued = ca.issue_cert(*names, not_before=past, not_after=past.replace(year=2021) if expired else None)
    paths = [str(folder / name) for name in ("ca.pem", "cert.pem", "key.pem")]
    ca.cert_pem.write_to_path(paths[0])
    for blob in issued.cert_chain_pems:
        blob.write_to_path(paths[1], append=True)
    issued.private_key_pem.write_to_path(paths[2])
    return Authority(*paths)


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return new_authority(tmp_path_factory.mktemp("authority"), "localhost", "127.0.0.1")


def soon() -> float:
    return WAITER.now() + PATIENCE


@contextmanager
def listening(authority: Authority, address: str = "127.0.0.1:0", folder: Path | None = None) -> Iterator[Listener]:
    where = f"unix:{folder}/socket" if address == "unix" else address
    with Listener(parse_address(where), tls=authority.server) as listener:
        yield listener


def accepted(listener: Listener, waiter: Waiter = WAITER) -> TlsTransport:
    transport = drive(listener.accept(WAITER, deadline=soon()))
    assert isinstance(transport, TlsTransport)
    return transport


def welcomed(listener: Listener) -> TlsTransport:
    """The next who comes, hands shaken; closed where that fails."""
    transport = accepted(listener)
    try:
        drive(transport.handshake(soon()))
    except BaseException:
        transport.close()
        raise
    return transport


def dial(address: str, context: ssl.SSLContext, name: str | None = "localhost") -> TlsTransport:
    transport = drive(transports.connect(parse_address(address), WAITER, soon(), tls=context, server_hostname=name))
    assert isinstance(transport, TlsTransport)
    return transport


def new_pair(authority: Authority, address: str = "127.0.0.1:0", folder: Path | None = None) -> tuple[Any, Any]:
    with listening(authority, address, folder) as listener:
        welcoming = Beside(lambda: welcomed(listener))
        near = dial(listener.addresses[0], authority.client)
        return near, welcoming.result()


@pytest.fixture
def pair(authority: Authority) -> Iterator[tuple[TlsTransport, TlsTransport]]:
    near, far = new_pair(authority)
    yield near, far
    near.close()
    far.close()


def send(transport: Transport, *pieces: Buffer) -> None:
    drive(transport.send(pieces, soon()))


def receive(transport: Transport, size: int = 65536) -> bytes:
    return drive(transport.receive(size, soon()))


def receive_all(transport: Transport, size: int = 65536) -> bytes:
    return b"".join(iter(lambda: receive(transport, size), b""))


# The contract


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_contract(address: str, authority: Authority, tmp_path: Path) -> None:
    check_transport(lambda: new_pair(authority, address, tmp_path))


@pytest.mark.parametrize("check", [c for c in CHECKS if c is not check_a_send_not_begun_poisons_nothing])
@pytest.mark.parametrize("address", ADDRESSES)
def test_the_contract_where_the_kernel_does_not_tell_its_room(
    address: str,
    check: Callable[[Transport, Transport], None],
    authority: Authority,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tls, "_SO_MEMINFO", -1)
    near, far = new_pair(authority, address, tmp_path)
    with near, far:
        check(near, far)


def test_a_record_that_fits_only_in_part_is_counted_when_it_has_left(
    pair: tuple[TlsTransport, TlsTransport], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls, "_SO_MEMINFO", -1)
    near, far = pair
    message, sent = bytes(1 << 20), 0
    while count := near.try_send([memoryview(message)[sent % 1024 :]]):
        sent += count
    assert near._owed == 1, "the kernel took all of it"
    with pytest.raises(DeadlineExceeded):
        drive(near.send([b"another"], WAITER.now() - 1))
    # That send did not begin, but the one before did not end.
    with pytest.raises(BrokenError):
        near.try_send([b"x"])
    near.close()
    with pytest.raises(BrokenError):
        receive_all(far)


def test_what_was_decrypted_is_ready_though_the_descriptor_is_silent(pair: tuple[TlsTransport, TlsTransport]) -> None:
    near, far = pair
    send(near, b"abcdef")
    assert receive(far, 1) == b"a"
    assert drive(far.wait(READ, WAITER.now() - 1)) == READ
    assert receive(far) == b"bcdef"
    with pytest.raises(DeadlineExceeded):
        drive(far.wait(READ, WAITER.now() - 1))


def test_an_end_said_over_unread_bytes_loses_none(pair: tuple[TlsTransport, TlsTransport]) -> None:
    near, far = pair
    data = random.Random(1).randbytes(300_000)

    def send_and_end() -> None:
        send(near, data)
        drive(near.end(soon()))

    sending = Beside(send_and_end)
    got = receive(far, 1)
    drive(far.end(soon()))
    drive(far.end(soon()))
    assert receive(near) == b""
    assert got + receive_all(far, 1000) == data
    sending.result()


def test_what_comes_after_a_stop_is_not_received(pair: tuple[TlsTransport, TlsTransport]) -> None:
    near, far = pair
    bell = Doorbell()
    near.waiter = BlockingWaiter(bell)
    drive(far.send([b"before"]))
    assert drive(near.receive(2)) == b"be"
    drive(far.send([b", and before"]))
    until(near._arrived_by_now)
    near.stop_receiving()
    drive(far.send([b"after"]))
    got = b""
    while data := drive(near.receive(4)):
        got += data
    assert got == b"fore, and before"
    received = near.bytes_received
    drive(near.drop(0.0, soon()))
    assert near.bytes_received == received + len(b"after"), "to close over unread bytes would reset the connection"
    bell.close()


def test_whoever_is_cut_off_gets_nothing_more(pair: tuple[TlsTransport, TlsTransport]) -> None:
    near, far = pair
    drive(far.send([b"decrypted"]))
    assert drive(near.receive(1)) == b"d"
    near.cut_off("its time was over")
    for call in (lambda: near.receive(1), lambda: near.send([b"x"])):
        with pytest.raises(ClosedError, match="its time was over"):
            drive(call())
    near.close()
    with pytest.raises(BrokenError):
        drive(far.receive(1))


def test_a_message_of_small_pieces_is_one_record(pair: tuple[TlsTransport, TlsTransport]) -> None:
    near, far = pair
    send(near, b"\0\0\0\5", b"ho", b"la", b"!")
    raw = far._sock.recv(1000)
    assert len(raw) == 9 + RECORD - PLAIN
    assert raw[0] == 0x17, "no application data"


@pytest.mark.parametrize("sizes", [[], [0], [5], [0, 4, 0, 3], [4, 70_000], [16384, 1], [16383, 2], [40_000, 3, 4, 9]])
def test_records(sizes: Sequence[int]) -> None:
    generator = random.Random(2)
    pieces: list[Buffer] = [generator.randbytes(size) for size in sizes]
    whole = b"".join(pieces)
    for count in {0, 1, len(whole) // 2, len(whole)} - ({1} if not whole else set()):
        cut = list(records(pieces, count))
        assert b"".join(cut) == whole[:count]
        assert all(cut)
        assert all(len(one) >= 16384 for one in cut[:-1] if one is not cut[-1] and len(one) + len(cut[-1]) < 16384)


def shake(near: TlsMachine, far: TlsMachine) -> None:
    """The handshake of two machines; `near` dials."""
    shaken = False
    while not shaken:
        near.shake()
        far.put(near.take())
        shaken = far.shake()
        near.put(far.take())


def test_what_had_come_before_we_ended_is_at_hand(authority: Authority) -> None:
    """Else whoever receives would wait for a descriptor that has nothing more to say."""
    near = TlsMachine(authority.client, server_side=False, server_hostname="localhost", peer="far")
    far = TlsMachine(authority.server, server_side=True, server_hostname=None, peer="near")
    shake(near, far)
    wire: list[Buffer] = []
    near.encrypt([b"hola"], 4, wire)
    far.put(b"".join(wire))
    far.end()
    assert far.at_hand
    room = memoryview(bytearray(10))
    assert bytes(room[: far.decrypt(room)]) == b"hola"
    assert not far.at_hand


@pytest.mark.parametrize("piece", [1, 1000, 1 << 20])
def test_two_machines_need_no_socket(piece: int, authority: Authority) -> None:
    near = TlsMachine(authority.client, server_side=False, server_hostname="localhost", peer="far")
    far = TlsMachine(authority.server, server_side=True, server_hostname=None, peer="near")

    room = memoryview(bytearray(5000))

    def carry(to: TlsMachine, wire: bytes) -> bytes:
        got = b""
        for start in range(0, len(wire), piece):
            to.put(wire[start : start + piece])
            while count := to.decrypt(room):
                got += room[:count]
        return got

    shake(near, far)
    data = random.Random(5).randbytes(100_000)
    for one, other in ((near, far), (far, near)):
        wire: list[Buffer] = []
        one.encrypt([data[:7], data[7:]], len(data), wire)
        one.end()
        assert carry(other, b"".join(wire)) == data
        assert not other.over
        assert carry(other, one.take()) == b""
        assert other.over
        assert other.failure is None
    # What can be encrypted no more is told of, and not lost without a word.
    wire = []
    with pytest.raises(EnchufeError):
        near.encrypt([b"more"], 4, wire)
    assert not wire


# Both directions at once


def talk(transport: Transport, seed: int, size: int) -> tuple[str, str]:
    """Send `size` random bytes in uneven pieces while receiving to the end: the digests of both."""
    said = hashlib.sha256()

    def speak() -> None:
        generator, left = random.Random(seed), size
        while left:
            pieces = [generator.randbytes(min(left, generator.choice([1, 100, 20_000, 200_000]))) for _ in range(3)]
            pieces = [piece[: max(0, left - sum(map(len, pieces[:at])))] for at, piece in enumerate(pieces)]
            send(transport, *pieces)
            for piece in pieces:
                said.update(piece)
                left -= len(piece)
        drive(transport.end(soon()))

    speaking = Beside(speak)
    heard, generator = hashlib.sha256(), random.Random(-seed)
    view = memoryview(bytearray(1 << 20))
    while count := drive(transport.receive_into(view[: generator.choice([1, 5000, 1 << 20])], soon())):
        heard.update(view[:count])
    speaking.result()
    return said.hexdigest(), heard.hexdigest()


@pytest.mark.parametrize("seed", range(1, 6))
@pytest.mark.parametrize("address", ADDRESSES)
def test_threads_send_and_receive_at_once(address: str, seed: int, authority: Authority, tmp_path: Path) -> None:
    near, far = new_pair(authority, address, tmp_path)
    with near, far:
        there = Beside(lambda: talk(far, seed + 100, 8 << 20))
        said, heard = talk(near, seed, 8 << 20)
        assert there.result() == (heard, said)


def test_tasks_of_one_loop_send_and_receive_at_once(authority: Authority, tmp_path: Path) -> None:
    loop = Loop()
    data = random.Random(3).randbytes(4 << 20)
    results: list[bytes] = []

    async def talk_all(transport: Transport) -> None:
        async def hear() -> None:
            got = bytearray()
            while piece := await transport.receive(65536, soon()):
                got += piece
            results.append(bytes(got))

        hearing = loop.spawn(hear(), lambda *_: None)
        await transport.send([data], soon())
        await transport.end(soon())
        while not hearing.done:
            await loop.pause()
        transport.close()
        assert hearing.error is None

    async def main() -> None:
        with listening(authority, "unix", tmp_path) as listener:

            async def serve() -> None:
                transport = await listener.accept(loop, deadline=soon())
                assert transport is not None
                await transport.handshake(soon())
                await talk_all(transport)

            serving = loop.spawn(serve(), lambda *_: None)
            address = parse_address(listener.addresses[0])
            dialing = transports.connect(address, loop, soon(), tls=authority.client, server_hostname="localhost")
            await talk_all(await dialing)
            while not serving.done:
                await loop.pause()
            assert serving.error is None

    loop.run(main())
    loop.close()
    assert results == [data, data]


# Who is there


def both_errors(authority: Authority, context: ssl.SSLContext, name: str) -> tuple[EnchufeError, EnchufeError]:
    """What a failing handshake says to the dialer and to the listener."""
    with listening(authority) as listener:
        welcoming = Beside(lambda: welcomed(listener))
        with pytest.raises(EnchufeError) as near:
            dial(listener.addresses[0], context, name)
        with pytest.raises(EnchufeError) as far:
            welcoming.result()
    assert near.value.hint
    assert far.value.hint
    return near.value, far.value


def test_an_unknown_authority(authority: Authority, tmp_path: Path) -> None:
    other = new_authority(tmp_path / "other", "localhost")
    near, far = both_errors(authority, other.client, "localhost")
    assert isinstance(near, RemoteProtocolError)
    assert "authority" in str(near)
    assert isinstance(far, Refused)
    assert "our certificate" in str(far)


@pytest.mark.parametrize("name", ["example.com", "127.0.0.2"])
def test_a_wrong_name(name: str, authority: Authority) -> None:
    near, far = both_errors(authority, authority.client, name)
    assert isinstance(near, RemoteProtocolError)
    assert f"not for '{name}'" in str(near)
    assert isinstance(far, Refused)


def test_a_certificate_known_by_its_fingerprint(authority: Authority, tmp_path: Path) -> None:
    other = new_authority(tmp_path / "other", "elsewhere", expired=True)
    for shown, known in ((authority, authority), (other, other), (authority, other)):
        context = tls.client_context(fingerprint=fingerprint(known.certfile))
        with listening(shown) as listener:
            welcoming = Beside(lambda listener=listener: welcomed(listener))  # type: ignore[misc]
            if shown is known:
                dial(listener.addresses[0], context, None).close()
            else:
                with pytest.raises(CertificateError, match=fingerprint(shown.certfile)):
                    dial(listener.addresses[0], context, None)
            welcoming.result().close()


def test_an_expired_certificate(tmp_path: Path) -> None:
    expired = new_authority(tmp_path / "expired", "localhost", expired=True)
    near, far = both_errors(expired, expired.client, "localhost")
    assert isinstance(near, RemoteProtocolError)
    assert "expired" in str(near)
    assert isinstance(far, Refused)
    assert "expired" in str(far)


def test_an_address_in_digits_is_checked_as_such(authority: Authority) -> None:
    with listening(authority) as listener:
        welcoming = Beside(lambda: welcomed(listener))
        dial(listener.addresses[0], authority.client, None).close()
        welcoming.result().close()


def test_a_unix_socket_has_no_name(authority: Authority, tmp_path: Path) -> None:
    with pytest.raises(LocalProtocolError, match="no host name") as caught:
        dial(f"unix:{tmp_path}/socket", authority.client, None)
    assert caught.value.hint


# What is no TLS 1.3


def old(context: ssl.SSLContext) -> ssl.SSLContext:
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    return context


def port_of(listener: Listener) -> tuple[str, int]:
    return "127.0.0.1", int(listener.addresses[0].rpartition(":")[2])


@contextmanager
def plain_server(serve: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server for one connection, made of sockets; yields its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connected, _ = listener.accept()
            with connected:
                connected.settimeout(PATIENCE)
                serve(connected)

        serving = Beside(run)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        serving.result()


def test_an_older_client(authority: Authority) -> None:
    with listening(authority) as listener:
        welcoming = Beside(lambda: welcomed(listener))
        with socket.create_connection(port_of(listener), PATIENCE) as sock:
            with pytest.raises(ssl.SSLError, match="alert protocol version"):
                old(ssl.create_default_context(cafile=authority.cafile)).wrap_socket(sock, server_hostname="localhost")
        with pytest.raises(RemoteProtocolError, match=r"older than 1\.3"):
            welcoming.result()


def test_an_older_server(authority: Authority) -> None:
    context = old(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    context.load_cert_chain(authority.certfile, authority.keyfile)

    def serve(sock: socket.socket) -> None:
        with pytest.raises(ssl.SSLError):
            context.wrap_socket(sock, server_side=True)

    with plain_server(serve) as address:
        with pytest.raises(RemoteProtocolError, match=r"older than 1\.3"):
            dial(address, authority.client)


@pytest.mark.parametrize("words", [b"hi", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\0" * 100])
def test_a_client_that_speaks_plain_text(words: bytes, authority: Authority) -> None:
    with listening(authority) as listener, socket.create_connection(port_of(listener), PATIENCE) as sock:
        sock.sendall(words)
        with pytest.raises(RemoteProtocolError, match="plain text") as caught:
            welcomed(listener)
        assert caught.value.hint


def test_a_server_that_speaks_plain_text(authority: Authority) -> None:
    with plain_server(lambda sock: sock.sendall(b"220 hola\r\n")) as address:
        with pytest.raises(RemoteProtocolError, match="plain text"):
            dial(address, authority.client)


def test_a_silent_peer_is_given_up(authority: Authority) -> None:
    with Listener(parse_address("127.0.0.1:0")) as silent:
        address = parse_address(silent.addresses[0])
        with pytest.raises(DeadlineExceeded, match="handshake"):
            drive(tls.connect(address, WAITER, WAITER.now() + 0.05, context=authority.client))
    with listening(authority) as listener, socket.create_connection(port_of(listener)):
        with accepted(listener) as transport, pytest.raises(DeadlineExceeded, match="handshake"):
            drive(transport.handshake(WAITER.now() + 0.05))


class Scripted:
    """A TLS client made of Python's own ssl and a socket, which decides itself what crosses when."""

    def __init__(self, authority: Authority) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        context = ssl.create_default_context(cafile=authority.cafile)
        self.ssl = context.wrap_bio(self.incoming, self.outgoing, server_hostname="localhost")

    def until(self, sock: socket.socket, step: Callable[[], Any]) -> Any:
        """Repeat `step`, moving what crosses, until it succeeds."""
        while True:
            try:
                result = step()
            except ssl.SSLWantReadError:
                if self.outgoing.pending:
                    sock.sendall(self.outgoing.read())
                data = sock.recv(65536)
                assert data, "the socket ended"
                self.incoming.write(data)
            else:
                if self.outgoing.pending:
                    sock.sendall(self.outgoing.read())
                return result

    def say_end(self, sock: socket.socket) -> None:
        with pytest.raises(ssl.SSLWantReadError):
            self.ssl.unwrap()
        sock.sendall(self.outgoing.read())


@contextmanager
def scripted(authority: Authority) -> Iterator[tuple[Scripted, socket.socket, TlsTransport]]:
    """A Scripted client, its socket, and our end, hands shaken."""
    client = Scripted(authority)
    with listening(authority) as listener, socket.create_connection(port_of(listener), PATIENCE) as sock:
        welcoming = Beside(lambda: welcomed(listener))
        client.until(sock, client.ssl.do_handshake)
        with welcoming.result() as transport:
            yield client, sock, transport


@pytest.mark.parametrize("part", [0, 1, 5, 100, -1])
def test_half_a_handshake(part: int, authority: Authority) -> None:
    client = Scripted(authority)
    with pytest.raises(ssl.SSLWantReadError):
        client.ssl.do_handshake()
    with listening(authority) as listener:
        with socket.create_connection(port_of(listener)) as sock:
            sock.sendall(client.outgoing.read()[:part])
        with pytest.raises(BrokenError, match="in the middle of the TLS handshake") as caught:
            welcomed(listener)
        assert caught.value.hint


def test_a_stop_during_the_handshake_ends_it(authority: Authority) -> None:
    with listening(authority) as listener, socket.create_connection(port_of(listener)):
        with accepted(listener) as transport:
            transport.stop_receiving()
            with pytest.raises(ClosedError, match="stopped"):
                drive(transport.handshake(soon()))


# Cuts and ends


@pytest.mark.parametrize("part", [0, 1, 5, 6, 500, -1])
def test_a_cut_is_never_an_end(part: int, authority: Authority) -> None:
    with scripted(authority) as (client, sock, transport):
        client.ssl.write(b"whole")
        sock.sendall(client.outgoing.read())
        client.ssl.write(bytes(1000))
        sock.sendall(client.outgoing.read()[:part])
        sock.shutdown(socket.SHUT_WR)
        assert receive(transport) == b"whole"
        for _ in range(2):
            with pytest.raises(BrokenError):
                receive(transport)
        send(transport, b"still")
        assert client.until(sock, lambda: client.ssl.read(10)) == b"still"


def test_a_forged_record_is_the_peers_fault(authority: Authority) -> None:
    with scripted(authority) as (client, sock, transport):
        client.ssl.write(b"whole")
        client.ssl.write(b"forged")
        wire = bytearray(client.outgoing.read())
        wire[-1] ^= 1
        sock.sendall(wire)
        assert receive(transport) == b"whole"
        for _ in range(2):
            with pytest.raises(RemoteProtocolError, match="not proper TLS"):
                receive(transport)
        transport.close()
        with pytest.raises(ssl.SSLError, match="bad record mac"):
            client.until(sock, lambda: client.ssl.read(10))


def test_a_close_in_the_middle_of_a_send_is_no_end(pair: tuple[TlsTransport, TlsTransport]) -> None:
    near, far = pair
    sending = Beside(lambda: send(near, bytes(64 << 20)))
    assert receive(far, 1) == b"\0"
    near.close()
    with pytest.raises(BrokenError):
        receive_all(far)
    with pytest.raises(ClosedError):
        sending.result()


def test_half_close_with_pythons_own_ssl(authority: Authority) -> None:
    with scripted(authority) as (client, sock, transport):
        client.ssl.write(b"question")
        client.say_end(sock)
        assert receive_all(transport) == b"question"
        send(transport, b"answer" * 10_000)
        drive(transport.end(soon()))
        got = b""
        while len(got) < 60_000:
            got += client.until(sock, lambda: client.ssl.read(65536))
        assert got == b"answer" * 10_000
        with pytest.raises(ssl.SSLZeroReturnError):
            client.until(sock, lambda: client.ssl.read(1))


def test_half_close_with_an_ssl_socket(authority: Authority) -> None:
    context = ssl.create_default_context(cafile=authority.cafile)
    with listening(authority) as listener:
        welcoming = Beside(lambda: welcomed(listener))
        with context.wrap_socket(
            socket.create_connection(port_of(listener), PATIENCE), server_hostname="localhost"
        ) as c:
            with welcoming.result() as transport:
                send(transport, b"question")
                drive(transport.end(soon()))
                assert c.recv(100) == b"question"
                assert c.recv(100) == b""
                c.sendall(b"answer" * 10_000)
                c.unwrap().close()
                assert receive_all(transport) == b"answer" * 10_000


openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl program here")


@contextmanager
def s_client(listener: Listener, authority: Authority, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port_of(listener)[1]}", *options]
    pipe = subprocess.PIPE
    with subprocess.Popen([*command, "-CAfile", authority.cafile], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        try:
            yield process
        finally:
            process.kill()


@openssl
def test_an_openssl_client_changes_its_keys_and_ends(authority: Authority) -> None:
    with listening(authority) as listener, s_client(listener, authority) as client, welcomed(listener) as transport:
        assert client.stdin is not None
        assert client.stdout is not None
        assert client.stderr is not None
        for number in range(3):
            client.stdin.write(b"K\n")
            client.stdin.flush()
            assert b"KEYUPDATE\n" in iter(client.stderr.readline, b"")
            client.stdin.write(b"line %d\n" % number)
            client.stdin.flush()
            assert receive(transport) == b"line %d\n" % number
            send(transport, b"answer %d\n" % number)
            assert b"answer %d\n" % number in iter(client.stdout.readline, b"")
        client.stdin.close()
        assert receive(transport) == b""


@openssl
def test_an_openssl_client_takes_our_end_for_one(authority: Authority) -> None:
    with listening(authority) as listener, s_client(listener, authority) as client, welcomed(listener) as transport:
        assert client.stdout is not None
        send(transport, b"bye\n")
        drive(transport.end(soon()))
        assert b"closed\n" in iter(client.stdout.readline, b"")
        assert receive(transport) == b""


# In a server


async def echo(connection: Connection) -> None:
    async for message in connection:
        await connection.send(message)
    await connection.send(b"bye")


@pytest.mark.parametrize("engine", [threads.Engine, events.OwnLoop])
def test_a_stdlib_client_talks_to_a_server(engine: Any, authority: Authority) -> None:
    listener = Listener(parse_address("127.0.0.1:0"), tls=authority.server)
    where = port_of(listener)
    options = ServerOptions(framing=LengthPrefixed(), handshake_timeout=PATIENCE)
    server = engine(echo, Acceptor([listener], options))
    serving = Beside(server.run)
    messages = [b"hola", b"", random.Random(4).randbytes(200_000)] + [b"%d" % number for number in range(100)]
    wire = b"".join(len(message).to_bytes(4, "big") + message for message in messages)
    client = Scripted(authority)
    with socket.create_connection(where, PATIENCE) as silent, socket.create_connection(where, PATIENCE) as sock:
        client.until(sock, client.ssl.do_handshake)
        client.ssl.write(wire)
        client.say_end(sock)
        got, expected = b"", wire + b"\0\0\0\3bye"
        while len(got) < len(expected):
            got += client.until(sock, lambda: client.ssl.read(65536))
        assert got == expected
        with pytest.raises(ssl.SSLZeroReturnError):
            client.until(sock, lambda: client.ssl.read(1))
        silent.close()
    server.stop()
    serving.result()


# What is yours


def test_files_that_are_none(authority: Authority, tmp_path: Path) -> None:
    other = new_authority(tmp_path / "other", "localhost")
    empty, locked = str(tmp_path / "empty"), str(tmp_path / "locked")
    Path(empty).touch()
    missing = str(tmp_path / "missing")
    tries: list[tuple[Callable[[], object], str]] = [
        (lambda: tls.client_context(missing), "cannot read"),
        (lambda: tls.client_context(empty), "no certificates"),
        (lambda: tls.client_context(fingerprint="00"), "no fingerprint"),
        (lambda: tls.client_context(fingerprint=b"00"), "no fingerprint"),  # type: ignore[arg-type]
        (lambda: tls.client_context(3.5), "no path"),  # type: ignore[arg-type]
        (lambda: TlsMachine(authority.client, server_side=False, server_hostname=b"\0", peer="far"), "cannot begin"),  # type: ignore[arg-type]
        (lambda: TlsMachine(authority.client, server_side=False, server_hostname="a\0b", peer="far"), "cannot begin"),
        (lambda: fingerprint(missing), "cannot read"),
        (lambda: fingerprint(empty), "no certificate"),
        (lambda: tls.server_context(missing, authority.keyfile), "cannot read"),
        (lambda: tls.server_context(authority.certfile, missing), "missing"),
        (lambda: tls.server_context(authority.certfile, other.keyfile), "is not that of"),
        (lambda: tls.server_context(empty, empty), "no certificate and key"),
    ]
    if shutil.which("openssl"):
        command = ["openssl", "pkey", "-in", authority.keyfile, "-aes256", "-passout", "pass:x", "-out", locked]
        subprocess.run(command, check=True)
        tries.append((lambda: tls.server_context(authority.certfile, locked), "locked"))
    for attempt, told in tries:
        with pytest.raises(LocalProtocolError, match=told) as caught:
            attempt()
        assert caught.value.hint


def test_a_context_of_the_wrong_side(authority: Authority) -> None:
    with pytest.raises(LocalProtocolError, match="client's"):
        Listener(parse_address("127.0.0.1:0"), tls=authority.client)
    near, far = socket.socketpair()
    with far:
        with pytest.raises(LocalProtocolError) as caught:
            TlsTransport(near, WAITER, authority.server, server_side=False, local="", peer="")
        assert caught.value.hint
        assert far.recv(1) == b"", "the socket was not closed"


def test_bytes_before_the_handshake_are_a_mistake(authority: Authority) -> None:
    near, far = socket.socketpair()
    with far, TlsTransport(near, WAITER, authority.server, server_side=True, local="", peer="") as transport:
        calls: list[Callable[[], Awaitable[Any] | Any]] = [
            lambda: transport.try_send([b"x"]),
            lambda: transport.try_receive(1),
            lambda: drive(transport.end()),
            lambda: receive(transport),
        ]
        for call in calls:
            with pytest.raises(LocalProtocolError, match="keys"):
                call()


def test_no_descriptor_is_left_behind(authority: Authority, tmp_path: Path) -> None:
    other = new_authority(tmp_path / "other", "localhost")
    before = len(os.listdir("/proc/self/fd"))
    for address in ADDRESSES:
        for end in new_pair(authority, address, tmp_path):
            end.close()
    near, _ = both_errors(authority, other.client, "localhost")
    assert isinstance(near, RemoteProtocolError)
    with plain_server(lambda sock: sock.sendall(b"220 hola\r\n")) as plain:
        with pytest.raises(RemoteProtocolError):
            dial(plain, authority.client)
    with Listener(TcpAddress("127.0.0.1", 0)) as silent:
        with pytest.raises(DeadlineExceeded):
            drive(tls.connect(parse_address(silent.addresses[0]), WAITER, WAITER.now(), context=authority.client))
    assert len(os.listdir("/proc/self/fd")) == before
    assert tcp.NAME == "tcp"


def test_a_record_that_comes_slowly_is_a_sign_of_life(authority: Authority) -> None:
    """And when no more of it comes, that is silence."""
    ours, theirs = socket.socketpair()
    waiter = ByTheClock()
    near = TlsTransport(
        ours, waiter, authority.client, server_side=False, server_hostname="localhost", local="", peer="the peer"
    )
    far = TlsMachine(authority.server, server_side=True, server_hostname=None, peer="near")

    def shake() -> bool:
        far.put(theirs.recv(65536))
        return not far.shake() and theirs.send(far.take()) > 0

    connection = BeatingConnection(near, LengthPrefixed(4), heartbeat=Heartbeat(every=1, patience=3))
    with theirs, closing(connection):
        waiter.steps[READ] = shake
        drive(near.handshake())
        shake()
        wire: list[Buffer] = []
        far.encrypt([framed(bytes(16000))], 16004, wire)
        record = memoryview(b"".join(wire))
        pieces = [record[start : start + 1000] for start in range(0, len(record), 1000)]

        def a_piece_a_second() -> bool:
            theirs.send(pieces.pop(0))
            return not pieces

        waiter.steps[READ] = a_piece_a_second
        assert drive(connection.receive()) == bytes(16000)
        assert waiter.clock > 10

        theirs.send(record[:1000])
        begun = waiter.clock
        waiter.steps[READ] = lambda: False
        with pytest.raises(BrokenError, match="no sign of life"):
            drive(connection.receive())
        assert begun + 3 <= waiter.clock <= begun + 4
