"""`enchufe token` as a separate process with a home of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from enchufe.access.certificate import LASTING
from enchufe.access.links import Link
from enchufe.access.state import Folder
from enchufe.access.tokens import Token, Tokens
from enchufe.cli.token import duration
from enchufe.errors import LocalProtocolError

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "home" / ".local" / "state" / "enchufe"


@pytest.fixture
def token(tmp_path: Path) -> Run:
    def run(*arguments: str, stdout: Any = subprocess.PIPE, inside: Sequence[str] = ()) -> Done:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("XDG_")}
        return subprocess.run(
            [*inside, sys.executable, "-m", "enchufe", "token", *arguments],
            env={**environment, "HOME": str(tmp_path / "home")},
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )

    return run


def test_the_link_is_all_of_standard_output_and_lets_its_bearer_in(token: Run, state: Path) -> None:
    to = ("host:9000", "[2001:db8::1]:9001", "[fe80::1%eth0]:9002")
    done = token("new", *(part for each in to for part in ("--to", each)), "--scope", "drop,read", "--quota", "10GB")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("\n") and done.stdout.count("\n") == 1
    link = Link.parse(done.stdout.strip())
    assert [str(address) for address in link.addresses] == ["host:9000", "[2001:db8::1]:9001", "[fe80::1]:9002"]
    assert link.token is not None and link.fingerprint is not None
    grant = Tokens(Folder(str(state))).check(Token(link.token).public)
    assert grant is not None
    assert (grant.name, grant.scope, grant.left) == ("token-1", frozenset({"drop", "read"}), 10**10)
    assert "token-1" in done.stderr and "revoke" in done.stderr


def test_the_secret_is_in_the_link_and_nowhere_else(token: Run, state: Path) -> None:
    done = token("new", "--to", "host:9000")
    secret = Link.parse(done.stdout.strip()).token
    assert secret is not None
    text = Token(secret).text
    told = done.stderr + token("list").stdout + token("list", "--json").stdout
    kept = b"".join(path.read_bytes() for path in state.iterdir())
    for hidden in (text, secret.hex()):
        assert hidden not in told and hidden.encode() not in kept
    assert secret not in kept
    assert {path.name for path in state.iterdir()} == {"lock", "tokens.json", LASTING}
    assert {path.stat().st_mode & 0o777 for path in state.iterdir()} == {0o600}


def test_all_links_name_one_certificate(token: Run) -> None:
    links = [Link.parse(token("new", "--to", "host:9000").stdout.strip()) for _ in range(2)]
    assert links[0].fingerprint == links[1].fingerprint
    assert links[0].token != links[1].token


def test_a_port_alone_is_this_machine_s_addresses(token: Run) -> None:
    link = Link.parse(token("new", "--to", ":9000").stdout.strip())
    assert {address.port for address in link.addresses} == {9000}
    assert all(address.host for address in link.addresses)


def test_they_are_listed_and_revoked_by_name(token: Run, state: Path) -> None:
    before = time.time()
    assert token("new", "--to", "host:9000", "--name", "ana", "--quota", "1kB", "--expires", "30d").returncode == 0
    assert token("new", "--to", "host:9000", "--scope", "read").returncode == 0
    done = token("list")
    ana, other = done.stdout.splitlines()
    assert ana.startswith("ana  drop  0 bytes of 1.0 kB used  until ") and ana.endswith("  good")
    assert other == "token-1  read  0 bytes used  no end  good"
    first = json.loads(token("list", "--json").stdout)["tokens"][0]
    assert abs(first.pop("expires") - before - 30 * 86400) < 600
    assert first.pop("made") >= int(before) and len(first.pop("public")) == 64
    assert first == {"name": "ana", "scope": ["drop"], "quota": 1000, "used": 0, "state": "good"}
    done = token("revoke", "ana")
    assert (done.returncode, done.stdout) == (0, "") and "ana" in done.stderr
    assert [record.name for record in Tokens(Folder(str(state))).all()] == ["token-1"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["new"], "--to"),
        (["new", "--to", "host"], "no port"),
        (["new", "--to", "host:0"], "can be in no link"),
        (["new", "--to", "unix:/x"], "can be in no link"),
        (["new", "--to", "ho st:9000"], "'ho st:9000' is no address"),
        (["new", "--to", "[1:2]:9000"], "is no address"),
        (["new", *(part for port in range(1, 10) for part in ("--to", f"host:{port}"))], "9 addresses are too many"),
        (["new", "--to", "host:1", "--scope", "write"], "'write' is nothing a token is for"),
        (["new", "--to", "host:1", "--scope", "drop,lists"], "'lists' is nothing a token is for"),
        (["new", "--to", "host:1", "--quota", "9" * 400], "9223372036854775807 bytes is the most"),
        (["new", "--to", "host:1", "--quota", "999999999999t"], "9223372036854775807 bytes is the most"),
        (["new", "--to", "host:1", "--scope", "drop,\x1b[2J"], "nothing a token is for"),
        (["new", "--to", "host:1", "--scope", ""], "nothing a token is for"),
        (["new", "--to", "host:1", "--quota", "0"], "no size"),
        (["new", "--to", "host:1", "--expires", "soon"], "no duration"),
        (["new", "--to", "host:1", "--expires", "0d"], "no duration"),
        (["new", "--to", "host:1", "--name", "a b"], "cannot be a name"),
        (["revoke", "nobody"], "no token called"),
    ],
)
def test_what_cannot_be_done_is_told_and_leaves_no_token(
    token: Run, state: Path, arguments: list[str], told: str
) -> None:
    done = token(*arguments)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert told in done.stderr and "\x1b" not in done.stderr
    assert Tokens(Folder(str(state))).all() == []


def test_a_link_that_nobody_got_is_good_for_nothing(token: Run, state: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        done = token("new", "--to", "host:9000", stdout=full)
    assert done.returncode == 6 and "standard output" in done.stderr
    assert Tokens(Folder(str(state))).all() == []


def test_a_quota_is_kept_to_the_last_byte(token: Run, state: Path) -> None:
    assert token("new", "--to", "host:9000", "--quota", "9007199.254740993GB").returncode == 0
    assert [record.quota for record in Tokens(Folder(str(state))).all()] == [2**53 + 1]


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("45m", 2700), ("12h", 43200), ("30d", 2592000), ("2w", 1209600)]
)
def test_durations(text: str, seconds: int) -> None:
    assert duration(text) == seconds


@pytest.mark.parametrize("text", ["", "d", "0d", "30", "-1d", "1.5h", "30 d", "9999999d", "٣d", "1d\n"])
def test_what_is_no_duration_is_told(text: str) -> None:
    with pytest.raises(LocalProtocolError, match="no duration"):
        duration(text)


@pytest.mark.skipif(os.geteuid() != 0, reason="a network namespace needs root")
def test_a_machine_without_an_address_makes_no_link(token: Run) -> None:
    done = token("new", "--to", ":9000", inside=("unshare", "--net"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "this machine has no address" in done.stderr
    assert "host:port" in done.stderr
    assert token("list").stdout == ""
