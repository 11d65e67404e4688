"""Threads that are held up at any line, connections that are cut, files that change: `python -m tests.crash.races`.

Both sides run in this process, over loopback and a relay, in plain text or encrypted. A seed says what is sent, over
how many streams, by whom, what happens on the way, and between which lines of ours threads are held up: at a few of
them for long, all over a few functions, or at all of them now and then. Threads are switched as often as Python can.
What a seed says is the same again; what the threads make of it need not be.

Each side ends with a receipt, or with an error that the cut explains. What shows is whole. Another run completes, and
sends only what is missing. No thread and no descriptor stays.
"""

from __future__ import annotations

import faulthandler
import gc
import os
import random
import select
import shutil
import sys
import threading
import time
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar
from unittest import mock

from enchufe import events, link, meeting
from enchufe.entry import BLOCK_SIZE, Entry
from enchufe.errors import (
    BrokenError,
    BusyError,
    DeadlineExceeded,
    EnchufeError,
    Refused,
    RemoteProtocolError,
    StoreError,
    VerificationError,
)
from enchufe.session import (
    Greeted,
    Options,
    ReceivingSession,
    SendingSession,
    base,
    door,
    receiving,
    sending,
    shared_files,
)
from enchufe.session import streams as stream_threads
from enchufe.session.consent import Declined, Offering
from enchufe.store import LocalStore, Sending, SendingFile, Source, delivery, descriptor_cache, journal
from enchufe.store.pipe import PipeSource
from enchufe.transfer import going, patches, receiver, sender
from enchufe.transfer.machine import Machine
from enchufe.transfer.message import Role
from enchufe.transfer.messages import HEARD, Hello, frame
from enchufe.transfer.receiver import Receiver
from enchufe.transfer.sender import Sender
from enchufe.transports import Transport, parse_address, stream, tcp
from enchufe.waiting import Waiter, drive
from tests.crash.everything import search
from tests.crash.peers import folder
from tests.sessions import encrypted
from tests.sessions.kept import kept_bytes
from tests.sessions.relay import Bend, Relay, Way, cut_at, flip_at
from tests.sessions.transfers import HERE, Ends, Side, snapshot, visible

LONG: Final = 100.0  # seconds after which a run hangs
STUCK: Final = 40.0
TIDY: Final = 15.0  # seconds after which a thread stays
RETRY: Final = 8.0  # seconds
TOGETHER: Final = 16
_SWITCH: Final = 1e-6  # seconds
_HELD_AT: Final = (3, 6, 20)  # lines at which threads are held up for long
_OWN: Final = (
    base, delivery, descriptor_cache, door, going, journal, link, patches, receiver, receiving, sender, sending,
    shared_files, stream, stream_threads,
)  # fmt: skip

M = TypeVar("M", bound=Machine)

_CUT: Final = (BrokenError, DeadlineExceeded, BusyError)
_FLIPPED: Final = (*_CUT, Refused, RemoteProtocolError, VerificationError)


def _lines() -> list[tuple[types.CodeType, int]]:
    """Every line of ours at which two threads may meet."""
    names = {module.__file__ for module in _OWN}
    found: list[tuple[types.CodeType, int]] = []
    todo: list[Any] = []
    for module in _OWN:
        for each in vars(module).values():
            todo += vars(each).values() if isinstance(each, type) else [each]
    for each in todo:
        plain = getattr(each, "fget", None) or getattr(each, "__wrapped__", None) or getattr(each, "__func__", each)
        code = getattr(plain, "__code__", None)
        if code is not None and code.co_filename in names:
            found += sorted({(code, line) for _, _, line in code.co_lines() if line}, key=lambda pair: pair[1])
    return sorted(set(found), key=lambda pair: (pair[0].co_filename, pair[1]))


class Held:
    """Holds threads up, from `with` on.

    Args:
        rng: says where, and for how long.
    """

    def __init__(self, rng: random.Random) -> None:
        lines = _lines()
        self._rng = rng
        self._codes = {code for code, _ in lines}
        if rng.random() < 0.5:
            at = [(where, rng.uniform(0.002, 0.15)) for where in rng.sample(lines, rng.choice(_HELD_AT))]
        else:
            some = rng.sample(sorted(self._codes, key=lambda code: (code.co_filename, code.co_firstlineno)), 3)
            at = [(where, rng.uniform(0.001, 0.03)) for where in lines if where[0] in some]
        self._at = dict(at)
        self._often = rng.choice((0.0, 0.0, 0.0005, 0.005))
        self._left = Counter(dict.fromkeys(self._at, 6))

    @property
    def where(self) -> list[str]:
        return [f"{code.co_name} in {os.path.basename(code.co_filename)}:{line}" for code, line in self._at]

    def __enter__(self) -> None:
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH)
        threading.settrace(self._called)

    def __exit__(self, *_: object) -> None:
        threading.settrace(None)
        sys.setswitchinterval(self._interval)

    def _called(self, frame: types.FrameType, _event: str, _arg: Any) -> Any:
        return self._passed if frame.f_code in self._codes else None

    def _passed(self, frame: types.FrameType, event: str, _arg: Any) -> Any:
        if event == "line":
            where = (frame.f_code, frame.f_lineno)
            seconds = self._at.get(where)
            if seconds is not None and self._left[where] > 0 and self._rng.random() < 0.5:
                self._left[where] -= 1
                time.sleep(seconds)
            elif self._often and self._rng.random() < self._often:
                time.sleep(self._rng.uniform(0, 0.002))
        return self._passed


class Restless(Source):
    """A source of which some files change, or vanish, when somebody reads them.

    Attributes:
        seen: each content that a file had, or None where it was not there.
    """

    def __init__(self, tree: Path, rng: random.Random, names: set[bytes]) -> None:
        super().__init__([tree])
        self._tree = tree
        self._rng = rng
        self._left = dict.fromkeys(names, 3)
        self._changing = threading.Lock()

    def open(self, entry: Entry) -> SendingFile:  # type: ignore[override]
        file = super().open(entry)
        self._change(entry)
        return file

    def read_whole(self, entry: Entry) -> bytes:
        self._change(entry)
        return super().read_whole(entry)

    def _change(self, entry: Entry) -> None:
        with self._changing:
            if self._left.get(entry.name, 0) and self._rng.random() < 0.5:
                self._left[entry.name] -= 1
                path = self._tree.parent / os.fsdecode(b"/".join(self.path(entry)))
                if self._rng.random() < 0.2:
                    path.unlink(missing_ok=True)
                elif path.exists():
                    path.write_bytes(self._rng.randbytes(entry.size if self._rng.random() < 0.7 else entry.size // 2))
                    os.utime(path, ns=(1, self._rng.getrandbits(60)))


@dataclass
class Case:
    """What a seed stands for."""

    seed: int
    sender_dials: bool
    encrypted: bool
    streams: int | None
    retry: float
    timeout: float
    compress: str
    limit: float | None
    asks: bool
    over_old: bool
    pipe: bool
    patient: bool
    flips: bool = False
    restless: set[bytes] = field(default_factory=set)

    @property
    def updates(self) -> bool:
        """Whether what is there already stays, whole folders at once."""
        return self.over_old and self.seed % 2 == 0


def case_of(seed: int, rng: random.Random) -> Case:
    return Case(
        seed,
        sender_dials=rng.random() < 0.5,
        encrypted=rng.random() < 0.5,
        streams=rng.choice((1, 2, 3, 3, 5, 8)),
        retry=rng.choice((0.0, RETRY, RETRY)),
        timeout=rng.choice((2.5, 20.0, 20.0)),
        compress=rng.choice(("auto", "never", "always")),
        limit=rng.choice((None, None, None, 20e6)),
        asks=rng.random() < 0.15,
        over_old=rng.random() < 0.3,
        pipe=rng.random() < 0.08,
        patient=rng.random() < 0.5,
    )


def grow(root: Path, rng: random.Random) -> list[bytes]:
    """A tree of all there is: the names of its files."""
    folders = [root, root / "a", root / "a" / "b", root / "empty"]
    for each in folders:
        each.mkdir()
    names: list[Path] = []
    for number in range(rng.choice((0, 3, 40, 300))):
        names.append(rng.choice(folders[:3]) / f"small{number}")
        names[-1].write_bytes(rng.randbytes(rng.choice((0, 1, 500, 20_000))))
    for number in range(rng.choice((0, 1, 3, 6))):
        names.append(rng.choice(folders[:3]) / f"big{number}")
        size = rng.choice((1, 1, 2, 5)) * BLOCK_SIZE + rng.choice((0, 0, 1, -1, 70_000))
        names[-1].write_bytes(rng.randbytes(size))
    if rng.random() < 0.5:
        names.append(root / "a" / "sparse")
        with names[-1].open("wb") as file:
            file.truncate(12 * BLOCK_SIZE + 77)
            for _ in range(3):
                file.seek(rng.randrange(12 * BLOCK_SIZE))
                file.write(rng.randbytes(5000))
    for path in names:
        os.utime(path, ns=(1, rng.getrandbits(60)))
    for number, path in enumerate(rng.sample(names, min(len(names), rng.choice((0, 2, 20))))):
        (rng.choice(folders[:3]) / f"link{number}").hardlink_to(path)
    (root / "symlink").symlink_to("a/b")
    os.utime(root / "symlink", ns=(1, 10**18), follow_symlinks=False)
    for each in reversed(folders):
        os.utime(each, ns=(1, 10**18))
    return [os.fsencode(path.name) for path in names]


@contextmanager
def fed(data: bytes) -> Iterator[int]:
    """A pipe out of which that comes, by and by."""
    reading, writing = os.pipe()
    over = threading.Event()

    def feed() -> None:
        with open(writing, "wb", buffering=0) as file:
            os.set_blocking(writing, False)
            for start in range(0, len(data), 8192):
                piece = memoryview(data)[start : start + 8192]
                while piece and not over.is_set():
                    if select.select([], [file], [], 0.05)[1]:
                        piece = piece[file.write(piece) or 0 :]

    feeder = threading.Thread(target=feed)
    feeder.start()
    try:
        yield reading
    finally:
        over.set()
        feeder.join()
        while any(thread.name == "enchufe beside" for thread in threading.enumerate()):
            time.sleep(0.01)  # whoever was left behind reads the end
        os.close(reading)


def harm(case: Case, rng: random.Random, over: threading.Event) -> Callable[[Way], Bend | None]:
    """What becomes of each connection; those of later attempts are left alone."""
    harmed = rng.choice((0, 1, 1, 2, 3)) if case.retry else rng.choice((0, 1))
    often = rng.choice((0.2, 0.5, 1.0))
    only_others = rng.random() < 0.4
    plans: dict[Way, Bend | None] = {}
    planning = threading.Lock()

    def stop_at(position: int) -> Bend:
        def bend(offset: int, piece: bytes) -> bytes | None:
            if position < offset + len(piece):
                over.wait(4 * case.timeout)
                return None
            return piece

        return bend

    def plan(way: Way) -> Bend | None:
        if way.attempt >= harmed or rng.random() > often or (only_others and not way.stream):
            return None
        position = int(2 ** rng.uniform(4, 24)) if rng.random() < 0.8 else rng.randrange(60)
        kind = rng.random()
        if kind < 0.15 and (way.stream or case.encrypted or not case.retry):
            case.flips = True
            return flip_at(position, 1 << rng.randrange(8))
        if kind < 0.25 and case.timeout < 5:
            return stop_at(position)
        return cut_at(position)

    def choose(way: Way) -> Bend | None:
        with planning:
            if way not in plans:
                plans[way] = plan(way)
            return plans[way]

    return choose


class _Entrance:
    """Anybody comes in who speaks TLS."""

    context = encrypted.contexts()[0]

    async def admit(self, transport: Any, deadline: float) -> Any:
        return await encrypted.admit(transport, deadline)

    def open(self, addresses: list[str]) -> None:
        pass

    def close(self) -> None:
        pass

    def check(self) -> None:
        pass

    def forget(self, secret: bytes | None) -> None:
        pass

    def suit(self, options: Options, _admitted: Any, _session: bytes) -> Options:
        return options


class _Aim:
    """Whoever is at an address, encrypted."""

    def __init__(self, address: str) -> None:
        self._address = address
        self.met = False

    async def reach(self, _waiter: Waiter, _timeout: float) -> meeting.Reached:
        self.met = True
        admitted = encrypted.dial(self._address)
        return meeting.Reached(admitted.transport, lambda: encrypted.dial_plain(self._address), admitted.secret)


def exchange(
    case: Case,
    source: Callable[[], Sending],
    store: LocalStore,
    choose: Callable[[Way], Bend | None],
    over: threading.Event,
    **more: Any,
) -> tuple[Ends, list[BaseException]]:
    """Both sides, to their ends, whereupon `over` is set; and what was raised that is none."""
    ends = Ends()
    strays: list[BaseException] = []
    chosen = Options(each_file=not case.updates, **{"streams": case.streams, "timeout": case.timeout, **more})
    sources: list[Sending] = []

    def make_sending(over: Transport | Greeted[Sender], options: Options) -> SendingSession:
        sources.append(source())
        return SendingSession(over, sources[-1], options, ends.sender.tell)

    def make_receiving(over: Transport | Greeted[Receiver], options: Options) -> ReceivingSession:
        return ReceivingSession(over, store.begin, options, ends.receiver.tell, compares=case.updates)

    def meet(side: Side, machine: type[M], make: meeting.Make[M], dial: str | None) -> events.Receipt:
        if dial is None:
            entrance: Any = _Entrance() if case.encrypted else None
            # Of two attempts the older one may not have noticed yet that it was cut.
            suited = replace(chosen, timeout=20.0) if case.patient else chosen
            return meeting.listening(HERE, machine, make, suited, case.retry, side.tell, once=True, entrance=entrance)
        aim: meeting.Aim = _Aim(dial) if case.encrypted else meeting.Plain(parse_address(dial))
        return meeting.dialing(aim, make, b"test", chosen, case.retry, side.tell)

    def run(side: Side, dial: str | None) -> None:
        end: events.Receipt | EnchufeError | None = None
        try:
            if side is ends.sender:
                end = meet(side, Sender, make_sending, dial)
            else:
                end = meet(side, Receiver, make_receiving, dial)
        except EnchufeError as error:
            end = error
        except BaseException as error:  # noqa: BLE001 (told in the end)
            strays.append(error)
        with side.changed:
            side.end = end
            side.changed.notify_all()

    dialer, listener = (ends.sender, ends.receiver) if case.sender_dials else (ends.receiver, ends.sender)
    with Relay(choose) as relay:
        listening = threading.Thread(target=run, args=(listener, None))
        listening.start()
        relay.to = listener.wait_for(events.Listening).address
        dialing = threading.Thread(target=run, args=(dialer, relay.address))
        dialing.start()
        until = time.monotonic() + LONG
        dialing.join(STUCK)
        if dialing.is_alive() and case.flips and not case.encrypted:
            relay.cut()  # a length that is told too big has its receiver wait for bytes that pings bring
        dialing.join(LONG - STUCK)
        if not dialing.is_alive() and not isinstance(dialer.end, events.Receipt):
            until = min(until, time.monotonic() + case.retry + 4 * case.timeout + 15)
            while listening.is_alive() and time.monotonic() < until:
                if not any(isinstance(told, events.Connected) for told in listener.told):
                    _knock(case, relay.to)  # nobody came in, and nobody will
                listening.join(0.5)
        listening.join(max(0.0, until - time.monotonic()))
        over.set()
        hang = dialing.is_alive() or listening.is_alive()
        if hang:
            faulthandler.dump_traceback(all_threads=True)
        assert not hang, f"it hangs: {ends}"
    for one in sources:
        one.close()
    return ends, strays


def _knock(case: Case, address: str) -> None:
    """Come in to whoever listens for the first time, and go."""
    with suppress(EnchufeError):
        admitted = encrypted.dial(address) if case.encrypted else None
        with encrypted.dial_plain(address) if admitted is None else admitted.transport as transport:
            # Whoever says that he can do nothing has come to look, and ends nothing.
            hello = Hello(Role.SENDER if case.sender_dials else Role.RECEIVER, window=1, features=HEARD)
            drive(transport.send(frame(hello), transport.waiter.now() + LONG))


@contextmanager
def nothing_stays() -> Iterator[list[BaseException]]:
    """Whatever is raised where nobody catches it; afterwards there are no more threads and descriptors than before."""
    strays: list[BaseException] = []

    def threw(told: Any) -> None:
        strays.append(told.exc_value)

    hooks = threading.excepthook, sys.unraisablehook
    gc.collect()
    threads, descriptors = set(threading.enumerate()), _descriptors()
    threading.excepthook = sys.unraisablehook = threw
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield strays
            until = time.monotonic() + TIDY
            while (left := set(threading.enumerate()) - threads) and time.monotonic() < until:
                time.sleep(0.01)
            gc.collect()
    finally:
        threading.excepthook, sys.unraisablehook = hooks
    if left:
        faulthandler.dump_traceback(all_threads=True)
    assert not left, f"threads stay: {left}"
    more = {number: where for number, where in _descriptors().items() if descriptors.get(number) != where}
    assert not more, f"descriptors stay: {more}"


def _descriptors() -> dict[str, str]:
    found = {}
    for number in os.listdir("/proc/self/fd"):
        try:
            found[number] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:
            continue
    return found


def run(seed: int) -> str:
    rng = random.Random(seed)
    case = case_of(seed, rng)
    if case.pipe:
        case.retry, case.over_old = 0.0, False
    held = Held(random.Random(seed + 1))
    try:
        # As between two machines, which tell more of the versions that are there.
        apart = mock.patch.object(tcp, "is_one_machine", return_value=False)
        with apart, folder() as place, nothing_stays() as strays:
            outcome = _run(case, rng, held, place, strays)
        assert not strays, strays
        return outcome
    except BaseException as error:
        error.add_note(f"races of {case}, held at {held.where}")
        raise


def _run(case: Case, rng: random.Random, held: Held, place: Path, strays: list[BaseException]) -> str:
    tree, inbox = place / "tree", place / "inbox"
    names = grow(tree, rng)
    inbox.mkdir()
    if case.over_old:
        _older(tree, inbox, rng, same=case.updates)
    if rng.random() < 0.25 and names:
        case.restless = set(rng.sample(names, min(2, len(names))))
    before = snapshot(inbox)
    store = LocalStore(inbox, if_exists="update" if case.updates else "overwrite" if case.over_old else "fail")
    over = threading.Event()
    choose = harm(case, rng, over)
    more: dict[str, Any] = {"compress": case.compress, "limit": case.limit}
    if case.asks:
        more["ask"] = _yes
    change = random.Random(case.seed + 2)
    data = rng.randbytes(rng.choice((0, 1, BLOCK_SIZE, 2 * BLOCK_SIZE + 3)))
    with ExitStack() as stack:
        stack.callback(over.set)
        piped = stack.enter_context(fed(data)) if case.pipe else -1
        stack.enter_context(held)
        ends, more_strays = exchange(
            case,
            lambda: PipeSource(piped, "piped") if case.pipe else Restless(tree, change, set(case.restless)),
            store,
            choose,
            over,
            **more,
        )
    strays += more_strays
    if strays:
        raise strays[0]
    for side in (ends.sender, ends.receiver):
        _check_end(case, side)
    if case.pipe:
        done = isinstance(ends.receiver.end, events.Receipt)
        assert done or not isinstance(ends.sender.end, events.Receipt), "a receipt came from nowhere"
        assert visible(inbox) == ["piped"] * done
        assert not done or (inbox / "piped").read_bytes() == data
        return "piped" if done else "cut"
    if isinstance(ends.receiver.end, events.Receipt):
        _check_whole(case, tree, inbox / "tree")
        if isinstance(ends.sender.end, events.Receipt):
            assert ends.sender.end.digest == ends.receiver.end.digest
            assert ends.sender.end.left_out == ends.receiver.end.left_out
            return "done"
        return "receipt lost"
    assert not isinstance(ends.sender.end, events.Receipt), "a receipt came from nowhere"
    after = snapshot(inbox)
    for name in [name for name in after if name.split(b"/")[0] == b".enchufe"]:
        del after[name]
    assert after == before, "something half-done is visible"
    kept = kept_bytes(inbox)
    again, more_strays = exchange(case, lambda: Source([tree]), store, lambda _way: None, over, compress="never")
    strays += more_strays
    sent = again.sender.receipt
    assert again.receiver.receipt.digest == sent.digest
    assert snapshot(inbox / "tree").keys() >= snapshot(tree).keys()
    case.restless.clear()
    _check_whole(case, tree, inbox / "tree")
    if not names or case.over_old or (case.flips and not case.encrypted):  # what is kept may be known by a false name
        return "resumed"
    size = sum((tree / os.fsdecode(path)).stat().st_size for path in _firsts(tree))
    assert sent.sent_bytes <= max(0, size - kept) or _changed(ends), f"{sent.sent_bytes} of {size}, {kept} kept"
    return "resumed" if kept else "cut"


def _yes(_offering: Offering) -> bool:
    time.sleep(0.02)
    return True


def _changed(ends: Ends) -> bool:
    """Whether what is kept may be of versions that are no more."""
    return any(told.action == "left out" for told in ends.sender.of(events.File)) or any(
        "changed" in str(told) for told in (ends.sender.end, ends.receiver.end)
    )


def _firsts(tree: Path) -> list[bytes]:
    """One name of each file."""
    return [path for path, told in snapshot(tree).items() if told[3] == path]


def _older(tree: Path, inbox: Path, rng: random.Random, *, same: bool) -> None:
    """Another version of some of it is there; and of whole folders the same, but for a file or two."""
    (inbox / "tree" / "a" / "b").mkdir(parents=True)
    for path in sorted(tree.rglob("*")):
        if path.is_file() and same and rng.random() < 0.995:
            (inbox / path.relative_to(tree.parent)).parent.mkdir(exist_ok=True)
            shutil.copy2(path, inbox / path.relative_to(tree.parent))
        elif path.is_file() and not path.is_symlink() and rng.random() < 0.5:
            data = bytearray(path.read_bytes())
            if data and rng.random() < 0.5:
                data[rng.randrange(len(data))] ^= 1
            else:
                at = rng.randrange(len(data) + 1)
                data[at : at + rng.choice((0, 1, 70_000))] = rng.randbytes(rng.choice((1, 700, 70_000)))
            (inbox / path.relative_to(tree.parent)).parent.mkdir(exist_ok=True)
            (inbox / path.relative_to(tree.parent)).write_bytes(data)


def _check_end(case: Case, side: Side) -> None:
    if isinstance(side.end, events.Receipt):
        return
    allowed: tuple[type[EnchufeError], ...] = _FLIPPED if case.flips else _CUT
    if case.restless:  # what was said once cannot be said otherwise
        allowed = (*allowed, StoreError, Refused)
    if not isinstance(side.end, allowed) or isinstance(side.end, Declined):
        raise side.error


def _check_whole(case: Case, tree: Path, got: Path) -> None:
    sent, there = snapshot(tree), snapshot(got)
    if case.restless:
        unsure = {
            path for seen in (sent, there) for path, told in seen.items()
            if path.split(b"/")[-1] in case.restless or path.split(b"/")[-1].startswith(b"link")
        }  # fmt: skip
        for path in unsure:
            sent.pop(path, None)
            there.pop(path, None)
    if case.over_old or case.restless:  # which folders' times are of no matter here
        sent = {path: told[2:3] for path, told in sent.items()}
        there = {path: told[2:3] for path, told in there.items()}
    names = sent.keys() if case.over_old else sent.keys() | there.keys()
    wrong = sorted(path for path in names if sent.get(path) != there.get(path))
    assert not wrong, f"{len(wrong)} entries are not right: {wrong[:5]}"


def runs(seeds: list[int]) -> Counter[str]:
    return Counter(map(run, seeds))


def main() -> None:
    search(__doc__, lambda _: list(range(100_000)), runs, "races: {}; all explained", default=500, together=TOGETHER)


if __name__ == "__main__":
    main()
