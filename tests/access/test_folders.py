"""Where this user's folders are, and who has none."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest

from enchufe.access.folders import config_folder, state_folder


@pytest.mark.parametrize(
    ("find", "variable", "usual"),
    [(state_folder, "XDG_STATE_HOME", ".local/state"), (config_folder, "XDG_CONFIG_HOME", ".config")],
)
def test_the_folders_are_those_of_xdg(
    find: Callable[[], str], variable: str, usual: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find() == f"{tmp_path}/{usual}/enchufe"
    monkeypatch.setenv(variable, str(tmp_path / "xdg"))
    assert find() == f"{tmp_path}/xdg/enchufe"


@pytest.mark.parametrize("home", [None, "", "relative", "/home/ana", "/home/ana/", "/", "~"])
@pytest.mark.parametrize("given", [None, "", "relative", "/elsewhere", "/elsewhere/", "/", "~/xdg"])
def test_they_are_where_platformdirs_has_them(
    home: str | None, given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which is asked only where it is not plain."""
    for variable, value in (("HOME", home), ("XDG_STATE_HOME", given), ("XDG_CONFIG_HOME", given)):
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)
    assert state_folder() == platformdirs.user_state_dir("enchufe", appauthor=False)
    assert config_folder() == platformdirs.user_config_dir("enchufe", appauthor=False)


HOMELESS = """
import os, pwd
from enchufe.access.folders import config_folder, state_folder
from enchufe.errors import StoreError
def nobody(_number):
    raise KeyError
pwd.getpwuid = nobody  # a user of a container, who stands in no list
for find in (state_folder, config_folder):
    try:
        print(find())
    except StoreError as error:
        print(error, error.hint)
os.environ["XDG_STATE_HOME"] = "/somewhere"
print(state_folder())
"""


def test_who_has_no_home_is_told_to_name_one() -> None:
    kept = {
        name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME")
    }
    done = subprocess.run([sys.executable, "-c", HOMELESS], env=kept, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert "no home" in first and "XDG_STATE_HOME" in first
    assert "no home" in second and "XDG_CONFIG_HOME" in second
    assert third == "/somewhere/enchufe"
