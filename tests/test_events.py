"""Events: values that stay as they are, made of their annotations."""

from __future__ import annotations

import copy
import pickle
from typing import ClassVar

import pytest

from enchufe import events


def test_what_it_is_made_of() -> None:
    told = events.File((b"a", b"b"), 3, "sent", reason="why")
    assert told == events.File(path=(b"a", b"b"), bytes=3, action="sent", digest=None, reason="why")
    assert told != events.File((b"a", b"b"), 3, "received", reason="why")
    assert told != events.Landed((b"a", b"b"))
    assert hash(told) == hash(copy.copy(told))
    assert pickle.loads(pickle.dumps(told)) == told
    assert repr(told) == "File(path=(b'a', b'b'), bytes=3, action='sent', digest=None, reason='why')"
    assert told.as_dict() == {"v": 1, "event": "file", "path": "a/b", "bytes": 3, "action": "sent", "reason": "why"}
    match told:
        case events.File(path, size, "sent"):
            assert (path, size) == ((b"a", b"b"), 3)
        case _:
            pytest.fail("it does not match")


@pytest.mark.parametrize(
    ("values", "named"),
    [((), {}), (("here", "there"), {}), (("here",), {"peer": "there"}), ((), {"address": "here", "more": 1})],
    ids=["missing", "too many", "unknown", "one unknown"],
)
def test_what_it_cannot_be_made_of(values: tuple[str, ...], named: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="Listening takes address"):
        events.Listening(*values, **named)  # type: ignore[arg-type]


def test_it_stays_as_it_is() -> None:
    told = events.Listening("here")
    with pytest.raises(AttributeError, match="stays as it is"):
        told.address = "there"  # type: ignore[misc]
    with pytest.raises(AttributeError, match="stays as it is"):
        del told.address


def test_events_of_others_have_what_theirs_are_made_of() -> None:
    class Checked(events.File):
        event = "checked"
        limit: ClassVar[int] = 3
        seconds: float = 0.0

    told = Checked((b"a",), 1, "sent", seconds=2.0)
    assert (told.path, told.reason, told.seconds, told.limit) == ((b"a",), None, 2.0, 3)
    assert Checked.__match_args__ == ("path", "bytes", "action", "digest", "reason", "seconds")
    assert told != events.File((b"a",), 1, "sent")
