"""Either side of an offer of many files that are not there, in a process of its own: how much memory it takes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from enchufe import events, files, meeting
from enchufe.entry import NO_PARENT, Entry, Kind
from enchufe.errors import EnchufeError
from enchufe.session import Greeted, Offering, Options, SendingSession
from enchufe.store import Source
from enchufe.transfer.sender import Sender
from enchufe.transports import Transport, parse_address


class Many(Source):
    """So many files of a kilobyte in one folder."""

    def __init__(self, count: int, folder: str) -> None:
        super().__init__([folder])
        self._count = count

    def walk(self) -> Iterator[Entry]:
        yield Entry(0, NO_PARENT, b"many", Kind.DIRECTORY, mode=0o755)
        for number in range(1, self._count):
            yield Entry(number, 0, b"a file with a name of usual length %d" % number, Kind.FILE, 1024, mtime_ns=number)


def memory() -> int:
    """Bytes that this process has taken at the most; what getrusage tells is also its parent's, before exec."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


def say(event: events.Event) -> None:
    if isinstance(event, events.Listening):
        print(event.address, flush=True)


def receive(inbox: str) -> None:
    def ask(offering: Offering) -> bool:
        size = sum(item.size or 0 for item in offering)
        print(len(offering), size, len(offering.roots), flush=True)
        return False

    try:
        files.receive_files(inbox, listen="127.0.0.1:0", plain=True, ask=ask, on_event=say)
    except EnchufeError as error:
        print(memory(), type(error).__name__, flush=True)


def send(address: str, count: str) -> None:
    def make(over: Transport | Greeted[Sender], options: Options) -> SendingSession:
        return SendingSession(over, Many(int(count), str(Path(__file__).parent)), options, lambda _event: None)

    try:
        meeting.dialing(meeting.Plain(parse_address(address)), make, b"many", Options(), 0.0, lambda _event: None)
    except EnchufeError as error:
        print(memory(), error, flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        receive(sys.argv[2])
    else:
        send(*sys.argv[2:])
