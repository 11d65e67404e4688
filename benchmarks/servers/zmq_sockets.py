"""pyzmq: ROUTER echoes, PULL takes; its wire is ZMTP. There is no half-close: an empty message asks for the count."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from benchmarks.servers.wire import HERE, announce, total, words

# No development dependency, so mypy may not find it.
zmq: Any = import_module("zmq")


def bound(kind: int) -> tuple[Any, str]:
    """A socket, and where it listens."""
    bare = zmq.Context.instance().socket(kind)
    bare.bind(f"tcp://{HERE}")
    where: str = bare.getsockopt_string(zmq.LAST_ENDPOINT)
    return bare, where.removeprefix("tcp://")


def echo() -> None:
    """Send every message back."""
    router, where = bound(zmq.ROUTER)
    announce(where)
    while True:
        peer, message = router.recv_multipart()
        router.send_multipart([peer, message])


def count() -> None:
    """Take every message; say how many there were."""
    pull, where = bound(zmq.PULL)
    push, answers = bound(zmq.PUSH)
    announce(where, answers)
    messages = 0
    while True:
        if pull.recv():
            messages += 1
        else:
            push.send(total(messages))
            messages = 0


if __name__ == "__main__":
    echoes, _ = words()
    if echoes:
        echo()
    else:
        count()
