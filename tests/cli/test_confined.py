"""`enchufe receive` as a process that the kernel holds to its folder: the whole of it works, and nothing gets out."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from enchufe.access.identity import KeyPair
from enchufe.access.known import KnownMachines
from enchufe.access.state import Folder
from enchufe.entry import NO_PARENT, Entry, Kind
from enchufe.store import linux
from enchufe.transfer import messages as m
from enchufe.transfer.message import Role
from enchufe.transfer.offers import Offer
from tests.crash import trees

COMMAND = [sys.executable, "-m", "enchufe"]
PATIENCE = 60.0

pytestmark = pytest.mark.skipif(linux.landlock_version() < 2, reason="this kernel has no Landlock of version 2")


def events(output: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in output.splitlines()]


@contextmanager
def receiving(
    *options: str | Path, listen: str = "127.0.0.1:0", command: Sequence[str] = COMMAND, cwd: Path | None = None
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A receiver that listens, and where."""
    arguments = [*command, "receive", "--listen", listen, "--plain", "--json", *options]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=cwd) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.stderr and process.stderr.read()
            yield process, json.loads(line)["address"]
        finally:
            with suppress(ProcessLookupError):
                process.kill()


def send(*arguments: str | Path, to: str) -> None:
    done = subprocess.run(
        [*COMMAND, "send", *arguments, "--to", to, "--plain"], capture_output=True, timeout=PATIENCE, check=False
    )
    assert done.returncode == 0, done.stderr


def ended(process: subprocess.Popen[str]) -> list[dict[str, object]]:
    """Its events, once it has ended well."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, (out, err)
    return events(out)


def every_thread_is_confined(pid: int) -> bool:
    told = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/status")]
    return bool(told) and all("NoNewPrivs:\t1" in each for each in told)


def test_another_folder_in_its_place_is_told_as_that(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    (tmp_path / "file").write_bytes(b"hola")
    with receiving("-o", inbox) as (process, address):
        inbox.rmdir()
        inbox.mkdir()
        subprocess.run(
            [*COMMAND, "send", tmp_path / "file", "--to", address, "--plain"],
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 6
    (error,) = [event for event in events(out) if event["event"] == "error"]
    assert error["hint"] == "Another folder was made or mounted there since this began: run it again."


BROKEN = """
import enchufe.store.linux as linux, enchufe.store.plan as plan, enchufe.cli.main as main
linux.use_landlock = {landlock}
plan.safe_name = lambda name: None
main.main()
"""


@pytest.mark.parametrize("kind", [Kind.DIRECTORY, Kind.SYMLINK])
@pytest.mark.parametrize("landlock", [True, False])
def test_should_our_own_checks_fail_the_kernel_refuses(tmp_path: Path, kind: Kind, landlock: bool) -> None:
    """Without Landlock the same sender does get out of a receiver that checks no names: so this test sees it."""
    inbox = tmp_path / "inbox"
    broken = [sys.executable, "-c", BROKEN.format(landlock=landlock)]
    target = b"/etc" if kind is Kind.SYMLINK else b""
    offered = [
        Entry(0, NO_PARENT, b"d", Kind.DIRECTORY, mode=0o755),
        Entry(1, 0, b"../../../../escaped", kind, mode=0o755, target=target),
    ]
    with receiving("-o", inbox, "--links", "any", command=broken) as (process, address):
        host, _, port = address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as peer:
            for message in (m.Hello(Role.SENDER, b"x" * 16, 1), Offer(offered)):
                peer.sendall(b"".join(m.frame(message)))
            with suppress(ConnectionError):
                while not os.path.lexists(tmp_path / "escaped") and peer.recv(65536):
                    pass
        if landlock:
            _, err = process.communicate(timeout=PATIENCE)
            assert process.returncode == 6, err
    assert os.path.lexists(tmp_path / "escaped") is not landlock


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree with all that there is: folders, links, hard links, holes, attributes."""
    root = tmp_path / "tree"
    trees.make(root, 60)
    (root / "hard one").write_text("twice there")
    (root / "sub").mkdir()
    os.link(root / "hard one", root / "sub/hard two")
    with (root / "holes").open("wb") as file:
        file.truncate(8 << 20)
        file.write(b"x" * 5000)
    with suppress(OSError):
        os.setxattr(root / "hard one", b"user.colour", b"red")
    return root


def test_a_tree_arrives_and_is_brought_up_to_date(tmp_path: Path, tree: Path) -> None:
    inbox = tmp_path / "a/new/inbox"
    for _ in range(2):
        with receiving("-o", inbox, "--if-exists", "update") as (process, address):
            assert every_thread_is_confined(process.pid)
            send(tree, "--xattrs", "--streams", "4", to=address)
            receipt = ended(process)[-1]
        assert receipt["event"] == "receipt"
        assert trees.seen(inbox / "tree") == trees.seen(tree)
        assert (inbox / "tree/hard one").stat().st_ino == (inbox / "tree/sub/hard two").stat().st_ino
        assert os.listxattr(inbox / "tree/hard one") == os.listxattr(tree / "hard one")
        assert os.listdir(inbox) == ["tree"]
        (tree / "sub/new").write_text("new")
        (tree / "hard one").write_text("changed, and in both")


@pytest.mark.parametrize("if_exists", ["rename", "skip", "overwrite"])
def test_what_is_there_already(tmp_path: Path, tree: Path, if_exists: str) -> None:
    inbox = tmp_path / "inbox"
    for _ in range(2):
        with receiving("-o", inbox, "--if-exists", if_exists) as (process, address):
            send(tree, to=address)
            ended(process)
    assert sorted(os.listdir(inbox)) == (["tree", "tree (1)"] if if_exists == "rename" else ["tree"])
    for name in os.listdir(inbox):
        assert trees.seen(inbox / name) == trees.seen(tree)


@contextmanager
def under_way(receiver: subprocess.Popen[str], big: Path, address: str) -> Iterator[subprocess.Popen[bytes]]:
    """A sender of it, of which some has arrived."""
    slow = ("--plain", "--limit", "20MB/s", "--retry", "0")
    with subprocess.Popen([*COMMAND, "send", big, "--to", address, *slow], stderr=subprocess.DEVNULL) as sender:
        assert receiver.stdout is not None
        for line in receiver.stdout:
            if json.loads(line).get("bytes", 0) > 5 << 20 and json.loads(line)["event"] == "progress":
                break
        yield sender


def test_what_a_cut_left_is_taken_over(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    big = tmp_path / "big"
    big.write_bytes(os.urandom(48 << 20))
    with receiving("-o", inbox, "--timeout", "2") as (process, address):
        with under_way(process, big, address) as sender:
            sender.kill()
        send(big, to=address)
        receipt = ended(process)[-1]
    assert isinstance(receipt["sent_bytes"], int)
    assert receipt["sent_bytes"] < big.stat().st_size
    assert (inbox / "big").read_bytes() == big.read_bytes()


def test_the_partials_of_another_run(tmp_path: Path) -> None:
    """A receiver that was interrupted is another process, confined anew, when it goes on."""
    inbox = tmp_path / "inbox"
    big = tmp_path / "big"
    big.write_bytes(os.urandom(48 << 20))
    with receiving("-o", inbox) as (process, address):
        with under_way(process, big, address) as sender:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=PATIENCE)
            assert process.returncode == 130
            sender.wait(PATIENCE)
    assert os.listdir(inbox) == [".enchufe"]
    with receiving("-o", inbox) as (process, address):
        send(big, to=address)
        receipt = ended(process)[-1]
    assert isinstance(receipt["sent_bytes"], int)
    assert receipt["sent_bytes"] < big.stat().st_size
    assert (inbox / "big").read_bytes() == big.read_bytes()
    assert os.listdir(inbox) == ["big"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_while_waiting(tmp_path: Path, number: int) -> None:
    with receiving("-o", tmp_path / "inbox") as (process, _):
        process.send_signal(number)
        process.communicate(timeout=PATIENCE)
        assert process.returncode == 130
    assert list((tmp_path / "inbox").iterdir()) == []


@pytest.mark.parametrize("output", [".", "link", "sub/../sub"])
def test_a_folder_by_another_name(tmp_path: Path, output: str) -> None:
    (tmp_path / "here/sub").mkdir(parents=True)
    (tmp_path / "here/link").symlink_to("sub")
    (tmp_path / "f").write_text("good")
    with receiving("-o", output, cwd=tmp_path / "here") as (process, address):
        send(tmp_path / "f", to=address)
        ended(process)
    assert (tmp_path / "here" / output / "f").read_text() == "good"


def test_a_socket_in_another_folder(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "f").write_text("good")
    where = f"unix:{tmp_path}/run/socket"
    for _ in range(2):
        with receiving("-o", tmp_path / "inbox", "--if-exists", "overwrite", listen=where) as (process, address):
            assert every_thread_is_confined(process.pid)
            send(tmp_path / "f", to=address)
            ended(process)
        assert os.listdir(tmp_path / "run") == []
    assert (tmp_path / "inbox/f").read_text() == "good"


def test_a_receiver_that_dials(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("good")
    waiting: list[str | Path] = [*COMMAND, "send", tmp_path / "f", "--listen", "127.0.0.1:0", "--plain", "--json"]
    with subprocess.Popen(waiting, stdout=subprocess.PIPE, text=True) as sender:
        assert sender.stdout is not None
        address = json.loads(sender.stdout.readline())["address"]
        done = subprocess.run(
            [*COMMAND, "receive", address, "--plain", "-o", tmp_path / "inbox"],
            capture_output=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        sender.communicate(timeout=PATIENCE)
    assert (tmp_path / "inbox/f").read_text() == "good"


@pytest.mark.parametrize("redirection", [">", ">>", "| cat >"])
def test_standard_output(tmp_path: Path, redirection: str) -> None:
    """The shell opened it: the process may write there, and to no folder at all."""
    (tmp_path / "f").write_bytes(os.urandom(3 << 20))
    where = f"unix:{tmp_path}/socket"
    command = f'"$0" -m enchufe receive --listen "$1" -o - --plain --quiet {redirection} "$2"'
    out = tmp_path / "there/out"
    out.parent.mkdir()
    with subprocess.Popen(["sh", "-c", command, sys.executable, where, out], cwd=out.parent) as shell:
        ready = select.poll()  # only to wait a moment between looks
        while not (tmp_path / "socket").exists():
            assert shell.poll() is None
            ready.poll(20)
        send(tmp_path / "f", to=where)
        assert shell.wait(PATIENCE) == 0
    assert out.read_bytes() == (tmp_path / "f").read_bytes()
    assert os.listdir(out.parent) == ["out"]


def test_a_destination_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [*COMMAND, "receive", "--listen", "127.0.0.1:0", "--plain", "-o", tmp_path / "file"],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 6
    assert b"Traceback" not in done.stderr


@pytest.fixture
def acquainted(tmp_path: Path) -> dict[str, str]:
    """The environment of somebody who knows a machine, and has moved his own key away to begin anew."""
    KnownMachines(Folder(str(tmp_path / "state/enchufe"))).add("vm", KeyPair.new().public, "127.0.0.1:9")
    return {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}


def test_a_key_that_is_not_there_is_made_for_who_listens(tmp_path: Path, acquainted: dict[str, str]) -> None:
    command = [*COMMAND, "receive", "--listen", "127.0.0.1:0", "--no-announce", "--yes", "--json", "-o", "inbox"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=acquainted) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        confined = every_thread_is_confined(process.pid)
        process.terminate()
        process.stdout.read()
    assert first["event"] == "listening"
    assert confined
    assert (tmp_path / "state/enchufe/identity.key").exists()


def test_a_key_that_is_not_there_is_made_for_who_dials_a_machine(tmp_path: Path, acquainted: dict[str, str]) -> None:
    with socket.socket() as taken:  # and nobody listens
        taken.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{taken.getsockname()[1]}"
        done = subprocess.run(
            [*COMMAND, "receive", "@vm", "--to", where, "--yes", "-o", "inbox"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
            cwd=tmp_path,
            env=acquainted,
        )
    assert done.returncode == 4, done.stderr
    assert "could not reach" in done.stderr
    assert (tmp_path / "state/enchufe/identity.key").exists()


@pytest.mark.parametrize("output", ["inbox", "-"])
def test_without_files_in_memory_the_key_is_read_from_where_we_may_write(tmp_path: Path, output: str) -> None:
    """As a sandbox has it that refuses memfd_create, or has no /proc."""
    code = "import os, enchufe.cli.main as main; del os.memfd_create; main.main()"
    options = [
        "receive",
        "--listen",
        "127.0.0.1:0",
        "--no-announce",
        "--yes",
        "-o",
        output,
        *(["--json"] if output != "-" else []),
    ]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")},
    )
    with process:
        assert process.stdout is not None
        line = ""
        if output != "-":
            line = process.stdout.readline()
            process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE)
    if output == "-":
        assert process.returncode == 6, err
        assert "no place for a temporary file" in err
    else:
        assert json.loads(line)["event"] == "listening", err
        assert process.returncode == 130
        assert not os.listdir(tmp_path / "inbox")


def test_the_library_confines_nobody(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("good")
    code = """
import sys, threading, enchufe
from enchufe import events
def told(event):
    if isinstance(event, events.Listening):
        how = {"to": event.address, "plain": True}
        threading.Thread(target=enchufe.send_files, args=([sys.argv[1]],), kwargs=how).start()
enchufe.receive_files(sys.argv[2], listen="127.0.0.1:0", plain=True, on_event=told)
open(sys.argv[3], "w").close()
"""
    subprocess.run(
        [sys.executable, "-c", code, tmp_path / "f", tmp_path / "inbox", tmp_path / "elsewhere"],
        timeout=PATIENCE,
        check=True,
    )
    assert (tmp_path / "elsewhere").exists()
    assert (tmp_path / "inbox/f").read_text() == "good"
