"""The commands as separate processes over real sockets: what arrives, what is told, how they end."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import enchufe
from enchufe.access.links import Link
from enchufe.entry import NO_PARENT, Answer, Entry, Kind
from enchufe.transfer import messages as m
from enchufe.transfer.data import Block
from enchufe.transfer.message import Message, Role, Type
from enchufe.transfer.offers import Offer
from enchufe.transfer.receiver import Receiver
from enchufe.transports import TcpAddress
from tests.reserved import reserved_port
from tests.sessions.kept import kept_bytes
from tests.sessions.relay import HELLO_SIZE
from tests.until import until

COMMAND = [sys.executable, "-m", "enchufe"]
MIB = 1 << 20
PATIENCE = 60.0


class Process:
    """One command with --json, its events read as they come."""

    def __init__(self, *arguments: str | bytes | Path, stdin: Any = subprocess.DEVNULL) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *arguments, "--plain", "--json"], stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        self.events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            event = json.loads(line)
            event.pop("time", None)
            assert event["v"] == 1
            with self._changed:
                self.events.append(event)
                self._changed.notify_all()

    def named(self, name: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == name]

    def wait_for(self, name: str, condition: Callable[[dict[str, Any]], bool] = lambda _event: True) -> dict[str, Any]:
        def found() -> list[dict[str, Any]]:
            return [event for event in self.named(name) if condition(event)]

        with self._changed:
            assert self._changed.wait_for(found, PATIENCE), f"no {name}: {self.events}"
            return found()[0]

    def end(self) -> int:
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def close(self) -> str:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self._reader.join(PATIENCE)
        assert self.process.stdout and self.process.stderr
        told = self.process.stderr.read().decode() if not self.process.stderr.closed else ""
        self.process.stdout.close()
        self.process.stderr.close()
        return told


Start = Callable[..., Process]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts commands; ends them, whatever happens."""
    started: list[Process] = []

    def begin(*arguments: str | bytes | Path, **options: Any) -> Process:
        started.append(Process(*arguments, **options))
        return started[-1]

    yield begin
    for process in started:
        process.close()


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    return tmp_path / "inbox"


def receiving(start: Start, inbox: Path | str, *options: str) -> tuple[Process, str]:
    receiver = start("receive", "--listen", "127.0.0.1:0", "-o", inbox, *options)
    return receiver, receiver.wait_for("listening")["address"]


def generated(path: Path, size: int) -> Path:
    piece = bytearray(os.urandom(MIB))
    with path.open("wb") as file:
        for number in range(size // MIB):
            piece[:8] = number.to_bytes(8, "big")
            file.write(piece)
        file.write(piece[: size % MIB])
    return path


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def inventory(root: Path) -> dict[bytes, tuple[Any, ...]]:
    """Every entry below `root`, by its path in bytes: kind and mode, time, content or target."""
    found: dict[bytes, tuple[Any, ...]] = {}
    top = os.fsencode(root)
    for folder, names, files in os.walk(top):
        for name in (*names, *files):
            path = os.path.join(folder, name)
            info = os.lstat(path)
            content = None
            if os.path.islink(path):
                content = os.readlink(path)
            elif os.path.isfile(path):
                with open(path, "rb") as file:
                    content = hashlib.file_digest(file, "sha256").digest()
            mode = 0 if os.path.islink(path) else info.st_mode
            found[os.path.relpath(path, top)] = (mode, info.st_mtime_ns, content)
    return found


def memory(process: Process) -> int:
    """Peak resident memory so far, in MiB."""
    for line in Path(f"/proc/{process.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) // 1024
    raise AssertionError("no VmHWM")


def test_a_gibibyte(start: Start, tmp_path: Path, inbox: Path) -> None:
    big = generated(tmp_path / "big", 1024 * MIB)
    big.chmod(0o640)
    os.utime(big, ns=(1, 1_234_567_890_123_456_789))
    receiver, address = receiving(start, inbox)
    # So fast that both are still there to be looked at when it is half done.
    sender = start("send", big, "--to", address, "--limit", "500MiB/s")
    half = receiver.wait_for("progress", lambda event: event["bytes"] > 512 * MIB)
    assert half["total"] == 1024 * MIB
    assert memory(receiver) < 200
    assert memory(sender) < 200
    assert (sender.end(), receiver.end()) == (0, 0)

    landed = inbox / "big"
    assert digest(landed) == digest(big)
    assert (landed.stat().st_mode, landed.stat().st_mtime_ns) == (big.stat().st_mode, big.stat().st_mtime_ns)
    assert os.listdir(inbox) == ["big"]
    for process in (sender, receiver):
        assert process.wait_for("offer") == {"v": 1, "event": "offer", "entries": 1, "bytes": 1024 * MIB}
        assert process.wait_for("connected")["peer"].startswith("127.0.0.1:")
        told = [event["bytes"] for event in process.named("progress")]
        assert told == sorted(told)
        receipt = process.events[-1]
        expected = {"event": "receipt", "files": 1, "bytes": 1024 * MIB, "sent_bytes": 1024 * MIB, "skipped": 0}
        assert receipt.items() >= {**expected, "left_out": 0}.items()
        assert receipt["seconds"] > 0
    assert sender.events[-1]["digest"] == receiver.events[-1]["digest"]
    assert [event["event"] for event in receiver.events[:3]] == ["listening", "connected", "offer"]
    assert not sender.named("file")


def test_real_trees_of_thousands(start: Start, tmp_path: Path, inbox: Path) -> None:
    # Of what is installed for the tests what none of them runs, or Python would write there; and what the machine has.
    installed = Path(sysconfig.get_path("purelib"))
    trees = [installed / "mypy" / "typeshed", installed / "pip", installed / "mypyc"]
    trees += [path for path in [Path("/usr/include")] if path.is_dir()]
    receiver, address = receiving(start, inbox, "--links", "any")
    sender = start("send", *trees, "--to", address)
    assert (sender.end(), receiver.end()) == (0, 0)
    assert sorted(os.listdir(inbox)) == sorted(tree.name for tree in trees)
    for tree in trees:
        assert inventory(inbox / tree.name) == inventory(tree)
    assert sender.events[-1]["files"] > 1500


ODD = [
    b"with space",
    b" ",
    b"new\nline",
    b"tab\t",
    "ñandú".encode(),
    "🔌".encode(),
    b"\xff\xfe invalid",
    b"x" * 255,
    b"-rf",
    b"~",
    b"back\\slash",
    b"\x1b[31mred\x1b[0m",
    b"...",
    b"quote'\"",
]


def test_odd_names_modes_and_links(start: Start, tmp_path: Path, inbox: Path) -> None:
    tree = tmp_path / "odd"
    tree.mkdir()
    top = os.fsencode(tree)
    for number, name in enumerate(ODD):
        with open(os.path.join(top, name), "wb") as file:
            file.write(name * number)
        os.utime(os.path.join(top, name), ns=(number, 10**18 + number))
        os.mkdir(os.path.join(top, name[:250] + b".dir"))
    (tree / "empty").touch()
    (tree / "empty folder").mkdir(mode=0o711)
    for mode in (0o000, 0o444, 0o755, 0o4755):
        (tree / f"{mode:o}").write_text("x")
        (tree / f"{mode:o}").chmod(mode)
    os.symlink(b"new\nline", os.path.join(top, b"link"))
    os.symlink(b"nowhere", os.path.join(top, b"dangling"))
    receiver, address = receiving(start, inbox, "--verbose")
    sender = start("send", f"{tree}/", "--to", address, "--verbose")
    assert (sender.end(), receiver.end()) == (0, 0)
    expected = inventory(tree)
    expected[b"4755"] = (0o100755, *expected[b"4755"][1:])  # never setuid
    assert inventory(inbox / "odd") == expected
    told = {event["path"] for event in receiver.named("file")}
    assert os.fsdecode(b"odd/\xff\xfe invalid") in told
    assert len(receiver.named("file")) == receiver.events[-1]["files"] == len(ODD) + 5


def test_what_cannot_travel_is_listed_and_the_rest_arrives(start: Start, tmp_path: Path, inbox: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "good").write_text("good")
    (tree / "escaping").symlink_to("../../etc/passwd")
    (tree / "absolute").symlink_to("/etc/passwd")
    os.mkfifo(tree / "fifo")
    receiver, address = receiving(start, inbox)
    sender = start("send", tree, "--to", address)
    assert (sender.end(), receiver.end()) == (7, 7)
    assert {(event["path"], event["action"]) for event in sender.named("file")} == {
        ("tree/escaping", "refused"),
        ("tree/absolute", "refused"),
        ("tree/fifo", "left out"),
    }
    assert sender.events[-1]["left_out"] == receiver.events[-1]["left_out"] == 3
    assert os.listdir(inbox / "tree") == ["good"]


def visible(inbox: Path) -> set[str]:
    return set(os.listdir(inbox)) - {".enchufe"} if inbox.exists() else set()


def slow_transfer(start: Start, tmp_path: Path, inbox: Path, *options: str) -> tuple[Process, Process, Path, str]:
    """A transfer that is under way, and will be for long."""
    big = generated(tmp_path / "big", 64 * MIB)
    receiver, address = receiving(start, inbox, *options)
    sender = start("send", big, "--to", address, "--limit", "16MiB/s", "--retry", "1", *options)
    receiver.wait_for("progress", lambda event: event["bytes"] >= 8 * MIB)
    return sender, receiver, big, address


def check_next_send(start: Start, receiver: Process, address: str, big: Path, inbox: Path) -> None:
    """The same command again sends what is missing: what the journal does not vouch for."""
    kept = kept_bytes(inbox)
    sender = start("send", big, "--to", address)
    assert (sender.end(), receiver.end()) == (0, 0)
    assert sender.events[-1]["sent_bytes"] == receiver.events[-1]["sent_bytes"] == 64 * MIB - kept
    assert kept >= 4 * MIB  # 8 MiB were told; what a death costs is a block for each stream
    assert digest(inbox / "big") == digest(big)
    assert os.listdir(inbox) == ["big"]


def test_a_killed_sender_shows_nothing_and_the_next_sends_what_is_missing(
    start: Start, tmp_path: Path, inbox: Path
) -> None:
    sender, receiver, big, address = slow_transfer(start, tmp_path, inbox)
    sender.process.kill()
    error = receiver.wait_for("error")
    assert error["kind"] == "broken"
    assert error["hint"] == "This side waits for the other to come back. What has arrived is kept."
    assert visible(inbox) == set()
    check_next_send(start, receiver, address, big, inbox)


def test_a_sender_that_listens_says_how_long_it_waits_for_whoever_was_cut(
    start: Start, tmp_path: Path, inbox: Path
) -> None:
    big = generated(tmp_path / "big", 64 * MIB)
    sender = start("send", big, "--listen", "127.0.0.1:0", "--plain", "--limit", "8MB/s", "--retry", "1")
    receiver = start("receive", sender.wait_for("listening")["address"], "-o", inbox, "--plain", "--yes")
    receiver.wait_for("progress")
    receiver.process.kill()
    hint = sender.wait_for("error")["hint"]
    assert hint == "This side waits for 1 s for the other to come back. What has arrived is kept."
    assert sender.end() == 4
    assert "This side waits" not in sender.events[-1]["hint"]  # it does no more


def test_a_killed_receiver_is_told_clearly_and_the_next_gets_what_is_missing(
    start: Start, tmp_path: Path, inbox: Path
) -> None:
    sender, receiver, big, _ = slow_transfer(start, tmp_path, inbox)
    receiver.process.kill()
    assert sender.end() == 4
    error = sender.events[-1]
    assert error["event"] == "error"
    assert sender.named("retrying")
    assert error["hint"]
    assert visible(inbox) == set()
    receiver, address = receiving(start, inbox)
    check_next_send(start, receiver, address, big, inbox)


def test_an_interrupted_sender(start: Start, tmp_path: Path, inbox: Path) -> None:
    sender, receiver, big, address = slow_transfer(start, tmp_path, inbox)
    sender.process.send_signal(signal.SIGINT)
    assert sender.end() == 130
    error = receiver.wait_for("error")
    # In the middle of a message nothing can be said any more: then it is just gone.
    told = ("the other side was interrupted", "the other side went away before", "the other side cut the connection")
    assert error["kind"] == "broken"
    assert error["message"].startswith(told)
    assert "kept" in error["hint"] or error["message"].startswith(told[2])
    assert visible(inbox) == set()
    check_next_send(start, receiver, address, big, inbox)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_receiver(start: Start, tmp_path: Path, inbox: Path, number: signal.Signals) -> None:
    sender, receiver, big, _ = slow_transfer(start, tmp_path, inbox)
    receiver.process.send_signal(number)
    assert (sender.end(), receiver.end()) == (4, 130)
    assert sender.events[-1]["kind"] == "broken"
    assert sender.events[-1]["message"] == "the other side was interrupted"
    assert not sender.named("retrying")
    assert visible(inbox) == set()
    receiver, address = receiving(start, inbox)
    check_next_send(start, receiver, address, big, inbox)


@pytest.mark.parametrize("stopped", ["sender", "receiver"])
def test_a_stopped_peer_is_found(start: Start, tmp_path: Path, inbox: Path, stopped: str) -> None:
    sender, receiver, _, _ = slow_transfer(start, tmp_path, inbox, "--timeout", "2")
    frozen, other = (sender, receiver) if stopped == "sender" else (receiver, sender)
    frozen.process.send_signal(signal.SIGSTOP)
    assert other.wait_for("error")["kind"] == "deadline_exceeded"
    if stopped == "receiver":
        assert sender.end() == 4
    frozen.process.send_signal(signal.SIGCONT)


def test_slow_is_not_silent(start: Start, tmp_path: Path, inbox: Path) -> None:
    """A batch that takes longer than the timeout: the receiver has nothing to tell meanwhile, but that it lives."""
    receiver, address = receiving(start, inbox, "--timeout", "2")
    data = generated(tmp_path / "f", 200_000)
    sender = start("send", data, "--to", address, "--timeout", "2", "--limit", "50kB/s")
    assert (sender.end(), receiver.end()) == (0, 0)


def test_a_sender_that_waits_for_its_input_learns_that_nobody_is_there(start: Start, inbox: Path) -> None:
    receiver, address = receiving(start, inbox)
    sender = start("send", "-", "--to", address, stdin=subprocess.PIPE)
    assert sender.process.stdin is not None
    with sender.process.stdin as feed:
        feed.write(bytes(2 * MIB))
        receiver.wait_for("progress")
        receiver.process.kill()
        assert sender.end() == 4
        assert sender.events[-1]["kind"] == "broken"
        with pytest.raises(BrokenPipeError):
            feed.write(bytes(2 * MIB))
            feed.flush()
        sender.process.stdin = None


def test_what_is_left_of_an_input_is_not_sent_as_all_of_it(start: Start, inbox: Path) -> None:
    """Whoever says that he only looks ends nothing; but he may lie, and take some of it."""
    sender = start("send", "-", "--listen", "127.0.0.1:0", stdin=subprocess.PIPE)
    assert sender.process.stdin is not None
    feed = sender.process.stdin
    feeding = threading.Thread(target=lambda: feed.write(bytes(2 * MIB)) and feed.flush())
    feeding.start()
    address = sender.wait_for("listening")["address"]
    host, _, port = address.rpartition(":")
    machine = Receiver()
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
        sock.sendall(b"".join(machine.send(m.Hello(Role.RECEIVER, window=1))))
        while not isinstance(message := machine.next_event(), Block):
            if isinstance(message, Offer):
                sock.sendall(b"".join(machine.send(machine.answer([(message.entries[0], Answer.ALL)]))))
            elif message is None:
                machine.receive_data(sock.recv(1 << 20))
        feeding.join(PATIENCE)
    sender.wait_for("error")
    receiver = start("receive", address, "-o", inbox)
    receiver.wait_for("connected")
    feed.close()
    sender.process.stdin = None
    assert (sender.end(), receiver.end()) == (6, 3)
    assert "cannot be read again" in sender.events[-1]["message"]
    assert not (inbox / "stdin").exists()


def test_a_full_disk(start: Start, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", small], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode().strip()}")
    try:
        (small / "theirs").write_text("theirs")
        receiver, address = receiving(start, small)
        sender = start("send", generated(tmp_path / "big", 32 * MIB), "--to", address)
        assert (sender.end(), receiver.end()) == (3, 6)
        assert "other side's disk is full" in sender.events[-1]["message"]
        assert receiver.events[-1]["kind"] == "no_space"
        assert all(process.events[-1]["hint"] for process in (sender, receiver))
        assert os.listdir(small) == ["theirs"]
    finally:
        subprocess.run(["umount", small], check=True)


def run(*arguments: str | bytes | Path, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *arguments], input=stdin, capture_output=True, timeout=PATIENCE, check=False, **options
    )


def test_each_event_says_when_it_was_told() -> None:
    before = time.time()
    done = run("send", "/nowhere", "--to", "127.0.0.1:9", "--json", "--plain")
    (told,) = map(json.loads, done.stdout.splitlines())
    assert (told["event"], told["kind"]) == ("error", "store")
    assert before - 0.001 <= told["time"] <= time.time() + 0.001


TOKEN_LINK = str(Link((TcpAddress("127.0.0.1", 9),), bytes(32), None, bytes(32)))


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["send", "{file}", "--to", "127.0.0.1:9"], 2, "ENCHUFE_CODE"),
        (["receive", "127.0.0.1:9", "--yes", "--no-input"], 2, "ENCHUFE_CODE"),
        (["receive", "--listen", "127.0.0.1:0", "--plain", "--remember"], 2, "--remember"),
        (["receive", "7-a-b-c", "--to", "127.0.0.1:9", "--yes"], 2, "word"),
        (["receive", "7-zoo-zoo-zoo", "--to", "shm:/x", "--yes"], 2, "unix:/path"),
        (["receive", "@ana", "--to", "nowhere", "--yes"], 2, "no port"),
        (["receive", "7\u2013zoo\u2013zoo\u2013zoo", "--to", "127.0.0.1:{port}", "--yes"], 4, "could not reach"),
        (["send", "{file}", "--to", TOKEN_LINK[:-3]], 2, "Copy the whole link again"),
        (["send", "{file}", "--to", TOKEN_LINK.partition("&")[0], "--no-input"], 2, "the whole link"),
        (["receive", "--listen", "127.0.0.1:0", "--no-input"], 2, "say --yes"),
        (["receive", "127.0.0.1:{port}", "--json"], 2, "say --yes"),
        (["receive", "127.0.0.1:{port}", "--quiet"], 2, "say --yes"),
        (["send", "{file}", "--to", "127.0.0.1:{port}", "--plain"], 4, "could not reach"),
        (["send", "{file}", "--to", "nowhere", "--plain"], 2, "no port"),
        (["send", "{file}", "--plain"], 2, "one address"),
        (["send", "{file}", "--to", "shm:/x", "--plain"], 2, "unix:/path"),
        (["send", "{file}", "--to", "shm:/x"], 2, "unix:/path"),
        (["receive", "--listen", "shm:/x", "--yes"], 2, "unix:/path"),
        (["send", "/no/such/file", "--to", "127.0.0.1:9", "--plain"], 6, "/no/such/file"),
        (["send", "{file}", "{file}", "--to", "127.0.0.1:9", "--plain"], 2, "two things"),
        (["send", "{file}", "-", "--to", "127.0.0.1:9", "--plain"], 2, "standard input goes alone"),
        (["send", "--to", "127.0.0.1:9", "--plain"], 2, "PATH"),
        (["send", "{file}", "--to", "127.0.0.1:9", "--plain", "--retry", "nan"], 2, "nan"),
        (["send", "{file}", "--to", "127.0.0.1:9", "--plain", "--streams", "0"], 2, "--streams"),
        (["send", "{file}", "--to", "127.0.0.1:9", "--plain", "--streams", "65"], 2, "--streams"),
        (["send", "{file}", "--to", "127.0.0.1:9", "--plain", "--compress", "maybe"], 2, "--compress"),
        (["receive", "127.0.0.1:9", "--plain", "--max-size", "big"], 2, "no size"),
        (["send", "{file}", "--to", "127.0.0.1:9", "--plain", "--limit", "fast"], 2, "no rate"),
        (["send", "{file}", "--to", "127.0.0.1:9", "--plain", "--limit", "999"], 2, "too low"),
        (["send", "{file}", "--to", "127.0.0.1:9", "--plain", "--timeout", "nan"], 2, "nan"),
        (["receive", "--listen", "127.0.0.1:0", "--plain", "-o", "{file}"], 6, "file"),
        (["receive", "--listen", "192.0.2.1:0", "--plain"], 2, "not an address of this machine"),
        (["receive", "127.0.0.1:{port}", "--plain"], 4, "could not reach"),
        (["receive", "[::1]", "--plain"], 2, "no port"),
        (["receive", "--listen", "[fe80::1]:0", "--plain"], 2, "does not say which"),
        (["receive", "--listen", "[fe80::1%lo]:0", "--yes"], 2, "not an address of this machine"),
        (["send", "{file}", "--listen", "[FE80::1]:0"], 2, "does not say which"),
        (["listen", "[fe80::1]:0"], 2, "does not say which"),
        (["receive", "127.0.0.1:9", "--plain", "--max-size", "9" * 400], 2, "9223372036854775807 bytes is the most"),
        (["send", "{file}", "--to", "127.0.0.1:9", "--plain", "--limit", "9" * 400], 2, "is too much"),
        (["connect", "127.0.0.1:9", "--max-size", "9" * 400], 2, "--max-size"),
        (["receive", "--listen", "127.0.0.1:0", "--plain", "--json", "-o", "-"], 2, "standard output"),
    ],
)
def test_what_goes_wrong_at_once(arguments: list[str], code: int, told: str, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    with reserved_port() as port:
        done = run(*[one.format(file=file, port=port) for one in arguments], cwd=tmp_path)
    assert done.returncode == code
    assert told in done.stderr.decode()
    assert b"Traceback" not in done.stderr
    assert done.stdout == b""


@pytest.mark.parametrize(
    ("policy", "names", "content"),
    [
        ("rename", {"f", "f (1)"}, {"f": "old", "f (1)": "new"}),
        ("skip", {"f"}, {"f": "old"}),
        ("overwrite", {"f"}, {"f": "new"}),
        ("update", {"f"}, {"f": "new"}),
    ],
)
def test_if_exists(
    start: Start, tmp_path: Path, inbox: Path, policy: str, names: set[str], content: dict[str, str]
) -> None:
    inbox.mkdir()
    (inbox / "f").write_text("old")
    (tmp_path / "f").write_text("new")
    receiver, address = receiving(start, inbox, "--if-exists", policy)
    sender = start("send", tmp_path / "f", "--to", address)
    assert (sender.end(), receiver.end()) == (0, 0)
    assert set(os.listdir(inbox)) == names
    assert {name: (inbox / name).read_text() for name in names} == content
    assert sender.events[-1]["skipped"] == (policy == "skip")


def test_if_exists_fail_refuses_all_and_waits_for_the_next(start: Start, tmp_path: Path, inbox: Path) -> None:
    inbox.mkdir()
    (inbox / "f").write_text("old")
    (tmp_path / "f").write_text("new")
    (tmp_path / "g").write_text("g")
    receiver, address = receiving(start, inbox, "--if-exists", "fail")
    sender = start("send", tmp_path / "g", tmp_path / "f", "--to", address)
    assert sender.end() == 3
    assert "exists" in sender.events[-1]["message"]
    assert start("send", tmp_path / "g", "--to", address).end() == 0
    assert receiver.end() == 0
    assert {path.name: path.read_text() for path in inbox.iterdir()} == {"f": "old", "g": "g"}


def test_a_receiver_that_is_started_again_while_its_sender_retries(start: Start, tmp_path: Path, inbox: Path) -> None:
    """Nobody runs the sender again: it finds the new receiver at the old address by itself."""
    big = generated(tmp_path / "big", 64 * MIB)
    with reserved_port() as port:
        receiver = start("receive", "--listen", f"127.0.0.1:{port}", "-o", inbox)
        receiver.wait_for("listening")
        sender = start(
            "send", big, "--to", f"127.0.0.1:{port}", "--limit", "16MiB/s", "--retry", "60", "--streams", "3"
        )
        receiver.wait_for("progress", lambda event: event["bytes"] >= 8 * MIB)
        receiver.process.kill()
        retrying = sender.wait_for("retrying")
        assert retrying["seconds"] > 0
        assert retrying["message"]
        kept = kept_bytes(inbox)
        receiver = start("receive", "--listen", f"127.0.0.1:{port}", "-o", inbox)
        assert (sender.end(), receiver.end()) == (0, 0)
        assert digest(inbox / "big") == digest(big)
        assert receiver.events[-1]["sent_bytes"] == 64 * MIB - kept < 64 * MIB


def test_more_than_it_takes_is_refused_file_by_file(start: Start, tmp_path: Path, inbox: Path) -> None:
    (tmp_path / "t").mkdir()
    for name, size in (("a", 3 * MIB), ("b", 2 * MIB), ("c", 5)):
        generated(tmp_path / "t" / name, size)
    receiver, address = receiving(start, inbox, "--max-size", "4MiB")
    sender = start("send", tmp_path / "t", "--to", address)
    assert (sender.end(), receiver.end()) == (7, 7)
    assert sorted(os.listdir(inbox / "t")) == ["a", "c"]
    for process in (sender, receiver):
        told = process.named("file")
        assert [(event["path"], event["action"]) for event in told] == [("t/b", "refused")]
        assert "bigger" in told[0]["reason"]
        assert process.named("progress")[-1]["bytes"] == process.named("progress")[-1]["total"] == 3 * MIB + 5


@pytest.mark.parametrize(("options", "sent"), [((), 0), (("--checksum",), MIB)])
def test_update_sends_what_changed(
    start: Start, tmp_path: Path, inbox: Path, options: tuple[str, ...], sent: int
) -> None:
    """A block of the same size and time is only found by --checksum."""
    file = generated(tmp_path / "f", 4 * MIB)
    shutil.copytree(tmp_path, inbox, ignore=shutil.ignore_patterns("inbox"))
    with (inbox / "f").open("r+b") as old:
        old.seek(2 * MIB)
        old.write(b"another")
    shutil.copystat(file, inbox / "f")
    receiver, address = receiving(start, inbox, "--if-exists", "update", *options)
    sender = start("send", file, "--to", address)
    assert (sender.end(), receiver.end()) == (0, 0)
    assert sender.events[-1]["sent_bytes"] == sent
    assert sender.events[-1]["skipped"] == (not options)
    assert (digest(inbox / "f") == digest(file)) == bool(options)


def test_text_exclusions_and_compression(start: Start, tmp_path: Path, inbox: Path) -> None:
    receiver, address = receiving(start, inbox)
    sender = start("send", "--text", "¡hola!", "--name", "note", "--to", address)
    assert (sender.end(), receiver.end()) == (0, 0)
    assert (inbox / "note").read_text() == "¡hola!"

    tree = tmp_path / "tree"
    (tree / "build").mkdir(parents=True)
    (tree / "build" / "x").touch()
    (tree / "a.o").touch()
    (tree / "a.c").write_text("int main;\n" * 200_000)
    receiver, address = receiving(start, inbox)
    sender = start(
        "send",
        tree,
        "--to",
        address,
        "--exclude",
        "*.o",
        "--exclude",
        "build/",
        "--compress",
        "always",
        "--streams",
        "3",
    )
    assert (sender.end(), receiver.end()) == (0, 0)
    assert os.listdir(inbox / "tree") == ["a.c"]
    assert sender.events[-1]["sent_bytes"] < 100_000
    assert sender.events[-1]["bytes"] == 2_000_000


def test_a_sender_does_not_take_what_shrank_for_what_was_there(start: Start, tmp_path: Path, inbox: Path) -> None:
    (tmp_path / "a.c").write_text("int main;\n" * 200_000)
    receiver, address = receiving(start, inbox)
    sent = run("send", tmp_path / "a.c", "--to", address, "--plain", "--compress", "always")
    assert (sent.returncode, receiver.end()) == (0, 0)
    assert b"the rest was there, is zeros, or shrank" in sent.stderr
    assert receiver.events[-1]["sent_bytes"] == 2_000_000


def test_a_file_that_cannot_be_read_ends_with_7(start: Start, tmp_path: Path, inbox: Path) -> None:
    """`/proc/self/mem` says EIO to everybody; a mode would not keep root out."""
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "good").write_text("good")
    receiver, address = receiving(start, inbox)
    sender = start("send", tree, "/proc/self/mem", "--to", address)
    assert (sender.end(), receiver.end()) == (7, 7)
    assert [(event["path"], event["action"]) for event in sender.named("file")] == [("mem", "left out")]
    assert (inbox / "tree" / "good").read_text() == "good"
    assert not (inbox / "mem").exists()


@pytest.mark.parametrize("size", [0, 5, MIB, 3 * MIB + 5])
def test_pipes(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    where = f"unix:{tmp_path / 'socket'}"
    with subprocess.Popen(
        [*COMMAND, "receive", "--listen", where, "-o", "-", "--plain", "--quiet"], stdout=subprocess.PIPE
    ) as receiver:
        assert receiver.stdout is not None
        until((tmp_path / "socket").exists)
        sent: list[Any] = []
        sending = threading.Thread(
            target=lambda: sent.append(run("send", "-", "--name", "n", "--to", where, "--plain", stdin=data))
        )
        sending.start()
        assert receiver.stdout.read() == data
        sending.join(PATIENCE)
        assert receiver.wait(PATIENCE) == sent[0].returncode == 0
        assert sent[0].stdout == b""


def test_of_a_pipe_both_sides_are_told_that_its_size_is_unknown(start: Start, inbox: Path) -> None:
    receiver, address = receiving(start, inbox)
    sent = run("send", "-", "--name", "n", "--to", address, "--plain", stdin=b"x" * 7)
    assert sent.returncode == receiver.end() == 0
    assert "1 entry, size unknown" in sent.stderr.decode()
    assert receiver.named("offer") == [{"v": 1, "event": "offer", "entries": 1, "bytes": 0, "unsized": 1}]


def test_a_file_of_many_blocks_into_a_pipe(start: Start, tmp_path: Path) -> None:
    """Its size is known, so its blocks could go on several connections: but a pipe takes them in order."""
    big = generated(tmp_path / "big", 32 * MIB)
    sender = start("send", big, "--listen", "127.0.0.1:0", "--streams", "8")
    done = run("receive", sender.wait_for("listening")["address"], "-o", "-", "--plain", "--streams", "8")
    assert (done.returncode, sender.end()) == (0, 0)
    assert hashlib.sha256(done.stdout).hexdigest() == digest(big)


def test_the_receiver_may_dial_and_quiet_is_quiet(start: Start, tmp_path: Path, inbox: Path) -> None:
    (tmp_path / "f").write_text("x")
    sender = start("send", tmp_path / "f", "--listen", "127.0.0.1:0")
    done = run("receive", sender.wait_for("listening")["address"], "-o", inbox, "--plain", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert sender.end() == 0
    assert (inbox / "f").read_text() == "x"


def test_the_limit_limits(start: Start, tmp_path: Path, inbox: Path) -> None:
    receiver, address = receiving(start, inbox)
    sender = start("send", generated(tmp_path / "f", 4 * MIB), "--to", address, "--limit", "2MiB/s")
    assert (sender.end(), receiver.end()) == (0, 0)
    assert 4 * MIB / sender.events[-1]["seconds"] < 1.3 * 2 * MIB


def test_a_terminal_gets_a_bar_without_colours_where_asked(start: Start, tmp_path: Path, inbox: Path) -> None:
    _, address = receiving(start, inbox)
    name = tmp_path / "\x1b[31mred"
    generated(name, 4 * MIB)
    ours, theirs = pty.openpty()
    command = [*COMMAND, "send", str(name), "--to", address, "--plain", "--limit", "4MiB/s", "--verbose"]
    environment = {**os.environ, "NO_COLOR": "1", "TERM": "xterm", "COLUMNS": "120"}
    with subprocess.Popen(command, stderr=theirs, stdout=subprocess.DEVNULL, env=environment) as sender:
        os.close(theirs)
        screen = b""
        try:
            while piece := os.read(ours, 65536):
                screen += piece
        except OSError:
            pass  # the terminal is gone with its last user
        assert sender.wait(PATIENCE) == 0
    os.close(ours)
    text = screen.decode()
    assert re.search(r"\d% \S+ .?B of 4\.2 MB .*, \d files?", text), text
    assert "verified and on the other side's disk" in text
    assert "\x1b[3" not in text.replace("\x1b[?25", "")
    assert "\\x1b[31mred" in text


def test_help_is_there_and_soon() -> None:
    done = run("--help")
    assert done.returncode == 0
    assert b"receive" in done.stdout
    command = [sys.executable, "-X", "importtime", "-m", "enchufe", "--help"]
    imported = subprocess.run(command, capture_output=True, check=True).stderr
    for heavy in (b"rich", b"blake3", b"asyncio", b"socket"):
        assert b" " + heavy + b"\n" not in imported, f"--help imports {heavy.decode()}"


# A hostile peer, over a real socket.


def talk(address: str, *said: Message | bytes) -> bytes:
    """Say these, and return all that comes back until the other side ends."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as sock:
        for one in said:
            sock.sendall(one if isinstance(one, bytes) else b"".join(m.frame(one)))
        sock.shutdown(socket.SHUT_WR)
        answer = b""
        while piece := sock.recv(65536):
            answer += piece
        return answer


HOSTILE = [b"..", b".", b"", b"a/b", b"/etc/passwd", b"../x", b"nul\0", b"x" * 256]


def test_hostile_names_are_refused_and_the_next_is_served(start: Start, tmp_path: Path, inbox: Path) -> None:
    (tmp_path / "f").write_text("good")
    receiver, address = receiving(start, inbox)
    before = inventory(tmp_path)
    epoch = 0
    for name in HOSTILE:
        for parents in ([], [Entry(0, NO_PARENT, b"d", Kind.DIRECTORY)]):
            epoch += 1
            entry = Entry(len(parents), 0 if parents else NO_PARENT, name, Kind.FILE, 1)
            answer = talk(address, m.Hello(Role.SENDER, b"x" * 16, epoch), Offer([*parents, entry]))
            assert answer[HELLO_SIZE] == Type.ERROR, name
            assert answer[HELLO_SIZE + 5] == m.Code.PROTOCOL, name
    after = inventory(tmp_path)
    after.pop(b"inbox/.enchufe", None)
    assert {name: what for name, what in after.items() if name != b"inbox"} == {
        name: what for name, what in before.items() if name != b"inbox"
    }
    assert talk(address, b"GET / HTTP/1.1\r\n\r\n")[0] == Type.ERROR
    assert start("send", tmp_path / "f", "--to", address).end() == 0
    assert receiver.end() == 0
    assert len(receiver.named("error")) == 2 * len(HOSTILE)  # who was not let in is no news
    assert (inbox / "f").read_text() == "good"


def test_a_silent_dialer_is_dropped_and_the_next_is_served(start: Start, tmp_path: Path, inbox: Path) -> None:
    (tmp_path / "f").write_text("good")
    receiver, address = receiving(start, inbox, "--timeout", "1")
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as silent:
        answer = silent.recv(65536)
        assert answer[:1] in (b"", bytes([Type.ERROR]))
        assert start("send", tmp_path / "f", "--to", address).end() == 0
    assert receiver.end() == 0


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_standard_stream_that_is_not_there(start: Start, tmp_path: Path, inbox: Path, closed: int) -> None:
    """As under daemons: it matters to what needs it, and is never a bug."""
    (tmp_path / "f").write_text("x")
    receiver, address = receiving(start, inbox)
    needs = {0: ["send", "-", "--to", address], 1: ["receive", address, "-o", "-"]}
    command = needs.get(closed, ["send", str(tmp_path / "f"), "--to", address])
    shell = ["sh", "-c", f'exec "$@" {closed}{"<" if closed == 0 else ">"}&-', "sh", *COMMAND, *command, "--plain"]
    done = subprocess.run(shell, capture_output=True, timeout=PATIENCE, check=False)
    assert b"bug" not in done.stderr
    assert done.returncode == (0 if closed == 2 else 2)
    if closed == 2:
        assert receiver.end() == 0


@pytest.mark.parametrize("command", ["receive {address} --list --plain", "peers show", "config show --json"])
def test_what_nobody_can_see_does_not_pass_for_shown(start: Start, tmp_path: Path, command: str) -> None:
    """Where standard output is closed, as where it is full."""
    (tmp_path / "f").write_text("x")
    address = start("send", tmp_path / "f", "--listen", "127.0.0.1:0").wait_for("listening")["address"]
    shell = ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, *command.format(address=address).split()]
    state = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    done = subprocess.run(shell, capture_output=True, timeout=PATIENCE, check=False, env=state)
    assert done.returncode == 6
    assert b"cannot write standard output" in done.stderr
    assert b"It is closed" in done.stderr


def test_a_peers_address_does_not_steer_the_terminal(tmp_path: Path) -> None:
    where = tmp_path / "socket"
    command = [*COMMAND, "receive", "--listen", f"unix:{where}", "-o", str(tmp_path / "inbox"), "--plain"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as receiver:
        assert receiver.stderr is not None
        assert b"listening" in receiver.stderr.readline()
        with socket.socket(socket.AF_UNIX) as peer:
            peer.bind(os.fsencode(tmp_path) + b"/\x1b[31m\rx")
            peer.connect(str(where))
            peer.sendall(b"".join(m.frame(m.Hello(Role.SENDER))))
            peer.recv(HELLO_SIZE)
        receiver.terminate()
        told = receiver.stderr.read()
    assert b"connected" in told
    assert b"\x1b" not in told
    assert b"\r" not in told.replace(b"\\r", b"")


def test_a_bug_says_that_it_is_one(tmp_path: Path) -> None:
    broken = (
        "import enchufe.files as f, sys; f.send_files = lambda *a, **k: 1 / 0; import enchufe.cli.main as m; m.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", broken, "send", str(tmp_path), "--to", "127.0.0.1:1", "--plain"],
        capture_output=True,
        check=False,
    )
    assert done.returncode == 1
    assert b"ZeroDivisionError" in done.stderr
    assert b"this is a bug" in done.stderr


@pytest.mark.parametrize("reader", ["gone", "full"])
@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["--version"],
        ["send", "--help"],
        ["config", "show"],
        ["config", "show", "--json"],
        ["peers", "--json"],
        ["peers", "show"],
        ["token", "list", "--json"],
        ["store", "partials", ".", "--json"],
        ["bench", "--only", "encode", "--seconds", "0.01", "--json"],
    ],
    ids=" ".join,
)
def test_what_cannot_be_printed_is_told(arguments: list[str], reader: str, tmp_path: Path) -> None:
    if reader == "full" and not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    output = os.open("/dev/full", os.O_WRONLY) if reader == "full" else unread()
    try:
        done = subprocess.run(
            [*COMMAND, *arguments],
            stdout=output,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "HOME": str(tmp_path), "XDG_STATE_HOME": "", "XDG_CONFIG_HOME": ""},
        )
    finally:
        os.close(output)
    assert done.returncode == 6, done.stderr
    assert done.stderr.startswith(b"enchufe: cannot write standard output")
    assert done.stderr.count(b"\n") == 2


def unread() -> int:
    """The end to write to of a pipe that nobody reads."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize(
    ("arguments", "code"), [([], 2), (["nosuch"], 2), (["peers"], 0), (["demo", "--size", "x"], 2)]
)
def test_what_cannot_be_said_changes_no_exit_code(arguments: list[str], code: int, tmp_path: Path) -> None:
    output = unread()
    try:
        done = subprocess.run(
            [*COMMAND, *arguments],
            stderr=output,
            timeout=PATIENCE,
            check=False,
            env={**os.environ, "HOME": str(tmp_path), "XDG_STATE_HOME": ""},
        )
    finally:
        os.close(output)
    assert done.returncode == code


@pytest.mark.parametrize("command", ["send", "receive"])
def test_who_listens_on_a_socket_names_it_to_the_other_side(command: str, tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    where = f"unix:{tmp_path}/a socket"
    arguments = [tmp_path / "f"] if command == "send" else ["--yes", "-o", tmp_path / "inbox"]
    with subprocess.Popen([*COMMAND, command, *arguments, "--listen", where], stderr=subprocess.PIPE) as listener:
        assert listener.stderr is not None
        line = listener.stderr.readline().decode()
        listener.terminate()
        listener.stderr.read()
    assert line.startswith("on the other side: ")
    words = shlex.split(line)
    assert words[words.index("--to") + 1].removesuffix(",") == where


def test_who_dials_a_socket_is_a_program_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    where = f"unix:{tmp_path}/socket"
    listen = [*COMMAND, "receive", "--plain", "-o", str(tmp_path / "inbox"), "--listen", where]
    with subprocess.Popen(listen, stderr=subprocess.PIPE) as receiver:
        assert receiver.stderr is not None
        assert receiver.stderr.readline().startswith(b"listening on")
        done = run("send", str(tmp_path / "f"), "--plain", "--to", where)
        assert receiver.stderr.readline() == b"connected to a program on this machine\n"
        receiver.stderr.read()
    assert done.stderr.startswith(f"connected to {where}\n".encode())


def test_the_demo() -> None:
    done = run("demo", "--size", "8")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count(b"the same") == 2


def test_the_demo_from_an_archive_says_why_not(tmp_path: Path) -> None:
    package = Path(enchufe.__file__).parent
    archive = shutil.make_archive(str(tmp_path / "enchufe"), "zip", package.parent, package.name)
    done = run("demo", "--size", "1", env={**os.environ, "PYTHONPATH": archive})
    assert done.returncode == 2
    assert done.stderr.startswith(b"enchufe: the demo sends enchufe's own source, which is inside of an archive here\n")
