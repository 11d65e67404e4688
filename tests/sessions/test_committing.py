"""What is put on the disk goes on whatever becomes of those who wait for it, and they may wait again."""

from __future__ import annotations

import gc
import signal
import threading
import time
import weakref

import pytest

from enchufe.session.committing import Committing

PATIENCE = 60.0


def test_who_is_interrupted_while_he_waits_can_wait_for_it_again() -> None:
    go = threading.Event()
    waiter = threading.main_thread().ident
    assert waiter is not None
    assert threading.get_ident() == waiter

    def work() -> int:
        for _ in range(2):
            time.sleep(0.1)  # in which he begins to wait: else this proves nothing
            signal.pthread_kill(waiter, signal.SIGINT)
        assert go.wait(PATIENCE)
        return 5

    committing = Committing(work)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            committing.result()
    assert not committing.wait(0.0)
    go.set()
    assert committing.result() == 5


def test_it_keeps_nothing_of_what_it_did() -> None:
    class Session:
        def work(self) -> int:
            return 5

    session = Session()
    known = weakref.ref(session)
    committing = Committing(session.work)
    assert committing.result() == 5
    until = time.monotonic() + PATIENCE
    gc.disable()
    try:
        del session
        while known() is not None and time.monotonic() < until:
            time.sleep(0.01)  # its thread is about to end
    finally:
        gc.enable()
    assert known() is None
