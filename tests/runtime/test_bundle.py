"""A bundle proves itself: one altered byte anywhere, a missing file, a link or a path out of it is refused."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import attar
from attar.export.bundle import write
from attar.runtime.bundle import MANIFEST, SEAL, Bundle
from attar.runtime.errors import BundleError, DataError
from attar.runtime.model import Model
from tests.fixtures_bundle import make_tiny_bundle
from tests.models import LABELS, MAX_LENGTH, make_student, sentences

NAMES = ("model.onnx", "tokenizer.json", "golden.json", "README.md", MANIFEST, SEAL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sound bundle; who alters it puts it right again."""
    return make_tiny_bundle(tmp_path_factory.mktemp("bundle") / "whole")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle that a test may damage."""
    return make_tiny_bundle(tmp_path / "bundle")


def refused_with(path: Path, data: bytes) -> bool:
    """Whether the bundle is refused while the file holds other bytes; the file is put right afterwards."""
    old = path.read_bytes()
    path.write_bytes(data)
    try:
        Bundle.read(path.parent)
    except BundleError as error:
        return path.name in str(error)
    finally:
        path.write_bytes(old)
    return False


def flipped(data: bytes, position: int, bits: int) -> bytes:
    return data[:position] + bytes([data[position] ^ bits]) + data[position + 1 :]


@pytest.mark.parametrize("name", NAMES)
def test_a_flipped_byte_is_found(name: str, whole: Path) -> None:
    data, rng = (whole / name).read_bytes(), random.Random(name)
    positions = {0, len(data) - 1, *(rng.randrange(len(data)) for _ in range(40))}
    for position in sorted(positions):
        assert refused_with(whole / name, flipped(data, position, rng.randrange(1, 256))), position
    Bundle.read(whole)


@given(st.data(), st.sampled_from(NAMES), st.integers(1, 255))
def test_any_flipped_byte_is_found(whole: Path, data: st.DataObject, name: str, bits: int) -> None:
    content = (whole / name).read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    assert refused_with(whole / name, flipped(content, position, bits))


@pytest.mark.parametrize("name", NAMES)
def test_truncated_and_longer_files_are_found(name: str, whole: Path) -> None:
    data = (whole / name).read_bytes()
    for other in (b"", data[:-1], data[: len(data) // 2], data + b"\n", data + data):
        assert refused_with(whole / name, other)


@pytest.mark.parametrize("name", NAMES)
def test_missing_file(name: str, bundle: Path) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing: the bundle is not complete"):
        Bundle.read(bundle)


@pytest.mark.parametrize("name", NAMES)
def test_link(name: str, bundle: Path, tmp_path: Path) -> None:
    (bundle / name).rename(tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=rf"{name} is a symbolic link"):
        Bundle.read(bundle)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no bundle at .*nothing"):
        Bundle.read(tmp_path / "nothing")


def reseal(bundle: Path, raw: bytes) -> None:
    """Another manifest whose own hash is right: what an attacker or a newer attar would write."""
    (bundle / MANIFEST).write_bytes(raw)
    (bundle / SEAL).write_text(f"{hashlib.sha256(raw).hexdigest()}  {MANIFEST}\n")


def change(bundle: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    record = json.loads((bundle / MANIFEST).read_text())
    edit(record)
    reseal(bundle, json.dumps(record).encode())


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", "..", ".", "", "..\\secret", "./model.onnx"])
def test_a_name_that_leaves_the_bundle(name: str, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    entry = {"sha256": hashlib.sha256(b"secret").hexdigest(), "size": 6}
    change(bundle, lambda r: r["files"].update({name: entry}))
    with pytest.raises(BundleError, match="names a file outside its folder"):
        Bundle.read(bundle)


@pytest.mark.parametrize("schema", [2, 99, None, "1"])
def test_future_schema(schema: object, bundle: Path) -> None:
    change(bundle, lambda r: r.update(schema=schema))
    with pytest.raises(BundleError, match=rf"schema {schema!r}, this attar reads 1: upgrade attar"):
        Bundle.read(bundle)


def test_unknown_task(bundle: Path) -> None:
    change(bundle, lambda r: r["task"].update(kind="telepathy"))
    with pytest.raises(BundleError, match="task 'telepathy' is unknown"):
        Bundle.read(bundle)


@pytest.mark.parametrize("field", ["task", "files", "limits", "pad_id", "lineage", "gate"])
def test_manifest_without_a_field(field: str, bundle: Path) -> None:
    change(bundle, lambda r: r.pop(field))
    with pytest.raises(BundleError, match=field):
        Bundle.read(bundle)


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer.json", "golden.json"])
def test_manifest_that_lists_too_little(name: str, bundle: Path) -> None:
    change(bundle, lambda r: r["files"].pop(name))
    with pytest.raises(BundleError, match=f"lists no {name}"):
        attar.load(bundle)


def test_golden_inputs_are_replayed(bundle: Path) -> None:
    path = bundle / "golden.json"
    record = json.loads(path.read_text())
    record["outputs"][0]["logits"][0] = record["outputs"][0]["logits"][0][::-1]
    data = json.dumps(record).encode()
    path.write_bytes(data)
    entry = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    change(bundle, lambda r: r["files"].update({"golden.json": entry}))
    with pytest.raises(BundleError, match="golden inputs do not reproduce"):
        attar.load(bundle)


# --- a real export, loaded as users do ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("exported")
    write(make_student(folder / "bert"), folder / "bundle", name="tiny")
    return attar.load(folder / "bundle", threads=1)


def test_answers(model: Model) -> None:
    texts = sentences(20).texts
    answers = model(texts)
    assert [a.label for a in answers] == [LABELS[i] for i in model.logits(texts).argmax(1)]
    for text, answer in zip(texts, answers, strict=True):
        assert model(text) == answer
        assert answer.label in LABELS and answer.score == max(answer.scores.values())
        assert sum(answer.scores.values()) == pytest.approx(1)
        assert not answer.truncated
    assert model([]) == []


def test_long_texts_say_that_they_were_cut(model: Model) -> None:
    fits, longer = "a " * (MAX_LENGTH - 2), "a " * (MAX_LENGTH - 1)
    assert [a.truncated for a in model([fits, longer, longer * 9])] == [False, True, True]
    assert model(fits).scores == model(longer).scores
    assert repr(model(longer)).endswith(", truncated=True)")


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u0000", "\ud83c", "東京 🎉"])
def test_odd_texts_are_answered(text: str, model: Model) -> None:
    answer = model(text)
    assert answer == model([text])[0]
    assert np.isfinite(answer.score) and not answer.truncated


@pytest.mark.parametrize("wrong", [None, 3, 1.5, ["a", None], ["a", b"b"], [["a"]]])
def test_what_is_no_text_is_refused(wrong: Any, model: Model) -> None:
    with pytest.raises(DataError, match=r"expected a text|is a \w+, not a string"):
        model(wrong)
