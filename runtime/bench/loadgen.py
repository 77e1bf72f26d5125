"""MLPerf's four scenarios, driven by the official LoadGen package (Reddi et al. 2020, "MLPerf Inference Benchmark").

Text in to answer out, as everywhere here. LoadGen decides what comes when, takes the times and writes its logs, which
are kept. A result is valid by its rules for the seconds that were given; official submissions take 600.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from attar.runtime.batcher import Batcher
from attar.runtime.errors import DataError, MissingExtraError, SettingsError
from attar.runtime.model import Model
from attar.runtime.tokenizer import Text
from attar.runtime.waiting import Limits

SCENARIOS = ("single-stream", "multi-stream", "server", "offline")
SAMPLES_PER_QUERY = 8
"""Of the multi-stream scenario, by MLPerf's rules."""
QUERIES = {"single-stream": 64, "multi-stream": 662}
"""The fewest by which LoadGen can bound the percentile that it judges; more where they take less than the seconds."""
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
"""Of the offline throughput: the rates that the server scenario tries, the highest first."""
NEVER = 3600.0
"""Seconds that a request may wait here: LoadGen judges lateness itself, and counts what is late."""
_RESULT = re.compile(r"^(Result is|\s*[^:\n]+?)\s*: (.+)$", re.MULTILINE)


@dataclass(frozen=True)
class Run:
    """What LoadGen is told.

    Attributes:
        scenario: one of `SCENARIOS`.
        seconds: the least that it takes.
        latency_ms: of the server scenario, what 99 % of the requests must stay under.
        qps: of the server scenario, requests a second, Poisson; of the offline scenario, an estimate.
    """

    scenario: str
    seconds: float = 10.0
    latency_ms: float = 50.0
    qps: float = 100.0

    def __post_init__(self) -> None:
        if self.scenario not in SCENARIOS:
            raise SettingsError(f"unknown scenario {self.scenario!r}; known: {', '.join(SCENARIOS)}")
        for name in ("seconds", "latency_ms", "qps"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingsError(f"{name} must be a number above 0, not {getattr(self, name)!r}")


@dataclass(frozen=True)
class Outcome:
    """What LoadGen found: `measure` names `value`; `summary` has every line of its own summary."""

    scenario: str
    valid: bool
    measure: str
    value: float
    summary: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return {
            "scenario": self.scenario,
            "valid": self.valid,
            "measure": self.measure,
            "value": self.value,
            "summary": self.summary,
        }

    def __str__(self) -> str:
        return f"{self.scenario}: {self.value:.4g} {self.measure} ({'VALID' if self.valid else 'INVALID'})"


def measured(model: Model, texts: Sequence[Text], run: Run, logs: Path) -> Outcome:
    """Runs one scenario; LoadGen's logs lie in `logs`, which is made.

    Raises:
        MissingExtraError: LoadGen is not installed.
        DataError: no texts.
        SettingsError: `logs` holds files already.
    """
    if not texts:
        raise DataError("a scenario needs at least one text")
    if logs.exists() and (not logs.is_dir() or any(logs.iterdir())):
        raise SettingsError(f"{logs} exists and is not an empty folder; choose another place for the logs")
    try:
        import mlperf_loadgen as lg
    except ImportError as error:
        raise MissingExtraError("mlcommons-loadgen", "mlperf") from error
    logs.mkdir(parents=True, exist_ok=True)
    limits = Limits(max_requests=1 << 20, max_tokens=1 << 40, max_wait=NEVER)
    with Batcher(model, limits) as batcher:
        batcher.warm_up(2.0)
        failures: list[Exception] = []
        at_once = run.scenario == "offline"
        issue = _offline(lg, model, texts, failures) if at_once else _online(lg, batcher, texts, failures)
        system = lg.ConstructSUT(issue, lambda: None)
        library = lg.ConstructQSL(len(texts), len(texts), lambda _: None, lambda _: None)
        try:
            lg.StartTestWithLogSettings(system, library, _settings(lg, run), _logging(lg, logs))
        finally:
            lg.DestroyQSL(library)
            lg.DestroySUT(system)
    if failures:
        raise failures[0]
    return read(run.scenario, (logs / "mlperf_log_summary.txt").read_text(encoding="utf-8"))


def highest(model: Model, texts: Sequence[Text], run: Run, logs: Path) -> Outcome:
    """The server scenario at the highest rate of `SHARES` of the offline throughput that is valid; the last one tried
    where none is. Logs of each rate lie in a folder of its own."""
    offline = measured(model, texts, replace(run, scenario="offline"), logs / "offline")
    for share in SHARES:
        rate = max(1.0, share * offline.value)
        found = measured(model, texts, replace(run, scenario="server", qps=rate), logs / f"server-{share:g}")
        if found.valid:
            break
    return found


def read(scenario: str, summary: str) -> Outcome:
    """The outcome that LoadGen's summary tells; `DataError` where it is not one."""
    lines = {key.strip(): value.strip() for key, value in _RESULT.findall(summary)}
    for name in _NAMES[scenario]:
        if name in lines and "Result is" in lines:
            value = float(lines[name])
            latency = name.endswith("(ns)")
            measure = f"ms, {name.removesuffix(' (ns)')}" if latency else "samples a second"
            return Outcome(scenario, lines["Result is"] == "VALID", measure, value / 1e6 if latency else value, lines)
    raise DataError(f"LoadGen's summary tells no result of the {scenario} scenario: {summary[:200]!r}")


_NAMES = {
    "single-stream": ("90th percentile latency (ns)", "90.0th percentile latency (ns)"),
    "multi-stream": ("99th percentile latency (ns)", "99.0th percentile latency (ns)"),
    "server": ("Completed samples per second", "Scheduled samples per second"),
    "offline": ("Samples per second",),
}
"""What each scenario is judged by, as the summary calls it."""


def _settings(lg: Any, run: Run) -> Any:
    given = lg.TestSettings()
    given.mode = lg.TestMode.PerformanceOnly
    given.min_duration_ms = math.ceil(1000 * run.seconds)
    given.min_query_count = QUERIES.get(run.scenario, 1)
    if run.scenario == "single-stream":
        given.scenario = lg.TestScenario.SingleStream
    elif run.scenario == "multi-stream":
        given.scenario = lg.TestScenario.MultiStream
        given.multi_stream_samples_per_query = SAMPLES_PER_QUERY
    elif run.scenario == "server":
        given.scenario = lg.TestScenario.Server
        given.server_target_qps = run.qps
        given.server_target_latency_ns = round(1e6 * run.latency_ms)
    else:
        given.scenario = lg.TestScenario.Offline
        given.offline_expected_qps = run.qps
    return given


def _logging(lg: Any, logs: Path) -> Any:
    given, output = lg.LogSettings(), lg.LogOutputSettings()
    output.outdir = str(logs)
    output.copy_summary_to_stdout = False
    given.log_output = output
    given.enable_trace = False
    return given


Issue = Callable[[Any], None]


def _offline(lg: Any, model: Model, texts: Sequence[Text], failures: list[Exception]) -> Issue:
    """Everything comes at once and is answered as a list is."""

    def issue(queries: Sequence[Any]) -> None:
        try:
            model([texts[query.index] for query in queries])
        except Exception as error:  # within LoadGen's own thread, where it would end the process
            failures.append(error)
        _done(lg, queries)

    return issue


def _online(lg: Any, batcher: Batcher, texts: Sequence[Text], failures: list[Exception]) -> Issue:
    """What comes goes through the batcher, as in a service; a query of several samples is one request."""

    def issue(queries: Sequence[Any]) -> None:
        def told(future: Future[Any]) -> None:
            if (error := future.exception()) is not None:
                failures.append(error if isinstance(error, Exception) else RuntimeError(repr(error)))
            _done(lg, queries)

        try:
            items, _ = batcher.model.inputs([texts[query.index] for query in queries])
            batcher.submit(items).add_done_callback(told)
        except Exception as error:
            failures.append(error)
            _done(lg, queries)

    return issue


def _done(lg: Any, queries: Sequence[Any]) -> None:
    """LoadGen waits for every query, failed ones too."""
    lg.QuerySamplesComplete([lg.QuerySampleResponse(query.id, 0, 0) for query in queries])
