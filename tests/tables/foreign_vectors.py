"""What other implementations wrote on a real socket: `tests/peers/capture.py` took it down.

Made by Twisted 26.10.0, protobuf 7.36.2, Debian 12's Erlang/OTP 25.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Vector:
    """Messages and the bytes that a peer made of them, and that it read the same messages from.

    Attributes:
        framing: as `parse_framing` reads it.
    """

    peer: str
    framing: str
    messages: list[bytes]
    wire: bytes

    def __str__(self) -> str:
        return self.peer


VECTORS = [
    Vector(
        "Twisted Int8StringReceiver",
        "length:1",
        [
            b"hola",
            b"",
            b"\x00",
            b"a\x00b",
            b"\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff",
            b"x" * 127,
            b"x" * 128,
            b"x" * 253,
            b"x" * 254,
            b"x" * 255,
        ],
        b"\x04hola\x00\x01\x00\x03a\x00b\x10\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa"
        + b"\xfb\xfc\xfd\xfe\xff\x7f"
        + b"x" * 127
        + b"\x80"
        + b"x" * 128
        + b"\xfd"
        + b"x" * 253
        + b"\xfe"
        + b"x" * 254
        + b"\xff"
        + b"x" * 255,
    ),
    Vector(
        "Twisted Int16StringReceiver",
        "length:2",
        [
            b"hola",
            b"",
            b"\x00",
            b"a\x00b",
            b"\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff",
            b"x" * 127,
            b"x" * 128,
            b"x" * 253,
            b"x" * 254,
            b"x" * 255,
            b"x" * 256,
            b"x" * 16383,
            b"x" * 16384,
            b"x" * 65535,
        ],
        b"\x00\x04hola\x00\x00\x00\x01\x00\x00\x03a\x00b\x00\x10\xf0\xf1\xf2\xf3\xf4\xf5"
        + b"\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff\x00\x7f"
        + b"x" * 127
        + b"\x00\x80"
        + b"x" * 128
        + b"\x00\xfd"
        + b"x" * 253
        + b"\x00\xfe"
        + b"x" * 254
        + b"\x00\xff"
        + b"x" * 255
        + b"\x01\x00"
        + b"x" * 256
        + b"?\xff"
        + b"x" * 16383
        + b"@\x00"
        + b"x" * 16384
        + b"\xff\xff"
        + b"x" * 65535,
    ),
    Vector(
        "Twisted Int32StringReceiver",
        "length:4",
        [
            b"hola",
            b"",
            b"\x00",
            b"a\x00b",
            b"\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff",
            b"x" * 127,
            b"x" * 128,
            b"x" * 253,
            b"x" * 254,
            b"x" * 255,
            b"x" * 256,
            b"x" * 16383,
            b"x" * 16384,
            b"x" * 65535,
            b"x" * 65536,
        ],
        b"\x00\x00\x00\x04hola\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x03a\x00b"
        + b"\x00\x00\x00\x10\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff\x00\x00\x00\x7f"
        + b"x" * 127
        + b"\x00\x00\x00\x80"
        + b"x" * 128
        + b"\x00\x00\x00\xfd"
        + b"x" * 253
        + b"\x00\x00\x00\xfe"
        + b"x" * 254
        + b"\x00\x00\x00\xff"
        + b"x" * 255
        + b"\x00\x00\x01\x00"
        + b"x" * 256
        + b"\x00\x00?\xff"
        + b"x" * 16383
        + b"\x00\x00@\x00"
        + b"x" * 16384
        + b"\x00\x00\xff\xff"
        + b"x" * 65535
        + b"\x00\x01\x00\x00"
        + b"x" * 65536,
    ),
    Vector(
        "Twisted NetstringReceiver",
        "netstring",
        [
            b"hola",
            b"",
            b"\x00",
            b"a\x00b",
            b"\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff",
            b"x" * 127,
            b"x" * 128,
            b"x" * 253,
            b"x" * 254,
            b"x" * 255,
            b"x" * 256,
            b"x" * 16383,
            b"x" * 16384,
            b"x" * 65535,
            b"x" * 65536,
        ],
        b"4:hola,0:,1:\x00,3:a\x00b,16:\xf0"
        + b"\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff,127:"
        + b"x" * 127
        + b",128:"
        + b"x" * 128
        + b",253:"
        + b"x" * 253
        + b",254:"
        + b"x" * 254
        + b",255:"
        + b"x" * 255
        + b",256:"
        + b"x" * 256
        + b",16383:"
        + b"x" * 16383
        + b",16384:"
        + b"x" * 16384
        + b",65535:"
        + b"x" * 65535
        + b",65536:"
        + b"x" * 65536
        + b",",
    ),
    Vector(
        "Twisted LineReceiver",
        "delimited:\\r\\n",
        [
            b"hola",
            b"",
            b"\x00",
            b"a\x00b",
            b"\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff",
            b"x" * 127,
            b"x" * 128,
            b"x" * 253,
            b"x" * 254,
            b"x" * 255,
            b"x" * 256,
            b"x" * 16383,
            b"x" * 16384,
            b"x" * 65535,
            b"x" * 65536,
        ],
        b"hola\r\n\r\n\x00\r\na\x00b\r\n\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7"
        + b"\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff\r\n"
        + b"x" * 127
        + b"\r\n"
        + b"x" * 128
        + b"\r\n"
        + b"x" * 253
        + b"\r\n"
        + b"x" * 254
        + b"\r\n"
        + b"x" * 255
        + b"\r\n"
        + b"x" * 256
        + b"\r\n"
        + b"x" * 16383
        + b"\r\n"
        + b"x" * 16384
        + b"\r\n"
        + b"x" * 65535
        + b"\r\n"
        + b"x" * 65536
        + b"\r\n",
    ),
    Vector(
        "Twisted LineReceiver with a line feed",
        "lines",
        [
            b"hola",
            b"",
            b"\x00",
            b"a\x00b",
            b"\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff",
            b"x" * 127,
            b"x" * 128,
            b"x" * 253,
            b"x" * 254,
            b"x" * 255,
            b"x" * 256,
            b"x" * 16383,
            b"x" * 16384,
            b"x" * 65535,
            b"x" * 65536,
        ],
        b"hola\n\n\x00\na\x00b\n\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb"
        + b"\xfc\xfd\xfe\xff\n"
        + b"x" * 127
        + b"\n"
        + b"x" * 128
        + b"\n"
        + b"x" * 253
        + b"\n"
        + b"x" * 254
        + b"\n"
        + b"x" * 255
        + b"\n"
        + b"x" * 256
        + b"\n"
        + b"x" * 16383
        + b"\n"
        + b"x" * 16384
        + b"\n"
        + b"x" * 65535
        + b"\n"
        + b"x" * 65536
        + b"\n",
    ),
    Vector(
        "Erlang {packet, 1}",
        "length:1",
        [
            b"hola",
            b"",
            b"\x00",
            b"a\x00b",
            b"\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff",
            b"x" * 127,
            b"x" * 128,
            b"x" * 253,
            b"x" * 254,
            b"x" * 255,
        ],
        b"\x04hola\x00\x01\x00\x03a\x00b\x10\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa"
        + b"\xfb\xfc\xfd\xfe\xff\x7f"
        + b"x" * 127
        + b"\x80"
        + b"x" * 128
        + b"\xfd"
        + b"x" * 253
        + b"\xfe"
        + b"x" * 254
        + b"\xff"
        + b"x" * 255,
    ),
    Vector(
        "Erlang {packet, 2}",
        "length:2",
        [
            b"hola",
            b"",
            b"\x00",
            b"a\x00b",
            b"\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff",
            b"x" * 127,
            b"x" * 128,
            b"x" * 253,
            b"x" * 254,
            b"x" * 255,
            b"x" * 256,
            b"x" * 16383,
            b"x" * 16384,
            b"x" * 65535,
        ],
        b"\x00\x04hola\x00\x00\x00\x01\x00\x00\x03a\x00b\x00\x10\xf0\xf1\xf2\xf3\xf4\xf5"
        + b"\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff\x00\x7f"
        + b"x" * 127
        + b"\x00\x80"
        + b"x" * 128
        + b"\x00\xfd"
        + b"x" * 253
        + b"\x00\xfe"
        + b"x" * 254
        + b"\x00\xff"
        + b"x" * 255
        + b"\x01\x00"
        + b"x" * 256
        + b"?\xff"
        + b"x" * 16383
        + b"@\x00"
        + b"x" * 16384
        + b"\xff\xff"
        + b"x" * 65535,
    ),
    Vector(
        "Erlang {packet, 4}",
        "length:4",
        [
            b"hola",
            b"",
            b"\x00",
            b"a\x00b",
            b"\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff",
            b"x" * 127,
            b"x" * 128,
            b"x" * 253,
            b"x" * 254,
            b"x" * 255,
            b"x" * 256,
            b"x" * 16383,
            b"x" * 16384,
            b"x" * 65535,
            b"x" * 65536,
        ],
        b"\x00\x00\x00\x04hola\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x03a\x00b"
        + b"\x00\x00\x00\x10\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff\x00\x00\x00\x7f"
        + b"x" * 127
        + b"\x00\x00\x00\x80"
        + b"x" * 128
        + b"\x00\x00\x00\xfd"
        + b"x" * 253
        + b"\x00\x00\x00\xfe"
        + b"x" * 254
        + b"\x00\x00\x00\xff"
        + b"x" * 255
        + b"\x00\x00\x01\x00"
        + b"x" * 256
        + b"\x00\x00?\xff"
        + b"x" * 16383
        + b"\x00\x00@\x00"
        + b"x" * 16384
        + b"\x00\x00\xff\xff"
        + b"x" * 65535
        + b"\x00\x01\x00\x00"
        + b"x" * 65536,
    ),
    Vector(
        "Erlang {packet, line}",
        "lines",
        [
            b"hola",
            b"",
            b"\x00",
            b"a\x00b",
            b"\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff",
            b"x" * 127,
            b"x" * 128,
            b"x" * 253,
            b"x" * 254,
            b"x" * 255,
            b"x" * 256,
            b"x" * 16383,
            b"x" * 16384,
            b"x" * 65535,
            b"x" * 65536,
        ],
        b"hola\n\n\x00\na\x00b\n\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb"
        + b"\xfc\xfd\xfe\xff\n"
        + b"x" * 127
        + b"\n"
        + b"x" * 128
        + b"\n"
        + b"x" * 253
        + b"\n"
        + b"x" * 254
        + b"\n"
        + b"x" * 255
        + b"\n"
        + b"x" * 256
        + b"\n"
        + b"x" * 16383
        + b"\n"
        + b"x" * 16384
        + b"\n"
        + b"x" * 65535
        + b"\n"
        + b"x" * 65536
        + b"\n",
    ),
    Vector(
        "protobuf BytesValue",
        "varint",
        [
            b"\n\x04hola",
            b"",
            b"\n\x01\x00",
            b"\n\x03a\x00b",
            b"\n\x10\xf0\xf1\xf2\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff",
            b"\n\x7f" + b"x" * 127,
            b"\n\x80\x01" + b"x" * 128,
            b"\n\xfd\x01" + b"x" * 253,
            b"\n\xfe\x01" + b"x" * 254,
            b"\n\xff\x01" + b"x" * 255,
            b"\n\x80\x02" + b"x" * 256,
            b"\n\xff\x7f" + b"x" * 16383,
            b"\n\x80\x80\x01" + b"x" * 16384,
            b"\n\xff\xff\x03" + b"x" * 65535,
            b"\n\x80\x80\x04" + b"x" * 65536,
        ],
        b"\x06\n\x04hola\x00\x03\n\x01\x00\x05\n\x03a\x00b\x12\n\x10\xf0\xf1\xf2"
        + b"\xf3\xf4\xf5\xf6\xf7\xf8\xf9\xfa\xfb\xfc\xfd\xfe\xff\x81\x01\n\x7f"
        + b"x" * 127
        + b"\x83\x01\n\x80\x01"
        + b"x" * 128
        + b"\x80\x02\n\xfd\x01"
        + b"x" * 253
        + b"\x81\x02\n\xfe\x01"
        + b"x" * 254
        + b"\x82\x02\n\xff\x01"
        + b"x" * 255
        + b"\x83\x02\n\x80\x02"
        + b"x" * 256
        + b"\x82\x80\x01\n\xff\x7f"
        + b"x" * 16383
        + b"\x84\x80\x01\n\x80\x80\x01"
        + b"x" * 16384
        + b"\x83\x80\x04\n\xff\xff\x03"
        + b"x" * 65535
        + b"\x84\x80\x04\n\x80\x80\x04"
        + b"x" * 65536,
    ),
    Vector(
        "protobuf StringValue",
        "varint",
        [
            b"\n\x04hola",
            b"",
            b"\n\x01\x00",
            b"\n\x03a\x00b",
            b"\n \xc3\xb0\xc3\xb1\xc3\xb2\xc3\xb3\xc3\xb4\xc3\xb5\xc3\xb6\xc3\xb7\xc3\xb8\xc3\xb9\xc3\xba"
            + b"\xc3\xbb\xc3\xbc\xc3\xbd\xc3\xbe\xc3\xbf",
            b"\n\x7f" + b"x" * 127,
            b"\n\x80\x01" + b"x" * 128,
            b"\n\xfd\x01" + b"x" * 253,
            b"\n\xfe\x01" + b"x" * 254,
            b"\n\xff\x01" + b"x" * 255,
            b"\n\x80\x02" + b"x" * 256,
            b"\n\xff\x7f" + b"x" * 16383,
            b"\n\x80\x80\x01" + b"x" * 16384,
            b"\n\xff\xff\x03" + b"x" * 65535,
            b"\n\x80\x80\x04" + b"x" * 65536,
        ],
        b'\x06\n\x04hola\x00\x03\n\x01\x00\x05\n\x03a\x00b"\n \xc3\xb0\xc3'
        + b"\xb1\xc3\xb2\xc3\xb3\xc3\xb4\xc3\xb5\xc3\xb6\xc3\xb7\xc3\xb8\xc3\xb9\xc3\xba\xc3\xbb\xc3\xbc\xc3"
        + b"\xbd\xc3\xbe\xc3\xbf\x81\x01\n\x7f"
        + b"x" * 127
        + b"\x83\x01\n\x80\x01"
        + b"x" * 128
        + b"\x80\x02\n\xfd\x01"
        + b"x" * 253
        + b"\x81\x02\n\xfe\x01"
        + b"x" * 254
        + b"\x82\x02\n\xff\x01"
        + b"x" * 255
        + b"\x83\x02\n\x80\x02"
        + b"x" * 256
        + b"\x82\x80\x01\n\xff\x7f"
        + b"x" * 16383
        + b"\x84\x80\x01\n\x80\x80\x01"
        + b"x" * 16384
        + b"\x83\x80\x04\n\xff\xff\x03"
        + b"x" * 65535
        + b"\x84\x80\x04\n\x80\x80\x04"
        + b"x" * 65536,
    ),
    Vector(
        "protobuf Struct",
        "varint",
        [
            b"\n\x12\n\x04hola\x12\n\x1a\x08686f6c61",
            b"",
            b"\n\x0c\n\x04hola\x12\x04\x1a\x0200",
            b"\n\x10\n\x04hola\x12\x08\x1a\x06610062",
            b'\n*\n\x04hola\x12"\x1a f0f1f2f3f4f5' + b"f6f7f8f9fafbfcfdfeff",
            b"\n\x8a\x02\n\x04hola\x12\x81\x02\x1a\xfe\x01" + b"78" * 127,
            b"\n\x8c\x02\n\x04hola\x12\x83\x02\x1a\x80\x02" + b"78" * 128,
            b"\n\x86\x04\n\x04hola\x12\xfd\x03\x1a\xfa\x03" + b"78" * 253,
            b"\n\x88\x04\n\x04hola\x12\xff\x03\x1a\xfc\x03" + b"78" * 254,
            b"\n\x8a\x04\n\x04hola\x12\x81\x04\x1a\xfe\x03" + b"78" * 255,
            b"\n\x8c\x04\n\x04hola\x12\x83\x04\x1a\x80\x04" + b"78" * 256,
            b"\n\x8c\x80\x02\n\x04hola\x12\x82\x80\x02\x1a\xfe\xff\x01" + b"78" * 16383,
            b"\n\x8e\x80\x02\n\x04hola\x12\x84\x80\x02\x1a\x80\x80\x02" + b"78" * 16384,
            b"\n\x8c\x80\x08\n\x04hola\x12\x82\x80\x08\x1a\xfe\xff\x07" + b"78" * 65535,
            b"\n\x8e\x80\x08\n\x04hola\x12\x84\x80\x08\x1a\x80\x80\x08" + b"78" * 65536,
        ],
        b"\x14\n\x12\n\x04hola\x12\n\x1a\x08686f6c61\x00\x0e\n"
        + b"\x0c\n\x04hola\x12\x04\x1a\x0200\x12\n\x10\n\x04hola\x12\x08"
        + b'\x1a\x06610062,\n*\n\x04hola\x12"\x1a f0f'
        + b"1f2f3f4f5f6f7f8f9fafbfcf"
        + b"dfeff\x8d\x02\n\x8a\x02\n\x04hola\x12\x81\x02\x1a\xfe\x01"
        + b"78" * 127
        + b"\x8f\x02\n\x8c\x02\n\x04hola\x12\x83\x02\x1a\x80\x02"
        + b"78" * 128
        + b"\x89\x04\n\x86\x04\n\x04hola\x12\xfd\x03\x1a\xfa\x03"
        + b"78" * 253
        + b"\x8b\x04\n\x88\x04\n\x04hola\x12\xff\x03\x1a\xfc\x03"
        + b"78" * 254
        + b"\x8d\x04\n\x8a\x04\n\x04hola\x12\x81\x04\x1a\xfe\x03"
        + b"78" * 255
        + b"\x8f\x04\n\x8c\x04\n\x04hola\x12\x83\x04\x1a\x80\x04"
        + b"78" * 256
        + b"\x90\x80\x02\n\x8c\x80\x02\n\x04hola\x12\x82\x80\x02\x1a\xfe\xff\x01"
        + b"78" * 16383
        + b"\x92\x80\x02\n\x8e\x80\x02\n\x04hola\x12\x84\x80\x02\x1a\x80\x80\x02"
        + b"78" * 16384
        + b"\x90\x80\x08\n\x8c\x80\x08\n\x04hola\x12\x82\x80\x08\x1a\xfe\xff\x07"
        + b"78" * 65535
        + b"\x92\x80\x08\n\x8e\x80\x08\n\x04hola\x12\x84\x80\x08\x1a\x80\x80\x08"
        + b"78" * 65536,
    ),
]
