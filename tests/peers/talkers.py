"""The field's echoes: each with the framing that is enchufe's name for what it speaks."""

from __future__ import annotations

import queue
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from google.protobuf import struct_pb2, wrappers_pb2

import enchufe
from enchufe.blocking import BlockingConnection
from enchufe.framing import Framing, TooBig, parse_framing
from tests.peers import processes
from tests.peers.processes import PATIENCE, line, running

What = Literal["echo", "drip", "big", "cut"]
Role = Literal["listens", "dials"]

LONGEST = 1 << 20


@dataclass(frozen=True)
class Talker:
    """One echo of the field.

    Attributes:
        name: who it is.
        command: makes its command line of `argument`, what it is to do, and whom to dial.
        framing: what enchufe calls its framing, as `parse_framing` reads it.
        longest: bytes of the longest message it can send.
        refuses: it hangs up on who sends a longer one.
        wrap: makes any bytes a message of its kind; every `\n` and `\r` in them is gone where it talks in lines.
    """

    name: str
    command: Callable[..., list[str]]
    argument: str
    framing: str
    longest: int = LONGEST
    refuses: bool = False
    wrap: Callable[[bytes], bytes] = bytes

    def __str__(self) -> str:
        return self.name

    def start(self, what: What, *port: str) -> list[str]:
        return self.command(self.argument, what, *port)

    def framed(self, max_size: int = LONGEST, on_too_big: TooBig = "close") -> Framing:
        plain: Any = parse_framing(self.framing, max_size=max_size)
        framing: Framing = type(plain)(**{**plain.options(), "on_too_big": on_too_big})
        return framing


def as_bytes(value: bytes) -> bytes:
    return wrappers_pb2.BytesValue(value=value).SerializeToString()


def as_string(value: bytes) -> bytes:
    return wrappers_pb2.StringValue(value=value.decode("latin-1")).SerializeToString()


def as_struct(value: bytes) -> bytes:
    struct = struct_pb2.Struct()
    if value:
        struct["hola"] = value.hex()
    return struct.SerializeToString()


def as_line(value: bytes) -> bytes:
    return value.replace(b"\r", b"").replace(b"\n", b"")


TALKERS = [
    Talker("Twisted Int8StringReceiver", processes.twisted, "int8", "length:1", 255),
    Talker("Twisted Int16StringReceiver", processes.twisted, "int16", "length:2", 65535),
    Talker("Twisted Int32StringReceiver", processes.twisted, "int32", "length:4", refuses=True),
    Talker("Twisted NetstringReceiver", processes.twisted, "netstring", "netstring", refuses=True),
    Talker("Twisted LineReceiver", processes.twisted, "line", r"delimited:\r\n", refuses=True, wrap=as_line),
    Talker(
        "Twisted LineReceiver with a line feed", processes.twisted, "line-feed", "lines", refuses=True, wrap=as_line
    ),
    Talker("Erlang {packet, 1}", processes.erlang, "1", "length:1", 255),
    Talker("Erlang {packet, 2}", processes.erlang, "2", "length:2", 65535),
    Talker("Erlang {packet, 4}", processes.erlang, "4", "length:4", refuses=True),
    Talker("Erlang {packet, line}", processes.erlang, "line", "lines", wrap=as_line),
    Talker("protobuf BytesValue", processes.protobuf, "bytes", "varint", wrap=as_bytes),
    Talker("protobuf StringValue", processes.protobuf, "string", "varint", wrap=as_string),
    Talker("protobuf Struct", processes.protobuf, "struct", "varint", wrap=as_struct),
]


@contextmanager
def connected(talker: Talker, role: Role, what: What, framing: Framing) -> Iterator[BlockingConnection]:
    """A connection to a talker that has just been started and `listens` or `dials`, for as long as the block lasts.

    Who does nothing but echo must end well when the connection is closed.
    """
    if role == "listens":
        with running(talker.start(what)) as process:
            address = f"127.0.0.1:{line(process.stdout)}"
            with enchufe.connect(address, framing=framing, timeout=PATIENCE) as connection:
                yield connection
            _check_end(process, what)
        return
    came: queue.Queue[BlockingConnection] = queue.Queue()
    done: queue.Queue[None] = queue.Queue()

    def handler(connection: BlockingConnection) -> None:
        came.put(connection)
        done.get()

    with enchufe.Server(handler, "127.0.0.1:0", framing=framing, idle_timeout=PATIENCE) as server:
        port = server.addresses[0].rpartition(":")[2]
        with running(talker.start(what, port)) as process:
            connection = came.get(timeout=PATIENCE)
            try:
                yield connection
            finally:
                done.put(None)
            _check_end(process, what)


def _check_end(process: subprocess.Popen[bytes], what: What) -> None:
    # The others may find that nobody listens any more.
    if what in ("echo", "drip"):
        assert process.wait(PATIENCE) == 0
