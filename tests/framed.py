"""Messages behind lengths of four bytes, as they stand on the wire: written by hand, not by the framing."""

from __future__ import annotations


def framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(4, "big") + message for message in messages)
