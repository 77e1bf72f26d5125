"""What `attar bench` found as one HTML page that makes no request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from string import ascii_uppercase

from attar.pipeline import charts
from attar.pipeline.charts import Curve, Point
from attar.pipeline.markup import cells, decimal, definitions, heading, page, safe, table
from attar.runtime.bench.decide import Certificate
from attar.runtime.bench.result import HEADINGS, BenchResult
from attar.runtime.bench.sweep import Cell, SweepResult
from attar.runtime.cpu import machine

FINE = 400
"""Points that a distribution is drawn with at most."""


def bench_page(result: BenchResult) -> str:
    """The systems, their ratios, and pictures of latency, throughput, accuracy and size."""
    head = heading(HEADINGS[:1], HEADINGS[1:])
    rows = [cells([_name(s.row()[0])], s.row()[1:]) for s in result.systems]
    said = "".join(f"<p>{safe(result.said(ratio))}</p>\n" for ratio in result.ratios)
    accuracy = ""
    if result.accuracy is not None:
        points = zip(result.systems, result.points(), strict=True)
        judged = [(s.name, "not judged" if p is None else decimal(p, 2)) for s, p in points]
        accuracy = f"<h2>{safe(result.accuracy['measure'])}, points</h2>\n{definitions(judged)}\n"
    notes = "".join(f'<p class="quiet">Note: {safe(note)}</p>\n' for note in result.notes)
    about = f"{result.threads} threads, {result.texts} texts of {result.mean_tokens:.1f} tokens. {result.how}"
    body = (
        f"{_verdict([result.certificate])}\n{table(head, rows)}\n{said}{accuracy}{_pictures(_drawn(result))}\n"
        f'<p class="quiet">{safe(about)}</p>\n{notes}'
    )
    return _page(f"Benchmark of {result.systems[0].name}", body)


def sweep_page(result: SweepResult) -> str:
    """The cells, and throughput against the latency of a batch."""
    head = heading(["engine", "system"], ["batch", "tokens", "threads", "ms a batch", "texts/s", "bundle against it"])
    rows = []
    for cell in result.cells:
        times = cell.speedup
        against = "" if times is None else f"{times.ratio:.2f}× ({times.low:.2f}–{times.high:.2f})"
        figures = [f"{cell.batch}", f"{cell.tokens:.1f}", f"{cell.threads}", decimal(cell.ms, 3)]
        rows.append(
            cells([_name(cell.engine), _name(cell.system)], [*figures, decimal(cell.throughput_per_s, 1), against])
        )
    drawn = list(_fronts(result.cells))
    certificates = [cell.certificate for cell in result.cells]
    return _page("Sweep", f"{_verdict(certificates)}\n{table(head, rows)}\n{_pictures(drawn)}")


def _drawn(result: BenchResult) -> list[tuple[str, str, str]]:
    """Each picture's title, caption and SVG."""
    marks = list(zip(ascii_uppercase, result.systems, strict=False))
    key = ", ".join(f"{mark} {s.name}" for mark, s in marks)
    latency = [Curve(mark, list(_distribution(s.calls.steps(), s.calls.count))) for mark, s in marks]
    both = [Curve(mark, [(s.ms("p50"), s.throughput_per_s)]) for mark, s in marks]
    known = zip(marks, result.points(), strict=False)
    points = [Point(mark, s.name, s.size_mb, s.ms("p50"), score) for (mark, s), score in known]
    measure = "" if result.accuracy is None else str(result.accuracy["measure"])
    ratios = [(f"{r.metric} against {r.name}", r.value.ratio, r.value.low, r.value.high) for r in result.ratios]
    spread = charts.curves(latency, "latency, ms", "share of calls, %", "cdf", f"Share of calls by latency: {key}")
    said = f"Throughput by p50 latency: {key}"
    rates = charts.curves(both, "p50 latency, ms", "texts/s", "rates", said, decades=True)
    return [
        ("Latency of single texts", f"share of calls that took no longer; {key}", spread),
        ("Throughput and latency", f"texts/s with tuned batches, p50 of single texts; {key}", rates),
        ("Accuracy and latency", key, charts.scatter(points, measure, f"{measure} by latency: {key}", "the data")),
        ("Accuracy and size", key, charts.scatter(points, measure, f"{measure} by size: {key}", "the data", "size_mb")),
        ("Speed-up of the bundle", "with 95 % intervals; the dashed line is no change", charts.speedups(ratios, key)),
    ]


def _distribution(steps: Iterator[tuple[float, int]], count: int) -> Iterator[tuple[float, float]]:
    """Milliseconds and the share of calls up to them in %, about `FINE` points."""
    last = 0
    for nanoseconds, below in steps:
        if below == count or below - last >= count / FINE:
            last = below
            yield nanoseconds / 1e6, 100 * below / count


def _fronts(found: Sequence[Cell]) -> Iterator[tuple[str, str, str]]:
    """For every length, number of threads and engine the systems' curves over the batch sizes."""
    places = dict.fromkeys((round(cell.tokens), cell.threads, cell.engine) for cell in found)
    for number, (tokens, threads, engine) in enumerate(places):
        here = [c for c in found if (round(c.tokens), c.threads, c.engine) == (tokens, threads, engine)]
        names = dict.fromkeys(cell.system for cell in here)
        lines = [
            Curve(mark, [(c.ms, c.throughput_per_s) for c in here if c.system == name], dots=True)
            for mark, name in zip(ascii_uppercase, names, strict=False)
        ]
        key = ", ".join(f"{line.mark} {name}" for line, name in zip(lines, names, strict=False))
        title = f"{tokens} tokens, {threads} threads, {engine}"
        said = f"Throughput by latency, {title}: {key}"
        svg = charts.curves(lines, "ms a batch", "texts/s", f"front-{number}", said, decades=True)
        yield title, f"throughput against the latency of a batch; {key}", svg


def _verdict(certificates: Sequence[Certificate]) -> str:
    worst = next((c for c in certificates if c.noisy), certificates[0])
    tone = {"quiet": "pass", "noisy": "fail"}.get(worst.verdict, "unsure")
    said = "figures are not to be quoted: " if worst.noisy else ""
    text = f"<strong>machine {worst.verdict}</strong>: {safe(said + worst.why)}"
    return f'<p class="verdict {tone}" role="status">{text}</p>'


def _pictures(drawn: Sequence[tuple[str, str, str]]) -> str:
    figures = [
        f"<figure><figcaption>{safe(title)}<span>{safe(text)}</span></figcaption>\n{svg}</figure>"
        for title, text, svg in drawn
        if svg
    ]
    return '<h2>Pictures</h2>\n<div class="charts">\n' + "\n".join(figures) + "\n</div>" if figures else ""


def _name(text: str) -> str:
    return f'<th class="text" scope="row">{safe(text)}</th>'


def _page(title: str, body: str) -> str:
    facts = definitions([(name, str(value)) for name, value in machine().items()])
    return page(title, f"<h1>{safe(title)}</h1>\n{body}\n<h2>Machine</h2>\n{facts}")
