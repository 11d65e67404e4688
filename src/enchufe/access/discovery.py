"""Finding each other on the network by multicast DNS: who announces a label, and at which addresses.

An announcement is a hint and no more: whoever is found still has to prove itself. It is never needed either: where the
network carries no multicast, addresses and links do.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from ipaddress import IPv6Address, ip_address
from queue import Empty, Full, Queue
from typing import TYPE_CHECKING, Final

from enchufe.access import interfaces as machine
from enchufe.access.interfaces import Interface
from enchufe.dataclass import dataclass
from enchufe.transports.addresses import TcpAddress

if TYPE_CHECKING:
    from zeroconf import ServiceBrowser, ServiceInfo, Zeroconf

SERVICE: Final = "_enchufe._tcp.local."
_LABEL: Final = "label"
_LABELS: Final = {str(label).encode(): label for label in range(1, 100)}

MOST_ANNOUNCERS: Final = 32  # that one search tells of: a code tries three, and a name no more than a network of people
MOST_ADDRESSES: Final = 8  # of one announcer, either way: they fit one packet, and all are tried in a few seconds
MOST_WAITING: Final = 1024  # announcements not yet looked at; what a flood brings beyond is dropped
MOST_TEXT: Final = 64  # bytes of a TXT record; ours have 9
ECHO_SECONDS: Final = 0.5  # after three announcements; what is sent by multicast comes back from the own kernel at once


@dataclass(frozen=True, slots=True)
class Announcer:
    """Somebody on this network who says that it listens.

    Attributes:
        label: that of its code, or None.
        addresses: where to dial it, the likeliest first; never empty.
    """

    label: int | None
    addresses: tuple[TcpAddress, ...]


@contextmanager
def announce(
    port: int,
    label: int | None = None,
    interfaces: Sequence[str] | None = None,
    *,
    on_trouble: Callable[[str], None] | None = None,
) -> Iterator[None]:
    """Announce a listener for as long as the block lasts: its port and label, the addresses of the interfaces.

    Names are random, new each time. It runs in a thread of its own.

    Args:
        port: where it listens.
        label: that of its code.
        interfaces: names or addresses of those to announce on; None: all that lead out.
        on_trouble: told once, in a sentence, if nobody can hear it; from any thread.

    Raises:
        LocalProtocolError: there is no such interface.
    """
    tell = on_trouble or _nobody
    chosen = machine.chosen(interfaces)
    zeroconf = _open(chosen, tell)
    if zeroconf is None or zeroconf.loop is None:
        yield
        return
    import asyncio  # noqa: PLC0415 (slow to import, and few dialers search)

    talk = asyncio.run_coroutine_threadsafe(_talk(zeroconf, _service(port, label, chosen), tell), zeroconf.loop)
    try:
        yield
    finally:
        talk.cancel()
        zeroconf.loop.call_soon_threadsafe(_farewell, zeroconf)
        zeroconf.close()


def find(
    label: int | None = None,
    timeout: float = 5.0,
    interfaces: Sequence[str] | None = None,
    *,
    on_trouble: Callable[[str], None] | None = None,
    now: Callable[[], float] = time.monotonic,
) -> Generator[Announcer, None, None]:
    """Announcers, as they are heard of, until the time is over and all are told. Close the iterator to end it earlier.

    Whatever they say was checked for sense and bounded, and none of it is proved.

    Args:
        label: only announcers of that one; None: all.
        timeout: seconds.
        interfaces: names or addresses of those to search on; None: all that lead out.
        on_trouble: told in a sentence if nothing can be found at all.
        now: the clock, in seconds.

    Raises:
        LocalProtocolError: there is no such interface.
    """
    end = now() + timeout
    tell = on_trouble or _nobody
    chosen = machine.chosen(interfaces)
    if interfaces is None and all(each.loopback for each in chosen):
        tell(machine.ALONE)
        return
    zeroconf = _open(chosen, tell)
    if zeroconf is None:
        return
    heard: Queue[ServiceInfo] = Queue(MOST_WAITING)
    browser = _browse(zeroconf, heard)
    told: set[str] = set()
    try:
        while len(told) < MOST_ANNOUNCERS:
            try:  # also who was heard of by then, however long whoever came before him took
                info = heard.get(timeout=max(end - now(), 0.0))
            except Empty:
                return
            announcer = judged(info, chosen)
            if announcer and info.name not in told and label in (None, announcer.label):
                told.add(info.name)
                yield announcer
    finally:
        browser.cancel()
        zeroconf.close()


def _open(chosen: Sequence[Interface], tell: Callable[[str], None]) -> Zeroconf | None:
    """Sockets on the chosen interfaces; None, and told, where that is impossible."""
    # Late: it takes 60 ms, and who dials an address does not need it.
    from zeroconf import Zeroconf  # noqa: PLC0415

    where: list[str | int] = []
    for each in chosen:
        where += [str(address.ip) for address in each.addresses if address.version == 4][:1]
        where += [each.index] if any(address.version == 6 for address in each.addresses) else []
    if not where:
        tell("this machine has no network to announce on or search")
        return None
    try:
        return Zeroconf(interfaces=where, use_asyncio=False)
    except (OSError, RuntimeError) as error:  # RuntimeError: an interface that has gone in between
        tell(f"multicast DNS is impossible here: {error}")
        return None


def _service(port: int, label: int | None, chosen: Sequence[Interface]) -> ServiceInfo:
    from zeroconf import ServiceInfo  # noqa: PLC0415

    addresses = [address for each in chosen for address in each.addresses]
    # IPv4 first, then IPv6 of the wider network: what is over the limit would hardly be needed.
    addresses.sort(key=lambda address: (address.is_link_local, address.version))
    return ServiceInfo(
        SERVICE,
        f"{secrets.token_hex(8)}.{SERVICE}",
        port=port,
        addresses=[address.ip.packed for address in addresses[:MOST_ADDRESSES]],
        properties={} if label is None else {_LABEL: str(label)},
        server=f"{secrets.token_hex(8)}.local.",
    )


async def _talk(zeroconf: Zeroconf, service: ServiceInfo, tell: Callable[[str], None]) -> None:
    """Answer who asks, announce it three times to all, and see whether that has left this machine."""
    import asyncio  # noqa: PLC0415

    from zeroconf import NotRunningException, ServiceInfo  # noqa: PLC0415

    try:
        # Names of 64 random bits need no second and a half of asking whether somebody else has them.
        await (await zeroconf.async_register_service(service, cooperating_responders=True))
    except NotRunningException:
        tell("multicast DNS is impossible here: it does not start")
        return
    await asyncio.sleep(ECHO_SECONDS)
    if not ServiceInfo(SERVICE, service.name).load_from_cache(zeroconf):
        tell("nobody on this network hears that we are here: multicast is blocked")


def _farewell(zeroconf: Zeroconf) -> None:
    """One goodbye, not the three that closing would wait a quarter of a second for: who missed it dials in vain."""
    if goodbye := zeroconf.generate_unregister_all_services():
        zeroconf.async_send(goodbye)


def _browse(zeroconf: Zeroconf, heard: Queue[ServiceInfo]) -> ServiceBrowser:
    """Ask for announcers, now and then again, and gather what is said, whoever says it."""
    from zeroconf import Error, ServiceBrowser, ServiceInfo  # noqa: PLC0415

    def changed(zeroconf: Zeroconf, service_type: str, name: str, state_change: object) -> None:  # noqa: ARG001
        with suppress(Error, Full):  # Error: a name that is none
            info = ServiceInfo(SERVICE, name)
            # Whoever is honest says all of it in one packet. One who does not is heard when the rest comes.
            if info.load_from_cache(zeroconf):
                heard.put_nowait(info)

    return ServiceBrowser(zeroconf, SERVICE, handlers=[changed])


def judged(info: ServiceInfo, chosen: Sequence[Interface]) -> Announcer | None:
    """What of an announcement makes sense here; None: nothing."""
    if len(info.text) > MOST_TEXT or info.port is None or not 0 < info.port < 65536:
        return None
    text = info.properties.get(_LABEL.encode())
    label = None if text is None else _LABELS.get(text)
    if text is not None and label is None:
        return None
    hosts: dict[str, int] = {}
    for address in info.parsed_scoped_addresses():
        hosts.update((host, order) for host, order in _near(address, chosen))
        if len(hosts) >= MOST_ADDRESSES:
            break
    ordered = sorted(hosts, key=lambda host: (hosts[host], host))[:MOST_ADDRESSES]
    return Announcer(label, tuple(TcpAddress(host, info.port) for host in ordered)) if ordered else None


def _near(text: str, chosen: Sequence[Interface]) -> Iterator[tuple[str, int]]:
    """An announced address as a host to dial, and when to try it, if it can be that of somebody on a chosen interface.

    So nobody makes us dial what this machine serves to itself alone, or strangers elsewhere.
    """
    address = ip_address(text)
    if isinstance(address, IPv6Address) and address.is_link_local:
        for each in chosen:
            if each.has_link_local and address.scope_id in (None, str(each.index)):
                yield f"{text.partition('%')[0]}%{each.name}", 2
        return
    if any(address in own.network for each in chosen for own in each.addresses):
        yield str(address), 0 if address.version == 4 else 1


def _nobody(_sentence: str) -> None:
    """Trouble that nobody wants to hear of."""
