"""A link: where somebody listens, which certificate it shows, and what lets one in.

`enchufe://host:port,host:port/#cert=...&code=label-word-word-word`, or `&token=...`. Secrets stand behind the `#`:
whatever opens such a link sends that part to no server, and no log of one has it.
"""

from __future__ import annotations

import base64
import binascii
import re
import unicodedata
from collections.abc import Sequence
from ipaddress import IPv6Address, ip_address
from typing import Final
from urllib.parse import quote, unquote

from enchufe.access import interfaces as machine
from enchufe.access.codes import Code, spaced, unwrapped
from enchufe.dataclass import dataclass
from enchufe.errors import LocalProtocolError
from enchufe.transports.addresses import TcpAddress, parse_address

SCHEME: Final = "enchufe://"
MOST_TEXT: Final = 2048  # characters; some programs cut longer links off
MOST_ADDRESSES: Final = 8  # all of them are tried, one after the other
_DIGEST: Final = 32  # bytes of SHA-256
_TOKEN: Final = 32  # bytes: an Ed25519 seed, RFC 8032 section 5.1.5
_KEYS: Final = ("cert", "code", "token")
_HINT: Final = "Copy the whole link again, from enchufe:// to its end, in quotes: # and & mean something to a shell."
_WRAP: Final = re.compile(r"\s*[\r\n]\s*")  # where a message of lines so long, and no longer, has cut it in two
_NAME: Final = re.compile(r"[\w.-]+")  # of a host or an interface: nothing that could end the address part of a link
# A label and three words, as `spaced`; whether they are of a list is for whoever reads the code.
_CODE: Final = re.compile(r"\s*[0-9]{1,2}(?:\s+[^\W\d_]+){3}\s*")


def looks_like_code(text: str) -> bool:
    """Whether a text has the form of a code: a number and three words, with hyphens or spaces between."""
    return len(text) < 128 and _CODE.fullmatch(unicodedata.normalize("NFC", spaced(text))) is not None


def is_link(text: str) -> bool:
    """Whether a text is a link, or meant to be one."""
    return unwrapped(text)[: len(SCHEME)].lower() == SCHEME


@dataclass(frozen=True, slots=True)
class Link:
    """What a link says.

    Attributes:
        addresses: where to dial, the likeliest first.
        fingerprint: SHA-256 of the listener's certificate (DER), or None: whichever it shows.
        code: the spoken code, or None.
        token: a token's private key, or None.
    """

    addresses: tuple[TcpAddress, ...]
    fingerprint: bytes | None = None
    code: str | None = None
    token: bytes | None = None

    def __post_init__(self) -> None:
        if not 0 < len(self.addresses) <= MOST_ADDRESSES:
            raise _wrong(f"has {len(self.addresses)} addresses, not 1 to {MOST_ADDRESSES}")
        for each in self.addresses:
            if not is_host(each.host) or not 0 < each.port < 65536:
                raise _wrong("has an address that nobody can dial")
        if self.fingerprint is not None and len(self.fingerprint) != _DIGEST:
            raise _wrong("has a fingerprint (cert) that is no SHA-256")
        if self.code is not None and not looks_like_code(self.code):
            raise _wrong("has a code that is none")
        if self.token is not None and len(self.token) != _TOKEN:
            raise _wrong("has a token that is none")
        if self.token is not None and self.fingerprint is None:
            raise _wrong("has a token and no fingerprint (cert): anybody could take the token")
        if self.token is not None and self.code is not None:
            raise _wrong("has both a code and a token")

    @classmethod
    def parse(cls, text: str) -> Link:
        """Read a link.

        Raises:
            LocalProtocolError: it is none; what it says of it holds nothing of the link.
        """
        if len(text) > MOST_TEXT:
            raise _wrong(f"is longer than {MOST_TEXT} characters")
        text = _WRAP.sub("", unwrapped(text))
        if not is_link(text):
            raise _wrong(f"does not begin with {SCHEME}")
        place, has_more, fragment = text[len(SCHEME) :].partition("#")
        hosts, ended, path = place.partition("/")
        if not ended:  # where a link was cut off, a port may be too, and still be one
            raise _wrong("has no / behind its addresses")
        if path or "?" in hosts:
            raise _wrong("has something between its addresses and its #")
        addresses = tuple(_address(each) for each in hosts.split(","))
        said: dict[str, str] = {}
        for each in fragment.split("&") if has_more else ():
            key, equals, value = each.partition("=")
            if not equals and any(known.startswith(key) for known in _KEYS):
                raise _wrong("ends too soon")
            if key in said:
                raise _wrong("says something twice")
            said[key] = value
        return cls(
            addresses,
            _bytes(said.get("cert"), "a fingerprint (cert)"),
            _code(said.get("code")),
            _bytes(said.get("token"), "a token"),
        )

    def __str__(self) -> str:
        said = []
        if self.fingerprint is not None:
            said.append(f"cert={_text(self.fingerprint)}")
        if self.code is not None:
            said.append(f"code={quote(self.code, safe='')}")
        if self.token is not None:
            said.append(f"token={_text(self.token)}")
        return f"{SCHEME}{','.join(map(str, self.addresses))}/" + (f"#{'&'.join(said)}" if said else "")

    def __repr__(self) -> str:
        secret = "".join(f", {name}=..." for name in ("code", "token") if getattr(self, name) is not None)
        return f"Link({', '.join(map(str, self.addresses))}{secret})"


def own_addresses(port: int, interfaces: Sequence[str] | None = None) -> tuple[TcpAddress, ...]:
    """Where this machine can be reached from others, the likeliest first; only itself where it has no network.

    An IPv6 address that holds on one link alone comes without its interface, whose name says nothing elsewhere:
    `interfaces.dialable` puts in the dialer's.

    Raises:
        LocalProtocolError: there is no such interface.
    """
    own = [address for each in machine.chosen(interfaces) for address in each.addresses]
    own.sort(key=lambda address: (address.is_loopback, address.is_link_local, address.version))
    return tuple(dict.fromkeys(TcpAddress(str(address.ip), port) for address in own))[:MOST_ADDRESSES]


def elsewhere(address: TcpAddress) -> TcpAddress:
    """The address as a link has it: without an interface, as `own_addresses`."""
    return TcpAddress(address.host.partition("%")[0], address.port)


def _address(text: str) -> TcpAddress:
    try:
        address = parse_address(text)
    except LocalProtocolError as error:
        raise _wrong("has an address that is none") from error
    if not isinstance(address, TcpAddress):
        raise _wrong("has an address that is not host:port")
    return address


def is_host(host: str) -> bool:
    """Whether a link may say so."""
    if ":" not in host:
        return _NAME.fullmatch(host) is not None
    try:
        address = ip_address(host)
    except ValueError:
        return False
    return isinstance(address, IPv6Address) and (address.scope_id is None or bool(_NAME.fullmatch(address.scope_id)))


def _code(text: str | None) -> str | None:
    """A code as the link has it, whose words are of a list: else a word that was cut off would pass for one."""
    if text is None:
        return None
    code = unquote(text)
    try:
        Code.parse(code)
    except LocalProtocolError as error:
        raise _wrong("has a code that is none") from error
    return code


def _bytes(text: str | None, what: str) -> bytes | None:
    if text is None:
        return None
    try:
        found = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise _wrong(f"has {what} that is none") from error
    # One text for one meaning: bits that are left over are zero, and nothing is padded.
    if _text(found) != text:
        raise _wrong(f"has {what} that is none")
    return found


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _wrong(what: str) -> LocalProtocolError:
    return LocalProtocolError(f"the link {what}", hint=_HINT)
