"""The best choice of a level for every block that keeps to a budget: a knapsack, solved by dynamic programming.

As ZipLM finds its sizes (Kurtic et al. 2023, section 3.2, by the solver of Frantar & Alistarh 2022, SPDY, section 3.2).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TICKS = 10_000
"""Into how many steps the part of the budget is divided that is free to be spent."""


def cheapest(costs: Sequence[Sequence[float]], losses: Sequence[Sequence[float]], budget: float) -> list[int]:
    """For each block the level whose sum of losses is least while the sum of costs is at most the budget.

    Costs are rounded up to a 10,000th of what is left of the budget when every block is at its cheapest, so the budget
    is kept, and a choice is missed only where it fits by less than that. Raises `ValueError` where nothing fits.
    """
    least = [min(block) for block in costs]
    slack = budget - sum(least)
    if slack < 0:
        raise ValueError("the cheapest levels of all blocks cost more than the budget")
    best, choices = np.zeros(TICKS + 1), []
    for block, low, loss in zip(costs, least, losses, strict=True):
        options = np.full((len(block), TICKS + 1), np.inf)
        for level, cost in enumerate(block):
            # With no slack at all only what costs nothing more can be had.
            ticks = 0 if cost == low else _ticks(cost - low, slack)
            if ticks <= TICKS:
                options[level, ticks:] = best[: TICKS + 1 - ticks] + loss[level]
        choices.append(options.argmin(0))
        best = options.min(0)
    found, left = [], TICKS
    for block, low, choice in zip(reversed(costs), reversed(least), reversed(choices), strict=True):
        level = int(choice[left])
        left -= 0 if block[level] == low else _ticks(block[level] - low, slack)
        found.append(level)
    return found[::-1]


def _ticks(extra: float, slack: float) -> int:
    return TICKS + 1 if extra > slack else max(0, int(np.ceil(extra / slack * TICKS)))
