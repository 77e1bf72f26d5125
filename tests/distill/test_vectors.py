"""Word vectors from files, and the static student that starts from them: by hand on a vocabulary of letters."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from attar.distill.data.vectors import Vectors, read_vectors
from attar.distill.student import Student
from attar.distill.students import static
from attar.runtime.data import Examples
from attar.runtime.errors import AssetError, DataError
from tests.models import make_student, tokenizer

GLOVE = "film 1 0 2\n. . 0.5 -1e-1 3\nfi 0 4 0\nFILM 9 9 9\n"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("vectors") / "bert", layers=1)


def test_text_files_of_glove_and_word2vec(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(GLOVE)
    found = read_vectors(str(tmp_path / "a.txt"))
    assert found.words == ("film", ". .", "fi", "FILM")
    np.testing.assert_array_equal(found.table, np.array([[1, 0, 2], [0.5, -0.1, 3], [0, 4, 0], [9, 9, 9]], "f4"))
    # word2vec and fastText begin with the counts, and end lines with a blank; \x85 ends a line elsewhere.
    (tmp_path / "b.vec").write_text("2 3\na\x85b 1 2 3 \nb 4 5 6 \r\n", newline="")
    found = read_vectors(str(tmp_path / "b.vec"))
    assert found.words == ("a\x85b", "b") and found.table.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize("ending", ["txt", "parquet"])
def test_a_folder_of_an_array_and_its_words(ending: str, tmp_path: Path) -> None:
    np.save(tmp_path / "table.npy", np.array([[1, 2], [3, 4]], "f8"))
    if ending == "txt":
        (tmp_path / "words.txt").write_text("film\nplot\n")
    else:
        import pyarrow
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table({"index": ["film", "plot"]}), tmp_path / "words.parquet")
    found = read_vectors(str(tmp_path))
    assert found.words == ("film", "plot") and found.table.tolist() == [[1, 2], [3, 4]]
    assert found.table.dtype == np.float32
    np.save(tmp_path / "table.npy", np.zeros((3, 2)))
    with pytest.raises(DataError, match=r"float64 in the shape \(3, 2\), and words.* 2 words; give a vector of floats"):
        read_vectors(str(tmp_path))
    (tmp_path / "table.npy").write_bytes(b"no array")
    with pytest.raises(DataError, match=r"table\.npy: is no array of numbers"):
        read_vectors(str(tmp_path))
    (tmp_path / "table.npy").unlink()
    with pytest.raises(DataError, match=r"holds 0 \.npy and 1 \.parquet or \.txt; one array"):
        read_vectors(str(tmp_path))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("a 1 2\nb 1\n", "line 2: is not a word and 2 numbers; mend it"),
        ("a 1 2\nb 1 x\n", r"line 2: is not a word and 2 numbers \(could not convert"),
        ("word\nother\n", "line 1: is not a word and its numbers; mend it"),
        ("a 1 2\n\n", "line 2: is not a word and 2 numbers"),
        ("a 1 nan\n", "not all of them finite numbers"),
        ("", "the vectors are none"),
        ("2 3\n", "the vectors are none"),
    ],
)
def test_text_files_that_are_refused(content: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(content)
    with pytest.raises(DataError, match=words):
        read_vectors(str(tmp_path / "a.txt"))


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no such file or folder of vectors"):
        read_vectors(str(tmp_path / "absent.txt"))
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9 1 2\n")
    with pytest.raises(DataError, match=r"cannot be read .* give GloVe's text format in UTF-8"):
        read_vectors(str(tmp_path / "latin.txt"))
    with pytest.raises(AssetError, match="no vectors 'asset:glove'; the known ones are asset:glove-6b-50d"):
        read_vectors("asset:glove")


def test_pieces_start_from_words_by_hand(given: Student) -> None:
    # "film" is a piece; "fx" and "fyx" are not, and are spelled f ##x and f ##y ##x.
    words = ("film", "fx", "fyx", "FILM", "東京")
    table = np.array([[1, 0], [2, 4], [4, 2], [9, 9], [5, 5]], "f4")
    found = static.from_words(given, Vectors(words, table))
    ids = json.loads(given.tokenizer)["model"]["vocab"]
    assert found.shape == (len(ids), 2)
    assert found[ids["film"]].tolist() == [1, 0]  # the first of those that are read alike
    assert found[ids["f"]].tolist() == found[ids["##x"]].tolist() == [3, 3]
    assert found[ids["##y"]].tolist() == [4, 2]
    assert found[ids["[UNK]"]].tolist() == [5, 5]  # two signs of it, each with the vector of the word
    everything = torch.tensor([[1, 0], [3, 3], [3, 3], [4, 2], [5, 5.0]]).mean(0)
    assert torch.allclose(found[ids["[CLS]"]], everything) and torch.allclose(found[ids["plot"]], everything)


def test_files_with_padding_and_truncation_are_read_without(given: Student) -> None:
    words = tokenizer()
    words.enable_padding(length=8)
    words.enable_truncation(max_length=1)
    vectors = Vectors(("film", "fyx"), np.array([[1, 0], [4, 2]], "f4"))
    padded = static.from_words(replace(given, tokenizer=words.to_str().encode()), vectors)
    assert torch.equal(padded, static.from_words(given, vectors))


def test_a_student_starts_at_the_vectors_turned_and_scaled(given: Student, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("film 3 0 1\nplot 0 4 1\nscene 1 1 1\n")
    settings = static.Settings(width=8, hidden=4, vectors=str(tmp_path / "a.txt"))
    over: Any = SimpleNamespace(train=Examples(("a film",), None, "texts"))
    student = static.apply(given, settings, over)
    words = student.encoder.words.weight.detach()
    assert words.shape[1] == student.encoder.shape.width == 3  # no wider than the vectors are
    ids = json.loads(given.tokenizer)["model"]["vocab"]
    film, plot, scene = (words[ids[name]] for name in ("film", "plot", "scene"))
    # Distances of 5, 5^0.5 and 10^0.5 stay in proportion.
    assert ((film - plot).norm() / (film - scene).norm()).item() == pytest.approx(5**0.5, rel=1e-4)
    assert ((plot - scene).norm() / (film - scene).norm()).item() == pytest.approx(2**0.5, rel=1e-4)
    assert words.pow(2).mean().item() == pytest.approx(1, rel=1e-4)
    assert torch.isfinite(student.logits(["a film", "", "unheard of"])).all()
    (tmp_path / "a.txt").write_text("unheard 3 0 1\n")
    with pytest.raises(DataError, match="none of their words is a piece of the student's tokenizer"):
        static.apply(given, settings, over)


@pytest.mark.slow
@pytest.mark.assets
def test_the_real_vectors() -> None:
    try:
        found = read_vectors("asset:glove-6b-50d")
    except AssetError as error:
        pytest.skip(str(error))
    assert found.table.shape == (400_000, 50) and len(set(found.words)) == 400_000
    assert found.words[:3] == ("the", ",", ".")
    # The first numbers of the first line of glove.6B.50d.txt as it was published.
    assert found.table[0, :4].tolist() == pytest.approx([0.418, 0.24968, -0.41242, 0.1217], abs=1e-6)
