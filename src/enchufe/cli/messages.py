"""What a person or a script sees of a conversation: messages, a dump of all bytes, or events as JSON."""

from __future__ import annotations

import base64
import codecs
import os
import threading
from typing import Final, Literal

from enchufe import events
from enchufe.cli import output
from enchufe.cli.dump import Part, rows
from enchufe.cli.show import JsonLines, failure, to_dial
from enchufe.errors import EnchufeError
from enchufe.printable import printable

Form = Literal["quiet", "messages", "hex", "json"]

RECEIVED: Final = "received"
SENT: Final = "sent"


class Shown:
    """Where a conversation is shown; several threads may use it.

    Args:
        form: what is shown. "messages" are those received, one a line: on a terminal harmless, else as they came.
        harmless: whether control characters become escapes; None: on a terminal.
        streams: there are no messages, only bytes that nothing is added to.
        counterpart: what the command for the other side ends with.
    """

    def __init__(self, form: Form, *, harmless: bool | None, streams: bool, counterpart: str = "") -> None:
        self.form = form
        self._terminal = os.isatty(output.STDOUT)
        self._harmless = self._terminal if harmless is None else harmless
        self._streams = streams
        self._counterpart = counterpart
        self._hurry = output.Hurry()
        self._json = JsonLines(self._hurry)
        self._lock = threading.Lock()
        # Bytes of a character whose rest has not come, by peer.
        self._texts: dict[str, codecs.IncrementalDecoder] = {}

    def message(self, direction: str, peer: str, message: bytes, *, named: bool = False) -> None:
        """Show a message; `named`: a person could not tell whose it is.

        Raises:
            StoreError: standard output cannot be written.
        """
        if self.form == "json":
            with self._lock:
                self._json.show(_event(direction, peer, message))
        elif self.form == "messages" and direction == RECEIVED:
            with self._lock:
                output.write(self._line(peer, message, named=named and self._terminal), hurry=self._hurry)

    def dump(self, direction: str, peer: str, parts: list[Part], *, named: bool = False) -> None:
        """Show the bytes of one frame. Raises as `message`."""
        begin = f"{peer} {direction}" if named else direction
        lines = "".join(f"{row}\n" for row in rows(begin, parts))
        with self._lock:
            output.write(lines.encode(), hurry=self._hurry)

    def event(self, event: events.Event) -> None:
        """Show what happened: as JSON, or as a sentence on standard error. Raises as `message`."""
        with self._lock:
            if isinstance(event, events.Connected | events.Ended):
                self._texts.pop(event.peer, None)
            if self.form == "json":
                self._json.show(event)
                return
            output.tell("".join(f"{line}\n" for line in self._sentences(event)), self._hurry)

    def failed(self, error: EnchufeError) -> None:
        """Show what went wrong."""
        self.event(events.Failed.of(error))

    def hurry(self) -> None:
        """It must end soon: from here on nothing waits for long for a reader that takes nothing."""
        self._hurry.call()

    def _sentences(self, event: events.Event) -> list[str]:
        if isinstance(event, events.Failed):
            return failure(event)
        if self.form == "quiet":
            return []
        match event:
            case events.Listening(address):
                return [f"listening on {address}, for: enchufe connect {to_dial(address)}{self._counterpart}"]
            case events.Connected(peer):
                return [f"connected to {peer}"]
            case events.Ended(peer):
                return [f"{peer} has ended"]
        return []

    def _line(self, peer: str, message: bytes, *, named: bool) -> bytes:
        begin = f"{peer}: ".encode() if named else b""
        if not self._harmless:
            return message if self._streams else begin + message + b"\n"
        if not self._streams:
            return begin + printable(message).encode() + b"\n"
        text = self._texts.setdefault(peer, codecs.getincrementaldecoder("utf-8")("surrogateescape")).decode(message)
        # Lines of a stream stay lines.
        return "\n".join(printable(line) for line in text.split("\n")).encode()


def _event(direction: str, peer: str, message: bytes) -> events.Message:
    try:
        data, encoding = message.decode(), "utf-8"
    except UnicodeDecodeError:
        data, encoding = base64.b64encode(message).decode("ascii"), "base64"
    return events.Message(peer, direction, data, encoding, len(message))
