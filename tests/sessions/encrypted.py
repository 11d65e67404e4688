"""Both sides of an encrypted transfer in one process: TLS and sealed streams, with an `admit` of the tests' own."""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import trustme

from enchufe import events, transports
from enchufe.access import Admitted
from enchufe.buffer import ReceiveBuffer
from enchufe.errors import BrokenError, EnchufeError
from enchufe.session import Door, Options, ReceivingSession, SendingSession
from enchufe.session.base import Greeted
from enchufe.store import LocalStore, Source
from enchufe.transfer.receiver import Receiver
from enchufe.transfer.sender import Sender
from enchufe.transports import Listener, Transport, parse_address, tls
from enchufe.waiting import BlockingWaiter, drive
from tests.sessions.relay import Relay
from tests.sessions.transfers import PATIENCE, Ends, Side

NONCE = 32


@cache
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A listener's and a dialer's."""
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(listening)
    listening.num_tickets = 0
    dialing = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    dialing.check_hostname, dialing.verify_mode = False, ssl.CERT_NONE
    for context in (listening, dialing):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    return listening, dialing


async def agree(transport: tls.TlsTransport, deadline: float, *, dialed: bool) -> Admitted:
    """A secret of both sides' choice; it says nothing of who they are."""
    mine, theirs = os.urandom(NONCE), ReceiveBuffer(NONCE)
    await transport.send([mine], deadline)
    while lacking := NONCE - len(theirs):
        count = await transport.receive_into(theirs.space(lacking)[:lacking], deadline)
        if not count:
            raise BrokenError("went away")
        theirs.received(count)
    nonces = (mine, theirs.take(NONCE)) if dialed else (theirs.take(NONCE), mine)
    return Admitted(transport, sha256(b"".join(nonces)).digest(), "code")


async def admit(transport: tls.TlsTransport, deadline: float) -> Admitted:
    return await agree(transport, deadline, dialed=False)


def dial_plain(address: str) -> Transport:
    waiter = BlockingWaiter()
    return drive(transports.connect(parse_address(address), waiter, waiter.now() + PATIENCE))


def dial(address: str) -> Admitted:
    """Dial, shake hands and agree on a secret."""
    plain = dial_plain(address)
    transport = tls.over(plain, contexts()[1], server_side=False)
    try:
        deadline = transport.waiter.now() + PATIENCE
        drive(transport.handshake(deadline))
        return drive(agree(transport, deadline, dialed=True))
    except BaseException:
        transport.close()
        raise


@contextmanager
def served(
    side: Side, make: Callable[..., Any], machine: Any, timeout: float = 20.0, patience: float = PATIENCE
) -> Iterator[str]:
    """A listener that takes the first transfer that gets in; `side` is told how it ended."""
    listening = Listener(parse_address("127.0.0.1:0"))
    door: Door[Any] = Door(listening, machine, timeout, context=contexts()[0], admit=admit)

    def run() -> None:
        greeted = door.next(patience)
        if greeted is not None:
            with greeted.transport:
                session = make(greeted)
                door.entered(session)
                side.end = ended(session)
            door.left(greeted)

    thread = threading.Thread(target=run)
    with listening, door:
        thread.start()
        yield listening.addresses[0]
        thread.join(PATIENCE)
        assert not thread.is_alive()


def ended(session: Any) -> events.Receipt | EnchufeError:
    try:
        receipt: events.Receipt = drive(session.complete())
        return receipt
    except EnchufeError as error:
        return error


def send(
    tree: Path,
    inbox: Path | LocalStore,
    *,
    sender_dials: bool = True,
    relay: Relay | None = None,
    **options: Any,
) -> Ends:
    """Send what is at a path into a folder, once."""
    ends = Ends()
    chosen = {"each_file": True, "timeout": 20.0, **options}
    store = inbox if isinstance(inbox, LocalStore) else LocalStore(inbox)
    source = Source([tree], attributes=True)

    def sending(over: Transport | Greeted[Sender], **more: Any) -> SendingSession:
        return SendingSession(over, source, Options(**chosen, **more), ends.sender.tell)

    def receiving(over: Transport | Greeted[Receiver], **more: Any) -> ReceivingSession:
        return ReceivingSession(over, store.begin, Options(**chosen, **more), ends.receiver.tell)

    dialer, listener = (ends.sender, ends.receiver) if sender_dials else (ends.receiver, ends.sender)
    dials: Any
    listens: Any
    dials, listens = (sending, receiving) if sender_dials else (receiving, sending)
    with served(listener, listens, Receiver if sender_dials else Sender) as address:
        if relay is not None:
            relay.to = address
        where = relay.address if relay is not None else address
        admitted = dial(where)
        with admitted.transport as transport:
            session = dials(transport, dial=lambda: dial_plain(where), secret=admitted.secret, epoch=1)
            dialer.end = ended(session)
    return ends
