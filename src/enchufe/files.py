"""Files across: what `enchufe send` and `enchufe receive` do, for code."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, TextIO, TypeVar

from enchufe import events, meeting
from enchufe.dataclass import dataclass
from enchufe.errors import LocalProtocolError, StoreError
from enchufe.events import OnEvent
from enchufe.meeting import Again, Aim, Make
from enchufe.pace import LEAST_LIMIT
from enchufe.session.base import Greeted, Options
from enchufe.session.consent import Ask, remembering
from enchufe.transfer.machine import Machine
from enchufe.transfer.message import Role
from enchufe.transports import Address, Transport, parse_address
from enchufe.transports.addresses import INHERITED

if TYPE_CHECKING:
    from enchufe.entrance import Entrance
    from enchufe.session.receiving import ReceivingSession
    from enchufe.session.sending import SendingSession
    from enchufe.store import IfExists, Links, Receiving, Sending
    from enchufe.transfer.receiver import Receiver
    from enchufe.transfer.sender import Sender

# Imported where it is needed: who sends need not wait for what receives.

PIPE: Final = "-"
TIMEOUT: Final = 30.0  # seconds: docs/protocol.md, Limits
RETRY: Final = 30.0  # seconds: a link that is gone for longer is somebody's business

Path = str | bytes | os.PathLike[str]
Compress = Literal["auto", "always", "never"]
M = TypeVar("M", bound=Machine)


def _ignore(_event: events.Event) -> None:
    """Nobody listens."""


def _in_turn(on_event: OnEvent) -> OnEvent:
    """`on_event`, called by one thread at a time: by a transfer's own, and by those of others who come meanwhile."""
    turn = threading.RLock()  # a signal may come in the middle

    def tell(event: events.Event) -> None:
        with turn:
            on_event(event)

    return tell


def send_files(
    paths: Sequence[Path] = (),
    *,
    to: str | None = None,
    listen: str | None = None,
    plain: bool = False,
    code: str | Callable[[], str] | None = None,
    remember: bool = False,
    tokens: bool = False,
    announce: bool = True,
    interfaces: Sequence[str] = (),
    text: str | None = None,
    name: str | None = None,
    exclude: Sequence[str] = (),
    attributes: bool = False,
    streams: int | None = None,
    compress: Compress = "auto",
    limit: float | None = None,
    timeout: float = TIMEOUT,
    retry: float = RETRY,
    each_file: bool = False,
    on_event: OnEvent = _ignore,
) -> events.Receipt:
    """Send files and folders to a receiver, and return once they are on its disk.

    A cut ends nothing for `retry` seconds: what the receiver has by then is not sent again, nor when the same call is
    made later.

    Args:
        paths: files and folders, at least one; or just "-", standard input.
        to: the receiver: the code or link that it shows, `@name` of a machine that is known here, or where it listens:
            `host:port` or `unix:/path`.
        listen: in place of `to`: where to wait for a receiver to connect: `host:port`, `:port`, `unix:/path`; port 0
            takes a free one and `events.Listening` says which; `systemd:` is a socket that a service manager keeps.
            `events.Code` says the code that lets one in.
        plain: without encryption and authentication, for networks that are trusted.
        code: the code or link that the other side shows, where `to` is an address; or what asks for it.
        remember: whether to pin the other's key, and be pinned: `@name` needs no code then. It takes both sides.
        tokens: with `listen`: whether tokens (`enchufe token new`) let in too.
        announce: whether the network hears where we listen, and is asked where others are (multicast DNS).
        interfaces: names or addresses of those to announce on, and to look for others on; none: all.
        text: in place of `paths`: a text, which arrives as a file.
        name: what standard input or a text is called at the destination.
        exclude: patterns of what is left at home, as `Source` says.
        attributes: whether extended attributes go along.
        streams: connections at the most; None: as many as pay on this link.
        compress: what shrinks: "auto" where the link is slow, "always", or "never".
        limit: bytes per second at the most, over all streams; no less than 1000.
        timeout: seconds without a sign of life after which the other side counts as dead.
        retry: seconds after a cut for which to go on trying; 0 ends it at the first cut. So does standard input, of
            which nothing is sent again, unless only the receipt has not come.
        each_file: whether `on_event` is told of every file, not only of those left out.
        on_event: called with each event (`enchufe.events`) as it happens; from several threads, one at a time.

    Raises:
        StoreError: one of `paths` is not there. A file that cannot be read, or keeps changing, raises nothing:
            it is left out, told, and counted in the receipt.
        Refused: the other side said no, or its disk is full; or it is not who it should be, or the code is wrong.
        BrokenError, DeadlineExceeded: it could not be reached, or was cut; nothing half-done is visible there.
        RemoteProtocolError, VerificationError: it broke the protocol, or what arrived was damaged.
        LocalProtocolError: the arguments make no sense.
    """
    from enchufe.session.sending import SendingSession  # noqa: PLC0415 (slow to import, and not everybody needs it)
    from enchufe.transfer.sender import Sender  # noqa: PLC0415 (slow to import, and not everybody needs it)

    if limit is not None and not limit >= LEAST_LIMIT:  # NaN is none either
        raise LocalProtocolError(f"a limit of {limit:g} bytes a second is too low", hint="1kB/s is the least.")
    on_event = _in_turn(on_event)
    begin, again, about, origin = _source_of(paths, text, name, exclude, attributes)
    options = Options(
        origin=meeting.identity_of(origin),
        timeout=timeout,
        limit=limit,
        each_file=each_file,
        streams=streams,
        compress=compress,
    )

    def make(over: Transport | Greeted[Sender], options: Options) -> SendingSession:
        return SendingSession(over, begin(), options, on_event)

    how = _How(plain=plain, code=code, remember=remember, tokens=tokens, announce=announce, interfaces=interfaces)
    return _meet(Sender, make, to, listen, how, about, options, retry, on_event, once=True, again=again)


def _is_pipe(paths: Sequence[Path]) -> bool:
    return any(os.fspath(path) in (PIPE, b"-") for path in paths)


def _source_of(
    paths: Sequence[Path], text: str | None, name: str | None, exclude: Sequence[str], attributes: bool
) -> tuple[Callable[[], Sending], Again, bytes, bytes]:
    """What makes the source of an attempt, and whether it can; what tells this transfer from others, and its files from
    others' of the same names.
    """
    from enchufe.store import PipeSource, Source, TextSource  # noqa: PLC0415 (slow to import, and not everybody needs it)

    if text is not None:
        if paths:
            raise LocalProtocolError("a text goes alone", hint="Send the files in another run.")
        words = TextSource(text, name or "text.txt")  # one for all attempts: it is known again by its time
        return lambda: words, _always, b"text" + os.urandom(16), b"text"
    if not paths:
        raise LocalProtocolError("nothing to send", hint="Name a file or a folder.")
    if _is_pipe(paths):
        if len(paths) > 1:
            raise LocalProtocolError("standard input goes alone", hint="Send the files in another run.")
        pipe = PipeSource(_standard(sys.stdin, "input"), name or "stdin")
        return lambda: pipe, lambda: not pipe.begun, b"-" + os.urandom(16), b"-"
    begin = _tried(partial(Source, paths, exclude=exclude, attributes=attributes))
    about = [os.path.realpath(os.fsencode(path)) for path in paths]
    origin = os.path.dirname(about[0])
    if exclude or attributes:  # what goes is another then
        about += [b"", b"attributes" if attributes else b"", *map(os.fsencode, sorted(exclude))]
    return begin, _always, b"\0".join(about), b"files in\0" + origin


def _always() -> bool:
    return True


def _tried(begin: Callable[[], Sending]) -> Callable[[], Sending]:
    """The same, which makes a source as has been seen: what makes none is told before anybody is dialed."""
    begin().close()
    return begin


def receive_files(
    folder: Path,
    *,
    listen: str | None = None,
    source: str | None = None,
    where: str | None = None,
    plain: bool = False,
    code: str | Callable[[], str] | None = None,
    remember: bool = False,
    tokens: bool = False,
    announce: bool = True,
    interfaces: Sequence[str] = (),
    if_exists: IfExists = "rename",
    checksum: bool = False,
    links: Links = "inside",
    max_size: int | None = None,
    ask: Ask | None = None,
    streams: int | None = None,
    timeout: float = TIMEOUT,
    retry: float = RETRY,
    each_file: bool = False,
    on_event: OnEvent = _ignore,
) -> events.Receipt:
    """Receive what one sender sends, and return once it is on disk.

    A sender that is cut or refused does not end it: `on_event` is told (`events.Failed`), and the next one may try.
    What a cut transfer had brought is kept for the next attempt, today or within a week.

    Args:
        folder: where to; it is made if it is not there. "-" writes the one file to standard output.
        listen: where to wait for a sender, as for `send_files`.
        source: in place of `listen`: the sender, as `to` of `send_files`.
        where: where the sender listens, if `source` is a code or a name and the network does not carry announcements.
        plain, code, remember, tokens, announce, interfaces: as for `send_files`.
        if_exists, checksum, links, max_size: see LocalStore.
        ask: is shown the whole list (`enchufe.session.Offering`) before any content comes, in a thread of its own, and
            takes as long as it likes to say whether to take it; after a cut not again for the same list. None: it is
            taken. A no ends it, whoever listens or dials.
        streams, timeout, retry, each_file, on_event: as for `send_files`.

    Raises:
        StoreError: this side's disk said no; NoSpaceError: it is full.
        Declined: `ask` said no.
        BrokenError, DeadlineExceeded, Refused, RemoteProtocolError: with `source`: it could not be reached, was cut,
            said no, or broke the protocol.
        LocalProtocolError: the arguments make no sense, or the address cannot be listened on.
    """
    from enchufe.session.receiving import ReceivingSession  # noqa: PLC0415 (slow to import, and not everybody needs it)
    from enchufe.store import LocalStore  # noqa: PLC0415 (slow to import, and not everybody needs it)
    from enchufe.transfer.receiver import Receiver  # noqa: PLC0415 (slow to import, and not everybody needs it)

    on_event = _in_turn(on_event)
    begin: Callable[[bytes], Receiving]
    again: Again = _always
    about = os.path.abspath(os.fsencode(folder))
    into_pipe = _is_pipe([folder])
    compares = if_exists == "update" and not checksum
    if into_pipe:
        begin, again = _into_pipe(_standard(sys.stdout, "output"))
        about = b"-" + os.urandom(16)
        streams = 1  # what comes on several is in no order
    else:
        store = LocalStore(folder, if_exists=if_exists, links=links, checksum=checksum, max_size=max_size)
        begin = store.begin
    asking = None if ask is None else remembering(ask)
    options = Options(timeout=timeout, each_file=each_file, streams=streams, ask=asking)

    def make(over: Transport | Greeted[Receiver], options: Options) -> ReceivingSession:
        return ReceivingSession(over, begin, options, on_event, into_pipe=into_pipe, compares=compares)

    how = _How(
        plain=plain, where=where, code=code, remember=remember, tokens=tokens, announce=announce, interfaces=interfaces
    )
    return _meet(Receiver, make, source, listen, how, about, options, retry, on_event, once=False, again=again)


def list_files(
    source: str,
    *,
    where: str | None = None,
    plain: bool = False,
    code: str | Callable[[], str] | None = None,
    remember: bool = False,
    announce: bool = True,
    interfaces: Sequence[str] = (),
    timeout: float = TIMEOUT,
    retry: float = RETRY,
    on_event: OnEvent = _ignore,
) -> events.Offered:
    """Look at what a sender offers, and take nothing: it goes on waiting for somebody who does.

    `on_event` is told each file, folder and link (`events.Entry`), a folder before what is in it. A code is used up.

    Args:
        source, where, plain, code, remember, announce, interfaces, timeout, on_event: as for `receive_files`.
        retry: seconds for which to go on trying after a cut, or while it is busy; not once some of it was told.

    Returns:
        How many there are.

    Raises:
        BrokenError, DeadlineExceeded, Refused, RemoteProtocolError: it could not be reached, was cut, said no, or broke
            the protocol.
        LocalProtocolError: the arguments make no sense.
    """
    from enchufe.session.looking import LookingSession  # noqa: PLC0415 (slow to import, and not everybody needs it)
    from enchufe.transfer.machine import Looked  # noqa: PLC0415 (slow to import, and not everybody needs it)
    from enchufe.transfer.receiver import Receiver  # noqa: PLC0415 (slow to import, and not everybody needs it)

    offered: events.Offered | None = None

    def tell(event: events.Event) -> None:
        nonlocal offered
        if isinstance(event, events.Offered):
            offered = event
        on_event(event)

    def make(over: Transport | Greeted[Receiver], options: Options) -> LookingSession:
        return LookingSession(over, options, tell)

    how = _How(
        plain=plain, where=where, code=code, remember=remember, tokens=False, announce=announce, interfaces=interfaces
    )
    # Not what another run is about: two that look at the same do not end each other.
    about, options = b"list" + os.urandom(16), Options(timeout=timeout, streams=1)
    with suppress(Looked):
        _meet(Receiver, make, source, None, how, about, options, retry, tell, once=False)
    assert offered is not None
    return offered


def _into_pipe(descriptor: int) -> tuple[Callable[[bytes], Receiving], Again]:
    """What begins each attempt's delivery, and whether it can: none begins behind what a cut one has written."""
    from enchufe.store import PipeDelivery  # noqa: PLC0415 (slow to import, and not everybody needs it)

    delivery = PipeDelivery(descriptor)

    def begin(_origin: bytes) -> Receiving:
        nonlocal delivery
        if delivery.begun:
            raise StoreError(
                f"{delivery.written:,} bytes of another transfer are in the output already",
                hint="Discard them, and receive it again.",
            )
        delivery = PipeDelivery(descriptor)
        return delivery

    return begin, lambda: not delivery.begun


def _meet(
    machine: type[M],
    make: Make[M],
    dial: str | None,
    listen: str | None,
    how: _How,
    about: bytes,
    options: Options,
    retry: float,
    on_event: OnEvent,
    *,
    once: bool,
    again: Again = _always,
) -> events.Receipt:
    """Run one transfer over connections made one way or the other."""
    if (dial is None) == (listen is None):
        raise LocalProtocolError(
            "it takes one address: to connect to, or to listen on",
            hint="On one machine --listen :9000, on the other the first one's name and that port.",
        )
    if dial is not None:
        return meeting.dialing(how.aim(dial, on_event), make, about, options, retry, on_event, again)
    assert listen is not None
    where = None if listen == INHERITED else meeting.for_files(parse_address(listen))
    return meeting.listening(
        where, machine, make, options, retry, on_event, once=once, again=again, entrance=how.entrance(machine, on_event)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _How:
    """How the other side is known, as `send_files` says."""

    plain: bool
    where: str | None = None
    code: str | Callable[[], str] | None
    remember: bool
    tokens: bool
    announce: bool
    interfaces: Sequence[str]

    def aim(self, to: str, on_event: OnEvent) -> Aim:
        """Whom a dialer wants."""
        if self.plain:
            if self.where is not None:
                raise LocalProtocolError("two addresses", hint="In plain text there is no code: one address will do.")
            return meeting.Plain(meeting.for_files(_plain_address(to)))
        from enchufe.reaching import aim  # noqa: PLC0415 (slow to import, and not everybody needs it)

        return aim(
            to,
            where=self.where,
            code=self._code,
            remember=self.remember,
            search=self.announce,
            interfaces=self.interfaces,
            on_event=on_event,
        )

    def entrance(self, machine: type[Machine], on_event: OnEvent) -> Entrance | None:
        """Who is let in by a listener."""
        if self.plain:
            return None
        from enchufe.entrance import Entrance  # noqa: PLC0415 (slow to import, and not everybody needs it)

        return Entrance(
            announce=self.announce,
            interfaces=self.interfaces,
            remember=self.remember,
            tokens=self.tokens,
            scope="drop" if machine.role is Role.RECEIVER else "read",
            on_event=on_event,
        )

    def _code(self) -> str:
        if self.code is None:
            raise LocalProtocolError(
                "it takes the code that the other side shows", hint="Name it, or the link, in place of the address."
            )
        return self.code if isinstance(self.code, str) else self.code()


def _plain_address(text: str) -> Address:
    """Where to dial in plain text; what may be a secret is in no error."""
    try:
        return parse_address(text)
    except LocalProtocolError:
        from enchufe.access.links import SCHEME, looks_like_code  # noqa: PLC0415 (slow to import, and seldom needed)

        if not looks_like_code(text) and not text.strip().lower().startswith((SCHEME, "@")):
            raise
    raise LocalProtocolError(
        "a code, a link or a name is for what is encrypted", hint="Leave out --plain, or name host:port."
    )


def _standard(stream: TextIO | None, what: str) -> int:
    """A standard stream's descriptor; daemons are started without."""
    if stream is None:
        raise LocalProtocolError(
            f"there is no standard {what}: it is closed", hint="Name a file or folder instead of -."
        )
    return stream.fileno()
