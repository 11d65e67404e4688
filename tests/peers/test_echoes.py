"""enchufe and the field's other implementations of its framings, over real sockets, whoever dials."""

from __future__ import annotations

import pytest

from enchufe.errors import BrokenError, LocalProtocolError, RemoteProtocolError
from enchufe.framing import UntilClose
from tests.peers.talkers import TALKERS, Role, Talker, connected

ROLES: list[Role] = ["listens", "dials"]

every_talker = pytest.mark.parametrize("talker", TALKERS, ids=str)
whoever_dials = pytest.mark.parametrize("role", ROLES)


def content(size: int) -> bytes:
    """Bytes of every value, in turn."""
    return (bytes(range(256)) * (size // 256 + 1))[:size]


# The sizes around which lengths grow by a byte: binary ones, varints, digits.
SIZES = [0, 1, 9, 10, 99, 100, 127, 128, 253, 254, 255, 256, 16383, 16384, 65535, 65536]
TABLE = [*map(content, SIZES), b"\0", b"\0\0\0\0", b"a\0b\0", b"12:hola,", b"x" * 255, b"x" * 256, b"\r\n", b"\n"]


def messages(talker: Talker) -> list[bytes]:
    wrapped = [talker.wrap(body) for body in TABLE]
    return [message for message in wrapped if len(message) <= talker.longest]


@whoever_dials
@every_talker
class TestEcho:
    def test_one_after_the_other(self, talker: Talker, role: Role) -> None:
        with connected(talker, role, "echo", talker.framed()) as connection:
            for message in messages(talker):
                assert connection.ask(message) == message
            connection.end()
            assert connection.receive() is None

    def test_many_in_one_write(self, talker: Talker, role: Role) -> None:
        small = [talker.wrap(content(size % 60)) for size in range(500)]
        with connected(talker, role, "echo", talker.framed()) as connection:
            connection.send(*small)
            assert [connection.receive() for _ in small] == small

    def test_one_in_many_writes(self, talker: Talker, role: Role) -> None:
        message, framing = talker.wrap(content(200)), talker.framed()
        with connected(talker, role, "echo", framing) as connection:
            # A framing that adds nothing, to send what is no whole message.
            connection.reframe(UntilClose())
            for byte in b"".join(framing.encode(message)) * 2:
                connection.send(bytes([byte]))
            connection.reframe(framing)
            assert [connection.receive(), connection.receive()] == [message, message]


@whoever_dials
@pytest.mark.parametrize("talker", [talker for talker in TALKERS if talker.name.startswith("Twisted")], ids=str)
def test_an_answer_in_many_writes(talker: Talker, role: Role) -> None:
    few = [talker.wrap(content(size)) for size in (0, 1, 200, 0, 255)]
    with connected(talker, role, "drip", talker.framed()) as connection:
        connection.send(*few)
        assert [connection.receive() for _ in few] == few


@whoever_dials
@every_talker
class TestFaults:
    def test_too_big(self, talker: Talker, role: Role) -> None:
        with connected(talker, role, "big", talker.framed(max_size=100)) as connection:
            assert connection.receive() is not None
            with pytest.raises(RemoteProtocolError, match="over max_size of 100"):
                connection.receive()

    def test_too_big_is_skipped(self, talker: Talker, role: Role) -> None:
        with connected(talker, role, "big", talker.framed(max_size=100, on_too_big="skip")) as connection:
            kept = list(connection)
        assert len(kept) == 2
        assert all(len(message) < 100 for message in kept)

    def test_cut(self, talker: Talker, role: Role) -> None:
        with connected(talker, role, "cut", talker.framed()) as connection:
            assert connection.receive() is not None
            with pytest.raises(RemoteProtocolError, match="ended inside a message"):
                connection.receive()


@pytest.mark.parametrize("talker", [talker for talker in TALKERS if talker.refuses], ids=str)
def test_who_is_sent_too_much_hangs_up(talker: Talker) -> None:
    longest = b"x" * talker.longest
    with connected(talker, "listens", "echo", talker.framed(max_size=len(longest) + 1)) as connection:
        assert connection.ask(longest) == longest
        with pytest.raises(BrokenError):
            connection.ask(longest + b"x")


@pytest.mark.parametrize("talker", [talker for talker in TALKERS if talker.longest < 65536], ids=str)
def test_what_the_peer_could_not_be_told_is_not_sent(talker: Talker) -> None:
    with connected(talker, "listens", "echo", talker.framed()) as connection:
        with pytest.raises(LocalProtocolError, match="the most that this framing can write"):
            connection.send(bytes(talker.longest + 1))
        assert connection.ask(b"hola") == b"hola"
