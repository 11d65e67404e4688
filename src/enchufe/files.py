"""Files across: what `enchufe send` and `enchufe receive` do, for code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, TextIO

from enchufe import events, session, transports
from enchufe.errors import EnchufeError, LocalProtocolError, StoreError
from enchufe.events import OnEvent
from enchufe.session import Options
from enchufe.store import IfExists, Links, LocalStore, PipeDelivery, PipeSource, Receiving, Sending, Source
from enchufe.transports import Listener, Transport, parse_address
from enchufe.waiting import BlockingWaiter, drive

PIPE: Final = "-"
TIMEOUT: Final = 30.0  # seconds: docs/protocol.md, Limits

Path = str | bytes | os.PathLike[str]


def _ignore(_event: events.Event) -> None:
    """Nobody listens."""


def send_files(
    paths: Sequence[Path],
    *,
    to: str | None = None,
    listen: str | None = None,
    plain: bool = False,
    name: str = "stdin",
    timeout: float = TIMEOUT,
    limit: float | None = None,
    each_file: bool = False,
    on_event: OnEvent = _ignore,
) -> events.Receipt:
    """Send files and folders to a receiver, and return once they are on its disk.

    Args:
        paths: files and folders, at least one; or just "-", standard input.
        to: where a receiver listens: `host:port` or `unix:/path`.
        listen: in place of `to`: where to wait for a receiver to connect.
        plain: without encryption and authentication: for now the only way, and never silently.
        name: what standard input is called at the destination.
        timeout: seconds without a sign of life after which the other side counts as dead.
        limit: bytes per second at the most.
        each_file: whether `on_event` is told of every file, not only of those left out.
        on_event: called with each event (`enchufe.events`) as it happens.

    Raises:
        StoreError: one of `paths` is not there. A file that cannot be read, or changes meanwhile, raises nothing:
            it is left out, told, and counted in the receipt.
        Refused: the other side said no, or its disk is full.
        BrokenError, DeadlineExceeded: it could not be reached, or was cut; nothing half-done is visible there.
        RemoteProtocolError, VerificationError: it broke the protocol, or what arrived was damaged.
        LocalProtocolError: the arguments make no sense.
    """
    _require_plain(plain)
    if not paths:
        raise LocalProtocolError("nothing to send", hint="Name a file or a folder.")
    source: Sending
    if any(os.fspath(path) in (PIPE, b"-") for path in paths):
        if len(paths) > 1:
            raise LocalProtocolError("standard input goes alone", hint="Send the files in another run.")
        source = PipeSource(_standard(sys.stdin, "input"), name)
    else:
        source = Source(paths)

    def run(transport: Transport) -> events.Receipt:
        options = Options(dials=to is not None, timeout=timeout, limit=limit, each_file=each_file)
        return drive(session.send(transport, source, options, on_event))

    try:
        # A walk happens once, so a sender that listens serves the first that comes, come what may.
        return _dial_or_listen(to, listen, timeout, run, on_event, once=True)
    finally:
        source.close()


def receive_files(
    folder: Path,
    *,
    listen: str | None = None,
    source: str | None = None,
    plain: bool = False,
    if_exists: IfExists = "rename",
    links: Links = "inside",
    timeout: float = TIMEOUT,
    each_file: bool = False,
    on_event: OnEvent = _ignore,
) -> events.Receipt:
    """Receive what one sender sends, and return once it is on disk.

    A sender that is cut or refused does not end it: `on_event` is told (`events.Failed`), and the next one may try.

    Args:
        folder: where to; it is made if it is not there. "-" writes the one file to standard output.
        listen: where to wait for a sender: `host:port`, `:port`, `unix:/path`; port 0 takes a free one and
            `events.Listening` says which.
        source: in place of `listen`: where a sender listens.
        plain: without encryption and authentication: for now the only way, and never silently.
        if_exists: see LocalStore.
        links: see LocalStore.
        timeout, each_file, on_event: as for `send_files`.

    Raises:
        StoreError: this side's disk said no; NoSpaceError: it is full.
        BrokenError, DeadlineExceeded, Refused, RemoteProtocolError: with `source`: it could not be reached, was cut,
            said no, or broke the protocol.
        LocalProtocolError: the arguments make no sense, or the address cannot be listened on.
    """
    _require_plain(plain)
    begin: Callable[[], Receiving]
    if os.fspath(folder) in (PIPE, b"-"):
        begin = partial(PipeDelivery, _standard(sys.stdout, "output"))
    else:
        begin = LocalStore(folder, if_exists=if_exists, links=links).begin

    def run(transport: Transport) -> events.Receipt:
        options = Options(dials=source is not None, timeout=timeout, each_file=each_file)
        return drive(session.receive(transport, begin, options, on_event))

    return _dial_or_listen(source, listen, timeout, run, on_event, once=False)


def _dial_or_listen(
    dial: str | None,
    listen: str | None,
    timeout: float,
    run: Callable[[Transport], events.Receipt],
    on_event: OnEvent,
    *,
    once: bool,
) -> events.Receipt:
    """Run one transfer over a connection made one way or the other."""
    if (dial is None) == (listen is None):
        raise LocalProtocolError(
            "it takes one address: to connect to, or to listen on",
            hint="On one machine --listen :9000, on the other the first one's name and that port.",
        )
    waiter = BlockingWaiter()
    if dial is not None:
        with drive(transports.connect(parse_address(dial), waiter, waiter.now() + timeout)) as transport:
            return run(transport)
    assert listen is not None
    with Listener(parse_address(listen)) as listener:
        for address in listener.addresses:
            on_event(events.Listening(address))
        while True:
            accepted = drive(listener.accept(waiter))
            assert accepted is not None
            try:
                with accepted:
                    return run(accepted)
            except (StoreError, LocalProtocolError):
                raise
            except EnchufeError as error:
                if once:
                    raise
                on_event(failed(error))


def _standard(stream: TextIO | None, what: str) -> int:
    """A standard stream's descriptor; daemons are started without."""
    if stream is None:
        raise LocalProtocolError(
            f"there is no standard {what}: it is closed", hint="Name a file or folder instead of -."
        )
    return stream.fileno()


def failed(error: EnchufeError) -> events.Failed:
    """The event for an error."""
    return events.Failed(error.kind, str(error), error.hint)


def _require_plain(plain: bool) -> None:
    if not plain:
        raise LocalProtocolError(
            "encryption is not there yet",
            hint="For a network that you trust, say so: --plain (in code plain=True).",
        )
