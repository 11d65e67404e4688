"""A folder of private files, and the time as it is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from enchufe.access.state import Folder


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(str(tmp_path / "state"))
