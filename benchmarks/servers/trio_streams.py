"""trio's SocketStream, which has no exact reads: so with a buffer, as its users write it."""

from __future__ import annotations

import trio

from benchmarks.servers.wire import LENGTH, framed, listen, total, words


async def handle(stream: trio.SocketStream) -> None:
    """Echo or count."""
    rest = bytearray()
    messages = 0
    try:
        while data := await stream.receive_some(65536):
            rest += data
            start = 0
            while len(rest) - start >= 4:
                end = start + 4 + LENGTH.unpack_from(rest, start)[0]
                if end > len(rest):
                    break
                message = bytes(rest[start + 4 : end])
                start = end
                if echoes:
                    await stream.send_all(framed(message))
                else:
                    messages += 1
            del rest[:start]
        if not echoes:
            await stream.send_all(framed(total(messages)))
    except trio.BrokenResourceError:
        pass  # it left


async def main() -> None:
    """Serve until killed."""
    listening = trio.socket.from_stdlib_socket(listen())
    await trio.serve_listeners(handle, [trio.SocketListener(listening)])


if __name__ == "__main__":
    echoes, _ = words()
    trio.run(main)
