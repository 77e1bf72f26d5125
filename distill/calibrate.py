"""Makes scores mean what they say: a temperature for classifiers, thresholds for multi-label ones; fitted on dev.

Temperature scaling (Guo et al. 2017, section 4.2) changes no answer of a single-label classifier, only its score. What
is fitted are the outputs of the exported bytes, so this step belongs after quantization. Other tasks are left alone.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

import numpy as np

from attar.distill.step import Context
from attar.distill.student import Student
from attar.runtime.errors import SettingsError
from attar.runtime.metrics import best_thresholds, expected_calibration_error, fit_temperature
from attar.runtime.tasks.base import sigmoid, softmax
from attar.runtime.tasks.classification import TextClassification


@dataclass(frozen=True)
class Settings:
    """`bins` of the expected calibration error."""

    bins: int = 15

    def __post_init__(self) -> None:
        if self.bins < 1:
            raise SettingsError(f"bins must be at least 1, not {self.bins}")


def apply(student: Student, settings: Settings, context: Context) -> Student:
    """The same weights with a temperature or thresholds in the task."""
    task = student.task
    if not isinstance(task, TextClassification):
        return student.with_step("distill.calibrate", asdict(settings))
    encoded, outputs = context.outputs(student)
    logits = np.asarray(outputs["logits"])
    targets = np.asarray(task.targets(encoded, context.dev.labels or ())["logits"])
    if task.multi_label:
        thresholds = best_thresholds(sigmoid(logits / task.temperature), targets.astype(bool))
        changed = replace(task, thresholds=tuple(round(float(t), 4) for t in thresholds))
        return replace(student, task=changed).with_step(
            "distill.calibrate", asdict(settings), thresholds=changed.thresholds
        )
    temperature = round(fit_temperature(logits, targets), 4)

    def error(t: float) -> float:
        return round(expected_calibration_error(softmax(logits / np.float32(t)), targets, settings.bins), 4)

    facts = {"temperature": temperature, "ece_before": error(task.temperature), "ece_after": error(temperature)}
    return replace(student, task=replace(task, temperature=temperature)).with_step(
        "distill.calibrate", asdict(settings), **facts
    )
