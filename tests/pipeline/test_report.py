"""The report: one page that stands alone, harmless whatever the names are, the same bytes each time; and a table."""

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from attar.compress.gate import GateSettings, judge
from attar.pipeline.html import render
from attar.pipeline.report import GateInfo, Report, StageInfo, table, write

HOSTILE = "<script>alert(1)</script>\" onload='x' & $\\frac$ \x1b[2J ]]> --> </style>"
VOID = {"meta", "br", "hr", "img", "input", "link"}


def stage(name: str, use: str, **changes: object) -> StageInfo:
    """One kept stage, changed as asked."""
    values: dict[str, object] = {
        "name": name, "use": use, "kept": True, "reason": "", "accuracy": 90.1, "size_mb": 267.8,
        "parameters": 66_955_010, "p50_ms": 16.9, "speedup": None, "seconds": 12.0, "cached": False, "settings": {},
    }  # fmt: skip
    return cast(StageInfo, {**values, **changes})


def gate(both: int = 1678, teacher_only: int = 50, student_only: int = 40, neither: int = 232) -> GateInfo:
    """A real verdict on these counts."""
    counts = [both, teacher_only, student_only, neither]
    teacher, student = (
        np.repeat([True, True, False, False], counts),
        np.repeat([True, False, True, False], counts),
    )
    return {**judge(teacher, student, GateSettings()).to_json(), "split": "test"}


def stages() -> list[StageInfo]:
    """A plausible recipe: one stage is dropped."""
    return [
        stage("shrink", "distill.students.layers", accuracy=89.9, size_mb=91.1, parameters=22_713_986, p50_ms=7.31,
              speedup={"ratio": 2.31, "low": 2.24, "high": 2.39}, seconds=1260.0, reason="12 layers to 6"),
        stage("vocabulary", "compress.vocabulary.trim", accuracy=89.8, size_mb=57.4, parameters=14_301_314,
              p50_ms=7.29, speedup={"ratio": 1.0, "low": 0.99, "high": 1.02}, seconds=4.0, cached=True,
              reason="30,522 to 8,611 tokens: size, not speed"),
        stage("heads", "compress.prune.heads", accuracy=87.2, size_mb=55.0, parameters=13_700_000, p50_ms=7.2,
              speedup={"ratio": 1.01, "low": 0.98, "high": 1.04}, seconds=95.0, kept=False,
              reason="not faster: 1.01 (0.98-1.04) for 2.6 points of accuracy"),
        stage("neurons", "compress.prune.neurons", accuracy=89.5, size_mb=44.2, parameters=11_004_000, p50_ms=5.1,
              speedup={"ratio": 1.43, "low": 1.39, "high": 1.47}, seconds=610.0, reason="FFN 1,536 to 640"),
        stage("recover", "distill.train", accuracy=90.3, size_mb=44.2, parameters=11_004_000, p50_ms=5.12,
              speedup=None, seconds=2112.0, reason="3 epochs on 60,000 unlabelled texts"),
        stage("int8", "compress.quantize.int8", accuracy=90.1, size_mb=11.6, parameters=11_004_000, p50_ms=2.16,
              speedup={"ratio": 2.37, "low": 2.30, "high": 2.45}, seconds=31.0, reason="per token, per channel"),
    ]  # fmt: skip


@pytest.fixture
def report() -> Report:
    """A whole run, with made-up numbers."""
    pytorch, plain = "PyTorch 2.13 eager, the teacher", "ONNX Runtime fp32, the teacher"
    return {
        "title": "sentiment",
        "created": "2026-11-05T14:03:22Z",
        "attar": "0.1.0",
        "task": {"kind": "classification", "labels": ["negative", "positive"], "metric": "accuracy"},
        "data": {"train": 6920, "dev": 872, "test": 1821, "unlabelled": 60_000, "source": "data/sst2"},
        "teacher": {"name": "textattack/bert-base-uncased-SST-2", "parameters": 109_483_778, "size_mb": 438.0,
                    "dev": 92.4, "test": 86.4, "p50_ms": 16.9},
        "stages": stages(),
        "gate": gate(),
        "bundle": {"size_mb": 12.1, "files": {"model.onnx": 11_600_210, "tokenizer.json": 480_112}, "dev": 90.1,
                   "scheme": "int8 per token", "p50_ms": 2.2},
        "bench": {
            "systems": [
                {"name": "attar bundle", "p50_ms": 2.2, "p90_ms": 2.41, "p99_ms": 2.9, "throughput_per_s": 1204.0,
                 "batch": 1},
                {"name": plain, "p50_ms": 16.9, "p90_ms": 17.6, "p99_ms": 19.2, "throughput_per_s": 88.0, "batch": 1},
                {"name": pytorch, "p50_ms": 41.3, "p90_ms": 44.0, "p99_ms": 50.7, "throughput_per_s": 31.0,
                 "batch": 1},
            ],
            "ratios": [
                {"name": pytorch, "metric": "p50", "ratio": 18.77, "low": 18.1, "high": 19.4, "rounds": 25},
                {"name": plain, "metric": "p50", "ratio": 7.68, "low": 7.51, "high": 7.9, "rounds": 25},
                {"name": plain, "metric": "throughput", "ratio": 13.7, "low": 13.2, "high": 14.1, "rounds": 25},
            ],
            "how": "Interleaved rounds, each system in a process of its own, 2 threads, 200 held-out texts a round.",
        },
        "overhead": {"ratio": 1.021, "low": 1.012, "high": 1.03},
        "parity": {"max_abs": 3.1e-6, "mean_abs": 4.0e-7, "texts": 200, "checks": ["batches of 1, 2, 7", "padding"]},
        "machine": {"cpu": "AMD EPYC 9R14", "cores": 2, "system": "Linux 6.1", "python": "3.11.2"},
        "versions": {"torch": "2.13.0", "onnxruntime": "1.32.0"},
        "recipe": '[teacher]\nmodel = "textattack/bert-base-uncased-SST-2"\n\n[[step]]\nuse = "distill.train"\n',
        "seconds": 4124.0,
    }  # fmt: skip


class Checker(HTMLParser):
    """Every tag is closed in order; ids are unique; collects tags, attributes and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(attrs) == len(dict(attrs)), f"an attribute twice in <{tag}>"
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_page_is_well_formed_and_names_everything(report: Report) -> None:
    page = Checker(render(report))
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert len(pictures) == 5
    assert all(picture["role"] == "img" and picture["aria-label"] for picture in pictures)
    for row in report["stages"]:
        assert row["name"] in page.text
    assert "not faster: 1.01 (0.98-1.04) for 2.6 points of accuracy" in page.text
    for expected in (
        "PASS",
        "18.8×",
        "36.2×",
        "AMD EPYC 9R14",
        "Interleaved rounds",
        "2.13.0",
        "11,600,210 bytes",
    ):
        assert expected in page.text
    assert any(tag == "details" for tag, _ in page.tags)


def test_every_reference_inside_a_picture_leads_somewhere(report: Report) -> None:
    html = render(report)
    ids = set(re.findall(r'\bid="([^"]+)"', html))
    references = re.findall(r'href="#([^"]+)"', html) + re.findall(r"url\(#([^)]+)\)", html)
    assert references
    assert set(references) <= ids


def test_page_fetches_nothing(report: Report) -> None:
    html = render(report)
    assert "http:" not in html and "https:" not in html and "//" not in re.sub(r"/\*.*?\*/", "", html)
    assert "@import" not in html and "xlink" not in html
    for tag, attributes in Checker(html).tags:
        assert tag not in {"script", "link", "iframe", "img", "object", "embed"}
        assert "src" not in attributes
        assert (attributes.get("href") or "#").startswith("#")


def poison(value: Any) -> Any:
    """The same report with a hostile string for every string but those the gate chooses itself."""
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, list):
        return [poison(item) for item in value]
    if isinstance(value, dict):
        return {key if key.islower() else HOSTILE: poison(item) for key, item in value.items()}
    return value


def test_hostile_names_stay_text(report: Report) -> None:
    hostile = poison(copy.deepcopy(report))
    hostile["gate"] = {**report["gate"], "split": HOSTILE}
    hostile["bundle"]["files"] = {HOSTILE: 1}
    html = render(hostile)
    page = Checker(html)
    assert "<script" not in html and "</style> " not in html
    assert all("onload" not in attributes for _, attributes in page.tags)
    assert html.count("</style>") == 1 + html.count("<style type") and "alert(1)" in page.text
    printed = table(hostile)
    assert "\x1b" not in printed and max(map(len, printed.splitlines())) <= 110


def test_same_report_same_bytes(report: Report) -> None:
    assert render(report) == render(copy.deepcopy(report))


def test_failed_and_undecided_gates_show_it(report: Report) -> None:
    report["gate"] = gate(1600, 120, 20, 260)
    html = render(report)
    assert '<p class="verdict fail"' in html and "<strong>FAIL</strong>" in html and "lower bound" in html
    report["gate"] = gate(84, 3, 2, 11)
    html = render(report)
    assert '<p class="verdict unsure"' in html and "more examples needed" in html


@pytest.mark.parametrize("key", sorted(Report.__annotations__))
def test_any_part_may_be_missing(report: Report, key: str) -> None:
    part = cast(Report, {name: value for name, value in report.items() if name != key})
    # Pictures are slow to draw and another test's business, where the part is not in any.
    if key not in {"teacher", "stages", "gate", "bundle", "bench"}:
        part = cast(Report, {name: value for name, value in part.items() if name not in {"stages", "bench"}})
    Checker(render(part))
    table(part)


def test_an_empty_report_and_unmeasured_stages(report: Report) -> None:
    assert "No accuracy gate was run" in render({})
    assert table({}) == "attar run\n"
    bare: Report = {"stages": [stage("s", "distill.train", accuracy=None, p50_ms=None)], "overhead": None}
    assert "distill.train" in render(bare)
    assert "-" in table(bare)
    del report["teacher"]["dev"], report["teacher"]["p50_ms"], report["bundle"]["dev"]
    Checker(render(report))


def test_terminal_table_shows_the_numbers(report: Report) -> None:
    text = table(report)
    lines = text.splitlines()
    assert max(map(len, lines)) <= 110
    row = next(line for line in lines if "int8" in line)
    for figure in ("kept", "90.10", "11.6", "11.0", "2.16", "2.37 [2.30, 2.45]", "31"):
        assert figure in row
    dropped = next(place for place, line in enumerate(lines) if " heads " in line)
    assert "dropped" in lines[dropped]
    assert lines[dropped + 1].strip() == "dropped: not faster: 1.01 (0.98-1.04) for 2.6 points of accuracy"
    assert "18.77x [18.10, 19.40] p50 against PyTorch 2.13 eager, the teacher, 25 rounds" in lines
    assert "36.2x smaller than the teacher" in text
    assert lines[-2].startswith("PASS: student 85.9 % vs teacher 86.4 %") or lines[-1].startswith("PASS: ")


def test_columns_are_aligned(report: Report) -> None:
    header, *rows = [line for line in table(report).split("\n\n")[1].splitlines() if "dropped: " not in line]
    for name in ("dev acc %", "size MB", "params M", "p50 ms"):
        end = header.index(name) + len(name)
        assert all(row[end - 1].isdigit() and row[end] == " " for row in rows)


def test_write_leaves_both_files_and_nothing_else(report: Report, tmp_path: Path) -> None:
    out = tmp_path / "new" / "run"
    write(report, out)
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json"]
    assert json.loads((out / "report.json").read_text(encoding="utf-8")) == report
    assert (out / "report.html").read_text(encoding="utf-8") == render(report)
    report["seconds"] = float("nan")
    with pytest.raises(ValueError, match="JSON"):
        write(report, out)
    assert json.loads((out / "report.json").read_text(encoding="utf-8"))["seconds"] == 4124.0
