"""How the two sides of a transfer meet: one dials, again after a cut; the other listens, and lets one in at a time."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import field, replace
from os import urandom
from typing import TYPE_CHECKING, Final, Protocol, Self, TypeVar

from blake3 import blake3

from enchufe import events, transports
from enchufe.dataclass import dataclass
from enchufe.errors import BrokenError, BusyError, DeadlineExceeded, EnchufeError, LocalProtocolError, StoreError
from enchufe.events import OnEvent
from enchufe.session.base import Concluded, Greeted, Options, Session
from enchufe.session.committing import Committing
from enchufe.session.consent import Declined
from enchufe.transfer.machine import InterruptedThere, Looked, Machine, TakenOver
from enchufe.transfer.message import Role
from enchufe.transfer.messages import Hello
from enchufe.transports import Address, Listener, SharedMemoryAddress, Transport, inherited
from enchufe.waiting import BlockingWaiter, Waiter, drive

if TYPE_CHECKING:
    from enchufe.entrance import Entrance
    from enchufe.session.door import Door

_FIRST_PAUSE: Final = 0.1  # seconds before the first attempt after a cut; each next one twice that
_LONGEST_PAUSE: Final = 5.0
DIAL_AGAIN: Final = 4.0  # seconds to dial where somebody may be, or was: there are other places and attempts
_LOOK: Final = 0.5  # seconds between two looks whether anybody may still come
_WAITS: Final = "This side waits{} for the other to come back."
_UNHEARD: Final = "the other side may not have heard that all of it is here"

M = TypeVar("M", bound=Machine)
Make = Callable[[Transport | Greeted[M], Options], Session[M]]
"""What makes the session of an attempt."""


Again = Callable[[], bool]
"""Whether an attempt that did not get to its end may be followed by another: not where what it has read is gone."""


@dataclass(frozen=True, slots=True)
class Reached:
    """The other side, at the end of a dialed connection.

    Attributes:
        transport: what is said first there belongs to the transfer.
        dial: opens another connection to the same place.
        secret: what only the two ends know; None: in plain text.
        name: who it has proved to be, where it has.
    """

    transport: Transport
    dial: Callable[[], Transport]
    secret: bytes | None = field(default=None, repr=False)
    name: str | None = None


def for_files(address: Address) -> Address:
    """The address, if files can go there.

    Raises:
        LocalProtocolError: it is shared memory, which has no streams beside each other.
    """
    if isinstance(address, SharedMemoryAddress):
        raise LocalProtocolError("files do not go through shared memory", hint="Use a Unix socket: unix:/path.")
    return address


class Aim(Protocol):
    """Whom a dialer wants.

    Attributes:
        met: whether somebody has answered there.
    """

    met: bool

    async def reach(self, waiter: Waiter, timeout: float) -> Reached:
        """Dial, and be let in; again after a cut.

        Raises:
            BrokenError, DeadlineExceeded: nobody is there. Refused: it is not the one, or lets us not in.
        """


@dataclass(slots=True)
class Plain:
    """Whoever is at an address, in plain text."""

    address: Address
    met: bool = False

    async def reach(self, waiter: Waiter, timeout: float) -> Reached:
        """As `Aim.reach`."""

        def dial(seconds: float = timeout) -> Transport:
            return drive(transports.connect(self.address, waiter, waiter.now() + seconds))

        # Where nothing answers, the kernel asks again later and later; a link that is back is not to wait for that.
        transport = dial(min(timeout, DIAL_AGAIN) if self.met else timeout)
        self.met = True
        return Reached(transport, dial)


def dialing(
    aim: Aim,
    make: Make[M],
    about: bytes,
    options: Options,
    retry: float,
    on_event: OnEvent,
    again: Again = lambda: True,
) -> events.Receipt:
    """Run one transfer with the one that is dialed, again after each cut.

    A receiver that is cut when all is on disk comes again as well, for as long, to have the other side hear so.

    Args:
        about: what tells this transfer from others that this machine may be about.
        retry: seconds after a cut for which to go on trying.
    """
    waiter = BlockingWaiter()
    identity = identity_of(about)
    patience = Patience(retry, waiter.now)
    newest = 0
    older: int | None = None  # the epoch that another attempt has taken over from
    with _Concluding() as concluding:
        while True:
            session: Session[M] | None = None
            newest = max(newest + 1, time.time_ns())  # whatever somebody does to the clock
            epoch = older or newest
            began = waiter.now()
            try:
                reached = drive(aim.reach(waiter, options.timeout))
                with reached.transport:
                    attempt = replace(
                        options,
                        dial=reached.dial,
                        secret=reached.secret,
                        name=reached.name,
                        session=identity,
                        epoch=epoch,
                        concluded=concluding.concluded,
                    )
                    session = make(reached.transport, attempt)
                    receipt = drive(session.complete())
                    if session.concluded is None:
                        return receipt
                    raise BrokenError(_UNHEARD)
            except (BrokenError, DeadlineExceeded, BusyError) as error:
                concluding.heed(session)
                if isinstance(error, TakenOver):
                    older = epoch  # so that we are let in where the other one is gone, and do not end it
                elif session is not None and session.machine.peer is not None:  # we were let in
                    older = None
                moved = concluding.under_way or (session is not None and session.crossed > 0)
                pause = patience.pause(error, met=aim.met, moved=moved)
                if pause is None or not (concluding.concluded or again()):
                    if (done := concluding.result()) is not None:
                        return done
                    raise
                if session is None:  # it has been looked for that long
                    pause = max(pause - (waiter.now() - began), 0.0)
                on_event(events.Retrying(str(error), round(pause, 3)))
                time.sleep(pause)
            except EnchufeError:
                concluding.heed(session)
                if (done := concluding.result()) is not None:
                    return done
                raise


class _Concluding:
    """What an attempt came to whose receipt may not have been heard; whoever is interrupted meanwhile sees it through.

    Attributes:
        concluded: None: there was none.
    """

    def __init__(self) -> None:
        self.concluded: Concluded | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with suppress(EnchufeError):
                self.result()

    def heed(self, session: Session[M] | None) -> None:
        """An attempt has ended."""
        if session is not None and session.concluded is not None:
            self.concluded = session.concluded

    @property
    def under_way(self) -> bool:
        """Whether what has come is still being put on the disk."""
        return self._committing is not None and not self._committing.settled

    def result(self) -> events.Receipt | None:
        """What has come, once it is on disk; None: nothing has.

        Raises:
            EnchufeError: it could not be put there.
        """
        return None if self._committing is None else self._committing.result()

    @property
    def _committing(self) -> Committing[events.Receipt] | None:
        return None if self.concluded is None else self.concluded.committing


def listening(
    where: Address | None,
    machine: type[M],
    make: Make[M],
    options: Options,
    retry: float,
    on_event: OnEvent,
    *,
    once: bool,
    again: Again = lambda: True,
    entrance: Entrance | None = None,
) -> events.Receipt:
    """Run one transfer with whoever comes and is let in.

    Args:
        where: to listen; None: on the socket that a service manager has handed over.
        once: whether the first that comes is served come what may, and nobody else, but for those who only look.
        again: whether he may come again where he was cut, but for the receipt.
        entrance: who is let in; None: anybody, in plain text.
    """
    from enchufe.session.door import Door  # noqa: PLC0415 (slow to import, and not everybody needs it)

    context, admit = (None, None) if entrance is None else (entrance.context, entrance.admit)
    with (
        _handed_over() if where is None else Listener(where) as listener,
        Door(listener, machine, options.timeout, context=context, admit=admit, on_event=on_event) as door,
        _Concluding() as concluding,
    ):
        for address in listener.addresses:
            on_event(events.Listening(address))
        cut: EnchufeError | None = None
        returning = 0.0
        concluded: tuple[object, Concluded | None] = (None, None)  # with whom, and what
        try:
            while True:
                if entrance is not None:
                    entrance.open(listener.addresses)
                greeted = _next(door, retry if cut is not None else None, entrance, returning)
                if greeted is None:
                    assert cut is not None
                    raise cut
                suited = options
                session: Session[M] | None = None
                try:
                    with greeted.transport:
                        if entrance is not None and greeted.admitted is not None:
                            its = entrance.suit(options, greeted.admitted, greeted.hello.session)
                            if its is None:
                                continue
                            suited = its
                        if concluded[0] == _whose(greeted):
                            suited = replace(suited, concluded=concluded[1])
                        session = make(greeted, suited)
                        door.entered(session)
                        unheard: EnchufeError = BrokenError(_UNHEARD)
                        try:
                            receipt = drive(session.complete())
                            if session.concluded is None:
                                return receipt
                        except EnchufeError as error:
                            if session.concluded is None or session.concluded.committing is None:
                                raise
                            unheard = error.with_traceback(None)  # which has all of the session
                    concluding.heed(session)
                    if retry > 0 and _may_return(unheard):
                        hint = unheard.hint if isinstance(unheard, TakenOver) else _WAITS.format(f" for {retry:g} s")
                        on_event(events.Failed(unheard.kind, str(unheard), hint))
                        _have_it_heard(door, entrance, make, suited, concluding, retry, on_event)
                    done = concluding.result()
                    assert done is not None
                    return done
                except (StoreError, LocalProtocolError, Declined):
                    raise
                except EnchufeError as error:
                    if session is not None and session.concluded is not None:
                        concluded = (_whose(greeted), session.concluded)
                    repeats = again() or (session is not None and session.concluded is not None)
                    may_return = isinstance(error, (BrokenError, DeadlineExceeded)) and retry > 0 and repeats
                    returning = retry if may_return else 0.0
                    if entrance is not None and not may_return:
                        entrance.forget(greeted.secret)
                    # Whoever only looks, or may do no more, ends nothing, however it went.
                    looks = isinstance(error, Looked) or suited.only_looks or _wants_nothing(greeted.hello)
                    if once and not looks:
                        if not may_return:
                            raise
                        cut = error.with_traceback(None)  # which has all of the session
                    failed = events.Failed.of(error)
                    if may_return and not looks and not isinstance(error, (InterruptedThere, TakenOver)):
                        waits = _WAITS.format(f" for {retry:g} s" if once else "")
                        kept = " What has arrived is kept." if again() else ""
                        failed = events.Failed(failed.kind, failed.message, f"{waits}{kept}")
                    on_event(events.Looked() if isinstance(error, Looked) else failed)
                finally:
                    door.left(greeted)
        finally:
            if entrance is not None:
                entrance.close()


def _have_it_heard(
    door: Door[M],
    entrance: Entrance | None,
    make: Make[M],
    options: Options,
    concluding: _Concluding,
    retry: float,
    on_event: OnEvent,
) -> None:
    """While all is put on disk, and for so many seconds then, whoever has sent it may come again to hear so.

    To the door he is still inside: it lets in nobody else, and tells them that we are busy.
    """
    until: float | None = None
    while until is None or time.monotonic() < until:
        if until is None and not concluding.under_way:
            until = time.monotonic() + retry
        left = _LOOK if until is None else max(until - time.monotonic(), 0.0)
        session: Session[M] | None = None
        try:
            greeted = _next(door, left, entrance, math.inf)  # no code: nobody else is let in
            if greeted is None:
                continue
            with greeted.transport:
                session = make(greeted, replace(options, concluded=concluding.concluded))
                door.entered(session)
                drive(session.complete())
                if session.concluded is None:
                    return
        except EnchufeError as error:
            if session is not None and session.crossed:  # he had begun anew, and not all of that is here
                on_event(events.Failed.of(error))
                until = None
            if not isinstance(error, (BrokenError, DeadlineExceeded)):
                return
        finally:
            concluding.heed(session)


def _may_return(error: EnchufeError) -> bool:
    """Whether whoever is gone may come again by himself."""
    return isinstance(error, (BrokenError, DeadlineExceeded)) and not isinstance(error, InterruptedThere)


def _whose(greeted: Greeted[M]) -> object:
    """What tells one party that is about something from all others."""
    return greeted.hello.session, greeted.party


def _handed_over() -> Listener:
    listener, *others = inherited.listeners()
    if others:
        for each in (listener, *others):
            each.close()
        raise LocalProtocolError(
            f"{1 + len(others)} sockets were handed over, and a transfer takes one",
            hint="Leave one ListenStream= in the socket unit.",
        )
    return listener


def _wants_nothing(hello: Hello) -> bool:
    """Whether somebody who says so has come to look and no more: docs/protocol.md, Looking."""
    return hello.role is Role.RECEIVER and not hello.features


def _next(door: Door[M], timeout: float | None, entrance: Entrance | None, returning: float = 0.0) -> Greeted[M] | None:
    """As `Door.next`, as long as somebody may come; for so many seconds whoever was cut may, without a code."""
    if entrance is None:
        return door.next(timeout)
    began = time.monotonic()
    end = None if timeout is None else began + timeout
    while end is None or time.monotonic() < end:
        greeted = door.next(_LOOK)
        if greeted is not None:
            return greeted
        if time.monotonic() >= began + returning:
            entrance.check()
    return None


class Patience:
    """How long to go on after a cut, and when to try again.

    Args:
        retry: seconds from the last progress on.
    """

    def __init__(self, retry: float, now: Callable[[], float]) -> None:
        self._retry = retry
        self._now = now
        self._met = False
        self._since: float | None = None
        self._next = _FIRST_PAUSE

    def pause(self, error: EnchufeError, *, met: bool, moved: bool) -> float | None:
        """Seconds until the next attempt; None where there is to be none.

        Args:
            met: whether somebody answered this time.
            moved: whether something got across.
        """
        self._met = self._met or met
        now = self._now()
        if moved or self._since is None:
            self._since, self._next = now, _FIRST_PAUSE
        # Where nobody was ever there, the address is wrong rather than the link bad.
        if not self._met or isinstance(error, InterruptedThere) or now - self._since >= self._retry:
            return None
        # Not in step with others that were cut by the same.
        pause = self._next * (0.5 + urandom(1)[0] / 512)
        self._next = min(2 * self._next, _LONGEST_PAUSE)
        return min(pause, self._since + self._retry - now)


def identity_of(about: bytes) -> bytes:
    """What a dialer calls this transfer: the same whenever this user of this machine is about it again."""
    try:
        with open("/etc/machine-id", "rb") as file:
            machine = file.read().strip()
    except OSError:
        machine = b""
    machine = machine or socket.gethostname().encode()
    user = b"%d" % os.getuid() if hasattr(os, "getuid") else b""
    return blake3(b"\0".join((machine, user, about))).digest()[:16]
