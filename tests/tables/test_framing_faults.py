"""What no peer may send: every message in front of the fault is delivered, then it is told, and told again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from enchufe.buffer import ReceiveBuffer
from enchufe.errors import LocalProtocolError, RemoteProtocolError
from enchufe.framing import Framing, UntilClose
from tests.tables.framing_cases import FAULTS, Fault, batches, encode, one_by_one

every_fault = pytest.mark.parametrize("fault", FAULTS, ids=str)


def check(fault: Fault, chunks: Sequence[bytes], most: int | None = None, renew: bool = False) -> None:
    messages: list[bytes] = []
    with pytest.raises(RemoteProtocolError, match=fault.says) as caught:
        for batch in batches(fault.framing, chunks, most=most, renew=renew, at_end=fault.at_end):
            messages += batch
    assert messages == [*fault.before]
    assert caught.value.hint


@every_fault
@pytest.mark.parametrize("most", [None, 1])
@pytest.mark.parametrize("renew", [False, True])
def test_whole(fault: Fault, most: int | None, renew: bool) -> None:
    check(fault, [fault.wire], most, renew)


@every_fault
@pytest.mark.parametrize("renew", [False, True])
def test_byte_by_byte(fault: Fault, renew: bool) -> None:
    check(fault, one_by_one(fault.wire), None, renew)


def any_message(framing: Framing) -> bytes:
    for message in (b"", b"a", b"ab", b"uno", b"A", b"C", b"A12"):
        try:
            framing.encode(message)
        except LocalProtocolError:
            continue
        return message
    raise AssertionError(framing)


@every_fault
def test_behind_many_messages(fault: Fault) -> None:
    # So that the fault is met in the middle of a wide batch.
    if isinstance(fault.framing, UntilClose):
        return
    message = any_message(fault.framing)
    wire = encode(fault.framing, message) * 3000 + fault.wire
    check(replace(fault, wire=wire, before=[message] * 3000 + [*fault.before]), [wire])


@every_fault
def test_told_again_and_nothing_of_it_taken(fault: Fault) -> None:
    buffer, decoder = ReceiveBuffer(), fault.framing.decoder()
    buffer.append(fault.wire)
    left = None
    for _ in range(3):
        with pytest.raises(RemoteProtocolError, match=fault.says):
            while decoder.decode(buffer, fault.at_end):
                pass
        assert left is None or buffer.peek(len(buffer)) == left
        left = buffer.peek(len(buffer))
