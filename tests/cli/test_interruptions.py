"""Ctrl-C at any moment of a command, and more of them."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest

from enchufe.cli import interruptions
from tests.secured.people import sitting_at

HANGUP = pytest.param(
    signal.SIGHUP,
    marks=pytest.mark.skipif(
        signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, reason="run by nohup, as is what we start"
    ),
)
PATIENCE = 60.0

# It comes three times where a module is about to be imported, which is the moment that is meant; and once more at the
# very end, before which `main` has to be over with it. At first in an `exec`, as dataclasses are made by.
AT_AN_IMPORT = """
import atexit, signal, sys
atexit.register(signal.raise_signal, signal.SIGINT)
moment, number = sys.argv.pop(1), int(sys.argv.pop(1))
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == moment:
            try:
                exec("signal.raise_signal(number)")
            finally:
                signal.raise_signal(number)
                signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from enchufe.cli.main import main
main()
"""


def run(program: str, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run it as `python -m` does, which ends otherwise than a script."""
    (cwd / "program.py").write_text(program)
    return subprocess.run(
        [sys.executable, "-m", "program", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
        cwd=cwd,
        env={**os.environ, "HOME": str(cwd), "XDG_STATE_HOME": "", "XDG_CONFIG_HOME": ""},
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("moment", "arguments"),
    [
        ("click", ["--version"]),
        ("enchufe.cli.root", ["config", "show"]),
        ("enchufe.cli.manner", ["receive", "--yes"]),
        ("enchufe.cli.confined", ["receive", "--yes"]),
        ("enchufe.cli.demo", ["demo"]),
        ("enchufe.cli.token", ["token", "list"]),
        ("enchufe.cli.peers", ["peers", "show"]),
        ("enchufe.cli.store", ["store", "partials", "."]),
        ("enchufe.cli.bench", ["bench"]),
        ("enchufe.cli.talk", ["listen", ":0"]),
        ("enchufe.cli.talk", ["connect", "127.0.0.1:9"]),
    ],
)
def test_an_interrupted_command(moment: str, arguments: list[str], number: signal.Signals, tmp_path: Path) -> None:
    done = run(AT_AN_IMPORT, moment, str(int(number)), *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "enchufe: interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, HANGUP])
def test_an_interrupted_transfer(number: signal.Signals, tmp_path: Path) -> None:
    moment = "enchufe.session.receiving"
    done = run(AT_AN_IMPORT, moment, str(int(number)), "receive", "--yes", "--listen", "127.0.0.1:0", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr.splitlines()[0] == "enchufe: interrupted"
    assert done.stderr.count("\n") == 2


BEFORE_ANYTHING = """
import runpy, signal, sys
class Interrupting:
    def find_spec(self, name, path=None, target=None):
        if name == "enchufe.cli.main":
            signal.raise_signal(signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
if sys.argv.pop(1) == "script":
    from enchufe.__main__ import main
    main()
runpy.run_module("enchufe", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("how", ["module", "script"])
def test_an_interruption_before_anything_is_imported_ends_without_a_traceback(how: str, tmp_path: Path) -> None:
    done = run(BEFORE_ANYTHING, how, "--version", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


IGNORED = """
import signal, sys
number = signal.Signals[sys.argv.pop(1)]
signal.signal(number, signal.SIG_IGN)
from enchufe.__main__ import main
from enchufe.cli import output
write = output.write
output.write = lambda *data: (signal.raise_signal(number), write(*data))
signal.raise_signal(number)
main()
signal.raise_signal(number)
"""


@pytest.mark.parametrize("number", ["SIGINT", "SIGHUP"])
def test_what_was_ignored_when_it_began_stays_so(number: str, tmp_path: Path) -> None:
    """SIGHUP under nohup; SIGINT where a script runs it behind (`&`), and Ctrl-C is for the script."""
    done = run(IGNORED, number, "peers", "--json", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, '{"v": 1, "peers": []}\n', "")


# Where Python makes another error of whatever is raised, and where it drops it.
WITHIN_AN_IMPORT = """
import signal, sys, weakref
moment, how = sys.argv.pop(1), sys.argv.pop(1)
class Part:
    def __set_name__(self, owner, name):
        signal.raise_signal(signal.SIGINT)
class Importing:
    def find_spec(self, name, path=None, target=None):
        if name == moment and how == "made":
            class Whole:
                part = Part()
        elif name == moment:
            kept = Importing()
            reference = weakref.ref(kept, lambda _: signal.raise_signal(signal.SIGINT))
            del kept
sys.meta_path.insert(0, Importing())
from enchufe.cli.main import main
main()
"""


@pytest.mark.parametrize("how", ["made", "dropped"])
@pytest.mark.parametrize("moment", ["enchufe.cli.root", "enchufe.cli.manner", "enchufe.session.receiving"])
def test_an_interruption_within_an_import_is_one(moment: str, how: str, tmp_path: Path) -> None:
    done = run(
        WITHIN_AN_IMPORT, moment, how, "receive", "--yes", "--listen", "127.0.0.1:0", "--retry", "0", cwd=tmp_path
    )
    assert done.returncode == 130
    assert done.stderr.startswith("enchufe: interrupted\n")
    assert "Traceback" not in done.stderr


BEHIND_THE_END = """
import os, signal, sys, threading
def interrupt():
    threading.main_thread().join()
    os.kill(os.getpid(), signal.SIGINT)
threading.Thread(target=interrupt).start()
from enchufe.cli.main import main
main()
"""


@pytest.mark.parametrize(("argument", "code"), [("--version", 0), ("nosuch", 2)])
def test_what_comes_behind_the_end_changes_nothing(argument: str, code: int, tmp_path: Path) -> None:
    done = run(BEHIND_THE_END, argument, cwd=tmp_path)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.fixture
def handlers() -> Iterator[None]:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)
    before, hook = {number: signal.getsignal(number) for number in numbers}, sys.unraisablehook
    yield
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_who_insists_a_second_later_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(interruptions, "time", SimpleNamespace(monotonic=lambda: now[0]))
    interruptions.heed()
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        now[0] += 1.0
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        now[0] += 0.1


@pytest.mark.usefixtures("handlers")
def test_an_import_that_hangs_is_interrupted_by_who_insists(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(interruptions, "time", SimpleNamespace(monotonic=lambda: now[0]))
    moments = []

    class Hanging:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            signal.raise_signal(signal.SIGINT)
            moments.append("put off")
            now[0] += 2.0
            signal.raise_signal(signal.SIGINT)
            moments.append("it hangs")

    monkeypatch.setattr(sys, "meta_path", [Hanging()])
    interruptions.heed()
    with pytest.raises(KeyboardInterrupt):
        import_module("nosuch")
    assert moments == ["put off"]


class Dropping:
    """What is raised while it is deleted goes nowhere."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def __del__(self) -> None:
        if self.depth:
            Dropping(self.depth - 1)
            time.sleep(PATIENCE)
        else:
            signal.raise_signal(signal.SIGTERM)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize("depth", [0, 2])
def test_one_that_python_drops_comes_again(depth: int, capfd: pytest.CaptureFixture[str]) -> None:
    interruptions.heed()
    Dropping(depth)
    with pytest.raises(KeyboardInterrupt):
        time.sleep(PATIENCE)
    assert capfd.readouterr().err == ""


# What the demo runs: the receiver shows a code, and both wait, and would say so if they were told to end.
CHILD = """
import json, os, signal, sys
def complain(number, frame):
    os.write(2, b"could not use its disk\\n")
    os._exit(6)
signal.signal(signal.SIGINT, complain)
signal.signal(signal.SIGTERM, complain)
signal.alarm(120)
open(sys.argv[1], "w").write(str(os.getpid()))
if sys.argv[1] == "receive":
    for event in ({"event": "listening", "address": "127.0.0.1:9"}, {"event": "code", "code": "7-zoo-zoo-zoo"}):
        print(json.dumps(event), flush=True)
else:
    os.write(2, b"both wait\\n")
while True:
    signal.pause()
"""
DEMO = """
import sys
from enchufe.cli import demo
demo._COMMAND[1:] = ["-c", sys.argv.pop(1)]
from enchufe.cli.main import main
main()
"""


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, HANGUP])
def test_an_interrupted_demo_ends_its_children_without_a_word(
    number: signal.Signals, whole: bool, tmp_path: Path
) -> None:
    """Also where all processes of its group are told, as by Ctrl-C on a terminal."""
    command = [sys.executable, "-c", DEMO, CHILD, "demo", "--size", "1"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, env=environment, start_new_session=True
    ) as demo:
        assert demo.stderr is not None
        for line in demo.stderr:
            if line == "both wait\n":
                break
        if whole:
            os.killpg(demo.pid, number)
        else:
            demo.send_signal(number)
        told = demo.stderr.read()  # which the children have as well: all three have ended
        assert demo.wait(PATIENCE) == 130
    assert told == "enchufe: interrupted\n"
    assert sorted(os.listdir(tmp_path)) == ["receive", "send"]
    for name in ("receive", "send"):
        with pytest.raises(ProcessLookupError):
            os.kill(int((tmp_path / name).read_text()), 0)


@pytest.mark.skipif(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, reason="run by nohup, as is what we start")
@pytest.mark.parametrize("columns", [20, 100])
def test_a_terminal_that_goes_away_below_a_bar_is_an_interruption(columns: int, tmp_path: Path) -> None:
    """And no bug; the other side is told."""
    (tmp_path / "big").write_bytes(os.urandom(8 << 20))
    environment = {**os.environ, "HOME": str(tmp_path), "TERM": "xterm", "COLUMNS": str(columns)}
    receive = [sys.executable, "-m", "enchufe", "receive", "--plain", "--listen", "127.0.0.1:0", "--json"]
    ours, theirs = pty.openpty()
    with subprocess.Popen(receive, stdout=subprocess.PIPE, cwd=tmp_path, env=environment) as receiver:
        assert receiver.stdout is not None
        address = json.loads(receiver.stdout.readline())["address"]
        send = [*sitting_at(os.ttyname(theirs)), "send", "big", "--plain", "--to", address, "--limit", "1MB/s"]
        with subprocess.Popen(
            [sys.executable, *send], stderr=theirs, cwd=tmp_path, env=environment, start_new_session=True
        ) as sender:
            os.close(theirs)
            shown = b""
            while b"/s" not in shown:  # the rate, which even a narrow one shows
                shown += os.read(ours, 4096)
            os.close(ours)
            assert sender.wait(PATIENCE) == 130
        told = next(line for line in receiver.stdout if b'"error"' in line)
        receiver.kill()
    assert b"interrupted" in told


@pytest.mark.skipif(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, reason="run by nohup, as is what we start")
def test_a_terminal_that_goes_away_tells_the_processes_of_an_engine_too(tmp_path: Path) -> None:
    """They leave it to the one that began them, which stops them."""
    listen = [sys.executable, "-m", "enchufe", "listen", "127.0.0.1:0", "--echo", "--engine", "processes"]
    with subprocess.Popen(listen, stderr=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True) as listener:
        assert listener.stderr is not None
        assert "listening on" in listener.stderr.readline()
        os.killpg(listener.pid, signal.SIGHUP)
        assert listener.wait(PATIENCE) == 130
        assert listener.stderr.read() == ""
