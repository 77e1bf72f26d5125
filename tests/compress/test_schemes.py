"""What the table of benchmarks/schemes.py says of a model, and how it deals with other quantizers."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from attar.compress.quantize.plan import QuantPlan
from attar.distill.student import Student
from attar.export.bundle import in_memory
from attar.export.onnx import to_onnx
from attar.runtime.bench.paired import Ratio
from attar.runtime.errors import AttarError
from attar.runtime.model import Model
from attar.runtime.tokenizer import Ids
from benchmarks import schemes_peers as peers
from benchmarks.schemes_table import HEADER, Failure, Invariance, Row, Speed, invariance, speeds
from tests.models import MAX_LENGTH, make_student, sentences

TEXTS = sentences(20).texts


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Student:
    return make_student(tmp_path_factory.mktemp("schemes"))


class Fake:
    """An engine whose first output is the batch's count of rows or columns, and whose second is always the same."""

    name, at_once = "fake", 1

    def __init__(self, axis: int, other: float) -> None:
        self.axis, self.other = axis, other

    def run(self, ids: Ids, mask: Ids, types: Ids | None = None) -> Mapping[str, NDArray[np.float32]]:
        return {"logits": np.tile(np.array([ids.shape[self.axis], self.other], np.float32), (len(ids), 1))}


def with_engine(student: Student, engine: Fake) -> Model:
    model = in_memory(student, threads=1)
    model.engine = engine
    return model


def test_int8_by_token_never_moves_and_is_told_so(student: Student) -> None:
    model = in_memory(replace(student, plan=QuantPlan().to_json()), threads=1)
    assert invariance(model, TEXTS) == Invariance(0.0, 0, 20)


def test_what_depends_on_neighbours_is_told(student: Student) -> None:
    # 20 texts come in batches of 16 and 4: the first output grows from 1 to 16, and beats 4.5 in the larger batch.
    assert invariance(with_engine(student, Fake(0, 4.5)), TEXTS) == Invariance(15.0, 16, 20)


def test_what_depends_on_padding_is_told(student: Student) -> None:
    model = with_engine(student, Fake(1, MAX_LENGTH - 0.5))
    shortest = min(len(ids) for ids in model.task.encode(model.tokenizer, TEXTS).ids)
    # Padded to the longest input the first output beats the second, whatever the text.
    assert invariance(model, TEXTS) == Invariance(MAX_LENGTH - shortest, 20, 20)


def test_speed_is_of_all_texts_at_once_and_one_by_one(student: Student) -> None:
    model = in_memory(student, threads=1)
    single, throughput = speeds(model, model, TEXTS, 3, 2)
    assert single.value > 0 and throughput.value > 0
    assert single.ratio.rounds == throughput.ratio.rounds == 2


def test_lines_have_a_cell_for_every_column() -> None:
    single, batch = Speed(1.234, Ratio(2.0, 1.9, 2.1, 9)), Speed(812.4, Ratio(1.5, 1.25, 1.8, 9))
    row = Row("int8", 96.444, -0.0022, single, batch, 17.61, Invariance(0.83, 2, 128))
    assert row.line() == (
        "| int8 | 96.44 | 0.00 | 1.23 | 2.00 [1.90, 2.10] | 812 | 1.50 [1.25, 1.80] | 17.6 | 0.83 | 2 of 128 |"
    )
    still = replace(row, invariance=Invariance(0.0, 0, 128))
    assert still.line().endswith("| 17.6 | 0 | 0 of 128 |")
    failure = Failure("nncf", "does not install: a | b").line()
    assert failure.startswith("| nncf | does not install: a / b |")
    head = HEADER.splitlines()[0]
    assert row.line().count("|") == failure.count("|") == head.count("|")


def test_every_peer_is_pinned_and_named_with_its_version() -> None:
    assert {"nncf", "neural-compressor", "nvidia-modelopt", "onnxruntime", "optimum-onnx"} <= {*peers.known()}
    for name in peers.known():
        words = [word for command in peers.installs(name) for word in command]
        assert all("==" in word for word in words if not word.startswith((":", "-"))), name
        assert peers.label(name).startswith(f"{name} "), name
        assert peers.label(name).split()[1][0].isdigit(), name
    assert peers.installs("optimum-onnx")[0] == ["--only-binary", ":all:", "torch==2.13.0"]
    assert ": static int8" in peers.label("nncf")


def test_a_peer_gets_the_calibration_texts_one_array_each(student: Student, tmp_path: Path) -> None:
    rows = [[2, 5, 3], [2, 7, 8, 3]]
    peers.request(tmp_path, to_onnx(student), rows)
    with np.load(tmp_path / peers.CALIBRATION) as found:
        assert [found[name].tolist() for name in found.files] == rows


def test_a_peer_that_fails_says_why_in_its_last_line(tmp_path: Path) -> None:
    code = "import sys; print('much talk', file=sys.stderr); sys.exit('no kernel for this')"
    with pytest.raises(AttarError, match=r"^fails: no kernel for this$"):
        peers.run([sys.executable, "-c", code], "fails", tmp_path)
