"""Published for whoever writes a transport: the contract that `Connection` and the transfers lean on, as a test.

    from enchufe.testing import check_transport

    check_transport(make_pair)     # raises AssertionError with a sentence

`make_pair()` returns two connected Transports, whose waiters block; each check gets a fresh pair.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from enchufe.buffer import Buffer
from enchufe.errors import BrokenError, ClosedError, DeadlineExceeded, EnchufeError
from enchufe.transports import Transport
from enchufe.waiting import READ, WRITE, drive

MakePair = Callable[[], tuple[Transport, Transport]]

_MUCH: Final = 8 << 20  # more than any socket's buffers hold
_SOON: Final = 0.05  # seconds: for a deadline that is meant to pass
_LONG: Final = 30.0  # seconds after which something hangs


def check_transport(make_pair: MakePair) -> None:
    """Check the whole contract of a transport.

    Raises:
        AssertionError: it is broken; says where.
    """
    for check in CHECKS:
        near, far = make_pair()
        try:
            check(near, far)
        except (OSError, EnchufeError) as error:
            raise AssertionError(f"{_sentence(check)}: {type(error).__name__} escaped: {error}") from error
        except AssertionError as error:
            raise AssertionError(f"{_sentence(check)}: {error}") from error
        finally:
            near.close()
            far.close()


def _sentence(check: Callable[[Transport, Transport], None]) -> str:
    return (check.__doc__ or check.__name__).strip().rstrip(".")


# Each check is given both ends of a fresh connection; its docstring is what must hold.


def check_both_ways(near: Transport, far: Transport) -> None:
    """What one end sends the other receives, either way."""
    _send(near, [b"hola"])
    _expect(far, b"hola")
    _send(far, [b"", bytearray(b"que"), memoryview(b" tal?")[0:5]])
    _expect(near, b"que tal?")


def check_gathering(near: Transport, far: Transport) -> None:
    """Any number of pieces is sent whole and in order, empty ones among them."""
    pieces = [bytes([number % 256]) * (number % 3) for number in range(5000)]
    _send(near, pieces)
    _expect(far, b"".join(pieces))
    _send(near, [])
    _send(near, [b""])
    _send(near, [b"."])
    _expect(far, b".")


def check_much(near: Transport, far: Transport) -> None:
    """A send far beyond the kernel's buffers ends when the other side has read."""
    data = bytes(range(256)) * (_MUCH // 256)
    with _beside(lambda: _send(near, [data[:1000], data[1000:]])):
        _expect(far, data)


def check_both_directions_at_once(near: Transport, far: Transport) -> None:
    """Both ends may send at once while both receive."""
    there, back = b"a" * _MUCH, b"b" * _MUCH
    with (
        _beside(lambda: _send(near, [there])),
        _beside(lambda: _send(far, [back])),
        _beside(lambda: _expect(far, there)),
    ):
        _expect(near, back)


def check_small_views(near: Transport, far: Transport) -> None:
    """A receive fills no more than it was given, and the rest comes next."""
    _send(near, [b"abcdef"])
    got = b""
    while len(got) < 6:
        view = bytearray(b"??")
        count = drive(far.receive_into(memoryview(view)[:1]))
        assert count == 1, f"received {count} into one byte"
        assert view[1:] == b"?", "wrote behind the view"
        got += view[:1]
    assert got == b"abcdef", got


def check_half_close(near: Transport, far: Transport) -> None:
    """After end() the other side reads an end, again and again, and can still answer."""
    _send(near, [b"last"])
    drive(near.end())
    _expect(far, b"last")
    assert _receive(far) == b"", "no end after the last byte"
    assert _receive(far) == b"", "the end did not stay"
    _send(far, [b"answer"])
    _expect(near, b"answer")
    _raises(BrokenError, lambda: _send(near, [b"more"]), "a send after end()")


def check_close_is_an_end(near: Transport, far: Transport) -> None:
    """A close with nothing unread is a clean end to the other side."""
    _send(near, [b"bye"])
    near.close()
    near.close()
    _expect(far, b"bye")
    assert _receive(far) == b"", "no end"


def check_abort_is_no_end(near: Transport, far: Transport) -> None:
    """An abort never looks like an orderly end where the transport can tell (tcp and tls can, unix cannot)."""
    near.abort()
    try:
        got = _receive(far)
    except BrokenError:
        return
    assert far.name not in ("tcp", "tls") and got == b"", "an abort looked like an end"


def check_use_after_close(near: Transport, far: Transport) -> None:
    """Using a closed transport is ClosedError."""
    near.close()
    _raises(ClosedError, lambda: _send(near, [b"x"]), "send")
    _raises(ClosedError, lambda: _receive(near), "receive_into")
    _raises(ClosedError, lambda: drive(near.end()), "end")
    _raises(ClosedError, lambda: drive(near.wait(READ)), "wait")
    assert near.fileno() == -1, "the descriptor is still there"
    assert "closed" in repr(near), "repr does not say so"
    far.close()


def check_close_wakes_a_receiver(near: Transport, far: Transport) -> None:
    """Closing wakes a thread that waits in receive_into, with ClosedError."""
    with _beside(lambda: _raises(ClosedError, lambda: _receive(near), "a waiting receive")) as started:
        started.wait(_LONG)
        near.close()
    far.close()


def check_close_wakes_a_sender(near: Transport, far: Transport) -> None:
    """Closing wakes a thread that waits in send, with ClosedError."""
    with _beside(lambda: _raises(ClosedError, lambda: _send(near, [bytes(_MUCH)]), "a waiting send")) as started:
        started.wait(_LONG)
        drive(far.wait(READ))
        near.close()


def check_receive_deadline(near: Transport, far: Transport) -> None:
    """A receive that runs into its deadline is DeadlineExceeded, and loses nothing."""
    view = bytearray(10)
    deadline = far.waiter.now() + _SOON
    _raises(DeadlineExceeded, lambda: drive(far.receive_into(view, deadline)), "an idle receive")
    _raises(TimeoutError, lambda: drive(far.receive_into(view, deadline)), "an idle receive")
    _send(near, [b"later"])
    _expect(far, b"later")
    _send(near, [b"ready"])
    drive(far.wait(READ))
    count = drive(far.receive_into(view, deadline))
    assert bytes(view[:count]) == b"ready", "what is there already must be had after the deadline too"


def check_deadlines_are_absolute(near: Transport, far: Transport) -> None:
    """A slow drip does not put a deadline off."""
    deadline = far.waiter.now() + 4 * _SOON

    def drip() -> None:
        while far.waiter.now() < deadline + 2 * _SOON:
            _send(near, [b"."])
            threading.Event().wait(_SOON / 5)

    view = bytearray(1)

    def read_on() -> None:
        while far.waiter.now() < deadline + _LONG:
            drive(far.wait(READ, deadline))
            drive(far.receive_into(view, deadline))
            if far.waiter.now() >= deadline:
                raise DeadlineExceeded("passed")

    with _beside(drip):
        _raises(DeadlineExceeded, read_on, "a dripping receive")


def check_a_cut_send_poisons(near: Transport, far: Transport) -> None:
    """A send cut midway by its deadline poisons the connection for sending; receiving goes on."""
    deadline = near.waiter.now() + _SOON
    _raises(DeadlineExceeded, lambda: drive(near.send([bytes(_MUCH)], deadline)), "a stuck send")
    _raises(BrokenError, lambda: _send(near, [b"x"]), "a send after half a message")
    assert "broken" in repr(near), "repr does not say so"
    _send(far, [b"still"])
    _expect(near, b"still")


def check_a_send_not_begun_poisons_nothing(near: Transport, far: Transport) -> None:
    """A send whose deadline passed before its first byte leaves the connection whole."""
    filled = 0
    while count := near.try_send([bytes(65536)]):
        filled += count
    deadline = near.waiter.now() + _SOON
    _raises(DeadlineExceeded, lambda: drive(near.send([b"x"], deadline)), "a send that cannot begin")
    _expect(far, bytes(filled))
    _send(near, [b"whole"])
    _expect(far, b"whole")


def check_tries_never_wait(near: Transport, far: Transport) -> None:
    """try_receive_into is None where nothing is there, try_send is 0 where nothing fits, wait says when to try."""
    assert far.try_receive_into(bytearray(1)) is None, "received out of nothing"
    while near.try_send([bytes(65536)]):
        pass
    assert near.try_send([b"x"]) == 0, "sent into a full connection"
    assert drive(far.wait(READ | WRITE)) & READ, "wait did not tell that there is something to read"
    assert drive(far.wait(WRITE)) == WRITE, "wait for WRITE answered something else"


def check_a_send_to_nobody(near: Transport, far: Transport) -> None:
    """Sending to a peer that is gone is BrokenError, soon."""
    far.close()

    def send_on() -> None:
        for _ in range(1000):
            _send(near, [bytes(65536)])

    _raises(BrokenError, send_on, "sending to nobody")


def check_stop_receiving(near: Transport, far: Transport) -> None:
    """stop_receiving() wakes a waiting receiver with an end, and leaves sending alone."""
    with _beside(lambda: _expect_end(near)) as started:
        started.wait(_LONG)
        near.stop_receiving()
    _send(near, [b"reply"])
    _expect(far, b"reply")


def check_a_leak_warns(near: Transport, far: Transport) -> None:
    """A transport that is dropped unclosed warns, and closes."""
    # Nobody but __del__ can be asked: the caller of this check still holds `near`.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        near.__del__()
    assert any(issubclass(warning.category, ResourceWarning) for warning in caught), "no ResourceWarning"
    assert _receive(far) == b"", "it is still open"


CHECKS: Final[Sequence[Callable[[Transport, Transport], None]]] = (
    check_both_ways,
    check_gathering,
    check_much,
    check_both_directions_at_once,
    check_small_views,
    check_half_close,
    check_close_is_an_end,
    check_abort_is_no_end,
    check_use_after_close,
    check_close_wakes_a_receiver,
    check_close_wakes_a_sender,
    check_receive_deadline,
    check_deadlines_are_absolute,
    check_a_cut_send_poisons,
    check_a_send_not_begun_poisons_nothing,
    check_tries_never_wait,
    check_a_send_to_nobody,
    check_stop_receiving,
    check_a_leak_warns,
)


def _send(transport: Transport, pieces: Sequence[Buffer]) -> None:
    drive(transport.send(pieces, transport.waiter.now() + _LONG))


def _receive(transport: Transport, size: int = 65536) -> bytes:
    view = bytearray(size)
    return bytes(view[: drive(transport.receive_into(view, transport.waiter.now() + _LONG))])


def _expect(transport: Transport, data: bytes) -> None:
    """Receive exactly `data`."""
    got = bytearray()
    while len(got) < len(data):
        piece = _receive(transport, min(1 << 20, len(data) - len(got)))
        assert piece, f"the stream ended {len(data) - len(got)} bytes early"
        got += piece
    assert got == data, "other bytes arrived than were sent"


def _expect_end(transport: Transport) -> None:
    assert _receive(transport) == b"", "no end"


def _raises(kind: type[Exception], function: Callable[[], object], told: str) -> None:
    try:
        function()
    except kind:
        return
    except EnchufeError as error:
        raise AssertionError(f"{told} raised {type(error).__name__}, not {kind.__name__}: {error}") from error
    raise AssertionError(f"{told} did not raise {kind.__name__}")


@contextmanager
def _beside(function: Callable[[], None]) -> Iterator[threading.Event]:
    """Run `function` in a thread during the block; yields what is set when it starts, raises what it raised."""
    started = threading.Event()
    errors: list[BaseException] = []

    def run() -> None:
        started.set()
        try:
            function()
        except BaseException as error:  # noqa: BLE001 (raised again below)
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield started
    thread.join(_LONG)
    if errors:
        raise errors[0]
    assert not thread.is_alive(), "it hangs"
