"""The benchmark: statistics by hand, the protocol, real runs on tiny systems. No assertion on timing."""

import json
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from attar.runtime.bench.client import module_for
from attar.runtime.bench.coordinator import bench
from attar.runtime.bench.overhead import overhead
from attar.runtime.bench.paired import compare, compare_each, summarize, t95
from attar.runtime.bench.rounds import Plan
from attar.runtime.bench.texts import TEXTS
from attar.runtime.errors import AttarError, DataError, SettingsError
from attar.runtime.model import load
from tests.fixtures_bundle import LABELS, WORDS, make_tiny_bundle, tiny_tokenizer


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hardly any time is spent on measuring: nothing is asserted on it."""
    monkeypatch.setattr("attar.runtime.bench.coordinator.Plan", partial(Plan, seconds=0.01, pause=0.0))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return make_tiny_bundle(folder / "ours"), make_tiny_bundle(folder / "base")


def test_interval_by_hand() -> None:
    # Logarithms 0, 1, 2: mean 1, variance 1, t(2) = 4.303, so the margin is 4.303 / sqrt(3) = 2.4843.
    found = summarize([1.0, math.e, math.e**2])
    assert found.ratio == pytest.approx(math.e)
    assert math.log(found.low) == pytest.approx(1 - 2.4843, abs=1e-4)
    assert math.log(found.high) == pytest.approx(1 + 2.4843, abs=1e-4)
    assert found.rounds == 3


def test_interval_is_symmetric_in_the_two_systems() -> None:
    values = [1.5, 2.0, 1.7, 2.2]
    there, back = summarize(values), summarize([1 / v for v in values])
    assert there.ratio * back.ratio == pytest.approx(1)
    assert there.low * back.high == pytest.approx(1)


def test_equal_rounds_leave_no_width() -> None:
    found = summarize([2.0, 2.0, 2.0])
    assert [found.ratio, found.low, found.high] == pytest.approx([2, 2, 2])


@pytest.mark.parametrize(("freedom", "value"), [(1, 12.706), (8, 2.306), (30, 2.042), (40, 2.021), (120, 1.980)])
def test_t_table(freedom: int, value: float) -> None:
    assert t95(freedom) == pytest.approx(value, abs=2.5e-3)


def test_one_round_has_no_interval() -> None:
    with pytest.raises(SettingsError, match="2 rounds"):
        summarize([1.0])
    with pytest.raises(SettingsError, match="at least 2"):
        compare(lambda: None, lambda: None, rounds=1)


def test_compare_alternates_who_goes_first() -> None:
    calls: list[str] = []
    compare(lambda: calls.append("a"), lambda: calls.append("b"), rounds=4, warmup=0)
    assert "".join(calls) == "abbaabba"
    calls.clear()
    compare_each([(lambda: calls.append("a"), lambda: calls.append("b"))] * 2, 2, warmup=1)
    assert "".join(calls) == "abab" + "abba" + "baab"


def test_builtin_texts_vary_in_length() -> None:
    words = [len(text.split()) for text in TEXTS]
    assert 60 <= len(TEXTS) == len(set(TEXTS))
    assert min(words) == 3
    assert 35 <= max(words) <= 40


def test_overhead_of_the_facade(pair: tuple[Path, Path]) -> None:
    found = overhead(load(pair[0], threads=1), ["a good film", "bad"], rounds=3)
    assert 0 < found.low <= found.ratio <= found.high
    with pytest.raises(SettingsError, match="at least one text"):
        overhead(load(pair[0], threads=1), [])


def test_bench_of_two_bundles(pair: tuple[Path, Path]) -> None:
    ours, base = pair
    said: list[str] = []
    texts = ["a good film", "bad", "great film", "so dull", "half \ud83d"]
    labels = ["positive", "negative", "positive", "negative", "positive"]
    result = bench(ours, [base, base], texts, labels, rounds=3, threads=1, progress=said.append)
    record = json.loads(json.dumps(result.to_json()))
    for key in ("p50_ms", "p90_ms", "p99_ms", "throughput_per_s", "mean_tokens"):
        assert record[key] > 0
    for key in ("speedup_p50", "speedup_throughput"):
        assert 0 < record[key]["low"] <= record[key]["ratio"] <= record[key]["high"]
    assert [s["name"] for s in record["systems"]] == ["ours", "base", "base#3"]
    assert {"name", "kind", "p50_ms", "p90_ms", "p99_ms", "throughput_per_s", "batch"} < set(record["systems"][0])
    assert [(r["name"], r["metric"], r["rounds"]) for r in record["ratios"]] == [
        (name, metric, 3) for name in ("base", "base#3") for metric in ("p50", "throughput")
    ]
    assert record["speedup_p50"]["ratio"] == record["ratios"][0]["ratio"]
    # A text of unknown words gets equal logits, hence the first label.
    assert record["accuracy"] == {"measure": "accuracy", "bundle": 80.0, "baselines": {"base": 80.0, "base#3": 80.0}}
    assert (record["threads"], record["texts"]) == (1, 5)
    assert record["machine"]["cpu"]
    assert "interleaved" in record["how"]
    assert "round 3 of 3" in said
    assert "x the speed of base by p50" in result.table()


def test_baseline_with_other_labels_is_noted_and_not_judged(pair: tuple[Path, Path], tmp_path: Path) -> None:
    from attar.runtime.tasks.classification import TextClassification

    other = make_tiny_bundle(tmp_path / "other", task=TextClassification(("LABEL_0", "LABEL_1"), 16))
    result = bench(pair[0], [other], ["good"], ["positive"], rounds=2, threads=1)
    assert result.accuracy == {"measure": "accuracy", "bundle": 100.0, "baselines": {"other": None}}
    assert "other: label 'positive' was never seen in training" in result.notes[0]
    assert "not judged" in result.table()


def test_broken_baseline_is_a_clear_error(pair: tuple[Path, Path], tmp_path: Path) -> None:
    broken = make_tiny_bundle(tmp_path / "broken")
    (broken / "model.onnx").write_bytes(b"x")
    with pytest.raises(AttarError, match=r"^broken: .*model\.onnx was altered: it has 1 instead"):
        bench(pair[0], [broken], ["good"], rounds=2, threads=1)


def test_a_dead_worker_leaves_its_last_words(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("attar.runtime.bench.client.module_for", lambda _: "attar.no_such_worker")
    with pytest.raises(AttarError, match=r"ours died during 'load' \(exit 1\): .*attar\.no_such_worker"):
        bench(pair[0], [], ["good"], rounds=2, threads=1)


def test_impossible_settings_are_refused(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nothing to benchmark"):
        bench(pair[0], [tmp_path / "nowhere"], ["good"])
    with pytest.raises(SettingsError, match="rounds"):
        bench(pair[0], [], ["good"], rounds=1)
    with pytest.raises(SettingsError, match="threads"):
        bench(pair[0], [], ["good"], threads=0)
    with pytest.raises(DataError, match="at least one text"):
        bench(pair[0], [], [])
    with pytest.raises(DataError, match="1 texts but 2 labels"):
        bench(pair[0], [], ["good"], ["positive", "negative"])


def test_prints_of_libraries_do_not_reach_the_protocol() -> None:
    script = """
import os, sys
from attar.runtime.bench.protocol import serve
from attar.runtime.tasks.classification import Classification, TextClassification
class Loud:
    kind, task, settings = "loud", TextClassification(("x", "y")), (1, 2)
    def __init__(self): print("hello"); os.write(1, b"from C\\n")
    def use(self, setting): print("using", setting)
    def many(self, texts): print("many"); return [Classification("x", 1.0, {}) for _ in texts]
sys.exit(serve(Loud))
"""
    requests = [{"op": "tune", "texts": []}, {"op": "load"}]
    requests += [{"op": op, "texts": ["t", "u"], "seconds": 0.2} for op in ("tune", "latency", "throughput")]
    requests += [{"op": "evaluate", "texts": ["t", "u"], "labels": labels} for labels in (["x", "y"], ["x", "z"])]
    done = subprocess.run(
        [sys.executable, "-c", script],
        input="".join(json.dumps(r) + "\n" for r in [*requests, {"op": "stop"}]),
        capture_output=True,
        text=True,
        check=True,
    )
    early, loaded, tuned, single, whole, found, other, end = map(json.loads, done.stdout.splitlines())
    assert early == {"error": "the first request must be load"}
    assert loaded["kind"] == "loud"
    assert loaded["task"] == {"kind": "text-classification", "heads": [[2, "classes"]], "labels": ["x", "y"]}
    assert tuned["batch"] in (1, 2)
    assert len(single["ns"]) == len(single["busy"]) == 2
    assert whole["texts"] % 2 == 0 and whole["seconds"] >= 0.2
    assert (found, end) == ({"points": {"accuracy": 50.0}}, {})
    assert "label 'z' was never seen in training" in other["note"]
    assert "from C" in done.stderr


def test_worker_module_is_chosen_by_the_folder(pair: tuple[Path, Path], tmp_path: Path) -> None:
    assert module_for(pair[0]) == "attar.runtime.bench.worker"
    (tmp_path / "config.json").write_text("{}")
    assert module_for(tmp_path) == "attar.distill.bench_worker"


def test_bench_against_a_pytorch_folder(pair: tuple[Path, Path], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=len(WORDS),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=32,
        id2label=dict(enumerate(LABELS)),
        label2id={name: i for i, name in enumerate(LABELS)},
    )
    transformers.BertForSequenceClassification(config).save_pretrained(tmp_path)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tiny_tokenizer(), pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]"
    )
    tokenizer.save_pretrained(tmp_path)
    texts = ["a good film", "bad " * 40, "half \ud83d"]
    result = bench(pair[0], [tmp_path], texts, ["positive", "negative", "negative"], rounds=2, threads=1)
    kind = result.systems[1].kind
    assert kind.startswith("PyTorch") and "fp32 eager" in kind
    assert result.accuracy is not None and result.accuracy["baselines"][tmp_path.name] is not None
