"""ModernBERT as a network of ours: like transformers' own, saved, exported, quantized, and refused where it must be."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from attar.compress.prune import ffn, heads
from attar.compress.quantize import int8
from attar.compress.quantize.plan import QuantPlan
from attar.distill import distil
from attar.distill.huggingface import load_transformers
from attar.distill.modern import Modern, far, turned
from attar.distill.student import Student
from attar.export import parity
from attar.export.bundle import in_memory
from attar.export.departure import departure
from attar.export.onnx import to_files
from attar.runtime.bench.paired import Ratio
from attar.runtime.errors import ModelError, SettingsError
from attar.runtime.tokenizer import pad
from tests.models import EDGE_TEXTS, MAX_LENGTH, inputs, make_checkpoint, make_student, sentences

TEXTS = (*sentences(20, seed=6).texts, *EDGE_TEXTS)
PER_TOKEN = QuantPlan(words="fp32").to_json()


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Global, local, local, global; a window of four tokens on either side."""
    return make_checkpoint(tmp_path_factory.mktemp("modern") / "base", "modernbert", layers=4)


@pytest.fixture(scope="module")
def student(base: Path) -> Student:
    return Student.load(base)


def rows(student: Student) -> tuple[torch.Tensor, torch.Tensor]:
    ids, mask = pad(student.encode(TEXTS).ids, student.pad_id)
    return torch.from_numpy(ids), torch.from_numpy(mask)


def test_layers_of_both_kinds_equal_transformers(base: Path, student: Student) -> None:
    assert student.encoder.shape.windows == (0, 4, 4, 0)
    assert student.encoder.shape.bases == (160_000.0, 10_000.0, 10_000.0, 160_000.0)
    ids, mask = rows(student)
    assert ids.shape[1] == MAX_LENGTH and not mask.all()
    with torch.no_grad():
        wanted = load_transformers("text-classification", base, {}).eval()(
            ids, attention_mask=mask, output_hidden_states=True
        )
        found = student.encoder(ids, mask)
    assert (found.heads["logits"] - wanted.logits).abs().max() < 1e-5 < wanted.logits.abs().max()
    assert len(found.hidden) == 4
    for mine, theirs in zip(found.hidden, wanted.hidden_states[1:], strict=True):
        assert (mine - theirs)[mask.bool()].abs().max() < 1e-5


def test_a_window_hides_what_is_far(student: Student) -> None:
    """A changed token moves those within four tokens of it, in a local layer alone."""
    layer, x = student.encoder.layers[1], torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(0))
    other = x.clone()
    other[0, 2] += 1
    with torch.no_grad():
        moved = [(layer(v, far(12, 4), torch.zeros(12, 4))) for v in (x, other)]
    changed = (moved[0] - moved[1]).abs().amax(-1)[0] > 1e-7
    assert changed.tolist() == [True] * 7 + [False] * 5


def test_turning_by_hand() -> None:
    """A quarter turn takes (1, 0) to (0, 1): numbers 0 and 2 of four are one pair, 1 and 3 the other."""
    x = torch.tensor([[[[1.0, 2.0, 0.0, 0.0]]]])
    found = turned(x, torch.tensor([[np.pi / 2, 0.0]]))
    assert torch.allclose(found, torch.tensor([[[[0.0, 2.0, 1.0, 0.0]]]]), atol=1e-6)


@pytest.mark.parametrize("kind", ["text-classification", "pairs", "token-classification", "embeddings", "multi-task"])
def test_the_exported_graph(kind: str, tmp_path: Path) -> None:
    given = make_student(tmp_path / "m", "modernbert", kind=kind, layers=3)
    texts = inputs(kind, TEXTS)
    found = parity.check(given, texts)
    assert found.max_abs < 1e-5
    assert departure(given, to_files(given), given.encode(texts), 1e-5) == ""


def test_pooling_by_the_mean(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "m", "modernbert", classifier_pooling="mean")
    given = Student.load(folder)
    ids, mask = rows(given)
    with torch.no_grad():
        wanted = load_transformers("text-classification", folder, {}).eval()(ids, attention_mask=mask).logits
        assert (given.encoder(ids, mask).heads["logits"] - wanted).abs().max() < 1e-5
    assert parity.check(given, TEXTS).max_abs < 1e-5


@pytest.mark.parametrize("plan", [None, PER_TOKEN], ids=["fp32", "int8"])
def test_answers_do_not_depend_on_neighbours(plan: Any, student: Student) -> None:
    model = in_memory(replace(student, plan=plan), threads=1)
    encoded = student.encode(TEXTS)
    ids, mask = pad(encoded.ids, student.pad_id)
    together = model.engine.run(ids, mask)["logits"]
    for i, row in enumerate(encoded.ids):
        for width in (len(row), min(MAX_LENGTH, len(row) + 7)):
            alone = model.engine.run(*pad([row], student.pad_id, width))["logits"]
            assert np.array_equal(alone[0], together[i]), (i, width)


def test_int8_per_token(student: Student) -> None:
    found = parity.check(replace(student, plan=QuantPlan().to_json()), TEXTS)
    assert 0 < found.scheme_max_probability < 0.05
    small, large = (sum(map(len, to_files(s).values())) for s in (replace(student, plan=PER_TOKEN), student))
    assert small < large
    context: Any = SimpleNamespace(
        some=lambda _: sentences(8).texts, score=lambda s: 50.0, speedup=lambda a, b: Ratio(2, 1.9, 2.1, 5)
    )  # fmt: skip
    result = int8.apply(student, int8.Settings(), context)
    assert QuantPlan.from_json(result.plan) == QuantPlan(bits=int8.bits_of("auto"))
    assert list(result.lineage[-1]["tried"]) == ["per_token"]


def test_saved_and_loaded(student: Student, tmp_path: Path) -> None:
    student.save(tmp_path / "s")
    again = Student.load(tmp_path / "s")
    assert again.digest() == student.digest() and again.encoder.shape == student.encoder.shape
    assert torch.equal(again.logits(TEXTS), student.logits(TEXTS))


@pytest.mark.parametrize("step", [heads, ffn], ids=["heads", "ffn"])
def test_pruning_is_refused(step: Any, student: Student) -> None:
    with pytest.raises(SettingsError, match=r"only a transformer of attar's own form .* this one is modern; drop the"):
        step.apply(student, step.Settings(), SimpleNamespace(train=sentences(8)))
    with pytest.raises(SettingsError, match="this one is modern"):
        distil.take_layers(student, (1, 3))


def test_the_config_of_the_hub(base: Path, student: Student, tmp_path: Path) -> None:
    """Published checkpoints say the same by other names than the library writes today."""
    changed = json.loads((base / "config.json").read_text())
    for name in ("layer_types", "rope_parameters"):
        changed.pop(name)
    changed |= {"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "local_rope_theta": 10000.0}
    assert altered(base, tmp_path / "m", changed).encoder.shape == student.encoder.shape


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"norm_bias": True}, "m: config.json sets norm_bias, which is not supported"),
        ({"hidden_activation": "silu"}, "m: hidden_activation 'silu' is not supported; known: gelu"),
        ({"rope_parameters": {"full_attention": {"rope_type": "yarn"}}}, "m: rotary positions 'yarn' of full"),
        ({"intermediate_size": 48}, "m: weights and config.json do not agree: size mismatch"),
    ],
)  # fmt: skip
def test_forms_that_are_not_supported(change: dict[str, Any], words: str, base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words):
        altered(base, tmp_path / "m", json.loads((base / "config.json").read_text()) | change)


def altered(base: Path, folder: Path, config: dict[str, Any]) -> Student:
    folder.mkdir()
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((base / name).read_bytes())
    (folder / "config.json").write_text(json.dumps(config))
    return Student.load(folder)


def test_the_network_is_ours(student: Student) -> None:
    assert isinstance(student.encoder, Modern)
