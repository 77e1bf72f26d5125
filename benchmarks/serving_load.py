"""The load of benchmarks/serving.py, in a process of its own: raw sockets, one plan as JSON on stdin, one result out.

A plan: host, port, path, bodies (strings, sent in turn), seconds, and either `concurrency` clients that each send
the next request when they have their answer, or `rate` requests a second at random times (Poisson), whoever waits.
`requests`: an end by number. Clients stop when the server takes no more connections, or when `until`, a file, is gone.
`expected`: for each body the replies that are right.
The result: for each reply [seconds from its sending, status], which of those expected it was (`versions`, -1: none),
how many connections ended without any byte of a reply (`unanswered`) or within one (`broken`), the seconds it took,
and by how much sending was late (p99).
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import time
from collections.abc import Mapping
from typing import Any

PATIENCE = 30.0
"""Seconds for a reply; what takes longer counts as broken."""


class Load:
    """The clients of one plan."""

    def __init__(self, plan: Mapping[str, Any]) -> None:
        self.plan = plan
        self.requests = [self._request(body) for body in plan["bodies"]]
        self.replies: list[tuple[float, int]] = []
        self.versions: list[int] = []
        self.lateness: list[float] = []
        self.unanswered = self.broken = self.sent = 0
        self.free: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self.gone = False

    def _request(self, body: str) -> bytes:
        data = body.encode()
        head = f"POST {self.plan['path']} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
        return head.encode() + data

    async def one(self) -> None:
        """Sends the next request over a free connection, or a new one, and reads its reply."""
        place = self.sent % len(self.requests)
        request = self.requests[place]
        self.sent += 1
        start = time.perf_counter()
        seen = False
        try:
            reader, writer = self.free.pop() if self.free else await self._connect()
            writer.write(request)
            async with asyncio.timeout(PATIENCE):
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                seen = True
                status = int(head.split(b" ", 2)[1])
                length = int(head.partition(b"content-length:")[2].split(b"\r\n", 1)[0])
                content = await reader.readexactly(length)
        except ConnectionRefusedError:
            self.gone = True
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            partial = seen or (isinstance(error, asyncio.IncompleteReadError) and bool(error.partial))
            self.broken += partial or isinstance(error, TimeoutError)
            self.unanswered += not partial and not isinstance(error, TimeoutError)
        else:
            self.replies.append((time.perf_counter() - start, status))
            if right := self.plan.get("expected"):
                found = content.decode()
                self.versions.append(right[place].index(found) if found in right[place] else -1)
            if b"connection: close" in head:
                writer.close()
            else:
                self.free.append((reader, writer))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.plan["host"], self.plan["port"])

    async def closed(self) -> None:
        """Each client sends its next request when it has the answer to the last."""
        end = time.perf_counter() + self.plan["seconds"]
        most = self.plan.get("requests") or float("inf")
        until = self.plan.get("until")

        async def client() -> None:
            while time.perf_counter() < end and self.sent < most and not self.gone:
                if until and not os.path.exists(until):
                    break
                await self.one()

        await asyncio.gather(*(client() for _ in range(self.plan["concurrency"])))

    async def open(self) -> None:
        """Requests at the times of a Poisson process, whether or not earlier ones were answered."""
        rng = random.Random(0)
        start = due = time.perf_counter()
        tasks = set()
        while due < start + self.plan["seconds"]:
            due += rng.expovariate(self.plan["rate"])
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            self.lateness.append(time.perf_counter() - due)
            task = asyncio.create_task(self.one())
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        await asyncio.gather(*tasks)

    async def run(self) -> dict[str, Any]:
        start = time.perf_counter()
        await (self.open() if "rate" in self.plan else self.closed())
        seconds = time.perf_counter() - start
        for _, writer in self.free:
            writer.close()
        late = sorted(self.lateness)
        return {
            "replies": self.replies,
            "versions": self.versions,
            "unanswered": self.unanswered,
            "broken": self.broken,
            "seconds": seconds,
            "late_p99": late[int(0.99 * len(late))] if late else 0.0,
        }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(Load(json.load(sys.stdin)).run())))
