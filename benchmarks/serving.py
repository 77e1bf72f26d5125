"""The server and the batcher against their promises, on loopback, the load in a process of its own.

python benchmarks/serving.py throughput BUNDLE     server >= 80 % of the batcher, that >= 90 % of the best fixed batch
python benchmarks/serving.py overload BUNDLE       five times capacity: p99 of admitted <= 2x, all others within 50 ms
python benchmarks/serving.py drain BUNDLE          SIGTERM under load: no admitted request lost
python benchmarks/serving.py reload BUNDLE         two bundles swapped under load: nothing lost, no answer of neither
python benchmarks/serving.py memory BUNDLE         growth of resident memory over requests of random length <= 20 MB
python benchmarks/serving.py start BUNDLE          process start to first answer < 1 s; idle memory < 150 MB

Each ends with one line of JSON; `ok` says whether the bars were kept. Texts: --data FILE, else those of `attar bench`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from serving_process import serving, start
from serving_reload import reload

from attar.runtime.batcher import Batcher, Limits
from attar.runtime.bench.texts import TEXTS
from attar.runtime.cpu import machine
from attar.runtime.data import read_texts
from attar.runtime.model import Model, load
from attar.runtime.tokenizer import Text

CLIENTS = 64
FIXED = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def throughput(args: argparse.Namespace) -> dict[str, Any]:
    """Interleaved rounds of `--seconds`: best fixed batch, batcher, server; one text a request."""
    texts = texts_of(args)
    bodies = [json.dumps({"text": t}) for t in texts]
    model = load(args.bundle)
    fixed = {size: rate_of_fixed(model, texts, size, args.seconds / 4) for size in FIXED}
    best = max(fixed, key=lambda size: fixed[size])
    rounds = []
    # The batcher's rounds run while the server idles, and the reverse.
    with serving(args.bundle) as served:
        for _ in range(args.rounds):
            found = {"fixed": rate_of_fixed(model, texts, best, args.seconds)}
            found["saturated"] = asyncio.run(rate_of_batcher(model, texts, args.seconds, max(FIXED)))
            found["batcher"] = asyncio.run(rate_of_batcher(model, texts, args.seconds, CLIENTS))
            reply = served.load(bodies, args.seconds, concurrency=CLIENTS)
            assert all(status == 200 for _, status in reply["replies"]) and not reply["broken"] + reply["unanswered"]
            found["server"] = len(reply["replies"]) / reply["seconds"]
            rounds.append(found)
            print(", ".join(f"{name} {value:.0f}/s" for name, value in found.items()), flush=True)
    server = median(r["server"] / r["batcher"] for r in rounds)
    batcher, of_64 = (median(r[name] / r["fixed"] for r in rounds) for name in ("saturated", "batcher"))
    print(f"at {CLIENTS} clients the server {server:.0%} of the batcher (bar 80 %); batcher of batches of {best}: "
          f"with as many waiting as a fixed batch may hold, {max(FIXED)}, {batcher:.0%} (bar 90 %), "
          f"at {CLIENTS} clients {of_64:.0%}")  # fmt: skip
    return {"ok": server >= 0.8 and batcher >= 0.9, "server_of_batcher": server, "batcher_of_fixed": batcher,
            "batcher_of_fixed_at_64": of_64, "best_fixed": best, "fixed_per_s": fixed, "rounds": rounds}  # fmt: skip


def rate_of_fixed(model: Model, texts: Sequence[Text], size: int, seconds: float) -> float:
    """Texts a second in batches of so many texts in their given order."""
    start, done = time.perf_counter(), 0
    while (now := time.perf_counter()) < start + seconds:
        at = done % len(texts)
        done += len(model(list((*texts[at:], *texts)[:size])))
    return done / (now - start)


async def rate_of_batcher(model: Model, texts: Sequence[Text], seconds: float, clients: int) -> float:
    """Texts a second by so many coroutines that each ask for one at a time."""
    with Batcher(model, Limits(max_requests=clients, max_wait=60.0)) as batcher:
        start, done = time.perf_counter(), 0

        async def client() -> None:
            nonlocal done
            while time.perf_counter() < start + seconds:
                done += 1
                await batcher.aanswer(texts[done % len(texts)])

        await asyncio.gather(*(client() for _ in range(clients)))
        return done / (time.perf_counter() - start)


def overload(args: argparse.Namespace) -> dict[str, Any]:
    """Capacity by a closed loop; p99 at 80 % of it; the same and five times of it where waiting is bounded by that."""
    texts = texts_of(args)
    groups = [texts[i : i + args.texts] for i in range(0, len(texts) - args.texts + 1, args.texts)]
    bodies = [json.dumps({"texts": group}) for group in groups]
    with serving(args.bundle, "--max-wait", 60) as served:
        served.load(bodies, 1.0, concurrency=16)
        closed = served.load(bodies, args.seconds, concurrency=16)
        capacity = sum(status == 200 for _, status in closed["replies"]) / closed["seconds"]
        calm = outcome(served.load(bodies, args.seconds, rate=0.8 * capacity))
    print(f"capacity {capacity:.0f} requests/s of {args.texts} texts; at 80 %: {shown(calm)}")
    wait = args.max_wait or max(0.001, calm["p99_ms"] / 1000)
    with serving(args.bundle, "--max-wait", wait) as served:
        served.load(bodies, 1.0, concurrency=8)
        bounded = outcome(served.load(bodies, args.seconds, rate=0.8 * capacity))
        flooded = outcome(served.load(bodies, args.seconds, rate=5 * capacity))
        alive = served.process.poll() is None and bool(served.load(bodies, 0.5, concurrency=1)["replies"])
    print(f"with --max-wait {wait:.3f}, at 80 %: {shown(bounded)}")
    print(f"with --max-wait {wait:.3f}, at 500 %: {shown(flooded)}")
    ratio = flooded["p99_ms"] / calm["p99_ms"]
    clean = flooded["lost"] == 0 and flooded["other"] == 0
    print(
        f"p99 of admitted {ratio:.2f}x that at 80 % (bar 2), refused within {flooded['refused_max_ms']:.0f} ms (bar 50)"
    )
    return {"ok": alive and clean and ratio <= 2 and flooded["refused_max_ms"] <= 50, "p99_ratio": ratio,
            "capacity_per_s": capacity, "max_wait_s": wait, "calm": calm, "bounded": bounded,
            "flooded": flooded}  # fmt: skip


def outcome(found: dict[str, Any]) -> dict[str, float]:
    """Latencies of those that were answered and of those that were refused (429, 503), in milliseconds."""
    by = {"admitted": [], "refused": [], "other": []}  # type: dict[str, list[float]]
    for seconds, status in found["replies"]:
        by["admitted" if status == 200 else "refused" if status in (429, 503) else "other"].append(1000 * seconds)
    return {
        "admitted": len(by["admitted"]), "refused": len(by["refused"]), "other": len(by["other"]),
        "lost": found["unanswered"] + found["broken"],
        "p50_ms": quantile(by["admitted"], 0.5), "p99_ms": quantile(by["admitted"], 0.99),
        "refused_p99_ms": quantile(by["refused"], 0.99), "refused_max_ms": max(by["refused"], default=0.0),
        "sent_late_p99_ms": 1000 * found["late_p99"],
    }  # fmt: skip


def shown(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1f}" if "ms" in name else f"{name} {value}" for name, value in found.items())


def drain(args: argparse.Namespace) -> dict[str, Any]:
    """SIGTERM at a random moment under load, `--times` times: every request that the server admitted was answered."""
    bodies = [json.dumps({"text": t}) for t in texts_of(args)]
    rng = random.Random(0)
    lost = broken = admitted = unclean = 0
    for number in range(args.times):
        served = start(args.bundle, "--workers", args.workers)
        process = served.start_load(bodies, 20.0, concurrency=16)
        time.sleep(0.6 + rng.random() / 2)  # the signal comes at any moment of the load
        served.process.send_signal(signal.SIGTERM)
        found = json.loads(process.communicate()[0])
        log = [json.loads(line) for line in served.process.communicate()[1].splitlines()]
        told = sum(line["admitted"] for line in log if line["event"] == "drained")
        answered = sum(status == 200 for _, status in found["replies"])
        lost += told - answered
        broken += found["broken"]
        admitted += told
        unclean += served.process.returncode != 0
        rest = f"refused {len(found['replies']) - answered}, without reply {found['unanswered']}"
        print(f"{number + 1}: admitted {told}, answered {answered}, broken {found['broken']}, {rest}")
    return {"ok": lost == broken == unclean == 0, "times": args.times, "workers": args.workers,
            "admitted": admitted, "lost": lost, "broken": broken, "unclean_exits": unclean}  # fmt: skip


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Resident memory after a twentieth of the requests, and its growth over the rest."""
    rng = random.Random(0)
    words = [word for text in texts_of(args) for word in str(text).split()]
    bodies = [json.dumps({"text": " ".join(rng.choices(words, k=rng.randint(1, 200)))}) for _ in range(5000)]
    with serving(args.bundle) as served:
        idle = served.resident()
        counts = [args.requests // 20, *[args.requests // 10] * 9, args.requests // 20]
        found = [idle]
        for count in counts:
            reply = served.load(bodies, 600.0, concurrency=16, requests=count)
            assert all(status == 200 for _, status in reply["replies"])
            found.append(served.resident())
            print(f"{found[-1]:.1f} MB after {len(reply['replies'])} more ({reply['seconds']:.0f} s)", flush=True)
            rng.shuffle(bodies)
    growth = max(found[1:]) - found[1]
    print(f"idle {idle:.1f} MB, warm {found[1]:.1f} MB, growth {growth:.1f} MB (bar 20)")
    return {"ok": growth <= 20, "requests": args.requests, "idle_mb": idle, "growth_mb": growth, "resident_mb": found}


def start_up(args: argparse.Namespace) -> dict[str, Any]:
    """Seconds from the start of a process to its first answer, and its memory then."""
    body = [json.dumps({"text": texts_of(args)[0]})]
    seconds, resident = [], []
    for _ in range(args.rounds):
        began = time.perf_counter()
        with serving(args.bundle) as served:
            ready = time.perf_counter() - began
            first = served.load(body, 10.0, concurrency=1, requests=1)  # the generator's own start does not count
            seconds.append(ready + first["replies"][0][0])
            resident.append(served.resident())
    print(f"first answer after {median(seconds):.3f} s (bar 1), at most {max(seconds):.3f}; {median(resident):.0f} MB")
    return {"ok": median(seconds) < 1 and median(resident) < 150, "first_answer_s": seconds, "idle_mb": resident}


def quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def texts_of(args: argparse.Namespace) -> Sequence[Text]:
    texts = list(TEXTS) if args.data is None else list(read_texts(args.data, kind="text-classification").texts)
    random.Random(0).shuffle(texts)
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    runs = {"throughput": throughput, "overload": overload, "drain": drain, "reload": reload, "memory": memory}
    runs["start"] = start_up
    for name, run in runs.items():
        verb = verbs.add_parser(name, help=(run.__doc__ or "").partition("\n")[0])
        verb.set_defaults(run=run)
        verb.add_argument("bundle", type=Path)
        verb.add_argument("--data", type=Path, help="texts to send (default: those of attar bench)")
        if name == "reload":
            verb.set_defaults(texts=texts_of)
        if name in ("throughput", "overload"):
            verb.add_argument("--seconds", type=float, default=5.0, help="of each measurement (default: 5)")
        if name in ("throughput", "start"):
            verb.add_argument("--rounds", type=int, default=5, help="how often (default: 5)")
        if name == "overload":
            verb.add_argument("--texts", type=int, default=16, help="texts of a request (default: 16)")
            verb.add_argument("--max-wait", type=float, help="seconds (default: the p99 measured at 80 %%)")
        if name in ("drain", "reload"):
            verb.add_argument("--times", type=int, default=50, help="how often (default: 50)")
            verb.add_argument("--workers", type=int, default=1, help="processes of the server (default: 1)")
        if name == "memory":
            verb.add_argument("--requests", type=int, default=100_000, help="how many (default: 100000)")
    args = parser.parse_args()
    found = args.run(args)
    print(json.dumps({"machine": machine(), "command": " ".join(sys.argv[1:]), **found}))
    sys.exit(0 if found["ok"] else 1)


if __name__ == "__main__":
    main()
