"""The report as one HTML page that makes no request and reads well in light, in dark and on a phone."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from attar.compress.gate import sentence, signed
from attar.pipeline import charts
from attar.pipeline.markup import (
    cells,
    decimal,
    definitions,
    duration,
    heading,
    interval,
    megabytes,
    millions,
    page,
    safe,
    table,
)

if TYPE_CHECKING:
    from attar.pipeline.report import Report, StageInfo

BOOTSTRAPPED = ("F1", "entity F1", "micro F1", "Spearman")
_TONES = {"pass": "pass", "fail": "fail", "not enough data": "unsure"}


def render(report: "Report") -> str:
    """One self-contained page; parts that the report lacks are left out."""
    title = report.get("title") or "attar run"
    parts = [_header(report, title), _cards(report), _stages(report), _charts(report), _gate(report)]
    parts += [_measures(report), _bench(report), _facts(report), _recipe(report)]
    body = "\n".join(part for part in parts if part)
    return page(title, body)


def _header(report: "Report", title: str) -> str:
    task = report.get("task", {})
    about = [task.get("kind", ""), f"judged by {task['metric']}" if "metric" in task else ""]
    about += [report.get("created", ""), f"attar {report['attar']}" if "attar" in report else ""]
    if "seconds" in report:
        about.append(f"took {duration(report['seconds'])}")
    tone, text = "none", "<strong>No accuracy gate was run.</strong>"
    if gate := report.get("gate"):
        tone = _TONES.get(gate["verdict"], "none")
        word, _, rest = sentence(gate).partition(": ")
        text = f"<strong>{safe(word)}</strong>: {safe(rest)}."
    quiet = " · ".join(safe(part) for part in about if part)
    warned = "".join(f'\n<p class="verdict unsure">Warning: {safe(w)}</p>' for w in report.get("warnings", []))
    verdict = f'<p class="verdict {tone}" role="status">{text}</p>'
    return f'<h1>{safe(title)}</h1>\n<p class="quiet">{quiet}</p>\n{verdict}{warned}'


def _cards(report: "Report") -> str:
    cards = []
    bench, teacher = report.get("bench"), report.get("teacher")
    bundle, gate = report.get("bundle"), report.get("gate")
    p50 = [row for row in bench["ratios"] if row["metric"] == "p50"] if bench else []
    if p50:
        cards.append((f"{p50[0]['ratio']:.1f}×", f"faster than {p50[0]['name']}, p50, {interval(p50[0])}"))
    if bundle and teacher and bundle["size_mb"] > 0:
        times = teacher["size_mb"] / bundle["size_mb"]
        cards.append((f"{times:.1f}×", f"smaller: {megabytes(teacher['size_mb'])} to {megabytes(bundle['size_mb'])}"))
    elif bundle:
        cards.append((megabytes(bundle["size_mb"]), "bundle"))
    if gate:
        loss = f"{signed(gate['difference'])} points against the teacher, on {gate['split']}"
        measure = gate.get("measure", "accuracy")
        unit = " %" if measure == "accuracy" else ""
        cards.append((f"{gate['student']:.1f}{unit}", f"{measure}: {loss}"))
    if bundle and (latency := bundle.get("p50_ms")) is not None:
        cards.append((f"{latency:.2f} ms", "p50 latency of the bundle"))
    items = (f'<div class="card"><b>{safe(value)}</b><span>{safe(text)}</span></div>' for value, text in cards)
    return '<div class="cards">\n' + "\n".join(items) + "\n</div>" if cards else ""


def _stages(report: "Report") -> str:
    rows = []
    if teacher := report.get("teacher"):
        figures = [decimal(teacher.get("dev"), 1), decimal(teacher["size_mb"], 1), millions(teacher["parameters"])]
        figures += [decimal(teacher.get("p50_ms"), 2), "", ""]
        rows.append(_row("T", teacher["name"], "the teacher", "", figures, dropped=False))
    for number, stage in enumerate(report.get("stages", []), 1):
        rows.append(_stage(number, stage))
    if not rows:
        return ""
    numbers = [f"{safe(_metric(report))} on dev", "size, MB", "parameters", "p50, ms", "speed-up (95 %)", "time"]
    head = heading(["", "stage", "outcome"], numbers)
    note = '<p class="quiet">The speed-up is against the stage kept before it, measured on this machine.</p>'
    return f"<h2>Stages</h2>\n{table(head, rows)}\n{note}"


def _stage(number: int, stage: "StageInfo") -> str:
    speedup = stage.get("speedup")
    figures = [decimal(stage.get("score"), 1), decimal(stage["size_mb"], 1), millions(stage["parameters"])]
    figures += [decimal(stage.get("p50_ms"), 2), f"{speedup['ratio']:.2f} ({interval(speedup)})" if speedup else "–"]
    figures.append("cached" if stage.get("cached") else duration(stage["seconds"]))
    outcome = "kept" if stage["kept"] else "dropped"
    note = f"{stage['use']}: {stage['reason']}" if stage["reason"] else stage["use"]
    return _row(str(number), stage["name"], note, outcome, figures, dropped=not stage["kept"])


def _charts(report: "Report") -> str:
    figures = [
        f"<figure><figcaption>{title}<span>{safe(text)}</span></figcaption>\n{svg}</figure>" if svg else ""
        for title, text, svg in _drawn(report, _points(report))
    ]
    # The three pictures by stage side by side, then the two that say what it was all for.
    rows = ["\n".join(filter(None, row)) for row in (figures[:3], figures[3:])]
    grids = "\n".join(f'<div class="charts">\n{row}\n</div>' for row in rows if row)
    return f"<h2>Pictures</h2>\n{grids}" if grids else ""


def _drawn(report: "Report", points: Sequence[charts.Point]) -> list[tuple[str, str, str]]:
    """Each picture's title, caption and SVG."""
    size = charts.bars(points, "size_mb", _said("Size in MB", points, "size_mb"))
    latency = charts.bars(points, "p50_ms", _said("p50 latency in ms", points, "p50_ms"))
    margin = report["gate"]["margin"] if "gate" in report else None
    quality = charts.scores(points, margin, _said(f"{_metric(report)} on dev, in points", points, "score"))
    marks = ", ".join(f"{point.mark} {point.name}" for point in points) + ". Hollow: dropped."
    both = charts.scatter(points, _metric(report), f"{_metric(report)} on dev over p50 latency: {marks}")
    bench = report.get("bench")
    ratios = [
        (f"{row['metric']} against {row['name']}", row["ratio"], row["low"], row["high"])
        for row in (bench["ratios"] if bench else [])
    ]
    faster = charts.speedups(ratios, "Speed-up: " + ", ".join(f"{row[1]:.2f} {row[0]}" for row in ratios))
    return [
        ("Size", "MB, after each stage", size),
        ("Latency", "p50 in ms, after each stage", latency),
        ("Quality", f"{_metric(report)} on dev, in points, after each stage", quality),
        ("Quality and latency", marks, both),
        ("Speed-up of the bundle", "with 95 % intervals; the dashed line is no change", faster),
    ]


def _points(report: "Report") -> list[charts.Point]:
    points = []
    if teacher := report.get("teacher"):
        figures = (teacher["size_mb"], teacher.get("p50_ms"), teacher.get("dev"))
        points.append(charts.Point("T", "teacher", *figures))
    for number, stage in enumerate(report.get("stages", []), 1):
        figures = (stage["size_mb"], stage.get("p50_ms"), stage.get("score"))
        points.append(charts.Point(str(number), stage["name"], *figures, kept=stage["kept"]))
    if bundle := report.get("bundle"):
        figures = (bundle["size_mb"], bundle.get("p50_ms"), bundle.get("dev"))
        points.append(charts.Point("B", "bundle", *figures))
    return points


def _gate(report: "Report") -> str:
    gate = report.get("gate")
    if not gate:
        return ""
    sure = f"one-sided, {100 * gate['confidence']:g} % confidence"
    pairs = [
        ("verdict", gate["verdict"]),
        ("measure", gate.get("measure", "accuracy")),
        ("teacher, student", f"{gate['teacher']:.2f}, {gate['student']:.2f} points"),
        ("difference", f"{gate['difference']:+.2f} points"),
        ("lower bound", f"{gate['lower_bound']:+.2f} points, {sure}"),
        ("margin", f"{gate['margin']:g} points"),
        ("examples", f"{gate['n']:,}, {gate['split']} split"),
    ]
    if gate["needed"] is not None:
        pairs.append(("more examples needed", f"about {gate['needed']:,} at these rates"))
    bare = gate.get("measure", "accuracy").rpartition(": ")[2]
    test = "paired bootstrap" if bare in BOOTSTRAPPED else "Tango's paired score test"
    how = f"A {test} of non-inferiority: the lower bound must not fall below minus the margin. "
    how += "Where several measures are judged, all must pass; this is the worst of them."
    return f'<h2>Gate</h2>\n{definitions(pairs)}\n<p class="quiet">{safe(how)}</p>'


def _metric(report: "Report") -> str:
    """What the gate judges, in words that can begin a caption."""
    metric = report.get("task", {}).get("metric", "accuracy")
    return metric[:1].upper() + metric[1:]


def _measures(report: "Report") -> str:
    """Every measure on test, and what a classifier's score is worth."""
    found, rows = report.get("measures"), []
    for name, teacher in (found["teacher"] if found else {}).items():
        student = found["student"].get(name) if found else None
        figures = [decimal(teacher, 2), decimal(student, 2), "–" if student is None else f"{student - teacher:+.2f}"]
        rows.append(cells([f'<th class="text" scope="row">{safe(name)}</th>'], figures))
    parts = [table(heading(["measure on test, points"], ["teacher", "student", "difference"]), rows)] if rows else []
    known = report.get("confidence", {})
    if "ece" in known:
        said = (
            f"{known['ece_uncalibrated']:.4f} before, {known['ece']:.4f} after (temperature {known['temperature']:g})"
        )
        parts.append(f"<p>Expected calibration error on test: {said}.</p>")
    if known.get("auroc") is not None:
        said = f"student {known['auroc']:.2f}, teacher {known['auroc_teacher']:.2f} points of AUROC"
        parts.append(f"<p>Telling texts that belong to no class by the score: {said}.</p>")
    return "\n".join(["<h2>Measures</h2>", *parts]) if parts else ""


def _bench(report: "Report") -> str:
    bench = report.get("bench")
    if not bench:
        return ""
    head = heading(["system"], ["batch", "p50, ms", "p90, ms", "p99, ms", "texts/s"])
    rows = []
    for system in bench["systems"]:
        figures = [str(system["batch"]), *(decimal(value, 2) for value in (system["p50_ms"], system["p90_ms"]))]
        figures += [decimal(system["p99_ms"], 2), decimal(system["throughput_per_s"], 0)]
        rows.append(cells([f'<th class="text" scope="row">{safe(system["name"])}</th>'], figures))
    ratios = [
        f"<p>{row['ratio']:.2f}× {safe(row['metric'])} against {safe(row['name'])} "
        f'<span class="quiet">(95 % interval {safe(interval(row))}, {row["rounds"]} rounds)</span></p>'
        for row in bench["ratios"]
    ]
    if overhead := report.get("overhead"):
        spread = f"{overhead['ratio']:.3f}× ({overhead['low']:.3f}–{overhead['high']:.3f})"
        ratios.append(f"<p>{spread} the time of the bare engine: what attar itself costs.</p>")
    if known := bench.get("certificate"):
        ratios.append(f"<p>machine {safe(known['verdict'])}: {safe(known['why'])}</p>")
    how = f'<p class="quiet">{safe(bench["how"])}</p>'
    return "\n".join(["<h2>Benchmark</h2>", table(head, rows), *ratios, how])


def _facts(report: "Report") -> str:
    """Bundle, parity, data, machine and versions: short lists, side by side where there is room."""
    sections: list[tuple[str, list[tuple[str, str]]]] = []
    if bundle := report.get("bundle"):
        files = [(name, f"{size:,} bytes") for name, size in sorted(bundle["files"].items())]
        sections.append(("Bundle", [("size", megabytes(bundle["size_mb"])), ("scheme", bundle["scheme"]), *files]))
    if parity := report.get("parity"):
        far = [("at most", f"{parity['max_abs']:.3g}"), ("on average", f"{parity['mean_abs']:.3g}")]
        checks = [("texts", f"{parity['texts']:,}"), ("checked", "; ".join(parity["checks"]) or "–")]
        sections.append(("Parity with PyTorch", far + checks))
    sections.append(("Data", _data(report)))
    sections.append(("Machine", [(name, str(value)) for name, value in report.get("machine", {}).items()]))
    versions = {"attar": report["attar"]} if "attar" in report else {}
    sections.append(("Versions", list({**versions, **report.get("versions", {})}.items())))
    shown = [f"<section>\n<h2>{title}</h2>\n{definitions(pairs)}\n</section>" for title, pairs in sections if pairs]
    return '<div class="facts">\n' + "\n".join(shown) + "\n</div>" if shown else ""


def _data(report: "Report") -> list[tuple[str, str]]:
    data, task = report.get("data", {}), report.get("task", {})
    pairs = [("source", data["source"])] if "source" in data else []
    counts = [(key, data.get(key)) for key in ("train", "dev", "test", "unlabelled")]
    pairs += [(name, f"{count:,} examples") for name, count in counts if isinstance(count, int)]
    if labels := task.get("labels"):
        pairs.append(("labels", ", ".join(labels)))
    return pairs


def _recipe(report: "Report") -> str:
    if not (recipe := report.get("recipe")):
        return ""
    return f"<details>\n<summary>Recipe</summary>\n<pre>{safe(recipe)}</pre>\n</details>"


def _row(mark: str, name: str, note: str, outcome: str, figures: Sequence[str], *, dropped: bool) -> str:
    first = [
        f'<td class="text">{safe(mark)}</td>',
        f'<td class="text wide">{safe(name)}<small>{safe(note)}</small></td>',
        f'<td class="text"><span class="tag">{outcome}</span></td>',
    ]
    return cells(first, figures, "dropped" if dropped else "")


def _said(what: str, points: Sequence[charts.Point], attribute: str) -> str:
    """The picture in words, for those who cannot see it."""
    known = [(point.name, getattr(point, attribute)) for point in points]
    return f"{what}: " + ", ".join(f"{name} {value:.4g}" for name, value in known if value is not None)
