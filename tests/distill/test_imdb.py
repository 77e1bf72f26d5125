"""Sentences of film reviews: cut by a plain rule, drawn by a seed, without the half that holds test data."""

from pathlib import Path

import pytest

from attar.distill.data import assets, imdb
from attar.runtime.errors import AssetError


def test_reviews_are_cut_at_breaks_and_ends() -> None:
    text = 'A first sentence, of six words!  Then<br /><br />a "second" one that\tgoes on (and on). No. Short one here.'
    assert imdb.cut(text) == ["A first sentence, of six words!", 'a "second" one that goes on (and on).']
    assert imdb.cut("word " * 36) == [] and len(imdb.cut("word " * 35)) == 1


def write(folder: Path, rows: list[tuple[str, str]]) -> Path:
    lines = [f'"{text}",1,{source}\r\n' for text, source in rows]
    (folder / imdb.FILE).write_text("text,label,source\r\n" + "".join(lines), encoding="utf-8", newline="")
    return folder


def test_a_seeded_draw_of_one_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reviews = [(f"This is the review of film {i}. It was said of all films here.", "imdb") for i in range(20)]
    folder = write(tmp_path, [*reviews, ("a sentence that the raters also saw .", "rotten_tomatoes")])
    monkeypatch.setattr(imdb, "COUNT", 21)  # twenty of their own, and the one that comes in all of them
    found = imdb.drawn(folder)
    assert found.labels is None
    assert set(found.texts) == {f"This is the review of film {i}." for i in range(20)} | {
        "It was said of all films here."
    }
    monkeypatch.setattr(imdb, "COUNT", 5)
    assert imdb.drawn(folder).texts == imdb.drawn(folder).texts
    monkeypatch.setattr(imdb, "COUNT", 22)
    with pytest.raises(AssetError, match="holds 21 sentences, fewer than the 22"):
        imdb.drawn(folder)


def test_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / imdb.FILE).write_text("review,stars\n", encoding="utf-8")
    with pytest.raises(AssetError, match="has no columns text and source"):
        imdb.drawn(tmp_path)


@pytest.mark.assets
def test_the_real_reviews() -> None:
    try:
        found = assets.imdb_sentences()
    except AssetError as error:
        pytest.skip(str(error))
    assert len(found) == len(set(found.texts)) == 32_000
    assert not any("<br" in text or "\n" in text for text in found.texts)
