"""Both sides of a transfer in one process, over real sockets, with what became of each."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from enchufe import events, meeting
from enchufe.errors import EnchufeError
from enchufe.session import Greeted, Options, ReceivingSession, SendingSession
from enchufe.store import LocalStore, Receiving, Sending, Source
from enchufe.transfer.machine import Machine
from enchufe.transfer.receiver import Receiver
from enchufe.transfer.sender import Sender
from enchufe.transports import Transport, parse_address
from tests.sessions.relay import Relay

PATIENCE: Final = 120.0  # seconds

HERE: Final = parse_address("127.0.0.1:0")

E = TypeVar("E", bound=events.Event)
M = TypeVar("M", bound=Machine)


@dataclass
class Side:
    """What one side told, and how it ended."""

    told: list[events.Event] = field(default_factory=list)
    end: events.Receipt | EnchufeError | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)

    def tell(self, event: events.Event) -> None:
        with self.changed:
            self.told.append(event)
            self.changed.notify_all()

    def of(self, kind: type[E]) -> list[E]:
        return [event for event in self.told if isinstance(event, kind)]

    def wait_for(self, kind: type[E]) -> E:
        with self.changed:
            assert self.changed.wait_for(lambda: self.of(kind) or self.end, PATIENCE)
            assert self.of(kind), self.end
            return self.of(kind)[0]

    @property
    def receipt(self) -> events.Receipt:
        if isinstance(self.end, EnchufeError):
            raise self.end
        assert self.end is not None
        return self.end

    @property
    def error(self) -> EnchufeError:
        assert isinstance(self.end, EnchufeError), self.end
        return self.end


@dataclass
class Ends:
    sender: Side = field(default_factory=Side)
    receiver: Side = field(default_factory=Side)


def transfer(
    source: Callable[[], Sending],
    begin: Callable[[bytes], Receiving],
    *,
    sender_dials: bool = True,
    relay: Relay | None = None,
    retry: float = 0.0,
    on_event: Callable[[events.Event], object] | None = None,
    sending: type[SendingSession] = SendingSession,
    receiving: type[ReceivingSession] = ReceivingSession,
    compares: bool = False,
    **options: Any,
) -> Ends:
    """Send all of a source into a store; the listener gives up after the first cut, unless there is `retry`.

    Args:
        source, begin: open both, once for each attempt.
        sender_dials: or else the receiver does.
        relay: between the two.
        retry: seconds for which both try again.
        on_event: is told of what both sides tell, beside them.
        sending, receiving: their sessions.
        compares: whether the receiver may be offered whole folders.
        options: of the sessions.
    """
    ends = Ends()
    chosen = Options(**{"each_file": True, "timeout": 20.0, **options})

    def tell(side: Side) -> events.OnEvent:
        def told(event: events.Event) -> None:
            side.tell(event)
            if on_event is not None:
                on_event(event)

        return told

    def make_sending(over: Transport | Greeted[Sender], options: Options) -> SendingSession:
        return sending(over, source(), options, tell(ends.sender))

    def make_receiving(over: Transport | Greeted[Receiver], options: Options) -> ReceivingSession:
        more = {"compares": True} if compares else {}
        return receiving(over, begin, options, tell(ends.receiver), **more)

    def meet(side: Side, machine: type[M], make: meeting.Make[M], dial: str | None) -> events.Receipt:
        if dial is not None:
            return meeting.dialing(meeting.Plain(parse_address(dial)), make, b"test", chosen, retry, tell(side))
        return meeting.listening(HERE, machine, make, chosen, retry, tell(side), once=True)

    def run(side: Side, dial: str | None) -> None:
        end: events.Receipt | EnchufeError
        try:
            if side is ends.sender:
                end = meet(side, Sender, make_sending, dial)
            else:
                end = meet(side, Receiver, make_receiving, dial)
        except EnchufeError as error:
            end = error
        with side.changed:
            side.end = end
            side.changed.notify_all()

    dialer, listener = (ends.sender, ends.receiver) if sender_dials else (ends.receiver, ends.sender)
    listening = threading.Thread(target=run, args=(listener, None))
    listening.start()
    address = listener.wait_for(events.Listening).address
    if relay is not None:
        relay.to, address = address, relay.address
    dialing = threading.Thread(target=run, args=(dialer, address))
    dialing.start()
    for thread in (dialing, listening):
        thread.join(PATIENCE)
        assert not thread.is_alive(), ends
    return ends


def send(tree: Path, inbox: Path | LocalStore, **how: Any) -> Ends:
    """Send what is at a path into a folder."""
    store = inbox if isinstance(inbox, LocalStore) else LocalStore(inbox)
    return transfer(lambda: Source([tree], attributes=True), store.begin, **how)


def snapshot(root: Path) -> dict[bytes, tuple[Any, ...]]:
    """All below a folder: mode, time, content or target, hard links by the first of their names, attributes."""
    found: dict[bytes, tuple[Any, ...]] = {}
    first: dict[int, bytes] = {}
    top = os.fsencode(root)
    for folder, names, leaves in os.walk(top):
        for name in sorted((*names, *leaves)):
            path = os.path.join(folder, name)
            info = os.lstat(path)
            where = os.path.relpath(path, top)
            content: bytes | None = None
            attributes: tuple[tuple[str, bytes], ...] = ()
            link = b""
            if stat.S_ISLNK(info.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(info.st_mode):
                with open(path, "rb") as file:
                    content = file.read()
                link = first.setdefault(info.st_ino, where)
            if not stat.S_ISLNK(info.st_mode):
                attributes = attributes_of(path)
            found[where] = (info.st_mode, info.st_mtime_ns, content, link, attributes)
    return found


def attributes_of(path: bytes) -> tuple[tuple[str, bytes], ...]:
    """The user's attributes of a file or folder; none where the file system has none."""
    try:
        names = sorted(name for name in os.listxattr(path) if name.startswith("user."))
    except OSError:
        return ()
    return tuple((name, os.getxattr(path, name)) for name in names)


def visible(inbox: Path) -> list[str]:
    """What is in a destination but for what is kept there."""
    return sorted(name for name in os.listdir(inbox) if name != ".enchufe") if inbox.exists() else []
