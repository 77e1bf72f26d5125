"""The server under fuzz: schemathesis from its own description, raw sockets, and a witness who knows the answers.

python benchmarks/fuzz.py BUNDLE --minutes 10 [--backend h11] [--seed 1]

No 5xx but 503 (and 504, to a deadline), every connection answered or closed, every answer its own request's, and a
server that is alive, idle and no larger in the end. Ends with one line of JSON; `ok` says whether all of it held.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fuzz_sockets import ATTACKS, strike

from attar.runtime.cpu import machine
from attar.runtime.model import load
from attar.runtime.tasks.base import jsonable

LIMIT = 60.0
"""Seconds within which every connection is answered or closed; connections.py promises 40."""
GROWTH = 200.0
"""Megabytes that the server may grow by: bodies of 2 MiB, and deaf clients' answers, at once."""
WORDS = ("good", "bad", "dull", "charming", "film", "plot", "awful", "moving", "slow", "great", "ending", "cast")
NO_HTTPTOOLS = "import sys; sys.modules['httptools'] = None; from attar.cli import main; sys.exit(main())"
SETTINGS = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", 503, 504]
[checks.positive_data_acceptance]  # which inputs a model takes depends on its task, which no schema tells
expected-statuses = ["2xx", 404, 422, 429, 503, 504]
"""


@contextmanager
def serving(bundle: Path, backend: str, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str, int]]:
    """A server of one bundle, its process, host and port."""
    program = ["-m", "attar"] if backend == "auto" else ["-c", NO_HTTPTOOLS]
    command = [sys.executable, *program, "serve", str(bundle), "--port", "0", "--threads", "1"]
    with log.open("wb") as written:
        process = subprocess.Popen(command, stderr=written)
    try:
        while not (found := re.search(r"http://(\S+):(\d+)", log.read_text())):
            if process.poll() is not None:
                raise SystemExit(log.read_text())
            time.sleep(0.05)
        yield process, found[1], int(found[2])
    finally:
        process.terminate()
        process.wait(30)


def resident(process: subprocess.Popen[bytes]) -> float:
    """Megabytes of resident memory."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def known(bundle: Path, rng: random.Random) -> dict[Any, Any]:
    """Inputs with their answers, no two alike."""
    model = load(bundle, threads=1)
    texts: list[Any] = [" ".join(rng.choices(WORDS, k=rng.randrange(2, 12))) for _ in range(200)]
    if model.task.pairs:
        texts = [("what was " + text, text) for text in texts]
    found = {json.dumps(jsonable(a)): text for text, a in zip(texts, model(texts), strict=True)}
    return {text: json.loads(answer) for answer, text in found.items()}


def witness(host: str, port: int, answers: Mapping[Any, Any], until: float, rng: random.Random) -> dict[str, Any]:
    """One request after another, whose answers are known: each has to be its own, unless it is refused for now."""
    found: dict[str, Any] = {"right": 0, "refused": 0, "wrong": []}
    items = list(answers)
    while time.monotonic() < until:
        connection = http.client.HTTPConnection(host, port, timeout=LIMIT)
        asked = rng.sample(items, rng.randrange(1, 4))
        try:
            connection.request("POST", "/predict", json.dumps({"texts": asked}))
            reply = connection.getresponse()
            record = json.loads(reply.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            found["wrong"].append(repr(error))
            continue
        finally:
            connection.close()
        if reply.status in (429, 503):
            found["refused"] += 1
        elif record == {"answers": [answers[item] for item in asked]}:
            found["right"] += 1
        else:
            found["wrong"].append(f"{reply.status} {str(record)[:200]}")
    return found


async def strikes(host: str, port: int, until: float, seed: int, at_once: int) -> tuple[Counter[str], list[str]]:
    """Attacks until the time is over: how many of each, and what went wrong."""
    counts: Counter[str] = Counter()
    wrong: list[str] = []

    async def one(number: int) -> None:
        rng = random.Random(seed * 1000 + number)
        while time.monotonic() < until:
            attack = rng.choice(ATTACKS)(rng)
            counts[attack.name] += 1
            problem = await strike(host, port, attack, LIMIT)
            if problem is not None:
                wrong.append(f"{attack.name}, {attack.ending}: {problem}: {str(attack.writes)[:300]}")

    await asyncio.gather(*(one(i) for i in range(at_once)))
    return counts, wrong


async def described(host: str, port: int, seconds: float, seed: int, folder: Path) -> tuple[int, str]:
    """The exit status and the words of schemathesis, with all of its checks."""
    (folder / "settings.toml").write_text(SETTINGS)
    command = ["-m", "schemathesis.cli", "--config-file", "settings.toml", "run", f"http://{host}:{port}/openapi.json"]
    flags = ["--checks", "all", "--max-time", str(int(seconds)), "--seed", str(seed), "--continue-on-failure"]
    flags += [
        "--no-color",
        "--request-timeout",
        str(LIMIT),
        "--max-response-time",
        str(LIMIT),
        "--suppress-health-check",
        "all",
    ]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, *flags, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    words = (await process.communicate())[0].decode(errors="replace")
    return process.returncode or 0, words


def metrics(host: str, port: int) -> dict[str, float]:
    """The values of /metrics by their lines."""
    connection = http.client.HTTPConnection(host, port, timeout=LIMIT)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return {k: float(v) for k, v in (line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))}


async def attack(host: str, port: int, args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    seconds = 60 * args.minutes
    until = time.monotonic() + seconds
    answers = known(args.bundle, random.Random(args.seed))
    watching = asyncio.to_thread(witness, host, port, answers, until, random.Random(args.seed))
    striking = strikes(host, port, until, args.seed, args.connections)
    checking = described(host, port, seconds, args.seed, folder)
    watched, (counts, wrong), (status, words) = await asyncio.gather(watching, striking, checking)
    if status != 0:
        print(words)
    for line in (*wrong[:20], *watched["wrong"][:20]):
        print(line)
    cases = re.search(r"(\d+) generated", words)
    return {"connections": dict(counts), "connections_wrong": len(wrong), "witness": watched,
            "schemathesis_status": status, "schemathesis_cases": int(cases[1]) if cases else 0}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--minutes", type=float, default=10.0, help="default: 10")
    parser.add_argument("--connections", type=int, default=64, help="raw connections at a time (default: 64)")
    parser.add_argument("--backend", choices=("auto", "h11"), default="auto", help="auto: httptools where installed")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with serving(args.bundle, args.backend, log) as (process, host, port):
            before = resident(process)
            found = asyncio.run(attack(host, port, args, Path(folder)))
            time.sleep(2)
            last, alive = metrics(host, port), process.poll() is None
            found |= {"alive": alive, "active": last["attar_active_requests"], "growth_mb": resident(process) - before}
            codes: Counter[str] = Counter()
            for line, value in last.items():
                if line.startswith("attar_requests_total"):
                    codes[re.findall(r'code="(\d+)"', line)[0]] += int(value)
            found |= {"codes": dict(codes), "log": log.read_text().splitlines()[1:20]}
    failed = sum(n for code, n in codes.items() if code[0] == "5" and code not in ("503", "504"))
    ok = alive and not failed and not found["connections_wrong"] and not found["witness"]["wrong"] and not found["log"]
    ok = ok and found["witness"]["right"] > 0 and found["schemathesis_status"] == 0 and found["active"] == 0
    ok = ok and found["growth_mb"] <= GROWTH
    print(json.dumps({"ok": ok, "machine": machine(), "command": " ".join(sys.argv[1:]), **found}))
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
