"""What attar cannot work with ends in exit code 2 and one message with a remedy; nothing half-written is left."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from attar.cli import main
from tests.fixtures_bundle import make_tiny_bundle
from tests.models import make_checkpoint, sentences

RECIPE = """
name = "tiny"

[data]
train = "train.csv"
dev = 20
test = 30

[teacher]
model = "base"
epochs = 1
max_length = 32

[[step]]
use = "distill.distil"
layers = [1]
epochs = 1

[[step]]
use = "compress.quantize.int8"
"""

Refused = Callable[..., str]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/ (a fine-tuned classifier), bundle/, train.csv and recipe.toml; every test has its own copy."""
    folder = tmp_path_factory.mktemp("bad")
    make_checkpoint(folder / "base", layers=1, hidden=16, ffn=32, heads=2)
    make_tiny_bundle(folder / "bundle")
    found = sentences(200)
    rows = [f'"{text}",{label}' for text, label in zip(found.texts, found.labels or (), strict=True)]
    (folder / "train.csv").write_text("\n".join(["text,label", *rows]) + "\n")
    (folder / "recipe.toml").write_text(RECIPE)
    return folder


@pytest.fixture
def here(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a fresh copy of the material, in which relative names work."""
    shutil.copytree(material, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def refused(here: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Runs a command that must be refused, checks what is left, and returns the message."""

    def check(*command: object) -> str:
        before = {p for p in here.rglob("*") if p.is_file()}
        assert main([str(part) for part in command]) == 2
        found = capsys.readouterr()
        assert "Traceback" not in found.err
        lines = found.err.splitlines()
        errors = [line for line in lines if line.startswith("attar: error: ")]
        # Lines of progress may come before the message; nothing comes after it.
        assert errors == lines[-1:], found.err
        assert all(line.startswith(("[", "attar: ")) for line in lines), found.err
        after = set(here.rglob("*"))
        assert {p for p in after if p.is_file()} >= before
        assert not [p for p in after if p.suffix in {".part", ".old"}]
        assert not [p for p in here.glob("new/**/*") if p.name in {"student.json", "manifest.json", "stage.json"}]
        return errors[0].removeprefix("attar: error: ")

    return check


CONVERT = ("convert", "base", "--out", "new", "--data")
DISTILL = ("distill", "base", "--out", "new", "--data")
COMPRESS = ("compress", "base", "--teacher", "base", "--data", "train.csv", "--out", "new", "--recipe")
RUN = ("run", "recipe.toml", "--out", "new", "--data")
READERS = pytest.mark.parametrize("command", [CONVERT, DISTILL, RUN], ids=lambda c: c[0])


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


@pytest.mark.parametrize("verb", [CONVERT, DISTILL, RUN], ids=lambda c: c[0])
def test_a_model_folder_without_tokenizer(here: Path, refused: Refused, verb: tuple[str, ...]) -> None:
    (here / "base/tokenizer.json").unlink()
    message = refused(*verb, "train.csv")
    assert "base has no tokenizer.json; save the fast tokenizer" in message


@pytest.mark.parametrize("verb", [CONVERT, DISTILL, RUN], ids=lambda c: c[0])
def test_an_architecture_that_cannot_be_imported(here: Path, refused: Refused, verb: tuple[str, ...]) -> None:
    config = json.loads((here / "base/config.json").read_text())
    (here / "base/config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    message = refused(*verb, "train.csv")
    assert "architecture 'gpt2' in base cannot be imported; known: bert" in message


@pytest.mark.parametrize("damage", ["truncated", "missing", "no config", "config", "no folder"])
def test_a_damaged_model_folder(here: Path, refused: Refused, damage: str) -> None:
    weights, config = here / "base/model.safetensors", here / "base/config.json"
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "missing":
        weights.unlink()
    elif damage == "no config":
        config.unlink()
    elif damage == "config":
        config.write_text("{")
    else:
        shutil.rmtree(here / "base")
    assert "base" in refused(*CONVERT, "train.csv")


@pytest.mark.parametrize("verb", [("predict", "bundle", "a film"), ("inspect", "bundle"), ("verify", "bundle")])
@pytest.mark.parametrize("damage", ["truncated", "altered", "missing"])
def test_a_damaged_bundle(here: Path, refused: Refused, verb: tuple[str, ...], damage: str) -> None:
    model = here / "bundle/model.onnx"
    data = bytearray(model.read_bytes())
    if damage == "truncated":
        model.write_bytes(data[:-10])
    elif damage == "altered":
        data[len(data) // 2] ^= 1
        model.write_bytes(data)
    else:
        model.unlink()
    message = refused(*verb)
    assert "bundle/model.onnx" in message and "export it again" in message


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


TAKEN = [(v, o) for v in ("distill", "compress", "export", "convert") for o in ("file", "file/below", "folder")]


# A run writes beside what is in a folder and replaces only its own, so that folder is not taken for it.
@pytest.mark.parametrize(("verb", "out"), [("run", "file"), ("run", "file/below"), *TAKEN])
def test_an_out_that_is_taken(here: Path, refused: Refused, verb: str, out: str) -> None:
    """A file, a file in the way, or a folder of something else, which must not be replaced."""
    (here / "file").write_text("precious")
    (here / "folder").mkdir()
    (here / "folder/notes.txt").write_text("precious")
    command = {
        "run": "run recipe.toml",
        "distill": "distill base --data train.csv",
        "compress": "compress base --teacher base --data train.csv",
        "export": "export base",
        "convert": "convert base --data train.csv --allow-failed-gate",
    }[verb].split()
    message = refused(*command, "--out", out)
    assert "file" in message or "folder" in message
    assert "choose another --out" in message
    assert (here / "file").read_text() == (here / "folder/notes.txt").read_text() == "precious"


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
    message = refused("compress", "base", "--teacher", "other", "--data", "train.csv", "--out", "new")
    assert "ham, spam" in message and "give the teacher it was distilled from" in message


def test_dev_data_that_is_the_training_data(refused: Refused) -> None:
    assert "give other data" in refused(*DISTILL, "train.csv", "--dev", "train.csv")
