"""What people name as the other side: an address, a known machine, a code or a link."""

from __future__ import annotations

import re
from dataclasses import field
from typing import Final

from enchufe.access.links import SCHEME, Link, is_link, looks_like_code
from enchufe.dataclass import dataclass
from enchufe.errors import LocalProtocolError
from enchufe.transports.addresses import Address, parse_address

MOST_NAME: Final = 64  # bytes, as docs/access.md has it
_HINT: Final = (
    "Write host:port, unix:/path, @name (a known machine), the code label-word-word-word, or the enchufe:// link."
)
# What may be meant for host:port, or for a v6 address whose brackets or port were left out.
_ALMOST_ADDRESS: Final = re.compile(r"[^\s:]*:\w*|\[?[0-9a-f:.]+(%[\w.-]+)?\]?(:\w*)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class KnownName:
    """A machine that this one remembers, by its name: `@name`."""

    name: str

    def __str__(self) -> str:
        return f"@{self.name}"


@dataclass(frozen=True, slots=True)
class SpokenCode:
    """A code as it was typed: it has the form of one, and is not yet read. Its `repr` does not show it."""

    text: str = field(repr=False)


Target = Address | SpokenCode | Link | KnownName


def target(text: str) -> Target:
    """Tell what a text names.

    A colon is in every address and in no code, so that `7-zip-host-name:9000` is an address, and without a port a code.

    Raises:
        LocalProtocolError: it is none of these, or a wrong one. Of what may be a secret, nothing is said.
    """
    if is_link(text):
        return Link.parse(text)
    bare = text.strip()
    if bare.startswith("@"):
        return _known(bare[1:])
    if ":" in text:
        is_path = text.startswith(("unix:", "shm:"))
        if "#" in text and not is_path:
            raise LocalProtocolError(f"a link begins with {SCHEME}", hint=_HINT)
        # Of "code: 7-...", as somebody copied it or half of it, the error about an address would tell all.
        if is_path or _ALMOST_ADDRESS.fullmatch(text):
            return parse_address(text)
    elif looks_like_code(text):
        return SpokenCode(text)
    raise LocalProtocolError(
        "this is no address (which has a port), no @name, no code (a number and three words) and no link", hint=_HINT
    )


def _known(name: str) -> KnownName:
    if not name or not name.isprintable() or name != name.strip():
        raise LocalProtocolError(
            f"{name!r} is no name of a machine", hint="`enchufe peers` lists those that are known."
        )
    if len(name.encode("utf-8", "surrogateescape")) > MOST_NAME:
        raise LocalProtocolError(
            f"the name behind @ is longer than {MOST_NAME} bytes", hint="`enchufe peers` lists those that are known."
        )
    return KnownName(name)
