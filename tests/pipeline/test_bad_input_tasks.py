"""Data and recipes that do not fit their task end in exit code 2 and one message; extreme inputs are answered."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from attar.cli import main
from attar.export.bundle import write
from tests.models import make_checkpoint, make_student

RECIPE = """
name = "tiny"

[data]
train = "train.jsonl"
{data}

[teacher]
model = "base"
epochs = 1
max_length = 32

[task]
{task}

[[step]]
use = "compress.quantize.int8"
"""
SIZES = "dev = 2\ntest = 2"
FILES = 'dev = "dev.jsonl"\ntest = "test.jsonl"'
KINDS = "text-classification, regression, token-classification, question-answering, embeddings, multi-task"
TOKENS, QA = 'kind = "token-classification"', 'kind = "question-answering"'
HEADS = """kind = "multi-task"
heads.mood.kind = "text-classification"
heads.spans = {kind = "token-classification", column = "tags"}
"""

Row = dict[str, Any]
CLASSES: list[Row] = [{"text": f"film {i}", "label": ("dull", "funny")[i % 2]} for i in range(12)]
TAGGED: list[Row] = [
    {"tokens": ["the", "film", "in", f"town{i}"], "tags": ["O", ("B-work", "B-art")[i % 2], "O", "B-place"]}
    for i in range(12)
]
ASKED: list[Row] = [
    {"question": "what?", "context": f"We saw film {i}.", "answers": [{"text": f"film {i}", "start": 7}]}
    for i in range(12)
]
BOTH = [{**row, "mood": ("dull", "funny")[i % 2]} for i, row in enumerate(TAGGED)]

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder that would be fine-tuned if it came to that."""
    return make_checkpoint(tmp_path_factory.mktemp("models") / "base", layers=1, hidden=16, ffn=32, heads=2)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that answers questions at random."""
    folder = tmp_path_factory.mktemp("reader")
    student = make_student(folder / "model", kind="question-answering", layers=1, hidden=16, ffn=32, heads=2)
    write(student, folder / "bundle", name="reader")
    return folder / "bundle"


@pytest.fixture
def refused(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a recipe that must be refused before anything is written, and returns the message."""
    (tmp_path / "base").symlink_to(base)
    monkeypatch.chdir(tmp_path)

    def check(task: str, train: list[Row], *, data: str = SIZES, **others: list[Row]) -> str:
        for name, rows in {"train": train, **others}.items():
            Path(f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        Path("recipe.toml").write_text(RECIPE.format(task=task, data=data))
        before = set(tmp_path.rglob("*"))
        assert main(["run", "recipe.toml", "--out", "new"]) == 2
        found = capsys.readouterr()
        (line,) = found.err.splitlines()
        assert found.out == "" and line.startswith("attar: error: ")
        assert set(tmp_path.rglob("*")) == before
        return line.removeprefix("attar: error: ")

    return check


def changed(rows: list[Row], number: int, **values: Any) -> list[Row]:
    """The rows with other values in the one of that number, counted from 1."""
    return [{**row, **values} if i == number else row for i, row in enumerate(rows, 1)]


@pytest.mark.parametrize("task", [TOKENS, HEADS], ids=["tagger", "multi-task"])
@pytest.mark.parametrize(
    ("tags", "words"),
    [
        (["O", "O"], "4 tokens but 2 tags; give every token one tag"),
        ([], "4 tokens but 0 tags; give every token one tag"),
        (["O", "O", "O", 3], "tag 4 is the number 3, whose name is unknown; write tags as strings"),
        (["O", "O", "O", ""], "tag 4 is ''; write O, or a tag such as B-person"),
        ("O O O O", "column 'tags' holds a str, not a list"),
        (["O", "O", "O", "place"], "is a tag without a prefix such as B-, but 'B-work' (train.jsonl: line 1) is a tag"),
    ],
)
def test_tags_that_do_not_match_their_tokens(refused: Refused, task: str, tags: Any, words: str) -> None:
    message = refused(task, changed(BOTH, 3, tags=tags))
    assert message.startswith("train.jsonl: line 3: ") and words in message


@pytest.mark.parametrize(
    ("entities", "words"),
    [
        ([{"start": 0, "end": 99, "label": "work"}], "entity 1 goes from 0 to 99, but the text from 0 to 6"),
        ([{"start": 0, "end": 4, "label": "a"}, {"start": 2, "end": 6, "label": "b"}], "overlap; keep one of them"),
        (["B-work"], 'write {"start": 0, "end": 5, "label": "person"}'),
    ],
)
def test_entities_that_do_not_lie_in_their_text(refused: Refused, entities: Any, words: str) -> None:
    rows = [{"text": f"film {i}", "entities": [{"start": 0, "end": 4, "label": "work"}]} for i in range(9)]
    message = refused(TOKENS, changed(rows, 2, entities=entities))
    assert message.startswith("train.jsonl: line 2: ") and words in message


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([{"text": "a play", "start": 7}], "'a play' is not at 7, where 'film 1' stands; it is nowhere in the context"),
        ([{"text": "film 1", "start": 0}], "'film 1' is not at 0, where 'We saw' stands; it is at 7"),
        ([{"text": "film 1", "start": 700}], "'film 1' is not at 700, where '' stands; it is at 7"),
        ([{"text": "film 1", "start": -1}], "'film 1' is not at -1"),
        ([{"text": "", "start": 0}], "an answer has text '' and start 0; give a text and a whole number"),
        ([{"text": "film 1"}], "an answer has text 'film 1' and start None"),
        ("film 1", 'write [{"text": "...", "start": 0}], or [] for none'),
        ({"text": ["film 1"], "answer_start": []}, 'need "text" and "answer_start", two lists of one length'),
    ],
)
def test_an_answer_that_is_not_in_its_context(refused: Refused, answers: Any, words: str) -> None:
    message = refused(QA, changed(ASKED, 2, answers=answers))
    assert message.startswith("train.jsonl: line 2: ") and words in message


def test_a_question_without_an_answer_needs_a_setting(refused: Refused) -> None:
    message = refused(QA, ASKED, data=FILES, dev=changed(ASKED, 1, question="why?", answers=[]), test=ASKED[:1])
    assert message.startswith("dev.jsonl") and "set no_answer = true in [task], or leave it out" in message


@pytest.mark.parametrize(
    ("task", "train", "strange", "words"),
    [
        ("", CLASSES, {"text": "a scene", "label": "mixed"}, "'mixed' was never seen in training (known: dull, funny)"),
        (
            "", [{**row, "label": [row["label"]]} for row in CLASSES], {"text": "a scene", "label": ["dull", "mixed"]},
            "'mixed' was never seen in training (known: dull, funny)",
        ),
        (TOKENS, TAGGED, {"tokens": ["two", "friends"], "tags": ["O", "B-person"]}, "'person'"),
        (HEADS, BOTH, {"tokens": ["a"], "tags": ["O"], "mood": "mixed"}, "head 'mood': label 'mixed' was never seen"),
        (HEADS, BOTH, {"tokens": ["a"], "tags": ["B-person"], "mood": "dull"}, "head 'spans': example 1: "),
    ],
    ids=["classes", "multi-label", "types", "class head", "tag head"],
)  # fmt: skip
@pytest.mark.parametrize("part", ["dev", "test"])
def test_labels_that_only_one_part_has(
    refused: Refused, part: str, task: str, train: list[Row], strange: Row, words: str
) -> None:
    parts = {"dev": train[:1], "test": train[1:2], part: [strange]}
    message = refused(task, train[2:], data=FILES, **parts)
    assert message.startswith(f"{part}.jsonl: ") and words in message


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ('kind = "poetry"', f"[task] kind 'poetry' is unknown; known: {KINDS}"),
        ("stride = 3", "[task] of kind text-classification has no setting 'stride'; known: kind"),
        (f"{TOKENS}\nlabels = 3", "of kind token-classification has no setting 'labels'; known: kind, stride, aggr"),
        (f"{QA}\nscheme = 'BIO'", "[task] of kind question-answering has no setting 'scheme'; known: kind, stride, "),
        ('kind = "multi-task"', "needs at least two tables like [task.heads.intent] with a \"kind\""),
        ('kind = "multi-task"\nheads.a.kind = "text-classification"', "needs at least two tables"),
        (f"{HEADS}heads.b.kind = 'embeddings'", "[task.heads.b] needs a kind; known: text-classification, regression"),
        (f"{HEADS}heads.mood.size = 3", "[task.heads.mood] of kind text-classification has no setting 'size'"),
        (f"{HEADS}heads.type.kind = 'text-classification'", '[task.heads.type]: no head can have this name; call it t'),
        (f"{HEADS}heads.input_ids.kind = 'text-classification'", 'call it input_ids_head, with column = "input_ids"'),
    ],
)  # fmt: skip
def test_a_task_table_that_is_wrong(refused: Refused, task: str, words: str) -> None:
    message = refused(task, CLASSES)
    assert message.startswith("recipe.toml: ") and words in message


@pytest.mark.parametrize(
    ("task", "rows", "words"),
    [
        ("", ASKED, "has no text column: looked for text, "),
        ("", TAGGED, "has no text column: looked for text, "),
        (QA, CLASSES, "needs the columns question and context, found ['text', 'label']"),
        (QA, TAGGED, "needs the columns question and context, found ['tokens', 'tags']"),
        (TOKENS, CLASSES, "has no label column: looked for entities, spans, found ['text', 'label']"),
        (TOKENS, ASKED, "has no text column: looked for tokens, text, "),
        ('kind = "regression"', CLASSES, "line 1: the label 'dull' is not a finite number"),
        (HEADS, TAGGED, "has no column 'mood' for the head 'mood'; its columns are ['tokens', 'tags']"),
    ],
)
def test_data_of_another_task(refused: Refused, task: str, rows: list[Row], words: str) -> None:
    message = refused(task, rows)
    assert message.startswith("train.jsonl: ") and words in message


@pytest.mark.parametrize(("task", "rows"), [(TOKENS, TAGGED), (QA, ASKED), (HEADS, BOTH)])
def test_foreign_texts_are_for_classifiers(refused: Refused, task: str, rows: list[Row]) -> None:
    message = refused(task, rows, data=f'{SIZES}\noutside = "outside.jsonl"', outside=rows[:1])
    assert "[data] outside is for text classification" in message


@pytest.mark.parametrize(
    ("task", "rows", "words"),
    [
        (f"{QA}\nstride = 30", ASKED, "stride, 30 tokens, is more than half of max_length, 32"),
        (f"{QA}\nmax_answer = 0", ASKED, "max_answer must be a whole number of at least 1, not 0"),
        (f"{TOKENS}\nstride = -1", TAGGED, "stride must be at least 0 tokens, not -1"),
        (f'{TOKENS}\naggregation = "best"', TAGGED, "aggregation 'best' is unknown; known: none, simple, first"),
        (f"{HEADS}heads.b = {{kind = 'token-classification', column = 'tags', stride = 2}}", BOTH, "need one stride"),
        (f"{HEADS}heads.'a head' = {{kind = 'text-classification', column = 'mood'}}", BOTH, "must be a plain word"),
        ('kind = "embeddings"\npooling = "sum"', CLASSES, "pooling is one of mean, cls, max, not 'sum'"),
    ],
)
def test_a_setting_that_cannot_be(refused: Refused, task: str, rows: list[Row], words: str) -> None:
    assert words in refused(task, rows)


SCORED: list[Row] = [{"sentence1": f"a film {i}", "sentence2": f"the plot {i}", "score": i / 12} for i in range(12)]


@pytest.mark.parametrize(
    ("data", "others", "words"),
    [
        (f"{SIZES}", {}, "(dev): holds scored pairs, but the task is judged by recall@1; set judged_by = 'Spearman'"),
        (
            FILES,
            {"dev": CLASSES[:4], "test": SCORED[:2]},
            "test.jsonl: holds scored pairs, but the task is judged by re",
        ),
    ],
    ids=["both", "test"],
)
def test_an_embedder_needs_the_measure_of_its_data(refused: Refused, data: str, others: Any, words: str) -> None:
    assert words in refused('kind = "embeddings"\njudged_by = "recall@1"', SCORED[2:], data=data, **others)


def answer(reader: Path, given: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """What `attar predict` says to one line of stdin."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(json.dumps(given).encode() + b"\n")))
    assert main(["predict", str(reader), "-", "--threads", "1"]) == 0
    return json.loads(capfd.readouterr().out)


@pytest.mark.parametrize("words", [40, 40_000])
def test_a_question_longer_than_the_model_is_cut(
    reader: Path, words: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    context = "We saw the film last night with two friends. " * 3
    found = answer(reader, ["what was it " * words, context], capfd, monkeypatch)
    assert found["truncated"] is True
    assert found["text"] == context[found["start"] : found["end"]] != ""


MEASURED = """
import re, sys
from pathlib import Path
from attar.cli import main

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

call = ["predict", sys.argv[1], "--threads", "1"]
main([*call, '["who?", "the plot"]'])
before = peak()
code = main([*call, "-"])
print(peak() - before, file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks /proc how much memory was taken")
def test_a_context_of_100_000_words_takes_little_memory(reader: Path) -> None:
    context = "We saw the film last night with two friends then . " * 9090 + "The ending was charming."
    command = [sys.executable, "-c", MEASURED, str(reader)]
    done = subprocess.run(command, input=json.dumps(["who?", context]).encode(), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["text"] == context[found["start"] : found["end"]] != "" and not found["truncated"]
    assert float(done.stderr) < 200  # MiB
