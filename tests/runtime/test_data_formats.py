"""CoNLL's token a line, SQuAD's nested JSON, and texts without labels for every task."""

import json
from pathlib import Path

import pytest

from attar.runtime.data import read_examples
from attar.runtime.errors import DataError


def write(path: Path, content: str) -> Path:
    path.write_bytes(content.encode())
    return path


CONLL = """-DOCSTART- -X- O

EU NNP B-ORG
rejects VBZ O
German JJ B-MISC

-DOCSTART- -X- O
New NNP B-LOC\r
York NNP I-LOC
"""


@pytest.mark.parametrize("separator", [" ", "\t", "   "])
@pytest.mark.parametrize("ending", [".conll", ".iob", ".bio", ".txt"])
def test_conll_is_a_token_a_line(tmp_path: Path, ending: str, separator: str) -> None:
    path = write(tmp_path / f"train{ending}", CONLL.replace(" ", separator))
    for where, split in ((path, None), (tmp_path, "train")):
        examples = read_examples(where, kind="token-classification", split=split)
        assert examples.texts == ("EU rejects German", "New York")
        assert examples.labels == (((0, 2, "ORG"), (11, 17, "MISC")), ((0, 8, "LOC"),))


def test_a_txt_without_labels_is_a_text_a_line_for_every_task(tmp_path: Path) -> None:
    path = write(tmp_path / "more.txt", "to New York\nback\n")
    for kind in ("text-classification", "regression", "token-classification", "embeddings"):
        assert read_examples(path, kind=kind, require_labels=False).texts == ("to New York", "back")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a B-x\nb\n", r"line 2: holds 'b' alone; write a token and its tag"),
        ("a NN B-x\n\nb O\n", r"line 3: 2 columns, but line 1 has 3"),
        ("-DOCSTART- O\n\n", "holds no example"),
        ("a O\n\nb x B-\u00a0x\n", "line 3: 4 columns"),
        ("a\tO\n\n \u00a0b\tO\nc d\tO\n", r"line 3: token 2, 'c d', holds white space"),
    ],
)
def test_conll_faults_name_the_line(tmp_path: Path, content: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_examples(write(tmp_path / "a.conll", content), kind="token-classification")


SQUAD = {
    "version": "v2.0",
    "data": [
        {
            "title": "Ada",
            "paragraphs": [
                {
                    "context": "Ada wrote it in 1843.",
                    "qas": [
                        {
                            "id": "1",
                            "question": "When?",
                            "answers": [{"text": "1843", "answer_start": 16}, {"text": "in 1843", "answer_start": 13}],
                            "is_impossible": False,
                        },
                        {"id": "2", "question": "Where?", "answers": [], "is_impossible": True},
                    ],
                }
            ],
        }
    ],
}


def test_nested_squad(tmp_path: Path) -> None:
    path = write(tmp_path / "dev.json", json.dumps(SQUAD))
    examples = read_examples(path, kind="question-answering")
    assert examples.texts == (("When?", "Ada wrote it in 1843."), ("Where?", "Ada wrote it in 1843."))
    assert examples.labels == ((("1843", 16), ("in 1843", 13)), ())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("1843.", "1844."), r"data 1, paragraphs 1, qas 1: the answer '1843' is not at 16, where '1844' stands"),
        (('"is_impossible": false', '"is_impossible": true'), r"qas 1: is_impossible is true, but it has answers"),
        (('"question": "Where?", ', ""), r"data 1, paragraphs 1, qas 2: the text in column 'question' is empty"),
        (('"qas"', '"questions"'), r"data 1, paragraphs 1: has no list of objects 'qas'"),
        (('"data"', '"rows"'), r"dev\.json: has no list of objects 'data'.*question, context and answers"),
    ],
)
def test_faults_of_nested_squad_name_the_place(tmp_path: Path, change: tuple[str, str], words: str) -> None:
    path = write(tmp_path / "dev.json", json.dumps(SQUAD).replace(*change))
    with pytest.raises(DataError, match=words):
        read_examples(path, kind="question-answering")
