"""An echo of protobuf's delimited messages: `protobuf_peer.py TYPE WHAT [PORT]`.

It dials PORT, or listens on a free one and prints it. WHAT it does on its one connection: `echo`; `big`, three messages
of which the middle one has 200 bytes and its own three; `cut`, a message and a half.
"""

from __future__ import annotations

import io
import socket
import sys
from typing import Any

from google.protobuf import proto, struct_pb2, wrappers_pb2

TYPES: dict[str, Any] = {
    "bytes": wrappers_pb2.BytesValue,
    "string": wrappers_pb2.StringValue,
    "struct": struct_pb2.Struct,
}


def talk(connection: socket.socket, kind: Any, what: str) -> None:
    stream: Any  # any buffered one will do, though the annotations of protobuf ask for a BytesIO
    with connection, connection.makefile("rwb") as stream:
        if what == "echo":
            while (message := proto.parse_length_prefixed(kind, stream)) is not None:
                proto.serialize_length_prefixed(message, stream)
                stream.flush()
            return
        small, big = wrappers_pb2.BytesValue(value=b"a"), wrappers_pb2.BytesValue(value=b"x" * 200)
        proto.serialize_length_prefixed(small, stream)
        if what == "big":
            proto.serialize_length_prefixed(big, stream)
            proto.serialize_length_prefixed(small, stream)
        else:
            whole = io.BytesIO()
            proto.serialize_length_prefixed(big, whole)
            stream.write(whole.getvalue()[:100])


def main(kind: str, what: str, port: str = "") -> None:
    if port:
        talk(socket.create_connection(("127.0.0.1", int(port))), TYPES[kind], what)
        return
    with socket.create_server(("127.0.0.1", 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        talk(listener.accept()[0], TYPES[kind], what)


if __name__ == "__main__":
    main(*sys.argv[1:])
