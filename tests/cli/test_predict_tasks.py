"""`attar predict` and the server with bundles of questions and of entities: inputs, options, answers, refusals."""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import attar
from attar.cli import main
from attar.export.bundle import write
from attar.runtime import server
from attar.runtime.model import load
from attar.runtime.tasks.base import jsonable
from tests.models import make_student

QUESTION = "who saw it?"
CONTEXT = "Two friends saw the film last night. The music was zoqx-like, we saw the ending in Q7."
PAIR = {"question": QUESTION, "context": CONTEXT}
TEXT = "The film zoqx was charming, w-x.y saw it with gravitational music"

Predict = Callable[..., list[Any]]
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles of random models by the names of their kinds."""
    folder = tmp_path_factory.mktemp("bundles")
    for kind in (
        "text-classification",
        "question-answering",
        "token-classification",
        "pairs",
        "embeddings",
        "multi-task",
    ):
        student = make_student(folder / f"model-{kind}", kind=kind, layers=1)
        write(student, folder / kind, name=kind)
    return folder


@pytest.fixture
def predict(
    bundles: Path, capfdbinary: pytest.CaptureFixture[bytes], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[Any]]:
    """The answers of `attar predict` with a bundle and arguments."""

    def call(kind: str, *arguments: str, stdin: str | None = None) -> list[Any]:
        if stdin is not None:
            monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        code = main(["predict", str(bundles / kind), *arguments, "--threads", "1"])
        found = capfdbinary.readouterr()
        assert code == 0, found.err.decode()
        return [json.loads(line) for line in found.out.splitlines()]

    return call


@pytest.fixture
def refused(bundles: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> Refused:
    """The message of a call that must be refused without an answer."""

    def call(kind: str, *arguments: str) -> str:
        assert main(["predict", str(bundles / kind), *arguments]) == 2
        found = capfdbinary.readouterr()
        (line,) = found.err.decode().splitlines()
        assert found.out == b"" and line.startswith("attar: error: ")
        return line

    return call


def expected(bundles: Path, kind: str, given: Any, **options: Any) -> Any:
    """What the library says, as JSON has it."""
    return json.loads(json.dumps(jsonable(attar.load(bundles / kind, threads=1, options=options)(given))))


def test_a_question_is_a_json_argument(bundles: Path, predict: Predict) -> None:
    as_object, as_list = predict("question-answering", json.dumps(PAIR), json.dumps([QUESTION, CONTEXT]))
    assert set(as_object) == {"text", "score", "start", "end", "candidates", "truncated"}
    assert as_object["text"] == CONTEXT[as_object["start"] : as_object["end"]] != ""
    assert as_object == as_list == expected(bundles, "question-answering", PAIR)


def test_questions_are_lines_of_stdin(bundles: Path, predict: Predict) -> None:
    lines = [PAIR, {"context": "the plot", "question": "what?"}, [QUESTION, "the ending"]]
    found = predict("question-answering", "-", stdin="".join(json.dumps(line) + "\n" for line in lines))
    assert found == expected(bundles, "question-answering", lines)
    assert [a["text"] in c for a, c in zip(found, (CONTEXT, "the plot", "the ending"), strict=True)] == [True] * 3


def test_questions_are_read_from_a_data_file(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps(PAIR) + "\n")
    assert predict("question-answering", "--data", str(tmp_path / "q.jsonl")) == predict(
        "question-answering", json.dumps(PAIR)
    )


def test_top_k_gives_more_candidates(bundles: Path, predict: Predict) -> None:
    (found,) = predict("question-answering", json.dumps(PAIR), "--set", "top_k=2")
    first, second = found["candidates"]
    assert (first["text"], first["score"]) == (found["text"], found["score"])
    assert first["score"] >= second["score"] and first["text"] != second["text"]
    assert all(c["text"] == CONTEXT[c["start"] : c["end"]] for c in (first, second))
    assert found == expected(bundles, "question-answering", PAIR, top_k=2)
    (alone,) = predict("question-answering", json.dumps(PAIR))
    assert len(alone["candidates"]) == 1 and alone["text"] == found["text"]


def test_aggregation_first_never_cuts_a_word(bundles: Path, predict: Predict) -> None:
    (pieces,) = predict("token-classification", TEXT)
    (words,) = predict("token-classification", TEXT, "--set", "aggregation=first")
    assert words == expected(bundles, "token-classification", TEXT, aggregation="first")
    assert words and words != pieces
    for entity in (*pieces, *words):
        assert set(entity) == {"label", "score", "start", "end", "text"}
        assert entity["text"] == TEXT[entity["start"] : entity["end"]]
    ends = [(m.start(), m.end()) for m in re.finditer(r"\w+|[^\w\s]", TEXT)]
    assert all(e["start"] in {s for s, _ in ends} and e["end"] in {e for _, e in ends} for e in words)


def test_tokens_are_read_from_a_data_file(predict: Predict, tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(json.dumps({"tokens": ["The", "film", "was", "dull"]}) + "\n")
    (tmp_path / "s.jsonl").write_text(json.dumps({"text": "The film was dull"}) + "\n")
    for kind in ("token-classification", "multi-task"):
        wanted = predict(kind, "The film was dull")
        for name in ("t.jsonl", "s.jsonl"):
            assert predict(kind, "--data", str(tmp_path / name)) == wanted


@pytest.mark.parametrize(
    ("kind", "row", "labels"),
    [
        ("text-classification", {"text": TEXT}, [None, "unheard of", ["a", "b"], {"a": 1}, "", "negative"]),
        ("embeddings", {"text": TEXT}, ["some class", None, [1, 2]]),
        ("pairs", {"text": QUESTION, "text_pair": CONTEXT}, [["x"], None, "unheard of"]),
        ("token-classification", {"tokens": TEXT.split()}, [["O"], None, "no list", [7]]),
        ("multi-task", {"tokens": TEXT.split()}, [["O"], None, "no list"]),
        ("question-answering", PAIR, ["no list", None, [{"text": "nowhere", "start": 0}]]),
    ],
)
def test_labels_are_not_looked_at(
    predict: Predict, tmp_path: Path, kind: str, row: dict[str, Any], labels: list[Any]
) -> None:
    column = {"token-classification": "tags", "multi-task": "tags", "question-answering": "answers"}.get(kind, "label")
    rows = [*({**row, column: label} for label in labels), row]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "texts.jsonl").write_text(json.dumps(row) + "\n")
    (wanted,) = predict(kind, "--data", str(tmp_path / "texts.jsonl"))
    assert predict(kind, "--data", str(tmp_path / "rows.jsonl")) == [wanted] * len(rows)


@pytest.mark.parametrize("kind", ["embeddings", "text-classification"])
def test_pairs_for_a_model_of_single_texts_are_refused(
    refused: Refused, predict: Predict, tmp_path: Path, kind: str
) -> None:
    data = tmp_path / "pairs.jsonl"
    data.write_text(json.dumps({"text": TEXT, "text_pair": CONTEXT}) + "\n")
    assert refused(kind, "--data", str(data)).endswith(
        "pairs.jsonl: holds pairs of texts, but the model reads single texts; choose one column with --text-column NAME"
    )
    assert predict(kind, "--data", str(data), "--text-column", "text_pair") == predict(kind, CONTEXT)


def test_single_texts_for_a_model_of_pairs_are_refused(refused: Refused, predict: Predict, tmp_path: Path) -> None:
    data = tmp_path / "texts.jsonl"
    data.write_text(json.dumps({"text": QUESTION, "body": CONTEXT}) + "\n")
    message = refused("pairs", "--data", str(data))
    assert "texts.jsonl: holds single texts, but the model reads pairs of texts; choose the two columns" in message
    wanted = predict("pairs", json.dumps([QUESTION, CONTEXT]))
    assert predict("pairs", "--data", str(data), "--text-column", "text,body") == wanted


def test_every_head_answers(predict: Predict) -> None:
    short, long = predict("multi-task", "The film was dull", "we saw it last night " * 20)
    assert set(short) == {"sentiment", "spans"}
    assert (short["sentiment"]["truncated"], long["sentiment"]["truncated"]) == (False, True)


@pytest.mark.parametrize(
    ("kind", "option", "words"),
    [
        (
            "question-answering",
            "aggregation=first",
            "question-answering has no option 'aggregation'; known: top_k",
        ),
        ("token-classification", "top_k=2", "token-classification has no option 'top_k'; known: aggregation"),
        ("token-classification", "aggregation=best", "aggregation 'best' is unknown; known: none, simple, first"),
        ("question-answering", "top_k=0", "top_k must be a whole number of at least 1, not 0"),
        ("question-answering", "top_k=two", "top_k must be a whole number of at least 1, not 'two'"),
        ("question-answering", "top_k", "--set 'top_k': write NAME=VALUE"),
    ],
)
def test_an_option_that_is_not_there_is_refused(refused: Refused, kind: str, option: str, words: str) -> None:
    assert words in refused(kind, json.dumps(PAIR), "--set", option)


@pytest.mark.parametrize(
    "given",
    ["who saw the film?", '"who saw it?"', "42", "null", '["who?"]', '{"question": "who?"}', '["who?", 3]', "[" * 9999],
)
def test_a_question_without_a_context_is_refused(refused: Refused, given: str) -> None:
    message = refused("question-answering", given)
    assert (
        "input 0 is not a pair of texts: give [question, context], or an object with 'question' and 'context'"
        in message
    )


def test_an_empty_question_or_context_is_refused(refused: Refused) -> None:
    assert "input 1 has an empty question" in refused("question-answering", json.dumps(PAIR), '[" ", "the film"]')
    assert "input 0 has an empty context" in refused("question-answering", '["who?", ""]')


def test_a_single_text_for_a_classifier_of_pairs_is_refused(refused: Refused) -> None:
    message = refused("pairs", "one text")
    assert "input 0 is not a pair of texts: give [text, text_pair], or an object with 'text' and 'text_pair'" in message


def post(folder: Path, *bodies: Any) -> list[httpx.Response]:
    """The replies of the server to POST /predict."""
    model = load(folder, threads=1)

    async def scenario() -> list[httpx.Response]:
        transport = httpx.ASGITransport(server.create_app(model))
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return [await client.post("/predict", content=json.dumps(body)) for body in bodies]

    return asyncio.run(scenario())


def test_the_server_answers_questions(bundles: Path) -> None:
    bodies = [{"texts": [PAIR]}, {"texts": [[QUESTION, CONTEXT]]}, {"texts": PAIR}, {"text": PAIR}]
    wanted = [expected(bundles, "question-answering", PAIR)]
    for reply in post(bundles / "question-answering", *bodies):
        assert (reply.status_code, reply.json()) == (200, {"answers": wanted})
    (both,) = post(bundles / "question-answering", {"texts": [["what?", "the plot"], PAIR]})
    assert [a["text"] in c for a, c in zip(both.json()["answers"], ("the plot", CONTEXT), strict=True)] == [True, True]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"texts": [PAIR, "who saw it?"]}, "texts[1] is not a pair of texts: give [question, context]"),
        ({"texts": [{**PAIR, "top_k": 2}]}, "texts[0] is not a pair of texts"),
        ({"texts": [[QUESTION, CONTEXT, CONTEXT]]}, "texts[0] is not a pair of texts"),
        ({"texts": [[QUESTION, 3]]}, "texts[0] is not a pair of texts"),
        ({"texts": [QUESTION, CONTEXT]}, "texts[0] is not a pair of texts"),
        ({"texts": [["", CONTEXT]]}, "texts[0] has an empty question"),
        ({"text": QUESTION}, "text is not a pair of texts"),
    ],
)
def test_the_server_refuses_what_is_no_question(bundles: Path, body: Any, words: str) -> None:
    (reply,) = post(bundles / "question-answering", body)
    assert reply.status_code == 422 and reply.json()["error"].startswith(words)
    assert CONTEXT not in reply.text  # no text in a message


def test_the_server_answers_with_entities(bundles: Path) -> None:
    long = TEXT + " we saw it last night" * 40
    (many,) = post(bundles / "token-classification", {"texts": [TEXT, "", long]})
    assert many.status_code == 200
    first, empty, windows = many.json()["answers"]
    assert first == expected(bundles, "token-classification", TEXT)
    assert first and empty == []
    assert windows == expected(bundles, "token-classification", long)
    assert max(e["end"] for e in windows) > len(long) / 2  # beyond the first window
    (wrong,) = post(bundles / "token-classification", {"texts": [["The", "film"]]})
    assert (wrong.status_code, wrong.json()) == (422, {"error": "texts[0] is a list, not a string"})


def test_the_server_names_the_task(bundles: Path) -> None:
    async def about(kind: str) -> Any:
        app = server.create_app(load(bundles / kind, threads=1))
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            return (await client.get("/")).json()

    assert asyncio.run(about("question-answering"))["task"] == "question-answering"
    tags = asyncio.run(about("token-classification"))["labels"]
    assert {"O", "B-thing"} <= set(tags)
