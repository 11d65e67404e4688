"""Finding each other: on the loopback, between machines, where it is impossible, and among liars."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from ipaddress import IPv4Interface, IPv6Interface, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import ServiceInfo

from enchufe.access.discovery import MOST_ADDRESSES, MOST_TEXT, SERVICE, Announcer, announce, find, judged
from enchufe.access.interfaces import Interface
from enchufe.errors import LocalProtocolError
from enchufe.transports.addresses import TcpAddress
from tests.namespaces import Machine, no_multicast, two_machines
from tests.peers.processes import line, running

LONG = 30.0  # seconds: no measure of anything, only the end of a search that would find nothing
SHORT = 1.5  # seconds of a search that has to find nothing

# Announces until its input ends: port, label (0: none), interfaces.
ANNOUNCE = """
import sys
from enchufe.access.discovery import announce
port, label, *interfaces = sys.argv[1:]
say = lambda sentence: print(sentence, flush=True)
with announce(int(port), int(label) or None, interfaces or None, on_trouble=lambda _: say("trouble")):
    say("announcing")
    sys.stdin.read()
say("ended")
"""

# Searches, and says what it finds: how many of them to wait for, label (0: any), seconds, interfaces.
FIND = """
import itertools, sys
from contextlib import closing
from enchufe.access.discovery import find
count, label, seconds, *interfaces = sys.argv[1:]
trouble = lambda _: print("trouble")
with closing(find(int(label) or None, float(seconds), interfaces or None, on_trouble=trouble)) as found:
    for announcer in itertools.islice(found, int(count)):
        print(announcer.label, *announcer.addresses, flush=True)
print("ended")
"""


@contextmanager
def announcing(machine: Machine, port: int, label: int, *interfaces: str) -> Iterator[subprocess.Popen[bytes]]:
    with running(machine.python(ANNOUNCE, str(port), str(label), *interfaces)) as process:
        assert line(process.stdout) == "announcing"
        yield process


def finding(machine: Machine, count: int, label: int, seconds: float, *interfaces: str) -> list[str]:
    """What a search says, which ends with as many announcers or with its time."""
    command = machine.python(FIND, str(count), str(label), str(seconds), *interfaces)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == ""
    said = done.stdout.splitlines()
    assert said[-1] == "ended"
    return said[:-1]


def test_one_program_finds_another_on_this_machine(no_descriptor_stays: None) -> None:
    threads = set(threading.enumerate())
    told: list[str] = []
    with announce(43210, 7, ["lo"], on_trouble=told.append):
        with closing(find(7, LONG, ["lo"])) as found:
            # Other tests may run on this machine just now.
            announcer = next(each for each in found if each.addresses[0].port == 43210)
    assert announcer == Announcer(7, (TcpAddress("127.0.0.1", 43210), TcpAddress("::1", 43210))) or (
        announcer == Announcer(7, (TcpAddress("127.0.0.1", 43210),))  # where there is no IPv6
    )
    assert told == []
    assert set(threading.enumerate()) == threads


def test_a_search_and_an_announcement_end_at_once_when_they_have_just_begun(no_descriptor_stays: None) -> None:
    threads = set(threading.enumerate())
    for _ in range(3):
        with announce(43210, 7, ["lo"]):
            pass
        search = find(None, LONG, ["lo"])
        search.close()
        assert list(find(None, 0, ["lo"])) == []
    assert set(threading.enumerate()) == threads


def test_whoever_was_heard_of_in_time_is_told_of_however_long_another_takes() -> None:
    with announce(43210, 7, ["lo"]), announce(43211, 8, ["lo"]):
        passed = 0.0
        with closing(find(None, LONG, ["lo"], now=lambda: passed)) as found:
            ports = {next(found).addresses[0].port}
            with closing(find(None, LONG, ["lo"])) as another:
                heard = set[int]()
                while not heard >= {43210, 43211}:
                    heard.add(next(another).addresses[0].port)
            time.sleep(0.2)  # whoever searched before has heard of both by then
            passed = 2 * LONG
            ports |= {each.addresses[0].port for each in found}
    assert {43210, 43211} <= ports


def test_an_interface_that_is_not_there_is_refused() -> None:
    with pytest.raises(LocalProtocolError, match="'nowhere0'") as raised:
        list(find(None, 1, ["nowhere0"]))
    assert "lo" in raised.value.hint
    with pytest.raises(LocalProtocolError, match=r"'198\.51\.100\.77'"):
        with announce(43210, 7, ["198.51.100.77"]):
            pass


def test_two_machines_find_each_other() -> None:
    with two_machines() as (one, two):
        with announcing(one, 9001, 42), announcing(one, 9002, 0):
            # In whichever order they come.
            assert [each.split()[:2] for each in finding(two, 1, 42, LONG)] == [["42", f"{one.ipv4()}:9001"]]
            assert {each.split()[0] for each in finding(two, 2, 0, LONG)} == {"42", "None"}
            assert finding(two, 1, 43, SHORT) == []


def test_who_comes_later_is_found_too() -> None:
    with two_machines() as (one, two):
        with running(two.python(FIND, "1", "42", str(LONG))) as search:
            with announcing(one, 9000, 42):
                assert line(search.stdout).split()[:2] == ["42", f"{one.ipv4()}:9000"]


def test_every_address_that_is_found_can_be_dialed() -> None:
    listen = """
import socket, sys
with socket.create_server(("::", 9000), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
    print("listening", flush=True)
    while True:
        listener.accept()[0].close()
"""
    dial = """
import socket, sys
for each in sys.argv[1:]:
    host, _, port = each.rpartition(":")
    socket.create_connection((host.strip("[]"), int(port)), timeout=30).close()
    print(each)
"""
    with two_machines() as (one, two):
        with running(one.python(listen)) as listener, announcing(one, 9000, 42):
            assert line(listener.stdout) == "listening"
            [found] = finding(two, 1, 42, LONG)
            addresses = found.split()[1:]
            assert addresses[:2] == [f"{one.ipv4()}:9000", f"[{one.ipv6()}]:9000"]
            assert re.fullmatch(r"\[fe80::[0-9a-f:]+%link0\]:9000", addresses[2])
            done = subprocess.run(two.python(dial, *addresses), capture_output=True, text=True, timeout=60, check=False)
            assert done.stdout.split() == addresses, done.stderr


def test_only_the_chosen_interface_is_used() -> None:
    with two_machines(links=2) as (one, two):
        with announcing(one, 9000, 42, "link1"):
            [found] = finding(two, 1, 42, LONG)
            assert one.ipv4(1) in found
            assert one.ipv4(0) not in found
            assert finding(two, 1, 42, SHORT, "link0") == []
            assert finding(two, 1, 42, SHORT, two.ipv4(0)) == []
            [found] = finding(two, 1, 42, LONG, two.ipv4(1))
            assert one.ipv4(1) in found


def test_a_network_without_multicast_finds_nobody() -> None:
    with two_machines() as (one, two):
        no_multicast(one)
        with announcing(one, 9000, 42) as announcer:
            assert finding(two, 1, 42, SHORT) == []
            assert announcer.stdin
            announcer.stdin.close()
            assert line(announcer.stdout) == "ended"


def test_a_machine_that_cannot_multicast_says_so_and_goes_on() -> None:
    with two_machines() as (one, two):
        # IPv6 alone, and no way for its multicast.
        one.do("ip", "address", "del", f"{one.ipv4()}/24", "dev", "link0")
        one.do("ip", "-6", "route", "del", "ff00::/8", "dev", "link0", "table", "local")
        with announcing(one, 9000, 42) as announcer:
            assert line(announcer.stdout) == "trouble"
            assert finding(one, 1, 42, SHORT) == []
            assert finding(two, 1, 42, SHORT) == []
            assert announcer.stdin
            announcer.stdin.close()
            assert line(announcer.stdout) == "ended"


def test_a_port_that_another_program_keeps_for_itself_is_trouble_and_no_crash() -> None:
    keep = """
import socket, sys
held = [socket.socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
held[1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
for each in held:
    each.bind(("", 5353))
print("kept", flush=True)
sys.stdin.read()
"""
    # Here zeroconf leaves an unbound socket to the garbage collector: no warnings as errors.
    with two_machines() as (one, _):
        with running(one.python(keep)) as keeper:
            assert line(keeper.stdout) == "kept"
            for code, arguments, said in (
                (ANNOUNCE, ("9000", "42"), ["trouble", "announcing", "ended"]),
                (FIND, ("1", "42", str(SHORT)), ["trouble", "ended"]),
            ):
                command = [each if each != "error" else "ignore" for each in one.python(code, *arguments)]
                done = subprocess.run(command, input="", capture_output=True, text=True, timeout=60, check=False)
                assert (done.returncode, done.stdout.splitlines(), done.stderr) == (0, said, "")


def test_a_machine_without_any_network_is_trouble_and_no_crash() -> None:
    with two_machines() as (one, _):
        one.do("ip", "link", "set", "link0", "down")
        one.do("ip", "link", "set", "lo", "down")
        with running(one.python(ANNOUNCE, "9000", "42")) as announcer:
            assert line(announcer.stdout) == "trouble"
            assert line(announcer.stdout) == "announcing"
        assert finding(one, 1, 42, SHORT) == ["trouble"]


OWN = """
from enchufe.access.interfaces import chosen
from enchufe.access.links import own_addresses
print(*(each.name for each in chosen()), *own_addresses(9))
"""


def test_what_leads_out_comes_before_the_bridges_of_containers() -> None:
    """Which were there first, and are more than what is taken, as are their addresses."""
    with two_machines() as (one, _):
        for number in range(20):
            one.do("ip", "link", "add", f"bridge{number}", "type", "bridge")
            one.do("ip", "address", "add", f"172.{number}.0.1/16", "dev", f"bridge{number}")
            one.do("ip", "link", "set", f"bridge{number}", "up")
        one.do("ip", "link", "add", "late", "type", "bridge")
        one.do("ip", "address", "add", "192.0.2.1/24", "dev", "late")
        one.do("ip", "link", "set", "late", "up")
        one.do("ip", "route", "add", "default", "via", "192.0.2.2")
        done = subprocess.run(one.python(OWN), capture_output=True, text=True, timeout=60, check=True)
        found = done.stdout.split()
        assert (found[0], found[16]) == ("late", "192.0.2.1:9")


def test_an_announcement_tells_nothing_of_machine_or_user() -> None:
    capture = """
import socket, sys
ETHERNET, UDP = 14, 8
with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003)) as wire:
    wire.bind(("link0", 0))
    print("capturing", flush=True)
    while True:
        packet = wire.recv(65536)[ETHERNET:]
        if b"_enchufe" in packet:
            # Lengths, ids and checksums may look like words.
            network = 40 if packet[0] >> 4 == 6 else (packet[0] & 15) * 4
            print(packet[network + UDP:].hex(), flush=True)
"""
    told = re.compile(rb"[\x20-\x7e]{4,}")
    known = re.compile(rb"_enchufe|_tcp|local|label=42|[0-9a-f]{16}")
    with two_machines() as (one, two):
        with running(two.python(capture)) as wire:
            assert line(wire.stdout) == "capturing"
            unshared = one.inside("unshare", "--uts", "sh", "-c", 'hostname telltale && exec "$@"', "sh")
            environment = ["env", "USER=telltale", "LOGNAME=telltale", "ENCHUFE_CODE=42-telltale-telltale-telltale"]
            with running([*unshared, *environment, *one.python(ANNOUNCE, "9000", "42")[4:]]) as announcer:
                assert line(announcer.stdout) == "announcing"
                packets = [bytes.fromhex(line(wire.stdout)) for _ in range(3)]
                assert len(finding(two, 1, 42, LONG)) == 1
                assert announcer.stdin
                announcer.stdin.close()
                assert line(announcer.stdout) == "ended"
            wire.terminate()
            assert wire.stdout
            packets += map(bytes.fromhex, wire.stdout.read().decode().split())
    words = {word for packet in packets for word in told.findall(packet)}
    assert b"label=42" in words
    assert {word for word in words if not known.fullmatch(word)} == set()
    assert socket.gethostname().encode() not in b"".join(packets)


def test_names_are_other_ones_each_time() -> None:
    found: list[str] = []
    for _ in range(2):
        with announce(43210, 7, ["lo"]):
            with closing(_announced()) as infos:
                found += next([each.name, each.server or ""] for each in infos if each.port == 43210)
    assert len(set(found)) == 4


def _announced() -> Generator[ServiceInfo, None, None]:
    """What is announced, as zeroconf reads it."""
    from queue import Queue  # noqa: PLC0415

    from zeroconf import ServiceBrowser, Zeroconf  # noqa: PLC0415

    heard: Queue[ServiceInfo] = Queue()

    def changed(zeroconf: Zeroconf, service_type: str, name: str, state_change: object) -> None:
        info = ServiceInfo(SERVICE, name)
        if info.load_from_cache(zeroconf):
            heard.put(info)

    with Zeroconf(["127.0.0.1"]) as zeroconf:
        ServiceBrowser(zeroconf, SERVICE, handlers=[changed])
        while True:
            yield heard.get(timeout=LONG)


# Announces what is wrong, each under a name of its own, and then one that is right.
LIE = """
import asyncio, socket, sys
from ipaddress import ip_address
from zeroconf import ServiceInfo, Zeroconf
TYPE = "_enchufe._tcp.local."
def info(name, addresses, properties, port=9000):
    packed = [ip_address(each).packed for each in addresses]
    return ServiceInfo(TYPE, f"{name}.{TYPE}", port, 0, 0, properties, f"{name}.local.", addresses=packed)
good, label = sys.argv[1], {"label": "42"}
lies = [
    info("loopback", ["127.0.0.1", "::1"], label),
    info("elsewhere", ["192.0.2.9", "2001:db8::9", "8.8.8.8"], label),
    info("nowhere", ["0.0.0.0", "255.255.255.255", "224.0.0.251", "ff02::1", "::"], label),
    info("mapped", ["::ffff:127.0.0.1", "::ffff:" + good], label),
    info("no-port", [good], label, 0),
    info("no-label", [good], {}),
    info("other-label", [good], {"label": "43"}),
    info("long-label", [good], {"label": "0" * 200 + "42"}),
    info("much-text", [good], label | {f"key{number}": "x" * 200 for number in range(20)}),
    info("\u202e../../etc", ["127.0.0.1"], label),
    info("many", [f"127.1.{number}.1" for number in range(30)] + [good], label, 9001),
    info("good", [good], label, 9002),
]
async def tell():
    for each in lies:
        await zeroconf.async_register_service(each, cooperating_responders=True, strict=False)
with Zeroconf([good]) as zeroconf:
    asyncio.run_coroutine_threadsafe(tell(), zeroconf.loop).result()
    print("lying", flush=True)
    sys.stdin.read()
"""


def test_liars_are_not_listened_to() -> None:
    with two_machines() as (one, two):
        with running(one.python(LIE, one.ipv4())) as liar:
            assert line(liar.stdout) == "lying"
            found = finding(two, 100, 42, 3)
    assert sorted(found) == [f"42 {one.ipv4()}:{port}" for port in (9001, 9002)]


# Says records by hand which zeroconf would not, whole and damaged, and then announces what is right.
FOUL = """
import random, socket, struct, sys
from enchufe.access.discovery import announce
def name(*labels):
    return b"".join(bytes([len(each)]) + each for each in labels) + b"\\0"
def record(owner, kind, data):
    return owner + struct.pack("!HHIH", kind, 1, 4500, len(data)) + data
SERVICE, HOST = (b"_enchufe", b"_tcp", b"local"), name(b"host", b"local")
def packet(instance):
    records = [
        record(name(*SERVICE), 12, instance), record(instance, 16, b"\\x08label=42"),
        record(instance, 33, struct.pack("!HHH", 0, 0, 9001) + HOST), record(HOST, 1, socket.inet_aton("127.0.0.1")),
    ]
    return struct.pack("!HHHHHH", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)
odd = [
    (b"\\x1b[2J", *SERVICE), (b"\\0", *SERVICE), (b"\\xff\\xfe", *SERVICE), (b" ", *SERVICE), (b"a.b", *SERVICE),
    (b".", *SERVICE), (b"..", b"..", *SERVICE), (b"x" * 63, b"y" * 63, *SERVICE), (b"x", b"_sub", *SERVICE),
    (b"x", b"_http", b"_tcp", b"local"), SERVICE, (b"host", b"local"), (),
]
chance = random.Random(5)
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wire:
    wire.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(sys.argv[1]))
    wire.bind((sys.argv[1], 0))
    print("ready", flush=True)
    sys.stdin.readline()
    for each in odd:
        wire.sendto(packet(name(*each)), ("224.0.0.251", 5353))
    for _ in range(2000):
        damaged = bytearray(packet(name(*chance.choice(odd))))
        for _ in range(chance.randrange(1, 6)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        wire.sendto(damaged[: chance.randrange(1, len(damaged) + 1)], ("224.0.0.251", 5353))
with announce(9002, 42):
    sys.stdin.read()
"""


def test_foul_packets_do_not_stop_a_search() -> None:
    with two_machines() as (one, two):
        with running(one.python(FOUL, one.ipv4())) as foul, announcing(one, 9000, 42):
            assert line(foul.stdout) == "ready"
            with running(two.python(FIND, "2", "42", str(LONG)), errors=True) as search:
                # It searches, and for its whole life hears foul things.
                assert line(search.stdout).split()[1] == f"{one.ipv4()}:9000"
                assert foul.stdin
                foul.stdin.write(b"\n")
                assert line(search.stdout).split()[1] == f"{one.ipv4()}:9002"
                assert line(search.stdout) == "ended"
                assert search.stderr
                assert search.stderr.read() == b""


HERE = [
    Interface(
        "eth0", 2, (IPv4Interface("192.168.1.5/24"), IPv6Interface("2001:db8:1::5/64"), IPv6Interface("fe80::5/64"))
    )
]


def announced(
    addresses: list[str], properties: dict[str, str] | None = None, port: int | None = 9000
) -> Announcer | None:
    packed = [ip_address(each).packed for each in addresses]
    return judged(ServiceInfo(SERVICE, f"x.{SERVICE}", port, addresses=packed, properties=properties or {}), HERE)


def hosts(announcer: Announcer | None) -> list[str]:
    return [each.host for each in announcer.addresses] if announcer else []


def test_the_likeliest_address_is_the_first() -> None:
    found = announced(["fe80::9", "2001:db8:1::9", "192.168.1.9"])
    assert hosts(found) == ["192.168.1.9", "2001:db8:1::9", "fe80::9%eth0"]


@pytest.mark.parametrize("host", ["127.0.0.1", "10.0.0.1", "192.168.2.9", "::1", "2001:db8:2::9", "::", "ff02::fb"])
def test_an_address_of_no_network_of_ours_is_left_out(host: str) -> None:
    assert announced([host]) is None
    assert hosts(announced([host, "192.168.1.9"])) == ["192.168.1.9"]


@pytest.mark.parametrize("label", ["0", "100", "-1", "042", "4 2", "٤٢", "", "4" * 100])
def test_a_label_that_is_none_is_no_announcer(label: str) -> None:
    assert announced(["192.168.1.9"], {"label": label}) is None


@pytest.mark.parametrize("label", [1, 42, 99])
def test_a_label_is_read(label: int) -> None:
    found = announced(["192.168.1.9"], {"label": str(label)})
    assert found
    assert found.label == label


@given(
    st.lists(st.ip_addresses(), max_size=300),
    st.one_of(st.none(), st.integers(-1, 65535)),
    st.binary(max_size=2000),
)
def test_whatever_is_announced_is_bounded(addresses: list[object], port: int | None, text: bytes) -> None:
    packed = [ip_address(str(each)).packed for each in addresses]
    found = judged(ServiceInfo(SERVICE, f"x.{SERVICE}", port, addresses=packed, properties=text), HERE)
    if found:
        assert 0 < len(found.addresses) <= MOST_ADDRESSES
        assert len(text) <= MOST_TEXT
        assert {each.port for each in found.addresses} <= set(range(1, 65536))
