"""Where this user's folders are: the one of keys and what is known, and the one of settings."""

from __future__ import annotations

import os
import sys
from typing import Final

from enchufe.errors import StoreError

_NAME: Final = "enchufe"


def state_folder() -> str:
    """Where keys and what is known are kept: `$XDG_STATE_HOME/enchufe`, by default `~/.local/state/enchufe`.

    Raises:
        StoreError: nobody says where this user's home is.
    """
    return _folder("user_state_dir", "XDG_STATE_HOME", ".local/state")


def config_folder() -> str:
    """Where settings are: `$XDG_CONFIG_HOME/enchufe`, by default `~/.config/enchufe`.

    Raises:
        StoreError: nobody says where this user's home is.
    """
    return _folder("user_config_dir", "XDG_CONFIG_HOME", ".config")


def _folder(kind: str, variable: str, usual: str) -> str:
    if sys.platform == "linux":  # where every command looks for it, and platformdirs is slow to import
        given, home = os.environ.get(variable, ""), os.environ.get("HOME", "")
        if os.path.isabs(given):
            return os.path.join(given, _NAME)
        if os.path.isabs(home):
            return os.path.join(home, usual, _NAME)
    import platformdirs  # noqa: PLC0415

    try:
        path: str = getattr(platformdirs, kind)(_NAME, appauthor=False)
    except RuntimeError:  # as newer versions of platformdirs say it
        path = ""
    if not os.path.isabs(path):
        raise StoreError("this user has no home folder", hint=f"Set HOME or {variable} to an absolute path.")
    return path
