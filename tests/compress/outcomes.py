"""What two models get right, by counts."""

import numpy as np
from numpy.typing import NDArray

Answers = NDArray[np.bool_]


def answers(both: int, teacher_only: int, student_only: int, neither: int) -> tuple[Answers, Answers]:
    """Teacher's and student's correctness with these four counts."""
    counts = [both, teacher_only, student_only, neither]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)
