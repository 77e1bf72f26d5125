"""`python benchmarks/serving.py reload`: two bundles take turns under load, and every answer is one of theirs."""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from typing import Any

import serving_process

from attar.runtime.bundle import Bundle, write_bundle
from attar.runtime.model import load
from attar.runtime.server.exchange import as_json
from attar.runtime.tasks.base import jsonable


def reload(args: argparse.Namespace) -> dict[str, Any]:
    """Two bundles take turns `--times` times under load: nothing lost, and no answer that is of neither."""
    texts = args.texts(args)[:200]
    rng = random.Random(0)
    with TemporaryDirectory() as folder:
        served_from, running = Path(folder, "served"), Path(folder, "running")
        running.touch()
        first = Bundle.read(args.bundle)
        second = replace(first.manifest, task=replace(first.manifest.task, temperature=2.5))  # type: ignore[call-arg]
        manifests = [first.manifest, second]
        answers = []
        for manifest in manifests:
            write_bundle(served_from, manifest, first.contents)
            model = load(served_from, threads=1)
            answers.append([as_json({"answers": [jsonable(model(text))]}).decode() for text in texts])
        assert all(a != b for a, b in zip(*answers, strict=True))
        write_bundle(served_from, manifests[0], first.contents)
        plan = {"expected": list(zip(*answers, strict=True)), "until": str(running), "concurrency": 16}
        with serving_process.serving(served_from, "--workers", args.workers) as served:
            process = served.start_load([json.dumps({"text": t}) for t in texts], 3600.0, **plan)
            time.sleep(1.0)
            memory, seconds, late = [sum(served.proportional())], [], 0
            for number in range(1, args.times + 1):
                time.sleep(rng.random() / 4)
                write_bundle(served_from, manifests[number % 2], first.contents)
                seconds.append(reloaded(served, args.workers))
                probe = served.load([json.dumps({"text": texts[0]})], 20.0, concurrency=1, requests=4,
                                    expected=[[answers[number % 2][0]]])  # fmt: skip
                late += sum(version != 0 for version in probe["versions"])
                memory.append(sum(served.proportional()))
                print(f"{number}: {seconds[-1]:.2f} s, {memory[-1]:.0f} MB", flush=True)
            running.unlink()
            found = json.loads(process.communicate()[0])
    statuses = Counter(status for _, status in found["replies"])
    refused, lost = statuses.total() - statuses[200], found["unanswered"] + found["broken"]
    wrong = found["versions"].count(-1) - refused
    by_version = [found["versions"].count(version) for version in (0, 1)]
    replies = len(found["replies"])
    p99 = quantiles([took for took, _ in found["replies"]], n=100)[98]
    print(f"{replies} replies, {by_version} of each bundle; "
          f"lost {lost}, refused {refused} ({dict(statuses)}), wrong {wrong}, "
          f"of the old bundle after a reload {late}; {median(seconds):.2f} s a reload, at most {max(seconds):.2f}; "
          f"p99 of replies {1000 * p99:.0f} ms; "
          f"memory {memory[0]:.0f} MB before, {max(memory):.0f} at most, {memory[-1]:.0f} after")  # fmt: skip
    return {"ok": lost == refused == wrong == late == 0 and min(by_version) > 0, "times": args.times,
            "workers": args.workers, "replies": replies, "by_version": by_version, "lost": lost,
            "refused": refused, "statuses": statuses, "wrong": wrong, "late": late, "p99_s": p99, "seconds": seconds,
            "memory_mb": memory}  # fmt: skip


def reloaded(served: serving_process.Served, workers: int) -> float:
    """Seconds from SIGHUP to the last line of the log that says that the bundle is loaded."""
    start = time.perf_counter()
    served.process.send_signal(signal.SIGHUP)
    assert served.process.stderr is not None
    for _ in range(1 if workers == 1 else workers + 1):
        line = json.loads(served.process.stderr.readline())
        if line["event"] != "reloaded" or not line["loaded"]:
            sys.exit(f"not reloaded: {line}")
    return time.perf_counter() - start
