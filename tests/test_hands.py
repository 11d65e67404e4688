"""Small files read and written by processes of their own: as by this one, whatever becomes of a file or of a hand."""

from __future__ import annotations

import errno
import gc
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3

from enchufe import events
from enchufe.buffer import Buffer
from enchufe.entry import BLOCK_SIZE, Answer, Entry, Kind, Reason
from enchufe.errors import ClosedError, NoSpaceError, RemoteProtocolError, StoreError, VerificationError
from enchufe.session import SendingSession
from enchufe.store import Delivery, LeftOut, LocalStore, Source, hand, hands, linux, local
from enchufe.store.interface import Contents
from enchufe.store.journal import RECORD_SIZE, Journal
from enchufe.store.records import Records
from enchufe.store.shared_folders import SharedFolders
from enchufe.transfer.messages import LeftOut as SaidLeftOut
from enchufe.transfer.messages import frame
from tests import handing
from tests.sessions import encrypted
from tests.sessions.transfers import send, transfer
from tests.test_delivery import Offer, T, snapshot
from tests.until import until

needed = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="no memory to share here")
pytestmark = [pytest.mark.usefixtures("no_descriptor_stays"), needed]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    handing.at_once(monkeypatch.setattr)


@pytest.fixture(autouse=True)
def none_stays() -> Iterator[None]:
    """Nobody waits any more for a hand that ends late."""
    before = set(running())
    yield
    until(lambda: set(running()) <= before)


def running() -> list[int]:
    """The hands of this process."""
    found = []
    for process in filter(str.isdigit, os.listdir("/proc")):
        try:
            told = Path(f"/proc/{process}/cmdline").read_bytes()
            parent = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if os.fsencode(hand.__file__) in told and parent == os.getpid():
            found.append(int(process))
    return found


def collected(them: hands.Hands | None, done: list[Any]) -> int:
    """How many requests are done by now."""
    assert them is not None
    them.collect()
    return len(done)


# Reading.


def read(source: Source, entries: list[Entry]) -> list[bytes | Reason]:
    """All of them together; the digests are right."""
    got: list[Contents] = []
    assert source.read_together(entries, got.append)
    until(lambda: collected(source.hands, got))
    found: list[bytes | Reason] = []
    for content in got[0].files:
        if isinstance(content, LeftOut):
            found.append(content.reason)
        else:
            assert blake3(content[0]).digest() == content[1]
            found.append(bytes(content[0]))
    got[0].release()
    return found


def whole(source: Source, entry: Entry) -> bytes | Reason:
    try:
        return source.read_whole(entry)
    except LeftOut as left_out:
        return left_out.reason


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    rng = random.Random(4)
    for number in range(40):
        path = root / f"d{number % 7}" / f"f{number:02}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.choice((0, 1, 300, 20_000))))
        path.chmod(rng.choice((0o600, 0o644, 0o755)))
        os.utime(path, ns=(T, T + number))
    return root


def files_of(source: Source) -> list[Entry]:
    return [entry for entry in source.walk() if entry.kind is Kind.FILE]


def test_what_hands_read(tree: Path) -> None:
    """Others may have changed, replaced and removed files since they were offered."""
    source = Source([tree])
    entries = files_of(source)
    changed, gone, link, pipe, longer = (
        tree / source.path(entries[number])[1].decode() / entries[number].name.decode() for number in (3, 4, 5, 6, 7)
    )
    os.utime(changed, ns=(T, T - 1))
    gone.unlink()
    link.unlink()
    link.symlink_to(changed)
    pipe.unlink()
    os.mkfifo(pipe)
    longer.write_bytes(longer.read_bytes() + b"x")
    os.utime(longer, ns=(T, T + int(longer.name[1:])))
    told = read(source, entries)
    assert told == [whole(source, entry) for entry in entries]
    assert [one for one in told if isinstance(one, Reason)] == [Reason.CHANGED, Reason.VANISHED, *[Reason.CHANGED] * 3]
    assert running()
    source.close()


def test_roots_that_are_files_and_a_folder_that_is_gone(tree: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.write_bytes(b"alone")
    source = Source([tree, alone])
    entries = files_of(source)
    moved = tree / "d1"
    moved.rename(tmp_path / "elsewhere")
    # Whoever has a folder open reads on.
    told = read(source, entries)
    assert told == [whole(source, entry) for entry in entries]
    assert told[-1] == b"alone"
    source.close()


def test_more_folders_than_one_request_may_bring(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hand, "FOLDERS", 3)
    source = Source([tree])
    entries = files_of(source)
    assert read(source, entries) == [whole(source, entry) for entry in entries]
    source.close()


def test_a_hand_that_is_killed_leaves_the_reading_to_us(tree: Path) -> None:
    source = Source([tree])
    entries = files_of(source)
    assert read(source, entries[:1]) == [whole(source, entries[0])]
    for process in running():
        os.kill(process, signal.SIGSTOP)
    got: list[Contents] = []
    for entry in entries[:4]:
        assert source.read_together([entry], got.append)
    for process in running():
        os.kill(process, signal.SIGKILL)
    until(lambda: collected(source.hands, got) == 4)
    told = [bytes(content[0]) for contents in got for content in contents.files if not isinstance(content, LeftOut)]
    assert sorted(told) == sorted(source.read_whole(entry) for entry in entries[:4])
    assert not source.read_together(entries, got.append)  # we are alone
    source.close()


# Writing.


def begun(folder: Path, **how: Any) -> Delivery:
    delivery = LocalStore(folder, **how).begin()
    assert isinstance(delivery, Delivery)
    return delivery


def write(delivery: Delivery, files: Sequence[tuple[Entry, Buffer]], *, digest: bytes | None = None) -> None:
    done: list[None] = []
    told = [(entry, data, digest or blake3(data).digest()) for entry, data in files]
    assert delivery.write_together(told, lambda: done.append(None))
    until(lambda: collected(delivery.hands, done))


def offered(delivery: Delivery, count: int = 30) -> list[tuple[Entry, Buffer]]:
    """Files in folders and beside them, of all modes; one with attributes."""
    offer, rng = Offer(delivery), random.Random(6)
    folders = [offer.folder("top"), offer.folder("other")]
    folders.append(offer.folder("inner", folders[0]))
    found: list[tuple[Entry, Buffer]] = []
    for number in range(count):
        data = rng.randbytes(rng.choice((0, 5, 9000)))
        fields: dict[str, Any] = {"attributes": ((b"user.a", b"b"),)} if number == 3 else {}
        parent = (*folders, None)[number % 4]
        mode = rng.choice((0o644, 0o600, 0o755, 0o400, 0o666))
        entry = offer.add(Kind.FILE, f"f{number}", parent, size=len(data), mode=mode, **fields)
        assert offer.answer is Answer.ALL
        found.append((entry, data))
    return found


def test_what_hands_write_is_what_we_would(tmp_path: Path) -> None:
    for name in ("theirs", "ours"):
        delivery = begun(tmp_path / name)
        files = offered(delivery)
        if name == "theirs":
            write(delivery, files)
            assert running()
        else:
            for entry, data in files:
                delivery.write_whole(entry, data, blake3(data).digest())
        delivery.commit()
    assert snapshot(tmp_path / "theirs", times=True) == snapshot(tmp_path / "ours", times=True)


def test_the_journal_knows_what_hands_have_written(tmp_path: Path) -> None:
    first = begun(tmp_path)
    files = offered(first)
    write(first, files[:20])
    first.suspend()
    again = begun(tmp_path)
    known = {entry.id: blake3(data).digest() for entry, data in files[:20]}
    offer = Offer(again)
    for folder in ("top", "other"):
        offer.folder(folder)
    offer.folder("inner", 0)
    for entry, _ in files:
        answer = again.admit(entry)
        assert answer is (Answer.REST if entry.id in known else Answer.ALL)
        if answer is Answer.REST:
            assert list(again.kept(entry)) == [(0, known[entry.id])]
    again.abandon()


def test_files_into_a_folder_that_is_there(tmp_path: Path) -> None:
    """They are staged under names of ours, and the journal knows them by theirs."""
    (tmp_path / "top").mkdir()
    (tmp_path / "top" / "kept").write_bytes(b"kept")
    for _ in range(2):
        delivery = begun(tmp_path, if_exists="update")
        files = offered(delivery)
        write(delivery, [one for one in files if not list(delivery.kept(one[0]))])
        delivery.suspend()
        again = begun(tmp_path, if_exists="update")
        answers = Offer(again)
        for folder in ("top", "other"):
            answers.folder(folder)
        answers.folder("inner", 0)
        assert {again.admit(entry) for entry, _ in files} == {Answer.REST}
        assert not any(again.recheck(entry, lambda: False) for entry, _ in files)
        again.abandon()  # with what it has taken over
    assert os.listdir(tmp_path / "top") == ["kept"]


def test_without_descriptors_left_files_are_written_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    delivery = begun(tmp_path)
    files = offered(delivery)
    write(delivery, files[:8])
    stored = delivery._space.stored

    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patched:
        patched.setattr(hands._Hand, "ask", refuse)
        write(delivery, files[8:20])
    write(delivery, files[20:])
    assert delivery._space.stored - stored == sum(len(data) for _, data in files[8:])
    delivery.commit()
    assert len([one for one in snapshot(tmp_path).values() if one[2] is not None]) == len(files)


def test_what_is_being_stored_cannot_be_left_out(tree: Path, tmp_path: Path) -> None:
    """Else it would be there and not counted: by a sender that sends files, and says that it left them out."""

    class Hostile(SendingSession):
        def _say_batch(self, stream: int, work: Any, contents: Any) -> list[Buffer]:
            said = [bytes(piece) for piece in super()._say_batch(stream, work, contents)]
            return [*said, *[piece for entry, _ in work for piece in frame(SaidLeftOut(entry.id, Reason.CHANGED))]]

    store = LocalStore(tmp_path / "inbox")
    ends = transfer(lambda: Source([tree]), store.begin, streams=1, sending=Hostile)
    assert isinstance(ends.receiver.end, RemoteProtocolError)
    assert "which is not on its way" in str(ends.receiver.end)
    assert os.listdir(tmp_path / "inbox") == [".enchufe"]


def test_more_than_there_is_room_for_is_written_here(tmp_path: Path) -> None:
    """A batch may be longer than a block by what its table has room for."""
    delivery = begun(tmp_path)
    offer = Offer(delivery)
    folder = offer.folder("top")
    data = bytes(BLOCK_SIZE // 2 + 1)
    files = [(offer.add(Kind.FILE, f"f{number}", folder, size=len(data)), data) for number in range(2)]
    told = [(entry, data, blake3(data).digest()) for entry, data in files]
    assert not delivery.write_together(told, lambda: None)
    write(delivery, files[:1])
    delivery.abandon()


def test_a_process_that_was_forked_off_keeps_no_hand(tmp_path: Path) -> None:
    script = f"""
import os, time
from tests import handing
from tests.test_hands import begun, offered, running, write
handing.at_once()
delivery = begun({str(tmp_path)!r})
write(delivery, offered(delivery))
child = os.fork()
if not child:
    time.sleep(60)
    os._exit(0)
delivery.abandon()
assert not running()
os.kill(child, 9)
os.waitpid(child, 0)
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_content_of_another_digest(tmp_path: Path) -> None:
    delivery = begun(tmp_path)
    files = offered(delivery)
    with pytest.raises(VerificationError, match="top/f4' arrived damaged"):
        write(delivery, files[4:5], digest=bytes(32))
    with pytest.raises(ClosedError, match="has failed"):
        delivery.commit()
    delivery.abandon()
    assert not snapshot(tmp_path)


def test_a_name_that_is_taken(tmp_path: Path) -> None:
    delivery = begun(tmp_path)
    files = offered(delivery)
    entry, _ = files[0]
    twin = Entry(100, entry.parent, entry.name, Kind.FILE, 3)
    assert delivery.admit(twin) is Answer.ALL
    with pytest.raises(RemoteProtocolError, match="top/f0' was offered twice"):
        write(delivery, [files[0], (twin, b"abc")])
    delivery.abandon()


def test_what_was_dropped_goes_nowhere(tmp_path: Path) -> None:
    delivery = begun(tmp_path)
    files = offered(delivery)
    delivery.drop(files[0][0])
    write(delivery, files)
    delivery.commit()
    found = snapshot(tmp_path)
    assert b"top/f0" not in found
    assert b"other/f1" in found


def test_a_disk_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hand says so, by its errno; what it wrote before is noted."""
    spawn = hands._spawn
    limit = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (8000, 8000)); "
    limit += "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
    limit += "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"

    def limited(channel: int) -> int:
        real = os.posix_spawn
        monkeypatch.setattr(
            os, "posix_spawn", lambda path, argv, env, **how: real(path, [argv[0], "-c", limit, *argv[3:]], env, **how)
        )
        try:
            return spawn(channel)
        finally:
            monkeypatch.setattr(os, "posix_spawn", real)

    monkeypatch.setattr(hands, "_spawn", limited)
    delivery = begun(tmp_path)
    files = offered(delivery)
    with pytest.raises(StoreError, match=r"cannot write .*File too large"):
        write(delivery, files)
    delivery.suspend()
    assert not isinstance(StoreError, NoSpaceError)
    journal = next(tmp_path.rglob("journal"))
    assert journal.stat().st_size >= RECORD_SIZE


def test_a_hand_that_is_killed_ends_the_delivery_and_costs_little(tmp_path: Path) -> None:
    delivery = begun(tmp_path)
    files = offered(delivery)
    write(delivery, files[:10])
    for process in running():
        os.kill(process, signal.SIGSTOP)
    told = [(entry, data, blake3(data).digest()) for entry, data in files[10:]]
    assert delivery.write_together(told, lambda: None)
    for process in running():
        os.kill(process, signal.SIGKILL)
    with pytest.raises(StoreError, match="is gone"):
        until(lambda: collected(delivery.hands, []))
    with pytest.raises(ClosedError, match="has failed"):
        delivery.commit()
    delivery.suspend()
    again = begun(tmp_path)
    offer = Offer(again)
    for folder in ("top", "other"):
        offer.folder(folder)
    offer.folder("inner", 0)
    kept = [again.admit(entry) is Answer.REST for entry, _ in files]
    assert all(kept[:10])
    assert not all(kept)
    again.abandon()


def test_hands_that_are_gone_are_missed_by_nobody(tmp_path: Path) -> None:
    """Where nothing was asked of them."""
    delivery = begun(tmp_path)
    files = offered(delivery)
    write(delivery, files[:10])
    them = running()
    for process in them:
        os.kill(process, signal.SIGKILL)
    # Its memory goes first, and its name with that; its end of the socket before it is all but gone.
    until(lambda: all(" Z " in Path(f"/proc/{process}/stat").read_text() for process in them))
    for entry, data in files[10:]:
        digest = blake3(data).digest()
        if not delivery.write_together([(entry, data, digest)], lambda: None):
            delivery.write_whole(entry, data, digest)
    delivery.commit()
    assert len([one for one in snapshot(tmp_path).values() if one[2] is not None]) == len(files)


def test_room_in_the_journal_that_nobody_filled_tells_nothing(tmp_path: Path) -> None:
    area = os.open(tmp_path, os.O_RDONLY)
    journal = Journal(area)
    journal.reserve(3)
    journal.add(b"i" * 16, 0, 5, b"d" * 32)
    journal.flush()
    journal.close()
    records = Records(os.open("journal", os.O_RDONLY, dir_fd=area))
    assert len(records) == 1
    assert list(records.kept(b"i" * 16, 5, 5)) == [(0, b"d" * 32)]
    records.close()
    os.close(area)


# Stuck: stopped, or at a disk that is gone.


def stop(them: hands.Hands | None) -> None:
    """As a disk would that says nothing any more."""
    assert them is not None
    for one in them._hands:
        os.kill(one._process, signal.SIGSTOP)


def test_one_that_does_not_end_is_killed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands, "ending", 0.1)
    source = Source([tree])
    entries = files_of(source)
    read(source, entries)
    stop(source.hands)
    assert source.read_together(entries[:1], lambda _: None)
    source.close()
    assert not running()


@pytest.mark.parametrize("begun", [True, False])
def test_one_that_is_at_nothing_is_not_waited_for(tree: Path, monkeypatch: pytest.MonkeyPatch, begun: bool) -> None:
    """Python takes a while to end in order, and longer where it has just begun."""
    monkeypatch.setattr(hands, "ending", 3600.0)
    source = Source([tree])
    if begun:
        read(source, files_of(source))
    else:
        source._hiring.with_files(1)
    assert running()
    stop(source.hands)
    closing = threading.Thread(target=source.close, daemon=True)
    closing.start()
    closing.join(30)
    waits = closing.is_alive()
    for process in running():
        os.kill(process, signal.SIGKILL)
    closing.join()
    assert not waits


def test_an_interruption_ends_the_wait_for_its_end(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands, "ending", 60.0)
    source = Source([tree])
    entries = files_of(source)
    read(source, entries)
    stop(source.hands)
    assert source.read_together(entries[:1], lambda _: None)  # who is at nothing may be gone before we look

    def interrupted(_seconds: float) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(time, "sleep", interrupted)
        source.close()
    monkeypatch.setattr(hands, "ending", 0.0)
    source.close()
    until(lambda: not running())


def test_what_those_that_are_stuck_were_to_read_we_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands, "patience", 0.3)
    source = Source([tree])
    entries = files_of(source)
    assert read(source, entries[:1]) == [whole(source, entries[0])]
    stop(source.hands)
    assert read(source, entries) == [whole(source, entry) for entry in entries]
    source.close()


def test_those_that_are_stuck_end_the_delivery_and_cost_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for memory waits no longer than whoever waits for them."""
    monkeypatch.setattr(hands, "patience", 0.3)
    delivery = begun(tmp_path)
    files = offered(delivery)
    write(delivery, files[:10])
    stop(delivery.hands)
    with pytest.raises(StoreError, match="was stuck with one"):
        for entry, data in files[10:]:
            delivery.write_together([(entry, data, blake3(data).digest())], lambda: None)
    delivery.suspend()
    again = begun(tmp_path)
    offer = Offer(again)
    for folder in ("top", "other"):
        offer.folder(folder)
    offer.folder("inner", 0)
    assert [again.admit(entry) is Answer.REST for entry, _ in files] == [True] * 10 + [False] * 20
    again.abandon()


def test_an_interruption_ends_the_wait_for_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands, "ending", 0.1)
    delivery = begun(tmp_path)
    files = offered(delivery)
    write(delivery, files[:10])
    stop(delivery.hands)

    def interrupt() -> None:
        them = delivery.hands
        assert them is not None
        until(lambda: not them._slots)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        for entry, data in files[10:]:
            delivery.write_together([(entry, data, blake3(data).digest())], lambda: None)
    thread.join()
    delivery.suspend()


def test_whoever_asks_does_not_wait(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is asked of one that hears nothing any more."""
    monkeypatch.setattr(hands, "ending", 0.1)
    source = Source([tree])
    read(source, files_of(source))
    them = source.hands
    assert them is not None
    stop(them)
    for one in them._hands:
        one.channel.settimeout(0)
    for _ in range(6):
        them.read([(0, b"n" * 255, 0, 0, 0)] * 1024, hands.Places(), SharedFolders(), lambda _: None)
    source.close()


def test_it_may_be_slow(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file may take long; and whoever stops us may have stopped it too."""
    monkeypatch.setattr(hands, "ending", 0.1)
    source = Source([tree])
    entries = files_of(source)
    read(source, entries)
    them = source.hands
    assert them is not None
    one = next(one for one in them._hands if one._pulse[0])
    assert one._pulse[0] == len(entries) - 1
    stop(them)
    asked: list[Any] = []
    one.ask(("read", []), [], asked.append)
    for number in range(9):
        one._pulse[0] = number
        one.wait_on(hands.patience - 1)
    one.wait_on(hands.patience - 2)
    them._looked -= 2 * hands.patience
    them.collect()
    assert not one.lost
    one.wait_on(2)
    assert one.lost
    them.collect()
    assert asked == [None]
    source.close()


# Whether there are any.


def test_none_before_it_pays(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands, "from_files", 1000)
    source = Source([tree])
    entries = files_of(source)
    assert not source.read_together(entries, lambda _: None)
    delivery = begun(tmp_path / "into")
    assert not delivery.write_together([], lambda: None)
    assert source.hands is delivery.hands is None
    delivery.abandon()
    source.close()


@pytest.mark.parametrize("from_files", [40, 41])
def test_they_begin_as_soon_as_so_many_are_known_of(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, from_files: int
) -> None:
    """Before the first of them is read or written."""
    monkeypatch.setattr(hands, "from_files", from_files)
    source = Source([tree])
    delivery = begun(tmp_path / "into")
    for entry in source.walk():
        delivery.admit(entry)
    assert (source.hands is not None) is (delivery.hands is not None) is (from_files == 40)
    delivery.abandon()
    source.close()


def test_that_there_are_many_tells_nothing_where_most_may_be_there_already(tree: Path) -> None:
    source = Source([tree])
    source.lists = True
    assert list(source.walk())
    assert source.hands is None
    source.close()


@pytest.mark.parametrize("lack", ["permission", "python", "processors", "affinity", "wish", "processes"])
def test_none_to_be_had(tree: Path, monkeypatch: pytest.MonkeyPatch, lack: str) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError

    if lack == "permission":
        monkeypatch.setattr(os, "posix_spawn", refuse)
    elif lack == "python":
        monkeypatch.setattr(sys, "executable", "/usr/sbin/a-server")
    elif lack == "processors":
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    elif lack == "affinity":
        monkeypatch.setattr(os, "sched_getaffinity", refuse)
    elif lack == "wish":
        monkeypatch.setattr(hands, "use_hands", False)
    else:
        monkeypatch.setattr(os, "memfd_create", refuse)
    source = Source([tree])
    assert not source.read_together(files_of(source), lambda _: None)
    assert not running()
    source.close()


def test_one_that_does_not_begin(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no Python that it is run by, say."""
    monkeypatch.setattr(sys, "executable", "/bin/false")
    monkeypatch.setattr(os.path, "basename", lambda path: "python" if isinstance(path, str) else b"python")
    source = Source([tree])
    assert not source.read_together(files_of(source), lambda _: None)
    source.close()


def test_it_is_told_no_secrets(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENCHUFE_CODE", "label-cielo-perro-luna")
    source = Source([tree])
    read(source, files_of(source))
    for process in running():
        assert b"cielo" not in Path(f"/proc/{process}/environ").read_bytes()
    source.close()


def test_it_ends_with_who_began_it(tree: Path) -> None:
    """However that ends; and a signal to all of a terminal's is not for it."""
    script = f"""
import os, sys, time
from tests import handing
from tests.test_hands import files_of, read, running
from enchufe.store import Source
handing.at_once()
source = Source([{str(tree)!r}])
read(source, files_of(source))
print(*running(), flush=True)
time.sleep(60)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None
    them = process.stdout.readline().split()
    assert them
    for one in them:
        os.kill(int(one), signal.SIGINT)
        os.kill(int(one), signal.SIGTERM)
    time.sleep(0.1)
    assert all(Path(f"/proc/{one}").exists() for one in them)
    process.kill()
    process.wait()
    process.stdout.close()
    until(lambda: not any(Path(f"/proc/{one}/cmdline").exists() for one in them))


# Whole transfers.


@pytest.fixture
def many(tmp_path: Path) -> Path:
    root = tmp_path / "many"
    rng = random.Random(8)
    for number in range(1500):
        path = root / f"{number % 30}" / f"{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(rng.randbytes(rng.randrange(4000)))
        os.utime(path, ns=(T, T + number))
    (root / "big").write_bytes(rng.randbytes(5 << 20))
    return root


@pytest.mark.parametrize("side", ["sender", "receiver"])
def test_a_side_whose_hands_are_stuck(many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, side: str) -> None:
    """A sender does without; a receiver ends, and the next transfer goes on from there."""
    monkeypatch.setattr(hands, "patience", 0.5)
    monkeypatch.setattr(hands, "ending", 0.1)

    class Stuck(Source):
        def read_together(self, entries: Sequence[Entry], done: Callable[[Contents], None]) -> bool:
            stop_once(self)
            return super().read_together(entries, done)

    class StuckDelivery(Delivery):
        def write_together(self, files: Sequence[tuple[Entry, Buffer, bytes]], done: Callable[[], None]) -> bool:
            stop_once(self)
            return super().write_together(files, done)

    stopped: list[object] = []

    def stop_once(whose: Source | Delivery) -> None:
        if whose.hands is not None and not stopped:
            stopped.append(whose)
            stop(whose.hands)

    monkeypatch.setattr(local, "Delivery", StuckDelivery if side == "receiver" else Delivery)
    store = LocalStore(tmp_path / "inbox")
    reading = Stuck if side == "sender" else Source
    ends = transfer(lambda: reading([many]), store.begin, streams=1)
    assert stopped
    if side == "receiver":
        assert "was stuck" in str(ends.receiver.error)
        del ends
        gc.collect()  # of the error, which holds on to the memory that was shared
        ends = transfer(lambda: Source([many]), store.begin, streams=1)
        assert ends.sender.receipt.sent_bytes < sum(path.stat().st_size for path in many.rglob("*") if path.is_file())
    assert ends.sender.receipt.files == 1501
    assert snapshot(tmp_path / "inbox" / "many", times=True) == snapshot(many, times=True)


@pytest.mark.parametrize("streams", [1, 3])
def test_many_small_files(many: Path, tmp_path: Path, streams: int) -> None:
    ends = send(many, tmp_path / "inbox", streams=streams)
    assert ends.sender.receipt.files == ends.receiver.receipt.files == 1501
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert snapshot(tmp_path / "inbox" / "many", times=True) == snapshot(many, times=True)
    assert ends.sender.of(events.Progress)[-1].bytes == ends.sender.of(events.Progress)[-1].total
    assert not running()


class Prompt(Source):
    """Whoever is asked to read has read before anybody looks again."""

    def read_together(self, entries: Sequence[Entry], done: Callable[[Contents], None]) -> bool:
        told: list[Contents] = []
        if not super().read_together(entries, told.append):
            return False
        until(lambda: collected(self.hands, told))
        done(told[0])
        return True


def test_a_block_taken_while_small_files_were_read_is_sent(many: Path, tmp_path: Path) -> None:
    ends = transfer(lambda: Prompt([many]), LocalStore(tmp_path / "inbox").begin, streams=1)
    assert ends.sender.receipt.files == ends.receiver.receipt.files == 1501
    assert snapshot(tmp_path / "inbox" / "many", times=True) == snapshot(many, times=True)


def test_each_is_told(many: Path, tmp_path: Path) -> None:
    ends = send(many, tmp_path / "inbox", each_file=True)
    for side, action in ((ends.sender, "sent"), (ends.receiver, "received")):
        told = {file.path: file for file in side.of(events.File) if file.action == action}
        assert len(told) == 1501
        path = (b"many", b"7", b"7")
        assert told[path].digest == blake3((many / "7" / "7").read_bytes()).digest()


def test_many_small_files_encrypted(many: Path, tmp_path: Path) -> None:
    ends = encrypted.send(many, tmp_path / "inbox")
    assert ends.sender.receipt.files == 1501
    assert ends.sender.receipt.digest == ends.receiver.receipt.digest
    assert snapshot(tmp_path / "inbox" / "many", times=True) == snapshot(many, times=True)


def test_without_a_kernel_that_syncs_a_file_system_we_write_ourselves(
    many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linux, "use_syncfs", False)
    ends = send(many, tmp_path / "inbox")
    assert ends.receiver.receipt.files == 1501
    assert snapshot(tmp_path / "inbox" / "many", times=True) == snapshot(many, times=True)
