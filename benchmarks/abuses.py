"""What an abuser does: each entry asks the door something in a loop, for as long as it is told to."""

import asyncio
import contextlib
import json
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np

from flows import addresses, tokens

CLIENTS = 8  # of an abuser at once, where nothing else is said
TENSOR, IMAGE = "/v2/models/fashion_tensor/infer", "/v2/models/fashion/infer"


@dataclass
class Line:
    """A connection to the door."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls) -> "Line":
        """Connect."""
        host, _, port = addresses.address("HTTP").rpartition(":")
        return cls(*await asyncio.open_connection(host, int(port)))

    async def ask(self, request: bytes | list[bytes]) -> int:
        """Send a request, piece by piece where it comes in pieces, and read its answer; return the status."""
        with contextlib.suppress(ConnectionError):  # it answered before all was sent
            for piece in [request] if isinstance(request, bytes) else request:
                self.writer.write(piece)
                await self.writer.drain()
        status = int((await self.reader.readline()).split()[1])
        length = 0
        while (line := await self.reader.readline()).strip():
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        await self.reader.readexactly(length)
        return status


def key(name: str) -> str:
    """Return a client's header."""
    return (tokens.folder(tokens.REALTIME) / name).read_text().strip()


def post(path: str, body: bytes, client: str | None, *lines: str, length: int | None = None) -> bytes:
    """Return a request."""
    head = [f"POST {path} HTTP/1.1", "Host: door", f"Content-Length: {len(body) if length is None else length}", *lines]
    head += [key(client)] if client else []
    return "\r\n".join([*head, "", ""]).encode() + body


def tensor_request(client: str | None, value: float = 0.0, **changes: object) -> bytes:
    """Return the request of one tensor, in binary."""
    data = np.full((1, 1, 28, 28), value, np.float32).tobytes()
    given = {"name": "input", "shape": [1, 1, 28, 28], "datatype": "FP32"} | changes
    head = json.dumps({"inputs": [given | {"parameters": {"binary_data_size": len(data)}}]}).encode()
    return post(TENSOR, head + data, client, f"Inference-Header-Content-Length: {len(head)}")


def image_request(client: str | None, data: bytes) -> bytes:
    """Return the request of one encoded picture."""
    content = struct.pack("<I", len(data)) + data
    given = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "parameters": {"binary_data_size": len(content)}}
    head = json.dumps({"inputs": [given]}).encode()
    return post(IMAGE, head + content, client, f"Inference-Header-Content-Length: {len(head)}")


def nested(count: int) -> bytes:
    """Return brackets in brackets."""
    return b'{"inputs":' + b"[" * count + b"]" * count + b"}"


def pictures(client: str) -> list[bytes]:
    """Return requests of pictures that are odd: bombs, cut off, CMYK, of 16 bits, turned, animated, text."""
    from tests.test_bad_images import REJECTED, USED

    odd = [make() for kind, make in USED.items() if any(word in kind for word in ("CMYK", "16 bits", "turned"))]
    return [image_request(client, data) for data in [*odd, *(make() for make, _ in REJECTED.values())]]


async def asking(requests: Sequence[bytes | list[bytes]], until: float, seen: Counter[str]) -> None:
    """Ask the requests in turn over one connection, or a new one where the door closed it."""
    line, i = await Line.open(), 0
    while time.monotonic() < until:
        try:
            seen[str(await line.ask(requests[i % len(requests)]))] += 1
        except (ConnectionError, asyncio.IncompleteReadError, IndexError):
            seen["closed"] += 1
            line.writer.close()
            line = await Line.open()
        i += 1


def loop(
    make: Callable[[str], Sequence[bytes | list[bytes]]], clients: int = CLIENTS
) -> Callable[..., Awaitable[None]]:
    """Return an abuse: several clients that ask in a loop."""

    async def abuse(client: str, until: float, seen: Counter[str]) -> None:
        requests = make(client)
        await asyncio.gather(*(asking(requests[i % len(requests) :], until, seen) for i in range(clients)))

    return abuse


async def slow(client: str, until: float, seen: Counter[str]) -> None:
    """A thousand connections, each sending a byte a second: half of them a header, half a body."""
    whole = post(TENSOR, b"", client, length=1000)
    lines = [await Line.open() for _ in range(1000)]
    for i, line in enumerate(lines):
        line.writer.write(whole if i % 2 else whole[:20])
    while time.monotonic() < until:
        for line in lines:
            line.writer.write(b"x")
        seen["bytes"] += len(lines)
        await asyncio.sleep(1)
    for line in lines:
        line.writer.close()


def broken(client: str) -> list[bytes]:
    """Return requests that are wrong in shape, type, name, numbers, model, path or key."""
    return [
        tensor_request(client, shape=[1, 1, 27, 28]),
        tensor_request(client, datatype="INT64"),
        tensor_request(client, name="imput"),
        tensor_request(client, float("nan")),
        post(TENSOR, b"", client),
        post("/v2/models/nothing/infer", b"{}", client),
        post("/v2/repository/models/fashion/unload", b"{}", client),
        post("/v2/models/../repository/index", b"{}", client),
        tensor_request(None),
        tensor_request(client).replace(b"Content-Length: 1", b"Content-Length: 99999999999", 1),
    ]


def large(client: str) -> list[list[bytes]]:
    """Return a body of 300 MB, the same piece over and over: the sender needs no memory for it."""
    piece, count = bytes(1 << 18), 1200
    return [[post(TENSOR, b"", client, length=count * len(piece)), *[piece] * count]]


def chunks(client: str) -> list[list[bytes]]:
    """Return a million chunks of one byte."""
    head = f"POST {TENSOR} HTTP/1.1\r\nHost: door\r\n{key(client)}\r\nTransfer-Encoding: chunked\r\n\r\n"
    return [[head.encode(), *[b"1\r\nx\r\n" * 10_000] * 100, b"0\r\n\r\n"]]


ABUSES: dict[str, Callable[[str, float, Counter[str]], Awaitable[None]]] = {
    "broken requests": loop(broken),
    "odd pictures and bombs": loop(pictures),
    "300 MB bodies": loop(large, 2),
    "300 MB bodies, 16 at once": loop(large, 16),
    "a million chunks": loop(chunks, 2),
    "a million chunks, 16 at once": loop(chunks, 16),
    "250,000 nested brackets": loop(lambda client: [post(TENSOR, nested(250_000), client)]),
    "1,000 slow senders": slow,
    "1,000 concurrent clients": loop(lambda client: [tensor_request(client)], 1000),
}


async def run(name: str, client: str, seconds: float) -> dict[str, int]:
    """Do one abuse for so long; return what was answered, by status."""
    seen: Counter[str] = Counter()
    await ABUSES[name](client, time.monotonic() + seconds, seen)
    return dict(seen)
