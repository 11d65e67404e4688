"""The one function that every driver calls: any bytes, and an AssertionError where something does not hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.fuzz.framing_checks import check_framing
from tests.fuzz.message_checks import check_messages
from tests.fuzz.text_checks import check_address_text, check_framing_text

# By the first byte; the framings have most of the doors.
CHECKS: Final[list[Callable[[bytes], None]]] = [
    check_messages,
    check_framing_text,
    check_address_text,
    *[check_framing] * 5,
]


def check(data: bytes) -> None:
    """What must hold, of whatever the first byte chooses."""
    if data:
        CHECKS[data[0] % len(CHECKS)](data[1:])
