"""A look at what a sender offers, of which nothing is taken."""

from __future__ import annotations

import os
from typing import Final, NoReturn

from enchufe import events
from enchufe.entry import UNKNOWN_SIZE, Answer, Entry, Kind, path_of
from enchufe.errors import BrokenError, DeadlineExceeded, Refused, RemoteProtocolError
from enchufe.events import OnEvent
from enchufe.session.base import Greeted, Options, Session
from enchufe.session.streams import Stream
from enchufe.store.names import safe_name
from enchufe.transfer.machine import InterruptedThere, Looked, told_to_peer
from enchufe.transfer.message import Message, Role
from enchufe.transfer.messages import LIST_WINDOW, WINDOW, OfferEnd
from enchufe.transfer.offers import Offer
from enchufe.transfer.receiver import Receiver
from enchufe.transfer.states import State
from enchufe.transports import Transport

_KINDS: Final = {Kind.FILE: "file", Kind.DIRECTORY: "folder", Kind.SYMLINK: "link"}


class CutShort(InterruptedThere):
    """It was cut when some was told already, which would be told twice by another attempt."""

    hint = "What was shown is not all: run it again."


class LookingSession(Session[Receiver]):
    """Tells every entry that is offered (`events.Entry`), and then says that it only looked. One stream is enough.

    Nothing but folders' names is kept, so there may be any number of all else. `complete` never returns. It raises:
        Looked: everything was told.
        BrokenError, DeadlineExceeded: the other side is gone; CutShort: after some was told.
        Refused, BusyError: it said no; Refused: there are too many folders. RemoteProtocolError: it broke the protocol.
    """

    role = Role.RECEIVER
    features = 0
    window = WINDOW
    crossed = 0

    def __init__(self, over: Transport | Greeted[Receiver], options: Options, on_event: OnEvent) -> None:
        super().__init__(over, Receiver, options, on_event)
        self._folders: dict[int, tuple[int, bytes]] = {}  # in which one each is, and its name

    async def run(self) -> NoReturn:
        """Look at everything."""
        try:
            await self.greet()
            while True:
                while (message := self.next_event()) is not None:
                    self._heed(message)
                if (progress := self.machine.progress(self.waiter.now())) is not None:
                    self.say(progress)  # or the window would be full
                await self.link.exchange(self.machine.late_at if self.machine.untold else None)
        except (BrokenError, DeadlineExceeded) as error:
            if not self.machine.offered:
                raise
            raise CutShort(str(error)) from error
        except RemoteProtocolError:
            raise
        except BaseException:
            # Whatever ends a look here is no reason for the other side to end.
            if self.machine.state is not State.FAILED:
                await self.link.farewell(told_to_peer(Looked("that was enough")))
            raise

    def _heed(self, message: Message) -> None:
        match message:
            case Offer(entries):
                for entry in entries:
                    self._tell_entry(entry)
                self.say(self.machine.answer((entry, Answer.SKIP) for entry in entries))
            case OfferEnd(entries=count, size=size):
                self.tell(events.Offered(count, size, self.machine.unsized or None))
                raise Looked("all that is offered was looked at")
            case _:
                raise RemoteProtocolError(f"the peer sent {message.type.name} of what nobody wants")

    def _tell_entry(self, entry: Entry) -> None:
        safe_name(entry.name)
        if entry.kind is Kind.DIRECTORY:
            if len(self._folders) >= LIST_WINDOW:
                raise Refused(
                    f"that is too much to be shown: more than {LIST_WINDOW:,} folders",
                    hint="What was shown is not all: receive it to have all of it.",
                )
            self._folders[entry.id] = entry.parent, entry.name
        size = entry.size if entry.kind is Kind.FILE and entry.size != UNKNOWN_SIZE else None
        target = os.fsdecode(entry.target) if entry.kind is Kind.SYMLINK else None
        path = (*path_of(entry.parent, self._folders), entry.name)
        self.tell(events.Entry(path, _KINDS[entry.kind], size, target))

    async def run_stream(self, stream: Stream) -> None:
        """There are none."""
        raise NotImplementedError
