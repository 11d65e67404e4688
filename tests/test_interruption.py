"""An interruption comes at once, but for what must not be torn."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest

from enchufe.interruption import interrupt, undivided


@pytest.fixture(autouse=True)
def handled() -> Iterator[None]:
    before = signal.signal(signal.SIGINT, interrupt)
    yield
    signal.signal(signal.SIGINT, before)


def test_it_comes_at_once() -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_it_waits_for_the_end_of_what_is_undivided() -> None:
    whole = False
    with pytest.raises(KeyboardInterrupt):
        with undivided:
            signal.raise_signal(signal.SIGINT)
            whole = True
    assert whole
    with undivided:  # and it came once
        pass


def test_what_another_thread_does_puts_nothing_off() -> None:
    inside, over = threading.Event(), threading.Event()

    def hold() -> None:
        with undivided:
            inside.set()
            over.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert inside.wait(10)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    over.set()
    thread.join()
