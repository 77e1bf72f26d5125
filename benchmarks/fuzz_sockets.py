"""Connections that no decent client opens: what `fuzz.py` and nobody else should send to a server.

An attack is a list of what is written, bytes or seconds to wait, and how it ends. Whatever it is, the server should
answer it or close the connection, within a limit.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

Random = random.Random
MIB = 1 << 20
BODY = b'{"text": "a gripping, funny film"}'
METHODS = (b"GET", b"POST", b"HEAD", b"PUT", b"OPTIONS", b"TRACE", b"CONNECT", b"PRI", b"get", b"G\x00T", b"")
TARGETS = (
    b"/", b"/predict", b"/livez", b"/models/x/predict", b"//", b"/%", b"/%ff%00", b"*", b"http://[::1", b"x:99999999",
    b"/predict/", b"/../../etc", b"/" + b"a" * 9000, b"\xff", b"/models/" + b"%2f" * 50, b"",
)  # fmt: skip
VERSIONS = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b"HTTP/9999", b"HTTP", b"")
HEADERS = (
    b"Host: [", b"Host: a\x00b", b"Host:", b"Host: x\r\nHost: y", b"Host: x:99999999", b"X-Forwarded-Proto: \xff",
    b"X-Request-Timeout: 1e309", b"X-Request-Timeout: nan", b"X-Request-Timeout: -1", b"X-Request-Timeout: 1e300",
    b"Authorization: Bearer \xff", b"Content-Encoding: gzip", b"Content-Type: \xff;charset=utf-7", b"a b: c", b": x",
    b"Inference-Header-Content-Length: " + b"9" * 5000, b"Inference-Header-Content-Length: -1", b" folded: x",
    b"Connection: close, keep-alive", b"Connection: upgrade\r\nUpgrade: websocket", b"Upgrade: h2c", b"Accept: \x7f",
    b"Expect: 100-continue", b"Expect: nothing", b"Trailer: x", b"TE: trailers", b"Range: bytes=0-1", b"x: \r\n\ty",
)  # fmt: skip


@dataclass(frozen=True)
class Attack:
    """What is written; then `read` to the end, `close` at once, or say by `half` that nothing follows, and read."""

    name: str
    writes: tuple[bytes | float, ...]
    ending: Literal["read", "close", "half"] = "read"


def post(body: bytes, *headers: bytes, path: bytes = b"/predict") -> bytes:
    """A request with these headers alone, but for the host."""
    return b"\r\n".join((b"POST " + path + b" HTTP/1.1", b"Host: x", *headers, b"", b"")) + body


def whole(body: bytes = BODY) -> bytes:
    """A request as it should be."""
    return post(body, b"Content-Length: %d" % len(body))


def noise(rng: Random) -> Attack:
    return Attack("noise", (rng.randbytes(rng.randrange(1, 2000)),))


def lines(rng: Random) -> Attack:
    line = rng.choice((b" ", b"\t", b"")).join((rng.choice(METHODS), rng.choice(TARGETS), rng.choice(VERSIONS)))
    end = rng.choice((b"\r\n", b"\n", b"\r", b"\r\n\x00"))
    return Attack("request line", (end.join((line, *rng.choices(HEADERS, k=rng.randrange(4)), b"", b"")),))


def headers(rng: Random) -> Attack:
    size = rng.choice((70_000, 300_000, MIB))
    large = b"GET / HTTP/1.1\r\nHost: x\r\nx: " + b"a" * size + b"\r\n\r\n"
    many = b"GET / HTTP/1.1\r\n" + b"".join(b"x%d: y\r\n" % i for i in range(size // 10)) + b"\r\n"
    return Attack("headers", (rng.choice((large, many)),))


def lengths(rng: Random) -> Attack:
    said = (b"5", b"9999", b"-1", b"99999999999999999999999", b"0x10", b"+5", b"5, 5", b"", b"1e3", b" 34 ", b"\xb2")
    given = [b"Content-Length: " + rng.choice(said) for _ in range(rng.choice((1, 1, 2)))]
    return Attack("content-length", (post(BODY, *given),), rng.choice(("read", "half", "close")))


def chunks(rng: Random) -> Attack:
    tails = (
        b"zz\r\n", b"-1\r\nx", b"ffffffffffffffffff\r\n", b"5\r\nab\r\n0\r\n\r\n", b"1;" + b"e" * 70_000 + b"\r\nx\r\n",
        b"0\r\n" + b"t: u\r\n" * 5000 + b"\r\n", b"0\r\n\r\nGET /livez HTTP/1.1\r\n\r\n", b"", b"\r\n\r\n",
        b"1\nx\n0\n\n", b"1\r\n{\r\n" * 3000 + b"0\r\n\r\n", b"0\r\nContent-Length: 5\r\n\r\n", b"0_1\r\nx\r\n",
    )  # fmt: skip
    return Attack("chunks", (post(rng.choice(tails), b"Transfer-Encoding: chunked"),), rng.choice(("read", "half")))


def smuggling(rng: Random) -> Attack:
    codings = (
        b"chunked", b"Chunked", b"xchunked", b"chunked, identity", b"identity", b"gzip, chunked", b"\x0bchunked",
        b"chunked\r\nTransfer-Encoding: identity", b"\tchunked", b"chunked\n",
    )  # fmt: skip
    name = rng.choice((b"Transfer-Encoding: ", b"Transfer-Encoding : ", b" Transfer-Encoding:", b"Transfer_Encoding: "))
    inner = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
    length = b"Content-Length: %d" % rng.choice((0, 4, len(inner)))
    both = [length, name + rng.choice(codings)]
    rng.shuffle(both)
    return Attack("smuggling", (post(inner, *both),))


def pipeline(rng: Random) -> Attack:
    parts = [rng.choice((whole(), b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")) for _ in range(rng.randrange(2, 60))]
    return Attack("pipeline", (b"".join(parts), *rng.choice(((), (b"\x00nonsense\r\n\r\n",)))))


def slowly(rng: Random) -> Attack:
    """One byte after another, until patience is at its end on one side."""
    request = rng.choice(
        (whole(), post(b"1\r\n", b"Transfer-Encoding: chunked"), b"GET /livez HTTP/1.1\r\nHost: x\r\n")
    )
    writes: list[bytes | float] = []
    for byte in request[: rng.randrange(1, len(request))]:
        writes += [bytes([byte]), rng.choice((0.01, 0.1, 0.5))]
    return Attack("slowly", tuple(writes))


def leaving(rng: Random) -> Attack:
    request = whole(json.dumps({"texts": ["film"] * rng.choice((1, 30))}).encode())
    cut = rng.choice((request, request, request[: rng.randrange(len(request))]))
    return Attack("leaving", (cut, rng.choice((0.0, 0.001, 0.05))), rng.choice(("close", "half")))


def deaf(rng: Random) -> Attack:
    """Large answers, many of them, that are not read for a while."""
    body = json.dumps({"texts": ["film"] * 30}).encode()
    return Attack("deaf", (whole(body) * rng.choice((1, 40)), rng.choice((0.5, 3.0))), rng.choice(("read", "close")))


def foreign(rng: Random) -> Attack:
    """Other protocols on this port."""
    key = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    said = (
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200), b"GET /livez\r\n", b"\x00" * 3000,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(50), b"GET / HTTP/1.1\r\n" + key + b"\r\n\x81\x05",
        post(BODY, b"Content-Length: %d" % len(BODY), key.strip()), b"EHLO x\r\nQUIT\r\n", b"*1\r\n$4\r\nPING\r\n",
        b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n" + rng.randbytes(99), struct.pack("<I", 1 << 31) + b"x",
    )  # fmt: skip
    return Attack("foreign", (rng.choice(said),), rng.choice(("read", "half")))


def mutated(rng: Random) -> Attack:
    """A request with some bytes changed, left out, or doubled."""
    data = bytearray(whole())
    for _ in range(rng.randrange(1, 6)):
        at = rng.randrange(len(data))
        data[at : at + 1] = rng.choice((b"", rng.randbytes(1), rng.randbytes(3), bytes(data[at : at + 40])))
    return Attack("mutated", (bytes(data),))


def bodies(rng: Random) -> Attack:
    """JSON that is none, or odd."""
    odd = (
        b"[" * 100_000, b'{"text": ' * 5000, b'{"text": "\xed\xa0\xbd"}', b'{"text": "\\ud83d"}', b"\xef\xbb\xbf{}",
        BODY.decode().encode("utf-16"), b'{"text": 1e999}', b'{"text": "a", "text": "b"}', b'{"texts": []}', b"null",
        b'{"texts": [' + b"1," * 50_000 + b"1]}", b'{"text": "' + b"x" * (2 * MIB - 20) + b'"}', b"-" + b"9" * 5000,
        b'{"text": "' + b"x" * 3 * MIB + b'"}', b'{"\\u0000": 1}', b'{"texts": {"a": {"b": []}}}', b"\x1f\x8b\x08\x00",
    )  # fmt: skip
    return Attack("bodies", (whole(rng.choice(odd)),))


ATTACKS: tuple[Callable[[Random], Attack], ...] = (
    noise, lines, headers, lengths, chunks, smuggling, pipeline, slowly, leaving, deaf, foreign, mutated, bodies,
)  # fmt: skip


async def strike(host: str, port: int, attack: Attack, limit: float) -> str | None:
    """What is wrong with how the server takes an attack; None: nothing."""
    try:
        reader, writer = await asyncio.open_connection(host, port, limit=64 * MIB)
    except OSError as error:
        return f"no connection: {error}"
    try:
        async with asyncio.timeout(limit + sum(w for w in attack.writes if isinstance(w, float))):
            reading = asyncio.create_task(reader.read()) if attack.name != "deaf" else None
            with suppress(OSError):
                await _write(writer, attack)
            if attack.ending == "close":
                if reading is not None:
                    reading.cancel()
                return None
            found = b""
            with suppress(OSError):
                found = await (reading or reader.read())
    except TimeoutError:
        return f"neither answered nor closed within {limit:g} s"
    finally:
        writer.transport.abort()
    wrong = [code for code in re.findall(rb"HTTP/1\.1 (\d{3})", found) if code[:1] == b"5" and code not in (b"503",)]
    return f"answered {wrong[0].decode()}" if wrong else None


async def _write(writer: asyncio.StreamWriter, attack: Attack) -> None:
    for part in attack.writes:
        if isinstance(part, float):
            await asyncio.sleep(part)
        else:
            writer.write(part)
            await writer.drain()
    if attack.ending == "half":
        writer.write_eof()
