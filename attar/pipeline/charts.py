"""The report's pictures: matplotlib figures as inline SVG that follow the page's light and dark colours."""

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from html import escape
from typing import TYPE_CHECKING, Literal, ParamSpec

from attar.runtime.errors import MissingExtraError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# Placeholder colours that matplotlib can draw with; in the SVG they become the page's CSS variables.
_INK, _MUTED, _LINE, _ACCENT, _GHOST, _BAD, _CARD = (f"#01020{digit}" for digit in range(1, 8))
_VARIABLES = {
    _INK: "ink",
    _MUTED: "muted",
    _LINE: "line",
    _ACCENT: "accent",
    _GHOST: "ghost",
    _BAD: "bad",
    _CARD: "card",
}
_WIDTH = 4.3  # inches; narrow, so that the letters stay readable where a phone scales the picture down
_RC = {
    "svg.fonttype": "none",  # text stays text: selectable, small, and set in the page's font
    "text.parse_math": False,  # a "$" in a name is a dollar
    "font.size": 9.0,
    "svg.hashsalt": "attar",  # without a salt of ours, matplotlib draws its ids at random
}


_P = ParamSpec("_P")


@dataclass(frozen=True)
class Point:
    """One model: the teacher, a stage or the bundle; None is what was not measured."""

    mark: str
    name: str
    size_mb: float | None
    p50_ms: float | None
    score: float | None
    kept: bool = True


@dataclass(frozen=True)
class Curve:
    """A line through points (x, y) in their order; `dots` marks each of them."""

    mark: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


def _styled(draw: Callable[_P, str]) -> Callable[_P, str]:
    """Draw with our settings alone: whatever the user's matplotlibrc says, and leaving no trace in it.

    Around the whole drawing, because matplotlib makes texts and ticks when it first needs them.
    """

    @wraps(draw)
    def styled(*args: _P.args, **kwargs: _P.kwargs) -> str:
        try:
            import matplotlib as mpl
        except ImportError as error:
            raise MissingExtraError("matplotlib", "train") from error
        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(_RC)
            return draw(*args, **kwargs)

    return styled


@_styled
def bars(points: Sequence[Point], attribute: str, label: str) -> str:
    """Horizontal bars from zero, one a model, for 'size_mb' or 'p50_ms'; "" where nothing was measured."""
    values = [(point, getattr(point, attribute)) for point in points]
    known = [(point, float(value)) for point, value in values if value is not None]
    if not known:
        return ""
    figure, axes = _figure(0.75 + 0.27 * len(known))
    rows = range(len(known))
    axes.barh(rows, [value for _, value in known], height=0.62, color=[_color(point) for point, _ in known])
    for row, (_, value) in enumerate(known):
        _write(axes, f"{value:.3g}" if value < 1000 else f"{value:,.0f}", (value, row), (4, 0))
    axes.set_xlim(0, 1.16 * max(value for _, value in known) or 1)
    _name_rows(axes, [point for point, _ in known])
    axes.xaxis.set_visible(False)
    return _svg(figure, attribute, label)


@_styled
def scores(points: Sequence[Point], margin: float | None, label: str) -> str:
    """A dot for each model's points on dev, and the line below which the gate's margin is spent."""
    known = [(point, point.score) for point in points if point.score is not None]
    if not known:
        return ""
    figure, axes = _figure(0.75 + 0.27 * len(known))
    values = [value for _, value in known]
    floor = values[0] - margin if margin is not None and known[0][0].mark == "T" else None
    low, high = min([*values, floor if floor is not None else values[0]]), max(values)
    pad = max(high - low, 1.0)
    edge = high + 0.34 * pad  # the numbers stand in a column of their own, clear of dots and line
    axes.set_xlim(low - 0.12 * pad, edge)
    for row, (point, value) in enumerate(known):
        axes.plot([low - 0.12 * pad, high + 0.08 * pad], [row, row], color=_LINE, linewidth=0.8, zorder=0)
        _dot(axes, value, row, point, size=6.5)
        _write(axes, f"{value:.1f}", (edge, row), (0, 0), ha="right")
    if floor is not None:
        axes.axvline(floor, color=_BAD, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        _write(axes, f"teacher − {margin:g}", (floor, -0.6), (0, 3), color=_BAD, va="bottom", ha="center")
    _name_rows(axes, [point for point, _ in known])
    axes.xaxis.set_visible(False)
    return _svg(figure, "scores", label)


@_styled
def scatter(
    points: Sequence[Point], metric: str, label: str, split: str = "dev", over: Literal["p50_ms", "size_mb"] = "p50_ms"
) -> str:
    """Points on a split over latency or size, the kept models joined in their order."""
    known = [(point, getattr(point, over), point.score) for point in points]
    placed = [(point, x, y) for point, x, y in known if x is not None and y is not None and x > 0]
    if len(placed) < 2:
        return ""
    figure, axes = _figure(2.9)
    xs, ys = [x for _, x, _ in placed], [y for _, _, y in placed]
    pad = max(max(ys) - min(ys), 0.5) * 0.18
    axes.set_ylim(min(ys) - pad, max(ys) + pad)
    _log_axis(axes, min(xs), max(xs))
    kept = [(x, y) for point, x, y in placed if point.kept]
    axes.plot([x for x, _ in kept], [y for _, y in kept], color=_LINE, linewidth=1.2, zorder=1)
    for point, x, y in placed:
        _dot(axes, x, y, point, size=7)
    pixels = [tuple(map(float, axes.transData.transform((x, y)))) for _, x, y in placed]
    scale = figure.dpi / 72
    for (point, x, y), offset in zip(placed, _offsets([(a / scale, b / scale) for a, b in pixels]), strict=True):
        _write(axes, point.mark, (x, y), offset, ha="center", weight="bold")
    axes.set_xlabel({"p50_ms": "p50 latency, ms", "size_mb": "size, MB"}[over], color=_MUTED)
    axes.set_ylabel(f"{_short(metric, 40)} on {split}", color=_MUTED)
    axes.grid(color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_MUTED, length=0)
    return _svg(figure, "scatter", label)


@_styled
def speedups(rows: Sequence[tuple[str, float, float, float]], label: str) -> str:
    """Bars of (name, ratio, low, high) with the intervals drawn on them and a line at 1, no change."""
    if not rows:
        return ""
    figure, axes = _figure(0.6 + 0.5 * len(rows))
    places = range(len(rows))
    axes.barh(places, [row[1] for row in rows], height=0.36, color=_ACCENT)
    for place, (name, ratio, low, high) in enumerate(rows):
        axes.plot([low, high], [place, place], color=_INK, linewidth=1.6, solid_capstyle="butt")
        for end in (low, high):
            axes.plot([end, end], [place - 0.1, place + 0.1], color=_INK, linewidth=1.6)
        _write(axes, f"{ratio:.2f}×", (max(ratio, high), place), (6, 0), weight="bold")
        # The name sits above its bar: systems have long names, and a phone no room at the side.
        _write(axes, _short(name, 52), (0, place - 0.2), (0, 3), color=_MUTED, va="bottom")
        axes.plot([1, 1], [place - 0.2, place + 0.3], color=_INK, linewidth=1, linestyle=(0, (3, 2)))
    axes.set_xlim(0, 1.2 * max(1.0, *(row[3] for row in rows)))
    axes.set_ylim(len(rows) - 0.6, -0.65)
    axes.yaxis.set_visible(False)
    axes.tick_params(colors=_MUTED, length=0)
    return _svg(figure, "speedups", label)


@_styled
def curves(lines: Sequence[Curve], across: str, upward: str, name: str, label: str, *, decades: bool = False) -> str:
    """Lines through points (x, y) with x on a scale of decades where it needs one, the first in the page's accent.

    A line of one point is a dot. `across` and `upward` name the axes, `name` is the picture's own on its page;
    `decades`: y has such a scale too, else it begins at 0.
    """
    drawn = [curve for curve in lines if curve.points]
    if not drawn:
        return ""
    figure, axes = _figure(2.9)
    xs = [x for curve in drawn for x, _ in curve.points]
    _log_axis(axes, min(xs), max(xs))
    for number, curve in enumerate(drawn):
        color = _ACCENT if number == 0 else _MUTED
        style = (0, (1 + 2 * number, number)) if number else "-"  # colour is not the only sign
        marker = "o" if curve.dots or len(curve.points) == 1 else None
        axes.plot(*zip(*curve.points, strict=True), color=color, linewidth=1.6, linestyle=style, marker=marker)
    if decades:
        axes.set_yscale("log")
        _plain_numbers(axes.yaxis)
    else:
        axes.set_ylim(bottom=0)
    ends = [tuple(map(float, axes.transData.transform(curve.points[-1]))) for curve in drawn]
    scale = figure.dpi / 72
    for curve, offset in zip(drawn, _offsets([(a / scale, b / scale) for a, b in ends]), strict=True):
        _write(axes, curve.mark, curve.points[-1], offset, ha="center", weight="bold")
    axes.set_xlabel(across, color=_MUTED)
    axes.set_ylabel(upward, color=_MUTED)
    axes.grid(color=_LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(colors=_MUTED, length=0)
    return _svg(figure, name, label)


def _figure(height: float) -> "tuple[Figure, Axes]":
    """One bare pair of axes, without pyplot and its global state."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(_WIDTH, height), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot()
    figure.patch.set_visible(False)
    axes.patch.set_visible(False)
    axes.spines[:].set_visible(False)
    return figure, axes


def _log_axis(axes: "Axes", low: float, high: float) -> None:
    if high < 4 * low:
        pad = max(high - low, 0.05 * high) * 0.15
        axes.set_xlim(low - pad, high + pad)
        return
    axes.set_xscale("log")
    axes.set_xlim(low / 1.35, high * 1.35)
    _plain_numbers(axes.xaxis)


def _plain_numbers(axis: "Axis") -> None:
    """Marks 1, 2, 5, 10 and so on a scale of decades."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _color(point: Point) -> str:
    return _MUTED if point.mark == "T" else _ACCENT if point.kept else _GHOST


def _dot(axes: "Axes", x: float, y: float, point: Point, size: float) -> None:
    """A model as a dot: hollow where the stage was dropped, so that colour is not the only sign."""
    color = _color(point)
    fill = color if point.kept else _CARD
    (dot,) = axes.plot([x], [y], "o", color=color, markersize=size, clip_on=False, zorder=3)
    dot.set(markerfacecolor=fill, markeredgewidth=1.4)


def _write(
    axes: "Axes",
    text: str,
    at: tuple[float, float],
    offset: tuple[float, float],
    *,
    color: str = _INK,
    ha: str = "left",
    va: str = "center",
    weight: str = "normal",
) -> None:
    """Text at a point of the data, moved by an offset in points."""
    note = axes.annotate(text, at, offset, textcoords="offset points", annotation_clip=False)
    note.set(color=color, ha=ha, va=va, weight=weight)


def _name_rows(axes: "Axes", points: Sequence[Point]) -> None:
    axes.set_yticks(range(len(points)), [f"{point.mark}  {_short(point.name, 20)}" for point in points])
    axes.set_ylim(len(points) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0, labelcolor=_INK)
    for text, point in zip(axes.get_yticklabels(), points, strict=True):
        if not point.kept:
            text.set_color(_MUTED)


def _offsets(places: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Where each mark goes beside its dot, in points: the first free spot of sixteen, or the freest."""
    angles = [math.pi * k / 4 for k in range(1, 9)]
    spots = [(radius * math.cos(a), radius * math.sin(a)) for radius in (11.0, 19.0) for a in angles]
    taken = list(places)
    chosen = []
    for x, y in places:
        # A tuple makes the choice stable: free first, then the order of the spots.
        clear = [min(math.hypot(x + dx - p, y + dy - q) for p, q in taken) for dx, dy in spots]
        best = max(range(len(spots)), key=lambda k: (min(clear[k], 10.0), -k))
        chosen.append(spots[best])
        taken.append((x + spots[best][0], y + spots[best][1]))
    return chosen


def _short(text: str, width: int) -> str:
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    return line if len(line) <= width else line[: width - 1] + "…"


def _svg(figure: "Figure", name: str, label: str) -> str:
    """The figure as an <svg> element: same bytes each time, ids of its own, a name for screen readers."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'\bid="', f'id="{name}-', text)
    text = re.sub(r'(?:xlink:)?href="#', f'href="#{name}-', text).replace("url(#", f"url(#{name}-")
    for color, variable in _VARIABLES.items():
        text = text.replace(color, f"var(--{variable})")
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None, "matplotlib writes a viewBox"
    said = escape(label)
    opening = f'<svg viewBox="{box[1]}" role="img" aria-label="{said}">\n <title>{said}</title>'
    return opening + text[text.index(">") + 1 :].rstrip()
