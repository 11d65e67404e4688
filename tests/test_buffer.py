"""ReceiveBuffer against the obvious model: a bytes object."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enchufe.buffer import ReceiveBuffer

Step = Callable[[ReceiveBuffer, bytes, int], bytes]


def append(buffer: ReceiveBuffer, model: bytes, size: int) -> bytes:
    data = bytes(number % 251 for number in range(size))
    buffer.append(data)
    return model + data


def receive(buffer: ReceiveBuffer, model: bytes, size: int) -> bytes:
    data = bytes(number % 7 for number in range(size))
    space = buffer.space(size)
    assert len(space) >= size
    space[:size] = data
    buffer.received(size)
    return model + data


def take(buffer: ReceiveBuffer, model: bytes, size: int) -> bytes:
    size = min(size, len(model))
    assert buffer.take(size) == model[:size]
    return model[size:]


def skip_and_rewind(buffer: ReceiveBuffer, model: bytes, size: int) -> bytes:
    mark = buffer.mark()
    buffer.skip(min(size, len(model)))
    assert bytes(buffer.view()) == model[size:]
    buffer.rewind(mark)
    return model


@settings(max_examples=200, deadline=None)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from([append, receive, take, skip_and_rewind]), st.integers(0, 70)), max_size=60
    ),
    size=st.integers(1, 64),
)
def test_as_a_bytes_object_would(steps: list[tuple[Step, int]], size: int) -> None:
    buffer, model = ReceiveBuffer(size), b""
    for step, count in steps:
        model = step(buffer, model, count)
        assert len(buffer) == len(model)
        assert bytes(buffer.view()) == model
        assert bytes(buffer.view(1, 5)) == model[1:5]
        assert buffer.peek(3) == model[:3]
        assert buffer.find(b"\3\4", 2) == model.find(b"\3\4", 2)


def test_taking_what_is_not_there_is_refused() -> None:
    buffer = ReceiveBuffer()
    buffer.append(b"ab")
    for count in (3, -1):
        with pytest.raises(ValueError, match="cannot skip"):
            buffer.skip(count)
    assert buffer.take(2) == b"ab"


def test_a_view_outlives_growth() -> None:
    buffer = ReceiveBuffer(4)
    buffer.append(b"abcd")
    view = buffer.view()
    buffer.append(b"e" * 100)
    assert bytes(view) == b"abcd"


def test_bytes_are_moved_in_proportion_to_what_passes() -> None:
    """The worst of patterns: always nearly full, one byte in and one out."""
    moved = 0

    class Counting(ReceiveBuffer):
        def _make_room(self, at_least: int) -> None:
            nonlocal moved
            moved += len(self)
            super()._make_room(at_least)

    buffer = Counting(1000)
    buffer.append(bytes(900))
    for _ in range(20_000):
        buffer.append(b"x")
        buffer.skip(1)
    assert moved < 4 * 20_900
    assert "901 of" in repr(buffer) or "900 of" in repr(buffer)
