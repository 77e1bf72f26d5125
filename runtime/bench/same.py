"""Whether two systems do the same: a benchmark of different tasks compares nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attar.runtime.errors import SettingsError


def refuse_another_task(name: str, bundle: Mapping[str, Any], other: Mapping[str, Any]) -> None:
    """`SettingsError` where the system `name` does not do the bundle's task (`protocol.answers_of`).

    Labels that the library has made up (LABEL_0) may mean the same: such a system is timed and, where it cannot be
    judged, a note says so. So may names that differ in capitals alone.
    """
    for key in ("kind", "heads"):
        if bundle[key] != other[key]:
            raise SettingsError(
                f"{name} does another task than the bundle: {_said(other)}, and not {_said(bundle)}; compare systems "
                "of one task"
            )
    ours, theirs = (sorted(str(label).lower() for label in one["labels"] or ()) for one in (bundle, other))
    if ours == theirs or _made_up(ours) or _made_up(theirs):
        return
    strange = [label for label in theirs if label not in ours][:3]
    raise SettingsError(
        f"{name} gives other labels than the bundle ({', '.join(map(repr, strange))}, ...): compare systems that were "
        "fine-tuned on the same data"
    )


def _said(task: Mapping[str, Any]) -> str:
    outputs = " and ".join(f"{'a vector' if n is None else n} ({objective})" for n, objective in task["heads"])
    return f"{task['kind']} with outputs {outputs}"


def _made_up(labels: list[str]) -> bool:
    return all(re.fullmatch(r"label_\d+", label) for label in labels)
