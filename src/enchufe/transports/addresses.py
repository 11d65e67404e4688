"""Addresses as people write them: `host:9000`, `:9000`, `[::1]:9000`, `unix:/run/inbox`, `shm:/run/inbox`."""

from __future__ import annotations

import re
from typing import Final

from enchufe.dataclass import dataclass
from enchufe.errors import LocalProtocolError

INHERITED: Final = "systemd:"
"""What to listen on where a service manager hands the sockets over."""

_HINT = "Write host:port, :port (every interface), [v6 address]:port, unix:/path or shm:/path."
_ON_ONE_LINK: Final = re.compile("fe[89ab][0-9a-f]:", re.IGNORECASE)  # fe80::/10, RFC 4291 section 2.4


@dataclass(frozen=True, slots=True)
class TcpAddress:
    """A host and a port; an empty host is every interface (listening) or this machine (connecting)."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def lacks_link(self) -> bool:
        """Whether it holds on one link alone, and does not say by which interface that is."""
        return _ON_ONE_LINK.match(self.host) is not None and "%" not in self.host


@dataclass(frozen=True, slots=True)
class UnixAddress:
    """A path in this machine's file system."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True)
class SharedMemoryAddress:
    """A path in this machine's file system, where two processes meet who then talk through memory."""

    path: str

    def __str__(self) -> str:
        return f"shm:{self.path}"


Address = TcpAddress | UnixAddress | SharedMemoryAddress


def parse_address(text: str) -> Address:
    """Read an address.

    Raises:
        LocalProtocolError: it is none.
    """
    if not isinstance(text, str):
        raise LocalProtocolError(f"an address is a str, not {text!r}", hint=_HINT)
    kind, _, path = text.partition(":")
    if path.startswith("//") and kind not in ("unix", "shm"):
        raise LocalProtocolError(f"{text!r} is a URL, and no address", hint=_HINT)
    if kind in ("unix", "shm"):
        if not path or "\0" in path:
            raise LocalProtocolError(f"{text!r} names no path", hint=_HINT)
        # 108 bytes with the final NUL: sun_path, unix(7).
        try:
            size = len(path.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError as error:
            raise LocalProtocolError(f"{text!r} holds half a character", hint=_HINT) from error
        if size > 107:
            raise LocalProtocolError(
                f"{text!r} is too long for a Unix socket", hint="The kernel takes at most 107 bytes of path."
            )
        return UnixAddress(path) if kind == "unix" else SharedMemoryAddress(path)
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        raise LocalProtocolError(f"{text!r} has no port", hint=_HINT)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise LocalProtocolError(f"{text!r} is ambiguous: a v6 address goes in brackets", hint=_HINT)
    if not (port.isascii() and port.isdigit() and len(port) < 6 and int(port) < 65536):
        raise LocalProtocolError(f"{port!r} is no port (0 to 65535)", hint=_HINT)
    return TcpAddress(host, int(port))


def to_listen_on(text: str) -> Address | None:
    """Read an address that this machine is to listen on; None: it is where sockets are handed over.

    Raises:
        LocalProtocolError: it is none, or one that holds on a single link and does not say which.
    """
    if text == INHERITED:
        return None
    address = parse_address(text)
    if isinstance(address, TcpAddress) and address.lacks_link:
        raise LocalProtocolError(
            f"{address.host!r} holds on one link alone, and does not say which",
            hint=f"Name the interface, as in [{address.host}%eth0]:{address.port}; or listen on :{address.port}, which"
            " is every address of this machine.",
        )
    return address
