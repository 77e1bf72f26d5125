"""Measures: what each example contributes ("statistics") in, one number out. Accuracy, F1s, Spearman, calibration.

A measure has a name, and its statistics a form, so that the gate can resample examples without knowing the task:

accuracy, exact match, recall@k   bool (N,)       right or not; the measure is the share that is right
F1                                numbers (N,)    0 to 1; the mean, as SQuAD has it
entity F1, micro F1               numbers (N, 3)  true positives, predicted, actual; the F1 of their sums
Spearman                          numbers (N, 2)  predicted, actual; their rank correlation

A name may begin with that of a head, as in "slots: entity F1", which does not change the formula.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attar.runtime.errors import DataError

Form = Literal["right", "mean", "counts", "pairs"]
Doubles = NDArray[np.float64]

_FORMS: dict[str, Form] = {
    "accuracy": "right",
    "exact match": "right",
    "recall@k": "right",
    "F1": "mean",
    "entity F1": "counts",
    "micro F1": "counts",
    "Spearman": "pairs",
}
_COLUMNS = {"counts": 3, "pairs": 2}
_COLDEST, _HOTTEST = 0.05, 20.0


def form(name: str) -> Form:
    """The form of a measure's statistics; `DataError` for a measure that is not known."""
    bare = name.rpartition(": ")[2]
    found = _FORMS.get("recall@k" if bare.startswith("recall@") else bare)
    if found is None:
        raise DataError(f"unknown measure {name!r}; known: {', '.join(_FORMS)}")
    return found


def check(name: str, statistics: ArrayLike) -> NDArray[Any]:
    """The statistics as an array of the measure's form; `DataError` where they are not of that form."""
    kind, array = form(name), np.asarray(statistics)
    columns = _COLUMNS.get(kind)
    if array.ndim != (2 if columns else 1) or (columns and array.shape[1] != columns):
        wanted = f"(N, {columns})" if columns else "(N,): one dimension"
        raise DataError(f"{name} is made of an array {wanted}, not of shape {array.shape}")
    if len(array) == 0:
        raise DataError(f"{name}: no examples to judge by")
    if kind == "right":
        if array.dtype != np.bool_:
            raise DataError(f"{name} is made of booleans, not of {array.dtype}")
        return array
    if array.dtype.kind not in "iuf":
        raise DataError(f"{name} is made of numbers, not of {array.dtype}")
    if not np.isfinite(array).all():
        raise DataError(f"{name}: example {int(np.argwhere(~np.isfinite(array))[0][0])} is not finite")
    if kind != "pairs" and array.min() < 0:
        raise DataError(f"{name} is made of numbers from 0 on, not of {array.min()}")
    if kind == "counts" and (array[:, 0] > array[:, 1:].min(axis=1)).any():
        raise DataError(f"{name}: more true positives than predicted or actual; give true positives, predicted, actual")
    if kind == "mean" and array.max() > 1:
        raise DataError(f"{name} is made of numbers from 0 to 1, not of {array.max()}")
    return array


def points(name: str, statistics: NDArray[Any]) -> float:
    """The measure in points, 0 to 100; Spearman is 100 rho, from -100. `DataError` as `check` says."""
    kind, array = form(name), check(name, statistics)
    if kind == "counts":
        return 100.0 * f1_of_counts(array)
    if kind == "pairs":
        return 100.0 * spearman(array[:, 0], array[:, 1])
    return 100.0 * float(array.sum(dtype=np.float64)) / len(array)


def f1_of_counts(counts: NDArray[Any]) -> float:
    """F1, 0 to 1, of the sums over the examples; (N, 3) = true positives, predicted, actual of each.

    Summed over entities this is the F1 of CoNLL and seqeval, summed over labels scikit-learn's micro average.
    """
    return float(f1_of_totals(np.asarray(counts).sum(axis=0, dtype=np.float64)))


def f1_of_totals(totals: NDArray[Any]) -> Doubles:
    """(..., 3) = true positives, predicted, actual -> (...): 2 tp / (predicted + actual).

    Nothing predicted where nothing is to be found gives 0, as in seqeval and in scikit-learn (zero_division=0).
    """
    right = 2.0 * totals[..., 0]
    size = np.asarray(totals[..., 1] + totals[..., 2], dtype=np.float64)
    return np.divide(right, size, out=np.zeros_like(size), where=size > 0)


def spearman(a: ArrayLike, b: ArrayLike) -> float:
    """Spearman's rank correlation, -1 to 1, of (N,) with (N,); equal values share their average rank.

    Where one side is constant, which has no correlation, it is 0: such a prediction is worth nothing.
    """
    first, second = _finite("Spearman", a), _finite("Spearman", b)
    if first.shape != second.shape:
        raise DataError(f"Spearman: {first.size} values on one side, {second.size} on the other")
    x, y = (average_ranks(v) - (v.size + 1) / 2 for v in (first, second))
    size = float(np.sqrt((x @ x) * (y @ y)))
    return min(1.0, max(-1.0, float(x @ y) / size)) if size > 0 else 0.0


def average_ranks(values: NDArray[Any]) -> Doubles:
    """(N,) -> (N,): ranks from 1 on; equal values share the average of theirs."""
    below, upto = tie_bounds(values)
    return (below + upto + 1) / 2


def tie_bounds(values: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each of (N,) values, how many are smaller, and how many are not larger: (N,), (N,)."""
    ordered = np.sort(values)
    return np.searchsorted(ordered, values, "left"), np.searchsorted(ordered, values, "right")


def auroc(inside: ArrayLike, outside: ArrayLike) -> float:
    """The probability, 0 to 1, that an inside score (N,) exceeds an outside one (M,); ties count half.

    The area under the ROC curve, by the ranks of Mann and Whitney's U in O(n log n).
    """
    high, low = _finite("AUROC", inside), _finite("AUROC", outside)
    ranks = average_ranks(np.concatenate([high, low]))
    n = high.size
    return float((ranks[:n].sum() - n * (n + 1) / 2) / (n * low.size))


def expected_calibration_error(probabilities: ArrayLike, targets: ArrayLike, bins: int = 15) -> float:
    """ECE, 0 to 1, of class probabilities (N, C) against the right classes, integers (N,).

    Guo et al., "On Calibration of Modern Neural Networks" (ICML 2017), section 2: the mean gap between confidence,
    the highest probability, and accuracy over `bins` equally wide bins of confidence, weighted by their examples.
    """
    table, right = _classes("calibration error", probabilities, targets)
    if bins < 1:
        raise DataError(f"calibration error: bins must be at least 1, not {bins}")
    if table.min() < 0 or table.max() > 1 + 1e-5:
        raise DataError("calibration error: probabilities lie between 0 and 1; apply softmax to logits first")
    confidence = table.max(axis=1)
    gap = (table.argmax(axis=1) == right) - confidence
    # Bins are (low, high], as in the paper; rounding may put a probability just above 1.
    place = np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), confidence, "left") - 1, 0, bins - 1)
    return float(np.abs(np.bincount(place, gap, bins)).sum() / len(gap))


def fit_temperature(logits: ArrayLike, targets: ArrayLike) -> float:
    """The T, 0.05 to 20, for which softmax(logits / T) fits the right classes best; (N, C), integers (N,).

    Temperature scaling of Guo et al. (2017), section 4.2: the least negative log likelihood, which is convex in
    1 / T. It changes no answer, only how sure the model is of it. Where every T fits alike, 1.
    """
    table, right = _classes("temperature", logits, targets)
    table = table - table[np.arange(len(right)), right][:, None]
    low, high = 1 / _HOTTEST, 1 / _COLDEST
    coldest = _slope(table, high)[0]
    if _slope(table, low)[0] >= 0:
        return _HOTTEST if coldest > 0 else 1.0
    if coldest <= 0:
        return _COLDEST
    inverse = 1.0
    for _ in range(200):
        slope, bend = _slope(table, inverse)
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        # Newton's step, or the middle of the bracket where that leaves it.
        step = inverse - slope / bend if bend > 0 else high
        step = step if low < step < high else float(np.sqrt(low * high))
        moved, inverse = abs(step - inverse), step
        if moved <= 1e-12 * inverse:
            break
    return float(1 / inverse)


def _slope(table: Doubles, inverse: float) -> tuple[float, float]:
    """First and second derivative by 1 / T of the mean loss; `table` holds the logits less that of the right class."""
    scaled = inverse * table
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    mean = (weights * table).sum(axis=1)
    return float(mean.mean()), float((weights * (table - mean[:, None]) ** 2).sum(axis=1).mean())


def best_thresholds(probabilities: ArrayLike, truth: ArrayLike) -> Doubles:
    """For each label the threshold with the best F1 on these examples: (N, C), bool (N, C) -> (C,).

    A label is predicted where its probability is at least the threshold. Tried are the middles between neighbouring
    probabilities, 0 and 1 included; of equally good ones the nearest to 0.5 is taken. A label that is nowhere true
    keeps 0.5.
    """
    table, right = np.asarray(probabilities, dtype=np.float64), np.asarray(truth)
    if table.ndim != 2 or table.shape != right.shape or right.dtype != np.bool_ or not table.size:
        raise DataError(
            "thresholds need probabilities (N, C) and booleans of the same shape, "
            f"not {table.shape} and {right.dtype} {right.shape}"
        )
    if not (table.min() >= 0 and table.max() <= 1):
        raise DataError("thresholds: probabilities must lie between 0 and 1")
    return np.array([_threshold(p, t) for p, t in zip(table.T, right.T, strict=True)])


def _threshold(probabilities: Doubles, truth: NDArray[np.bool_]) -> float:
    if not truth.any():
        return 0.5
    values = np.unique(probabilities)
    # With the cut below value i, all from value i on are predicted.
    predicted = len(truth) - np.searchsorted(np.sort(probabilities), values, "left")
    right = truth.sum() - np.searchsorted(np.sort(probabilities[truth]), values, "left")
    f1 = 2 * right / (predicted + truth.sum())
    cuts = (np.concatenate([[0.0], values[:-1]]) + values) / 2
    best = cuts[f1 == f1.max()]
    return float(best[np.abs(best - 0.5).argmin()])


def _finite(name: str, values: ArrayLike) -> Doubles:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise DataError(f"{name} needs at least one number in one dimension, not an array of shape {array.shape}")
    if not np.isfinite(array).all():
        raise DataError(f"{name}: number {int(np.flatnonzero(~np.isfinite(array))[0])} is not finite")
    return array


def _classes(name: str, scores: ArrayLike, targets: ArrayLike) -> tuple[Doubles, NDArray[Any]]:
    """Scores (N, C) and class ids (N,) that fit together."""
    table, right = np.asarray(scores, dtype=np.float64), np.asarray(targets)
    if table.ndim != 2 or right.shape != table.shape[:1] or not table.size or right.dtype.kind not in "iu":
        raise DataError(
            f"{name} needs scores (N, C) and class ids (N,), not {table.shape} and {right.dtype} {right.shape}"
        )
    if not np.isfinite(table).all():
        raise DataError(f"{name}: the scores of example {int(np.argwhere(~np.isfinite(table))[0][0])} are not finite")
    if right.min() < 0 or right.max() >= table.shape[1]:
        raise DataError(f"{name}: class ids must be 0 to {table.shape[1] - 1}, not {right.min()} to {right.max()}")
    return table, right
