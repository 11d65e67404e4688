"""`enchufe peers` as a separate process with a home of its own."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from enchufe.access.identity import fingerprint
from enchufe.access.known import FILE, KnownMachines
from enchufe.access.state import Folder

Done = subprocess.CompletedProcess[str]
Peers = Callable[..., Done]
LAPTOP, DESK = bytes([1]) * 32, bytes([2]) * 32


@pytest.fixture
def home(tmp_path: Path) -> Path:
    path = tmp_path / "home"
    path.mkdir()
    return path


@pytest.fixture
def peers(home: Path) -> Peers:
    def run(*arguments: str, **variables: str) -> Done:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
        return subprocess.run(
            [sys.executable, "-m", "enchufe", "peers", *arguments],
            env={**environment, "HOME": str(home), **variables},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    return run


@pytest.fixture
def known(home: Path) -> KnownMachines:
    return KnownMachines(Folder(f"{home}/.local/state/enchufe"))


def test_nobody_is_known_at_first(peers: Peers, home: Path) -> None:
    done = peers()
    assert (done.returncode, done.stdout) == (0, "")
    assert "--remember" in done.stderr
    assert json.loads(peers("--json").stdout) == {"v": 1, "peers": []}
    assert list(home.iterdir()) == []


def test_they_are_listed_named_shown_and_removed(peers: Peers, known: KnownMachines) -> None:
    known.add("laptop", LAPTOP, "unix:/a\x1b[2J")
    known.add("desk", DESK)
    done = peers("list")
    assert done.returncode == 0
    assert [line.split("  ")[0] for line in done.stdout.splitlines()] == ["laptop", "desk"]
    assert "\x1b" not in done.stdout and "\\x1b[2J" in done.stdout and "nowhere" in done.stdout
    assert peers().stdout == done.stdout

    first = json.loads(peers("list", "--json").stdout)["peers"][0]
    assert first.pop("added") == first.pop("met") > 0
    assert first == {
        "name": "laptop",
        "public": LAPTOP.hex(),
        "fingerprint": fingerprint(LAPTOP),
        "addresses": ["unix:/a\x1b[2J"],
    }

    done = peers("name", "laptop", "portátil")
    assert (done.returncode, done.stdout) == (0, "") and "portátil" in done.stderr
    assert peers("show", "@portátil").stdout == f"{fingerprint(LAPTOP)}\n{LAPTOP.hex()}\n"
    assert json.loads(peers("show", "Desk", "--json").stdout)["public"] == DESK.hex()

    done = peers("remove", "desk")
    assert (done.returncode, done.stdout) == (0, "") and "desk" in done.stderr
    assert [machine.name for machine in known.all()] == ["portátil"]


def test_this_machine_s_own_key_is_made_once_and_shown_without_its_secret(peers: Peers, home: Path) -> None:
    done = peers("show")
    assert done.returncode == 0 and done.stderr == ""
    words, public = done.stdout.splitlines()
    assert fingerprint(bytes.fromhex(public)) == words and len(words.split()) == 12
    assert json.loads(peers("show", "--json").stdout) == {"v": 1, "name": None, "public": public, "fingerprint": words}
    state = home / ".local" / "state" / "enchufe"
    assert stat.S_IMODE(state.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in state.iterdir()} == {0o600}
    assert public in (state / "identity.key").read_text()
    assert [path.name for path in home.iterdir()] == [".local"]


def test_xdg_state_home_says_where(peers: Peers, tmp_path: Path, home: Path) -> None:
    assert peers("show", XDG_STATE_HOME=str(tmp_path / "xdg")).returncode == 0
    assert (tmp_path / "xdg" / "enchufe" / "identity.key").exists()
    assert list(home.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["remove", "nobody"], 2, "no machine is known as 'nobody'"),
        (["show", "\x1b[31mx"], 2, "\\x1b[31mx"),
        (["name", "laptop", "a b"], 2, "cannot be a name"),
        (["name", "laptop", "desk"], 2, "another machine is called desk"),
        (["--json", "show"], 2, "--json goes after"),
        (["forget"], 2, "No such command"),
    ],
)
def test_what_cannot_be_done_is_told(
    peers: Peers, known: KnownMachines, arguments: list[str], code: int, told: str
) -> None:
    known.add("laptop", LAPTOP)
    known.add("desk", DESK)
    done = peers(*arguments)
    assert (done.returncode, done.stdout) == (code, "")
    assert told in done.stderr and "\x1b" not in done.stderr
    assert len(known.all()) == 2


def test_a_file_that_cannot_be_trusted_is_told_and_left_alone(peers: Peers, known: KnownMachines, home: Path) -> None:
    known.add("laptop", LAPTOP)
    path = home / ".local" / "state" / "enchufe" / FILE
    path.chmod(0o644)
    done = peers()
    assert (done.returncode, done.stdout) == (6, "")
    assert f"chmod 600 {path}" in done.stderr
    path.chmod(0o600)
    path.write_bytes(path.read_bytes()[:-9])
    done = peers("remove", "laptop")
    assert done.returncode == 6 and "damaged" in done.stderr and "backup" in done.stderr


def test_a_home_that_is_none_is_told(peers: Peers) -> None:
    done = peers("show", HOME="/dev/null")
    assert (done.returncode, done.stdout) == (6, "")
    assert "XDG_STATE_HOME" in done.stderr and "Traceback" not in done.stderr
