"""`enchufe token`: what services give out so that somebody may use them."""

from __future__ import annotations

import itertools
import re
import time
from typing import Any, Final

from enchufe.access.certificate import lasting
from enchufe.access.links import MOST_ADDRESSES, Link, elsewhere, is_host, own_addresses
from enchufe.access.tokens import SCOPES, Record, Tokens
from enchufe.cli import output
from enchufe.cli.short import ended, shown_time, write_json, write_lines
from enchufe.cli.show import in_bytes
from enchufe.errors import LocalProtocolError
from enchufe.transports.addresses import TcpAddress, parse_address

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
_ADDRESS: Final = "Write host:port, [v6 address]:port, or :port for this machine."
_DURATION: Final = re.compile(r"([0-9]{1,6})([smhdw])")


def new(name: str | None, *, scope: str, quota: int | None, expires: str | None, to: tuple[str, ...]) -> int:
    """Make a token and write its link, which is the only time that it shows: the exit code.

    Args:
        name: of the token; None: a number.
        scope: words with commas between.
        quota: bytes.
        expires: after how long, as `30d`.
        to: the addresses that the service has; `:port`: those of this machine.
    """

    def run() -> None:
        until = None if expires is None else time.time() + duration(expires)
        tokens = Tokens()
        addresses = tuple(dict.fromkeys(itertools.chain.from_iterable(map(_addresses, to))))
        if not addresses:
            raise LocalProtocolError("this machine has no address that a link could hold", hint=_ADDRESS)
        if len(addresses) > MOST_ADDRESSES:
            raise LocalProtocolError(
                f"{len(addresses)} addresses are too many for a link", hint=f"Name {MOST_ADDRESSES} at the most."
            )
        fingerprint = lasting().sha256
        token, record = tokens.new(name, scope.split(","), quota, until)
        try:
            write_lines([str(Link(addresses, fingerprint, token=token.seed))])
        except BaseException:
            tokens.revoke(record.name)  # nobody has it
            raise
        output.tell(f"{_line(record)}\nWhoever has the link may do this, until `enchufe token revoke {record.name}`.\n")

    return ended(run)


def list_all(*, as_json: bool) -> int:
    """List them: the exit code."""

    def run() -> None:
        records = Tokens().all()
        if as_json:
            write_json({"tokens": [_as_dict(record) for record in records]})
        else:
            write_lines(map(_line, records))

    return ended(run)


def revoke(name: str) -> int:
    """Have a token be good for nothing from now on: the exit code."""

    def run() -> None:
        record = Tokens().revoke(name)
        output.tell(f"{record.name} is revoked\n")

    return ended(run)


def duration(text: str) -> int:
    """Seconds that `90s`, `45m`, `12h`, `30d` or `2w` say.

    Raises:
        LocalProtocolError: it is no duration.
    """
    found = _DURATION.fullmatch(text)
    if found is None or not int(found[1]):
        raise LocalProtocolError(f"{text!r} is no duration", hint="Write 45m, 12h, 30d or 2w.")
    return int(found[1]) * _UNITS[found[2]]


def _addresses(text: str) -> tuple[TcpAddress, ...]:
    address = parse_address(text)
    if not isinstance(address, TcpAddress) or not address.port:
        raise LocalProtocolError(f"{text!r} can be in no link", hint=_ADDRESS)
    if address.host and not is_host(address.host):
        raise LocalProtocolError(f"{text!r} is no address: nothing is called {address.host!r}", hint=_ADDRESS)
    return (elsewhere(address),) if address.host else own_addresses(address.port)


def _as_dict(record: Record) -> dict[str, Any]:
    return {
        "name": record.name,
        "public": record.public.hex(),
        "scope": _scope(record),
        "quota": record.quota,
        "used": record.used,
        "made": record.made,
        "expires": record.expires,
        "state": record.state(time.time()),
    }


def _line(record: Record) -> str:
    used = in_bytes(record.used)
    used += " used" if record.quota is None else f" of {in_bytes(record.quota)} used"
    until = "no end" if record.expires is None else f"until {shown_time(record.expires)}"
    return f"{record.name}  {','.join(_scope(record))}  {used}  {until}  {record.state(time.time())}"


def _scope(record: Record) -> list[str]:
    return [scope for scope in SCOPES if scope in record.scope]
