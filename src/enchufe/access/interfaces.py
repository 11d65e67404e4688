"""Which interfaces this machine has, and which addresses each: chosen by name or address, or all that lead out."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import IPv4Interface, IPv6Interface, ip_address
from pathlib import Path
from typing import Final

from enchufe.dataclass import dataclass
from enchufe.errors import LocalProtocolError
from enchufe.transports.addresses import TcpAddress

MOST: Final = 16  # interfaces; Linux takes 20 multicast memberships of a socket (igmp_max_memberships)
ALONE: Final = "this machine is on no network but its own"
_UP: Final = 0x1  # IFF_UP, netdevice(7)


@dataclass(frozen=True, slots=True)
class Interface:
    """One interface and its addresses with their networks.

    Attributes:
        name: as this machine calls it.
        index: its number here, which an IPv6 scope is given by.
        addresses: never empty.
    """

    name: str
    index: int
    addresses: tuple[IPv4Interface | IPv6Interface, ...]

    @property
    def loopback(self) -> bool:
        """Whether it leads nowhere but to this machine."""
        return all(address.ip.is_loopback for address in self.addresses)

    @property
    def has_link_local(self) -> bool:
        """Whether IPv6 addresses are dialed here that hold on this link alone."""
        return any(address.version == 6 and address.is_link_local for address in self.addresses)


def chosen(wanted: Sequence[str] | None = None) -> list[Interface]:
    """The interfaces to use.

    Args:
        wanted: names or addresses of interfaces; None: all that are up and lead out, the likeliest to meet others on
            first; the loopback if none does.

    Raises:
        LocalProtocolError: there is no such interface, or it has no address.
    """
    every = list(_every())
    if wanted is None:
        leading = _leading()
        out = [each for each in every if not each.loopback]
        # Where containers run there are more of them than are taken, and others are on none of theirs.
        out.sort(key=lambda each: (each.name not in leading, all(own.is_link_local for own in each.addresses)))
        return out[:MOST] or every[:MOST]
    return list(dict.fromkeys(_named(each, every) for each in wanted))[:MOST]


def _named(text: str, every: Sequence[Interface]) -> Interface:
    for each in every:
        if text == each.name:
            return each
    address, _, scope = text.partition("%")
    try:
        ip = ip_address(address)
    except ValueError:
        ip = None
    for each in every:
        if scope in ("", each.name, str(each.index)) and ip in [own.ip for own in each.addresses]:
            return each
    names = ", ".join(each.name for each in every)
    raise LocalProtocolError(
        f"this machine has no interface {text!r} with an address", hint=f"It has: {names}." if names else "It has none."
    )


def _every() -> Iterator[Interface]:
    # Late, since it costs 10 ms that a command which needs no network does not have to pay.
    import ifaddr  # noqa: PLC0415

    for adapter in ifaddr.get_adapters():
        addresses: list[IPv4Interface | IPv6Interface] = []
        for each in adapter.ips:
            if isinstance(each.ip, tuple):
                addresses.append(IPv6Interface(f"{each.ip[0].partition('%')[0]}/{each.network_prefix}"))
            else:
                addresses.append(IPv4Interface(f"{each.ip}/{each.network_prefix}"))
        if addresses and adapter.index is not None and _is_up(adapter.name):
            yield Interface(adapter.name, adapter.index, tuple(addresses))


def _leading() -> set[str]:
    """The interfaces by which the wider network is reached; where the system does not tell (other than Linux), none."""
    # Name, destination and more; for IPv6 destination, length of its prefix and more, the name last: proc_net(5).
    found = {row[0] for row in _routes("route") if row[1] == "0" * 8}
    return found | {row[-1] for row in _routes("ipv6_route") if row[:2] == ["0" * 32, "00"]}


def _routes(table: str) -> list[list[str]]:
    try:
        return [line.split() for line in Path("/proc/net", table).read_text().splitlines()]
    except OSError:
        return []


def _is_up(name: str) -> bool:
    """Whether an interface is switched on; where the system does not tell (other than Linux), it counts as such."""
    try:
        return bool(int(Path("/sys/class/net", name, "flags").read_text(), 16) & _UP)
    except OSError:
        return True


def dialable(addresses: Iterable[TcpAddress]) -> list[TcpAddress]:
    """What to dial: an IPv6 address that is good on one link alone, and says on none of ours, is tried on each."""
    every = list(addresses)
    own = chosen() if any(each.lacks_link for each in every) else []
    return [
        each
        for address in every
        for each in (
            [TcpAddress(f"{address.host}%{link.name}", address.port) for link in own if link.has_link_local]
            if address.lacks_link
            else [address]
        )
    ]
