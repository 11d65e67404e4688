"""What holds for every test."""

from __future__ import annotations

import gc
import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

# Where the tests were started in the background of a shell, which has them and their children ignore it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Timings never decide a test: machines are shared and noisy.
settings.register_profile("enchufe", deadline=None, print_blob=True)
settings.load_profile("enchufe")


@pytest.fixture(params=["disk", "memory"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A folder on the disk, and one on a tmpfs: two kinds of file system."""
    if request.param == "disk":
        yield tmp_path
        return
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("no tmpfs at /dev/shm")
    with tempfile.TemporaryDirectory(prefix="enchufe-", dir="/dev/shm") as name:
        yield Path(name)


@pytest.fixture
def no_descriptor_stays() -> Iterator[None]:
    """As many descriptors are open after a test as before it."""
    gc.collect()  # what other tests left to it
    before = len(os.listdir("/proc/self/fd"))
    yield
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return folder
