"""What scikit-learn 1.9.1, scipy 1.17.1 and seqeval 1.2.2 (numpy 2.4.6) find: python tests/golden/make_metrics.py"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp
from scipy.stats import bootstrap, spearmanr
from seqeval.metrics import f1_score as entity_f1
from seqeval.metrics.sequence_labeling import get_entities
from sklearn.metrics import f1_score, precision_recall_curve, roc_auc_score

RANDOM = np.random.default_rng(1)


def entities() -> dict[str, Any]:
    """Random tags, so that broken and adjacent entities occur; the last two sentences hold none, one finds one."""
    tags = ["O", "O", "B-PER", "I-PER", "B-LOC", "I-LOC"]
    truth = [[tags[i] for i in RANDOM.integers(0, 6, RANDOM.integers(1, 9))] for _ in range(12)] + [["O"], ["O", "O"]]
    found = [[t if RANDOM.random() < 0.8 else "O" for t in row] for row in truth[:-1]] + [["O", "B-PER"]]
    counts = []
    for actual, predicted in zip(truth, found, strict=True):
        a, p = set(get_entities(actual)), set(get_entities(predicted))
        counts.append([len(a & p), len(p), len(a)])
    nothing = entity_f1([["O"]], [["O"]], zero_division=0)
    return {"counts": counts, "f1": float(entity_f1(truth, found)), "nothing": float(nothing)}


def labels() -> dict[str, Any]:
    """Multi-label truth and prediction with scikit-learn's micro F1; thresholds by its precision-recall curve."""
    truth = RANDOM.random((40, 4)) < [0.5, 0.2, 0.05, 0.9]
    scores = np.round(np.clip(0.35 * truth + 0.65 * RANDOM.random(truth.shape), 0, 1), 2)
    best = []
    for column, right in zip(scores.T, truth.T, strict=True):
        precision, recall, _ = precision_recall_curve(right, column)
        best.append(float(np.max(2 * precision * recall / np.maximum(precision + recall, 1e-12))))
    micro = float(f1_score(truth, scores >= 0.5, average="micro"))
    return {"truth": truth.tolist(), "scores": scores.tolist(), "micro": micro, "best": best}


def correlations() -> list[dict[str, Any]]:
    cases = []
    for n, steps in ((2, 100), (7, 3), (30, 5), (50, 1000)):
        a, b = RANDOM.integers(0, steps, n), RANDOM.integers(0, steps, n)
        cases.append({"a": a.tolist(), "b": (a + b).tolist(), "rho": float(spearmanr(a, a + b).statistic)})
    return cases


def curves() -> list[dict[str, Any]]:
    cases = []
    for n, m, steps in ((1, 1, 2), (5, 9, 4), (40, 25, 10), (30, 30, 1000)):
        inside, outside = RANDOM.integers(0, steps, n) + steps // 4, RANDOM.integers(0, steps, m)
        truth = [1] * n + [0] * m
        area = float(roc_auc_score(truth, np.concatenate([inside, outside])))
        cases.append({"inside": inside.tolist(), "outside": outside.tolist(), "area": area})
    return cases


def temperatures() -> list[dict[str, Any]]:
    """Logits, their right classes, and the temperature with the least loss found by scipy."""
    cases = []
    for classes, scale in ((2, 1.0), (3, 6.0), (5, 0.3)):
        raw = RANDOM.normal(0, 1.5, (60, classes))
        targets = [int(RANDOM.choice(classes, p=np.exp(row - logsumexp(row)))) for row in raw]
        logits = np.round(scale * raw, 3)

        def loss(t: float, z: Any = logits, y: Any = targets) -> float:
            scaled = z / np.exp(t)
            return float(np.mean(logsumexp(scaled, axis=1) - scaled[np.arange(len(y)), y]))

        found = minimize_scalar(loss, bounds=np.log([0.05, 20]), method="bounded", options={"xatol": 1e-10})
        cases.append({"logits": logits.tolist(), "targets": targets, "temperature": float(np.exp(found.x))})
    return cases


def bounds() -> list[dict[str, Any]]:
    """Lower ends of scipy's paired percentile bootstrap, in points; with the bootstrap's own standard error."""
    n = 150
    teacher = np.round(np.where(RANDOM.random(n) < 0.7, 1.0, RANDOM.random(n)), 2)
    student = np.round(np.where(RANDOM.random(n) < 0.3, RANDOM.random(n), teacher), 2)
    actual = RANDOM.poisson(2, n)
    found = []
    for share in (0.9, 0.8):
        right = RANDOM.binomial(actual, share)
        found.append(np.stack([right, right + RANDOM.poisson(0.2, n), actual], 1))
    similarity = np.round(RANDOM.random(n) * 5, 1)
    scores = [np.stack([np.round(similarity + RANDOM.normal(0, s, n), 1), similarity], 1) for s in (0.5, 0.7)]

    def f1(counts: Any) -> Any:
        total = counts.sum(axis=0)
        return 200 * total[0] / (total[1] + total[2])

    measures = {
        "F1": (teacher, student, lambda s: 100 * s.mean()),
        "entity F1": (*found, f1),
        "Spearman": (*scores, lambda s: 100 * spearmanr(s[:, 0], s[:, 1]).statistic),
    }
    cases = []
    for measure, (before, after, value) in measures.items():

        def difference(rows: Any, b: Any = before, a: Any = after, v: Any = value) -> float:
            return float(v(a[rows]) - v(b[rows]))

        result = bootstrap(
            (np.arange(n),), difference, vectorized=False, n_resamples=20_000, confidence_level=0.9,
            method="percentile", rng=np.random.default_rng(2),
        )  # fmt: skip
        cases.append({
            "measure": measure, "teacher": before.tolist(), "student": after.tolist(),
            "bound": float(result.confidence_interval.low), "error": float(result.standard_error),
        })  # fmt: skip
    return cases


def main() -> None:
    record = {
        "entities": entities(),
        "labels": labels(),
        "spearman": correlations(),
        "auroc": curves(),
        "temperature": temperatures(),
        "bootstrap": bounds(),
    }
    Path(__file__).with_name("metrics.json").write_text(json.dumps(record, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
