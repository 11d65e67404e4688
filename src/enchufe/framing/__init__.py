"""Framings: how one message is told from the next in a stream of bytes."""

from enchufe.framing.base import MAX_SIZE, Decoder, Framing, TooBig
from enchufe.framing.delimited import MAX_LINE, Delimited
from enchufe.framing.fixed_length import FixedLength
from enchufe.framing.length_prefixed import LengthPrefixed
from enchufe.framing.lines import Lines
from enchufe.framing.netstring import Netstring
from enchufe.framing.parse import parse_framing
from enchufe.framing.sized import Frame, SizedDecoder, SizedFraming
from enchufe.framing.typed import Typed
from enchufe.framing.until_close import UntilClose

__all__ = [
    "MAX_LINE",
    "MAX_SIZE",
    "Decoder",
    "Delimited",
    "FixedLength",
    "Frame",
    "Framing",
    "LengthPrefixed",
    "Lines",
    "Netstring",
    "SizedDecoder",
    "SizedFraming",
    "TooBig",
    "Typed",
    "UntilClose",
    "parse_framing",
]
