"""Every poller by its name, kqueue's among them wherever we are."""

from __future__ import annotations

import importlib.util
import sys
from typing import Final
from unittest import mock

from enchufe.engines import pollers
from tests import kqueue_stand_in


def _elsewhere() -> dict[str, type[pollers.Poller]]:
    """`pollers.available()` as our own module has it on macOS: a second copy of it, made there."""
    found = importlib.util.find_spec(pollers.__name__)
    assert found is not None
    assert found.loader is not None
    module = importlib.util.module_from_spec(found)
    with (
        mock.patch.dict(sys.modules, {"select": kqueue_stand_in.as_select()}),
        mock.patch.object(sys, "platform", "darwin"),
    ):
        found.loader.exec_module(module)
    available: dict[str, type[pollers.Poller]] = module.available()
    return available


POLLERS: Final = {**_elsewhere(), **pollers.available()} if sys.platform == "linux" else pollers.available()
