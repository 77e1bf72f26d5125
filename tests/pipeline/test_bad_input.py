"""Data, recipes and flags that attar cannot work with end in exit code 2 and one message with a remedy."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.pipeline.refusals import COMPRESS, CONVERT, DISTILL, READERS, RECIPE, RUN, Refused


@READERS
def test_a_missing_file(refused: Refused, command: tuple[str, ...]) -> None:
    assert "none.csv: there is no such file" in refused(*command, "none.csv")


@READERS
def test_a_wrong_column(here: Path, refused: Refused, command: tuple[str, ...]) -> None:
    (here / "wrong.csv").write_text("body,label\na film,positive\n")
    message = refused(*command, "wrong.csv")
    assert "wrong.csv: has no text column" in message and "'body'" in message


def test_a_column_that_is_named_and_missing(refused: Refused) -> None:
    assert "has no column 'stars'; its columns are" in refused(*CONVERT, "train.csv", "--label-column", "stars")


@READERS
def test_an_empty_text(here: Path, refused: Refused, command: tuple[str, ...]) -> None:
    (here / "empty.csv").write_text("text,label\na film,positive\n  ,negative\n")
    message = refused(*command, "empty.csv")
    assert "empty.csv: line 3: the text in column 'text' is empty; fill it in" in message


@READERS
def test_not_utf8(here: Path, refused: Refused, command: tuple[str, ...]) -> None:
    (here / "latin.csv").write_bytes("text,label\nun café,positive\n".encode("latin-1"))
    message = refused(*command, "latin.csv")
    assert "latin.csv: not UTF-8: byte 0xe9" in message and "iconv" in message


def test_one_class_only(here: Path, refused: Refused) -> None:
    lines = (here / "train.csv").read_text().splitlines()
    (here / "one.csv").write_text("\n".join(line for line in lines if "negative" not in line))
    message = refused(*RUN, "one.csv")
    assert "one.csv" in message and "at least two" in message


def test_a_dataset_smaller_than_a_batch(here: Path, refused: Refused) -> None:
    (here / "few.csv").write_text("\n".join((here / "train.csv").read_text().splitlines()[:70]))
    message = refused(*RUN, "few.csv")
    assert "fewer than a batch of 32; add data or lower batch_size" in message


def test_a_dataset_too_small_to_be_split(here: Path, refused: Refused) -> None:
    (here / "few.csv").write_text("\n".join((here / "train.csv").read_text().splitlines()[:5]))
    assert "give more data" in refused(*RUN, "few.csv")
    (here / "few.csv").write_text("\n".join((here / "train.csv").read_text().splitlines()[:2]))
    assert "give more data" in refused(*CONVERT, "few.csv", "--int8")


@pytest.mark.parametrize("verb", ["distill", "compress", "export", "convert", "run"])
def test_a_label_that_training_never_saw(here: Path, refused: Refused, verb: str) -> None:
    (here / "dev.csv").write_text("text,label\na lovely film,positive\na dull plot,negative\na scene,mixed\n")
    (here / "two.toml").write_text(RECIPE.replace("dev = 20\ntest = 30", 'dev = "dev.csv"\ntest = "dev.csv"'))
    command = {
        "distill": [*DISTILL, "train.csv", "--dev", "dev.csv"],
        "compress": ["compress", "base", "--teacher", "base", "--data", "train.csv", "--dev", "dev.csv"],
        "export": ["export", "base", "--teacher", "base", "--data", "dev.csv"],
        "convert": [*CONVERT, "dev.csv"],
        "run": ["run", "two.toml"],
    }[verb]
    message = refused(*command, *([] if "--out" in command else ["--out", "new"]))
    assert "'mixed'" in message and "dev.csv" in message and "never seen in training" in message


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('name = "tiny"', 'name = "tiny"\ncolour = 1', "has no key 'colour'; known: bench, data"),
        ('name = "tiny"', "", "lacks 'name'"),
        ("epochs = 1\nmax_length", "epoch = 1\nmax_length", "[teacher] has no setting 'epoch'; known: "),
        ("dev = 20", "development = 20", "[data] has no setting 'development'; known: train"),
        ("layers = [1]", "layer = [1]", "step 1 (distill.distil) has no setting 'layer'; known: layers"),
        ("distill.distil", "distill.distilll", "step 'distill.distilll' is unknown"),
        ("distill.distil", "magic", "step 'magic' is unknown"),
        ("distill.distil", "distill.student", "is not a step"),
        ('use = "compress.quantize.int8"', "bits = 8", "step 2 lacks 'use'"),
        ('use = "compress.quantize.int8"', 'use = "compress.quantize.int8"\nbits = 3', "bits must be 7 or 8"),
        ("[data]", "[data", "is not valid TOML"),
    ],
)
@pytest.mark.parametrize("verb", ["run", "distill"])
def test_a_wrong_recipe(here: Path, refused: Refused, verb: str, old: str, new: str, words: str) -> None:
    assert old in RECIPE
    (here / "wrong.toml").write_text(RECIPE.replace(old, new, 1))
    command = ["run", "--out", "new"] if verb == "run" else [*DISTILL, "train.csv", "--recipe"]
    assert words in refused(*command, "wrong.toml")


def test_a_layer_that_the_teacher_lacks(here: Path, refused: Refused) -> None:
    (here / "wrong.toml").write_text(RECIPE.replace("layers = [1]", "layers = [9]"))
    assert "layers: 9 is not one of the 1 layers" in refused(*DISTILL, "train.csv", "--recipe", "wrong.toml")


@pytest.mark.parametrize("verb", ["run", "distill", "compress"])
def test_a_missing_recipe(refused: Refused, verb: str) -> None:
    command = {
        "run": ["run", "none.toml", "--out", "new"],
        "distill": [*DISTILL, "train.csv", "--recipe", "none.toml"],
        "compress": [*COMPRESS, "none.toml"],
    }[verb]
    assert "no recipe at none.toml; the shipped ones are in recipes/" in refused(*command)


def test_a_recipe_without_steps_for_the_verb(here: Path, refused: Refused) -> None:
    head, distil, int8 = RECIPE.split("[[step]]")
    (here / "a.toml").write_text(f"{head}[[step]]{int8}")
    (here / "b.toml").write_text(f"{head}[[step]]{distil}")
    assert "has no distill step before" in refused(*DISTILL, "train.csv", "--recipe", "a.toml")
    assert "has no compress step" in refused(*COMPRESS, "b.toml")


@pytest.mark.parametrize(
    ("flag", "value", "words"),
    [
        ("--margin", "-1", "margin must be above 0 and below 100 points, not -1.0"),
        ("--margin", "nan", "margin must be above 0"),
        ("--confidence", "1.5", "confidence must be at least 0.5 and below 1, not 1.5"),
        ("--max-length", "0", "max_length must be between 3 and the model's 48 tokens, not 0"),
        ("--max-length", "4096", "max_length must be between 3 and the model's 48 tokens, not 4096"),
    ],
)
def test_an_impossible_number(refused: Refused, flag: str, value: str, words: str) -> None:
    assert words in refused(*CONVERT, "train.csv", f"{flag}={value}")


def test_export_needs_data_and_teacher_together(refused: Refused) -> None:
    assert "both --data and --teacher" in refused("export", "base", "--data", "train.csv", "--out", "new")
    assert "both --data and --teacher" in refused("export", "base", "--teacher", "base", "--out", "new")


def test_a_teacher_of_another_task(here: Path, refused: Refused) -> None:
    shutil.copytree(here / "base", here / "other")
    config = json.loads((here / "base/config.json").read_text())
    (here / "other/config.json").write_text(json.dumps(config | {"id2label": {"0": "ham", "1": "spam"}}))
    for verb in ("compress", "export"):
        message = refused(verb, "base", "--teacher", "other", "--data", "train.csv", "--out", "new")
        assert "ham, spam" in message and "give the teacher it was distilled from" in message


@pytest.mark.parametrize("verb", ["distill", "run"])
def test_data_with_other_labels_than_the_fine_tuned_teacher(here: Path, refused: Refused, verb: str) -> None:
    rows = (here / "train.csv").read_text().replace(",positive", ",spam").replace(",negative", ",ham")
    (here / "mail.csv").write_text(rows)
    (here / "ready.toml").write_text(RECIPE.replace("epochs = 1\nmax", "fine_tuned = true\nmax"))
    command = (
        (*DISTILL, "mail.csv") if verb == "distill" else ("run", "ready.toml", "--out", "new", "--data", "mail.csv")
    )
    message = refused(*command)
    assert "mail.csv" in message and ": its labels (ham, spam) are not those of the teacher" in message
    assert "(negative, positive), which does not know 'ham'; give data with the teacher's labels" in message


def test_dev_data_that_is_the_training_data(refused: Refused) -> None:
    assert "give other data" in refused(*DISTILL, "train.csv", "--dev", "train.csv")
