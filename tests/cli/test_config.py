"""Settings: which origin wins, what a file may say, what is told where it makes no sense, and how they are shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from enchufe.cli.config import settings
from enchufe.cli.root import cli

COMMAND = [sys.executable, "-m", "enchufe"]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "settings.toml"


@pytest.fixture
def run(file: Path, tmp_path: Path) -> Run:
    """Runs a command with that file, and with just these variables."""

    def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("ENCHUFE_", "XDG_"))}
        here = {"ENCHUFE_CONFIG": str(file)} if file.exists() else {}
        return subprocess.run(
            [*COMMAND, *arguments],
            env={**kept, "HOME": str(tmp_path / "home"), **here, **variables},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=tmp_path,
        )

    return run


def shown(done: subprocess.CompletedProcess[str]) -> dict[tuple[str, str], dict[str, Any]]:
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["v"] == 1
    return {(each["command"], each["option"]): each for each in told["settings"]}


def test_defaults(run: Run, tmp_path: Path) -> None:
    found = shown(run("config", "show", "--json"))
    assert {each["origin"] for each in found.values()} == {"default"}
    assert found["receive", "if-exists"] == {
        **{"command": "receive", "option": "if-exists", "value": "rename", "origin": "default", "at": ""}
    }
    assert found["send", "timeout"]["value"] == 30.0
    assert found["send", "streams"]["value"] is None
    assert found["send", "exclude"]["value"] == []
    told = json.loads(run("config", "show", "--json").stdout)
    assert (told["file"], told["found"]) == (str(tmp_path / "home/.config/enchufe/config.toml"), False)


def test_which_origin_wins(run: Run, file: Path) -> None:
    file.write_text('timeout = 5\nretry = 6\n[receive]\ntimeout = 7\nif_exists = "skip"\n')
    found = shown(run("config", "show", "--json", ENCHUFE_RETRY="8"))
    assert found["send", "timeout"].items() >= {"value": 5.0, "origin": "file", "at": str(file)}.items()
    assert found["receive", "timeout"].items() >= {"value": 7.0, "at": f"{file} [receive]"}.items()
    assert found["connect", "timeout"]["value"] == 5.0
    assert found["receive", "if-exists"]["value"] == "skip"
    for command in ("send", "receive"):
        assert found[command, "retry"].items() >= {"value": 8.0, "origin": "variable", "at": "ENCHUFE_RETRY"}.items()


def test_a_table_wins_wherever_it_stands(run: Run, file: Path) -> None:
    file.write_text("receive.timeout = 7\ntimeout = 5\n")
    found = shown(run("config", "show", "--json"))
    assert (found["receive", "timeout"]["value"], found["send", "timeout"]["value"]) == (7.0, 5.0)


@pytest.mark.parametrize(
    ("arguments", "variables", "told"),
    [
        ([], {}, "(1)"),
        ([], {"ENCHUFE_IF_EXISTS": "overwrite"}, "variable"),
        (["--if-exists", "rename"], {"ENCHUFE_IF_EXISTS": "overwrite"}, "(1)"),
    ],
)
def test_settings_are_what_a_command_does(
    run: Run, file: Path, tmp_path: Path, arguments: list[str], variables: dict[str, str], told: str
) -> None:
    """The file says where to, and what happens to a file that is there; a variable or a flag something else."""
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "f").write_text("old")
    (tmp_path / "f").write_text("new")
    file.write_text(f'retry = 0\n[receive]\noutput = "{inbox}"\nif-exists = "rename"\n[send]\nquiet = true\n')
    waiting = [*COMMAND, "send", "f", "--listen", "127.0.0.1:0", "--plain", "--json"]
    with subprocess.Popen(waiting, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as sender:
        assert sender.stdout is not None
        address = json.loads(sender.stdout.readline())["address"]
        done = run("receive", address, "--plain", *arguments, **variables)
        assert done.returncode == 0, done.stderr
        sender.communicate(timeout=60)
    assert sorted(os.listdir(inbox)) == (["f"] if told == "variable" else ["f", "f (1)"])


@pytest.mark.parametrize(
    ("toml", "told"),
    [
        ("timeot = 3", "timeot: there is no such setting; is it timeout?"),
        ("xyzzy = 3", "xyzzy: there is no such setting; `enchufe config show` lists all"),
        ("[recieve]\ntimeout = 3", "[recieve]: there is no such command; is it receive?"),
        ("[receive]\nxattrs = true", "[receive] xattrs: `enchufe receive` has no such setting"),
        ("[receive.deeper]\nx = 1", "[receive] [receive.deeper]: there is no such command"),
        ("[store]\nclean = true", "[store] clean: this is said each time, as --clean: it removes things"),
        ("[receive]\ntokens = true", "[receive] tokens: this is said each time, as --tokens: it lets in whoever has"),
        ("plain = true", "plain: this is said each time, as --plain: it turns encryption and authentication off"),
        ("[receive]\nyes = true", "yes: this is said each time, as --yes: it takes whatever comes, unasked"),
        ('[send]\nto = "host:1"', "[send] to: this is about one run; say --to"),
        ('code = "7-a-b-c"', "code: a secret does not go into a file"),
        ('[receive]\ntoken = "x"', "[receive] token: a secret does not go into a file"),
        ('[receive]\noutput = "7-arbol-barco-cielo"', "a code or a token does not go into a file"),
        ('[send]\nname = "x"', "about one run"),
        ('[send]\nexclude = ["enchufe://h:1/#cert=0&code=x"]', "a code or a token does not go into a file"),
        ('timeout = "3"', "timeout: it takes a number, not a text"),
        ("timeout = true", "timeout: it takes a number, not true or false"),
        ("timeout = [3]", "timeout: it takes a number, not a list"),
        ("timeout = 1979-05-27", "timeout: it takes a number, not that"),
        ("timeout = " + "9" * 500, "timeout: no number here is as large as that"),
        ("timeout = " + "9" * 5000, "is no TOML: "),
        ("timeout = 0", "timeout: 0.0 is not in the range"),
        ("timeout = nan", "timeout: nan is no number of seconds"),
        ("streams = 1.5", "streams: it takes a whole number, not a number"),
        ("streams = 65", "streams: 65 is not in the range"),
        ("quiet = 1", "quiet: it takes true or false, not a whole number"),
        ('quiet = "yes"', "quiet: it takes true or false, not a text"),
        ('[receive]\nif-exists = "perhaps"', "[receive] if-exists: 'perhaps' is not one of"),
        ('[receive]\nmax-size = "much"', "[receive] max-size: 'much' is no size"),
        ("[receive]\nmax-size = -1", "[receive] max-size: '-1' is no size"),
        ("[send]\nlimit = 0", "[send] limit: '0' is no rate"),
        ('[send]\nexclude = "*.o"', "[send] exclude: it takes a list of texts, not a text"),
        ("[send]\nexclude = [1]", "[send] exclude: it takes a list of texts, not a list"),
        ("max-size = 5", "max-size: it is not the same for every command; say it in one of [receive], [connect]"),
        ("[receive]\nif-exists = 'skip'\nif_exists = 'skip'", "if-exists: it is there twice"),
        ("timeout = ", "is no TOML: "),
        ("timeout = 3\ntimeout = 4", "is no TOML: "),
        ("\x1b[2J = 1", "is no TOML: "),
        ('"\\u001b[2J" = 1', "there is no such setting"),
    ],
)
def test_what_makes_no_sense_is_told(run: Run, file: Path, toml: str, told: str) -> None:
    """By every command, with the file and the key, and never with what a secret is."""
    file.write_text(toml + "\n")
    for command in (["send", "x", "--to", "127.0.0.1:1", "--plain"], ["config", "show"]):
        done = run(*command)
        assert done.returncode == 2
        assert str(file) in done.stderr
        assert told in done.stderr
        assert "Traceback" not in done.stderr
        assert "\x1b" not in done.stderr
        for secret in ("arbol", "7-a-b-c", "cert=0"):
            assert secret not in done.stderr + done.stdout
    for helped in (["--help"], ["receive", "--help"], ["store", "partials", "-h"], ["--version"]):
        assert run(*helped).returncode == 0


def test_files_that_cannot_be_read(run: Run, file: Path, tmp_path: Path) -> None:
    file.write_bytes(b"timeout = '\xff'")
    assert "it is not in UTF-8" in run("config", "show").stderr
    file.unlink()
    missing = run("config", "show", ENCHUFE_CONFIG=str(tmp_path / "nowhere"))
    assert missing.returncode == 2
    assert "nowhere: there is no such file; ENCHUFE_CONFIG names it" in missing.stderr
    folder = run("config", "show", ENCHUFE_CONFIG=str(tmp_path))
    assert folder.returncode == 2
    assert f"cannot read the settings in {tmp_path}: Is a directory" in folder.stderr
    assert run("config", "show", HOME="/dev/null").returncode == 0
    os.mkfifo(tmp_path / "pipe")
    for strange in (str(tmp_path / "pipe"), "/dev/zero"):
        told = run("config", "show", ENCHUFE_CONFIG=strange)
        assert (told.returncode, told.stderr.count(f"cannot read the settings in {strange}: ")) == (2, 1)
    assert run("config", "show", ENCHUFE_CONFIG="/dev/null").returncode == 0
    file.write_text("#" * (1 << 20) + "\n")
    assert "it is too big" in run("config", "show").stderr
    file.write_text("[a" * 100_000)
    assert "is no TOML" in run("config", "show").stderr
    file.write_text("timeout = " + "[" * 100_000)
    assert "is no TOML" in run("config", "show").stderr


def test_where_the_file_is(run: Run, tmp_path: Path) -> None:
    for where, variables in (
        (tmp_path / "home/.config", {}),
        (tmp_path / "xdg", {"XDG_CONFIG_HOME": str(tmp_path / "xdg")}),
    ):
        (where / "enchufe").mkdir(parents=True)
        (where / "enchufe/config.toml").write_text("timeout = 3\n")
        found = shown(run("config", "show", "--json", **variables))
        assert found["send", "timeout"]["at"] == str(where / "enchufe/config.toml")
        none = run("config", "show", "send", ENCHUFE_CONFIG="", **variables)
        assert none.stdout.startswith("# no file: ENCHUFE_CONFIG is empty\n")
        assert "timeout = 30.0" in none.stdout


def test_what_is_shown_is_a_file_that_says_the_same(run: Run, file: Path) -> None:
    file.write_text(
        'timeout = 12\n[send]\nexclude = ["*.o", "a b", "\\u001b"]\nlimit = "20MB/s"\nxattrs = true\n'
        '[receive]\nmax-size = "1.5GiB"\nif-exists = "update"\n[connect]\nprintable = false\n'
    )
    first = run("config", "show", ENCHUFE_RETRY="3")
    assert first.returncode == 0, first.stderr
    again = tomllib.loads(first.stdout)
    assert again["receive"]["max-size"] == 3 << 29
    assert again["send"]["exclude"] == ["*.o", "a b", "\x1b"]
    found = shown(run("config", "show", "--json", ENCHUFE_RETRY="3"))
    file.write_text(first.stdout)
    twice = shown(run("config", "show", "--json"))
    assert {key: each["value"] for key, each in twice.items()} == {key: each["value"] for key, each in found.items()}


def test_of_one_command(run: Run, file: Path) -> None:
    file.write_text("[store.partials]\njson = true\n")
    found = shown(run("config", "show", "store", "partials", "--json"))
    assert list(found) == [("store partials", "json")]
    assert found["store partials", "json"]["value"] is True
    assert [line for line in run("config", "show", "store").stdout.splitlines() if line.startswith("[")] == [
        "[store.partials]"
    ]
    wrong = run("config", "show", "recieve")
    assert wrong.returncode == 2
    assert "'recieve' has no settings; is it receive?" in wrong.stderr


def test_variables(run: Run) -> None:
    done = run(
        "config",
        "show",
        "--json",
        ENCHUFE_RECEIVE_MAX_SIZE="20GB",
        ENCHUFE_OUTPUT="/inbox",
        ENCHUFE_EXCLUDE="*.o .git",
        ENCHUFE_NO_INPUT="1",
        ENCHUFE_QUIET="0",
        ENCHUFE_CODE="7-arbol-barco-cielo",
        ENCHUFE_TIMOUT="secret",
        ENCHUFE_PLAIN="1",
        ENCHUFE_YES="1",
    )
    found = shown(done)
    assert found["receive", "max-size"].items() >= {"value": 20 * 10**9, "at": "ENCHUFE_RECEIVE_MAX_SIZE"}.items()
    assert found["connect", "max-size"]["origin"] == "default"
    assert found["receive", "output"]["value"] == "/inbox"
    assert found["send", "exclude"]["value"] == ["*.o", ".git"]
    assert found["receive", "no-input"]["value"] is True
    assert found["receive", "quiet"].items() >= {"value": False, "origin": "variable"}.items()
    assert json.loads(done.stdout)["unknown"] == ["ENCHUFE_PLAIN", "ENCHUFE_TIMOUT", "ENCHUFE_YES"]
    assert "secret" not in done.stdout
    assert "arbol" not in done.stdout
    assert "# ENCHUFE_TIMOUT: no setting is called so" in run("config", "show", ENCHUFE_TIMOUT="3").stdout


HOMELESS = """
import pwd
def nobody(_number):
    raise KeyError
pwd.getpwuid = nobody  # a user of a container, who stands in no list
from enchufe.cli.main import main
main()
"""


def test_who_has_no_home_has_no_file(tmp_path: Path) -> None:
    """And every command works nevertheless."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("ENCHUFE_", "XDG_", "HOME"))}
    done = subprocess.run(
        [sys.executable, "-c", HOMELESS, "config", "show"],
        env=kept,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# no file: this user has no home folder\n")


def test_a_variable_that_makes_no_sense(run: Run) -> None:
    done = run("config", "show", ENCHUFE_RETRY="soon")
    assert done.returncode == 2
    assert "ENCHUFE_RETRY: 'soon' is not a valid float" in done.stderr
    assert run("send", "x", "--to", "127.0.0.1:1", ENCHUFE_RETRY="soon").returncode == 2


def test_neither_plain_nor_yes_can_be_set_by_a_variable(run: Run, tmp_path: Path) -> None:
    """Whoever exports it anyway finds that it changes nothing: the command does what it does without."""
    (tmp_path / "x").touch()
    arguments = ["send", "x", "--to", "127.0.0.1:1", "--retry", "0"]
    without, exported = run(*arguments), run(*arguments, ENCHUFE_PLAIN="1", ENCHUFE_YES="1")
    assert (exported.returncode, exported.stderr) == (without.returncode, without.stderr)


def test_every_setting_has_a_variable_of_its_own() -> None:
    """None sets options of two kinds, and what has had one keeps its name."""
    forms: dict[str, set[object]] = {}
    for setting in settings(cli):
        assert isinstance(setting.option, click.Option)
        assert setting.option.envvar in (None, setting.variable), setting
        forms.setdefault(setting.variable, set()).add((setting.option.type.name, setting.option.multiple))
    assert all(len(kinds) == 1 for kinds in forms.values())
    assert {"ENCHUFE_TIMEOUT", "ENCHUFE_IF_EXISTS", "ENCHUFE_CONNECT_MAX_SIZE", "ENCHUFE_ENGINE"} <= set(forms)
    assert not {"ENCHUFE_PLAIN", "ENCHUFE_YES", "ENCHUFE_TO", "ENCHUFE_CODE", "ENCHUFE_CONFIG"} & set(forms)
