"""Curves of a run as inline SVG: text stays text, nothing is fetched, the same data gives the same bytes."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from pretune.language import translate

Values = NDArray[np.float64]
INK, FAINT, GRID = "#1f2933", "#5d6976", "#e4e7eb"
COLORS = ("#2560c4", "#c2410c", "#2b8a3e", "#862e9c", "#8a6d00", "#0b7285")
_VARIABLES = {INK: "ink", FAINT: "faint", GRID: "line", **{color: f"c{n}" for n, color in enumerate(COLORS, 1)}}
"""Colors as matplotlib draws them, and the variables of the page's style that stand for them, light or dark."""
_POINTS = 600
_FEW = 12  # whole numbers on a horizontal axis
_DASHES = ((0, (5, 3)), (0, (1, 2)))  # of levels


Style = Literal["trace", "line", "dots"]


@dataclass(frozen=True)
class Curve:
    """One line of a chart.

    Attributes:
        label: in the language of the page.
        x: (N,) where it was measured.
        y: (N,) what was measured; non-finite values leave a gap.
        style: `trace` is drawn faint with its running mean on top, `line` as it is, `dots` with a mark at each value.
    """

    label: str
    x: Values
    y: Values
    style: Style = "line"


@dataclass(frozen=True)
class Level:
    """A horizontal line to compare with."""

    label: str
    y: float


def draw(
    name: str,
    curves: Sequence[Curve],
    x_label: str,
    levels: Sequence[Level] = (),
    wide: bool = False,
    floor: float | None = None,
) -> str:
    """Draws a chart as an `<svg>` element.

    Args:
        name: the title; also the salt of the element's ids, so that charts on one page do not share any.
        x_label: what the horizontal axis counts.
        wide: as wide as the page, else half of it.
        floor: where the vertical axis begins, if not near the smallest value.
    """
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": f"{name} {wide}",
        "font.size": 11,
        "font.family": "sans-serif",
        "text.parse_math": False,  # dollar signs in the name of a run are no formula
    }
    with matplotlib.rc_context(style), _without_fonts():
        figure = Figure(figsize=(7.4, 3.5) if wide else (4.6, 2.9), layout="constrained")
        axes: Any = figure.add_subplot()
        lines = [_plot(axes, curve, COLORS[number % len(COLORS)]) for number, curve in enumerate(curves)]
        _frame(axes, translate(name), translate(x_label))
        _limit(axes, curves, levels, floor)
        if _counts_few(curves):
            axes.xaxis.get_major_locator().set_params(integer=True)
        for number, level in enumerate(levels):
            label = f"{translate(level.label)} {level.y:.2f}"
            style = _DASHES[number % len(_DASHES)]
            lines.append(axes.axhline(level.y, color=INK, linewidth=1.1, linestyle=style, label=label))
        if len(lines) > 1:
            _add_legend(figure, lines, columns=3 if wide else 1 if levels else 2)
        document = _render(figure)
    return _inline(document, name)


def _render(figure: Any) -> str:
    """Lays a figure out and returns its SVG document."""
    out = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(out, format="svg", transparent=True, metadata=metadata)
    return out.getvalue()


@contextmanager
def _without_fonts() -> Iterator[None]:
    """Keeps quiet of signs that matplotlib's font lacks: text stays text, which the browser's fonts render."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Glyph \d+ ")
        yield


def running_mean(y: Values, fraction: float = 0.03) -> Values:
    """Returns the mean over a centered window of a fraction of all values, narrower at both ends; gaps are skipped."""
    width = max(1, int(len(y) * fraction) | 1)
    finite = np.isfinite(y)
    kernel = np.ones(width)
    total = np.convolve(np.where(finite, y, 0.0), kernel, mode="same")[: len(y)]
    count = np.convolve(finite.astype(np.float64), kernel, mode="same")[: len(y)]
    return np.asarray(np.divide(total, count, out=np.full(len(y), np.nan), where=count > 0))


def thin(x: Values, y: Values, max_points: int = _POINTS) -> tuple[Values, Values]:
    """Returns at most `max_points` points, evenly chosen, the last one among them."""
    if len(x) <= max_points:
        return x, y
    keep = np.unique(np.linspace(0, len(x) - 1, max_points).round().astype(np.int64))
    return x[keep], y[keep]


def _plot(axes: Any, curve: Curve, color: str) -> Any:
    """Draws a curve, and returns the line that stands for it in the legend."""
    y = curve.y
    if curve.style == "trace":
        axes.plot(*thin(curve.x, y), color=color, alpha=0.22, linewidth=0.9)
        y = running_mean(y)
    is_dotted = curve.style == "dots" or len(y) == 1  # a line needs two points
    marks = {"linewidth": 1.4, "marker": "o", "markersize": 4} if is_dotted else {"linewidth": 1.8}
    (line,) = axes.plot(*thin(curve.x, y), color=color, label=curve.label, **marks)
    return line


def _add_legend(figure: Any, lines: Sequence[Any], columns: int) -> None:
    """Names the lines, those too whose name begins with an underscore, which matplotlib leaves out by itself."""
    labels = [line.get_label() for line in lines]
    style = {"frameon": False, "fontsize": 10, "labelcolor": INK, "handlelength": 1.6}
    figure.legend(lines, labels, loc="outside lower left", ncols=columns, **style)


def _frame(axes: Any, name: str, x_label: str) -> None:
    axes.set_title(name, loc="left", color=INK, fontsize=12, fontweight="bold", pad=10)
    axes.set_xlabel(x_label, color=FAINT)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(colors=FAINT, length=0)
    axes.tick_params(axis="x", pad=10)  # the lowest number of the vertical axis ends there
    axes.margins(x=0.01)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GRID)


def _limit(axes: Any, curves: Sequence[Curve], levels: Sequence[Level], floor: float | None) -> None:
    """Fits the vertical axis to the curves, but lets no short spike of a trace flatten the rest."""
    smoothed = [running_mean(c.y) if c.style == "trace" else c.y for c in curves]
    values = np.concatenate([*smoothed, np.array([level.y for level in levels])])
    values = values[np.isfinite(values)]
    if not len(values):
        return
    low, high = float(values.min()), float(values.max())
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 0.1
    bottom = 0.0 if low >= 0 > low - margin else low - margin
    axes.set_ylim(bottom if floor is None else min(floor, low), high + margin)


def _counts_few(curves: Sequence[Curve]) -> bool:
    """Whether the horizontal axis has few whole numbers, such as layers, between which no mark belongs."""
    x = np.concatenate([curve.x for curve in curves])
    return bool(len(x)) and bool((x == np.round(x)).all()) and float(np.ptp(x)) < _FEW


def _inline(svg: str, name: str) -> str:
    """Returns the element alone, without the XML prologue, sized by the page."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = re.sub(
        r"#[0-9a-f]{6}", lambda color: f"var(--{_VARIABLES[color[0]]})" if color[0] in _VARIABLES else color[0], body
    )
    body = re.sub(r' id="(?:figure|axes|patch|line2d|matplotlib|xtick|ytick|text|legend)[^"]*"', "", body)
    return body.replace("<svg ", f'<svg role="img" aria-label="{_attribute(name)}" ', 1)


def _attribute(text: str) -> str:
    return re.sub(r'[<>&"]', " ", text)
