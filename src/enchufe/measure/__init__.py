"""What this machine can do: engines, framings, transports and files, measured with enchufe on both sides.

Whatever is served is served by one process and asked by others (`__main__` is what they do): what is measured
shares no interpreter with what measures it. Every measurement warms up, then runs several rounds.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from enchufe.blocking import ENGINES
from enchufe.buffer import ReceiveBuffer
from enchufe.errors import BrokenError, LocalProtocolError
from enchufe.framing import LengthPrefixed, parse_framing
from enchufe.interruption import ENDING
from enchufe.printable import printable
from enchufe.transports import Listener, parse_address

ROUNDS: Final = 5
WARM_UP: Final = 0.2  # of a measurement's seconds
SMALL: Final = 64  # bytes of a message
BIG: Final = 256 * 1024  # bytes of a message where bytes count
LOADS: Final = 2  # processes that ask for a rate
CONNECTIONS: Final = 4  # of each of them
IN_FLIGHT: Final = 16  # messages on each of these
FRAMING: Final = LengthPrefixed(4)
FRAMINGS: Final = (
    "lines", r"delimited:\r\n", "fixed:64", "digits:4", "length:4", "varint", "netstring", "typed:A=63,B=length:4",
)  # fmt: skip

PATIENCE: Final = 30.0  # seconds for a process to be ready, or to end
ANSWER: Final = 10.0  # seconds for a first answer, else nobody echoes there
NAME: Final = "localhost"  # whose certificate it is

_MIB: Final = 1 << 20
_MEMORY: Final = "/dev/shm"  # noqa: S108 (tmpfs, so that no disk is measured)
_BIGGEST: Final = 256  # MiB of the file that is sent
_MAKE_CERTIFICATE: Final = (
    "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1",
    "-subj", f"/CN={NAME}", "-addext", f"subjectAltName=DNS:{NAME}",
    "-addext", "keyUsage=critical,digitalSignature,keyCertSign",
)  # fmt: skip
_COMMAND: Final = (sys.executable, "-m", "enchufe.measure")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of measurement: all its results share one unit.

    Attributes:
        name: what `enchufe bench --only` calls it.
        title: for a person.
        unit: of every value.
        less_is_better: as of seconds.
    """

    name: str
    title: str
    unit: str
    less_is_better: bool = False


LATENCY: Final = Kind("latency", f"Round trip of {SMALL} bytes, one in flight", "microseconds", True)
RATE: Final = Kind(
    "rate", f"Echo of {SMALL} bytes, {LOADS * CONNECTIONS} connections, {IN_FLIGHT} in flight each", "messages/s"
)
BULK: Final = Kind("bulk", f"One way, messages of {BIG // 1024} KiB", "bytes/s")
FILES: Final = Kind("files", "One file, sent and verified, plain, in memory if it can be", "bytes/s")
ENCODE: Final = Kind("encode", f"Encoding messages of {SMALL} bytes in memory", "messages/s")
DECODE: Final = Kind("decode", f"Decoding messages of {SMALL} bytes in memory", "messages/s")
THERE_AND_BACK: Final = Kind("echo", f"There and back, messages of {BIG // 1024} KiB", "bytes/s")


@dataclass(frozen=True, slots=True)
class Result:
    """What a measurement found: one value a round."""

    kind: Kind
    name: str
    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle one of the values."""
        return statistics.median(self.values)

    def as_dict(self) -> dict[str, Any]:
        """As JSON can say it."""
        return {
            "measured": self.kind.name,
            "name": self.name,
            "unit": self.kind.unit,
            "median": self.median,
            "lowest": min(self.values),
            "highest": max(self.values),
            "values": list(self.values),
        }


@dataclass(frozen=True, slots=True)
class Measurement:
    """One thing to measure; `run` takes the seconds that it may measure for, and yields a value a round."""

    kind: Kind
    name: str
    run: Callable[[float], Sequence[float]]

    def result(self, seconds: float) -> Result:
        """Measure.

        Raises:
            EnchufeError: what is measured, or a process that measures it, failed.
        """
        return Result(self.kind, self.name, tuple(self.run(seconds)))


@dataclass(frozen=True, slots=True)
class Way:
    """A transport as it is measured.

    Attributes:
        listen: an address; `{}` stands for a folder that is there meanwhile.
        tls: over TLS, with a certificate that is made for it.
    """

    listen: str
    tls: bool = False


def transports_here() -> dict[str, Way]:
    """The transports of this machine, by name; tls only where the program openssl can make a certificate."""
    found = {"tcp": Way("127.0.0.1:0"), "unix": Way("unix:{}/socket")}
    # Nobody but the transport knows on which systems and processors it works.
    with contextlib.suppress(LocalProtocolError), tempfile.TemporaryDirectory(prefix="enchufe-bench-") as folder:
        memory = Way("shm:{}/socket")
        with Listener(parse_address(memory.listen.format(folder))):
            found["shared_memory"] = memory
    if shutil.which("openssl"):
        found["tls"] = Way("127.0.0.1:0", tls=True)
    return found


def plan(address: str | None = None, only: Sequence[str] = ()) -> list[Measurement]:
    """What there is to measure.

    Args:
        address: where `enchufe listen ADDR --echo --framing length:4` runs, so that the way to there is measured;
            None: this machine.
        only: words: what has none of them for its kind or in its name is left out. Empty: nothing is left out.

    Raises:
        LocalProtocolError: nothing is left.
    """
    whole = _remote(address) if address is not None else _local()
    chosen = [one for one in whole if not only or any(word in (one.kind.name, *one.name.split(", ")) for word in only)]
    if not chosen:
        known = sorted({word for one in whole for word in (one.kind.name, *one.name.split(", "))})
        raise LocalProtocolError(f"nothing is called {', '.join(only)}", hint=f"There are: {'; '.join(known)}.")
    return chosen


def run(measurements: Sequence[Measurement], seconds: float) -> Iterator[Result]:
    """The results, as they are found; `seconds` is for all of them, starting processes not counted."""
    for measurement in measurements:
        yield measurement.result(seconds / len(measurements))


def _local() -> list[Measurement]:
    here = transports_here()
    pairs = [(engine, transport) for engine in ENGINES for transport in here]
    return [
        *(
            Measurement(kind, f"{engine}, {transport}", _served("echo", kind, engine, here[transport], loads))
            for kind, loads in ((LATENCY, 1), (RATE, LOADS))
            for engine, transport in pairs
        ),
        *(Measurement(BULK, name, _served("count", BULK, "threads", listen, 1)) for name, listen in here.items()),
        Measurement(FILES, "one file", _files),
        *(Measurement(ENCODE, text, _encoding(text)) for text in FRAMINGS),
        *(Measurement(DECODE, text, _decoding(text)) for text in FRAMINGS),
    ]


def _remote(address: str) -> list[Measurement]:
    parse_address(address)
    return [
        Measurement(kind, printable(address), lambda seconds, kind=kind: _ask(kind, address, seconds, 1))  # type: ignore[misc]
        for kind in (LATENCY, THERE_AND_BACK)
    ]


class Helper:
    """A process in one of the roles; it is gone when the block is left."""

    def __init__(self, *arguments: str) -> None:
        self._arguments = arguments

    def __enter__(self) -> Self:
        with _later() as signals:
            # In a session of its own: an interruption from the terminal is for us alone, and we end it.
            self._process = subprocess.Popen(
                [*_COMMAND, *self._arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._stdin: IO[str] = self._process.stdin
            self._stdout: IO[str] = self._process.stdout
            if signals:
                self.__exit__(KeyboardInterrupt, None, None)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._process.terminate()
        with contextlib.suppress(BrokenPipeError):
            self._stdin.close()
        try:
            self._process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._stdout.close()

    def tell(self, line: str = "") -> None:
        """Give it a line."""
        with contextlib.suppress(BrokenPipeError):  # `said` will tell why it has gone
            self._stdin.write(line + "\n")
            self._stdin.flush()

    def said(self) -> Any:
        """What it says next.

        Raises:
            BrokenError: it failed, for the reason that it gave.
        """
        line = self._stdout.readline()
        found: dict[str, Any] = json.loads(line) if line else {"failed": "a process that measures has died", "hint": ""}
        if "failed" in found:
            raise BrokenError(found["failed"], hint=found["hint"])
        return found["said"]


@contextlib.contextmanager
def _later() -> Iterator[list[int]]:
    """Signals that end us come after the block; yields those that have come.

    In the middle of being started a process belongs to nobody who would end it.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came  # signals are not for this thread
        return
    # One that is ignored, or ends us at once, stays so.
    before = {number: old for number in ENDING if callable(old := signal.getsignal(number))}
    try:
        for number in before:
            signal.signal(number, lambda number, _: came.append(number))
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            signal.raise_signal(came[0])


def _served(what: str, kind: Kind, engine: str, way: Way, loads: int) -> Callable[[float], Sequence[float]]:
    """How to measure a server of our own."""

    def measure(seconds: float) -> Sequence[float]:
        with tempfile.TemporaryDirectory(prefix="enchufe-bench-") as folder:
            files = _certificate(folder) if way.tls else ()
            with Helper("serve", engine, way.listen.format(folder), what, *files) as server:
                return _ask(kind, server.said(), seconds, loads, files)

    return measure


def _certificate(folder: str) -> tuple[str, str]:
    """A certificate for `NAME` that is its own authority, P-256 as browsers want them, and its key: their files."""
    certificate, key = str(Path(folder, "certificate.pem")), str(Path(folder, "key.pem"))
    made = subprocess.run(
        [*_MAKE_CERTIFICATE, "-keyout", key, "-out", certificate],
        capture_output=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    if made.returncode:
        told = made.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise BrokenError(f"openssl made no certificate: {printable(told)}", hint="Measure the rest: --only WORD.")
    return certificate, key


def _ask(kind: Kind, address: str, seconds: float, loads: int, files: Sequence[str] = ()) -> Sequence[float]:
    """The values of so many processes at once, added up round by round."""
    with contextlib.ExitStack() as stack:
        helpers = [stack.enter_context(Helper("load", kind.name, address, str(seconds), *files)) for _ in range(loads)]
        for helper in helpers:
            helper.said()
        for helper in helpers:
            helper.tell()
        return [sum(values) for values in zip(*(helper.said() for helper in helpers), strict=True)]


def _files(seconds: float) -> Sequence[float]:
    size = max(1, min(_BIGGEST, int(64 * seconds))) * _MIB
    with tempfile.TemporaryDirectory(prefix="enchufe-bench-", dir=_room(3 * size)) as folder:
        path = Path(folder, "file")
        piece = os.urandom(_MIB)
        with path.open("wb") as file:
            for _ in range(size // _MIB):
                file.write(piece)
        with Helper("receive", str(Path(folder, "inbox"))) as receiver, Helper("send", str(path)) as sender:
            values = []
            for _ in range(1 + ROUNDS):
                receiver.tell()
                sender.tell(receiver.said())
                values.append(sender.said())
            return values[1:]


def _room(size: int) -> str | None:
    """Memory as a file system, if there is so much of it; None is where temporary files go."""
    with contextlib.suppress(OSError):
        if shutil.disk_usage(_MEMORY).free > size:
            return _MEMORY
    return None


def _encoding(text: str) -> Callable[[float], Sequence[float]]:
    framing, message = parse_framing(text), _message(text)

    def work() -> int:
        for _ in range(1000):
            framing.encode(message)
        return 1000

    return lambda seconds: _repeated(work, seconds)


def _decoding(text: str) -> Callable[[float], Sequence[float]]:
    framing = parse_framing(text)
    frame = b"".join(framing.encode(_message(text)))
    count = 65536 // len(frame)
    data = frame * count
    split = framing.splitter()

    def work() -> int:
        # As a connection does it: the fast lane first, and what that leaves goes into the buffer.
        messages, taken = split(data)
        if taken < len(data):
            buffer, decoder = ReceiveBuffer(), framing.decoder()
            buffer.append(data[taken:])
            messages += decoder.decode(buffer)
        if len(messages) != count:
            raise BrokenError(f"{text} made {len(messages)} messages of {count}")
        return count

    return lambda seconds: _repeated(work, seconds)


def _message(text: str) -> bytes:
    return b"A" * SMALL if not text.startswith("typed") else b"B" + b"A" * (SMALL - 1)


def _repeated(work: Callable[[], int], seconds: float) -> list[float]:
    values = []
    for part in (seconds * WARM_UP, *[seconds * (1 - WARM_UP) / ROUNDS] * ROUNDS):
        count = 0
        began = now = time.perf_counter()
        while now < began + part or not count:
            count += work()
            now = time.perf_counter()
        values.append(count / (now - began))
    return values[1:]
