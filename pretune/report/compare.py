"""Renders several runs on one page: their numbers side by side, how their recipes differ, their curves together."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from pretune.errors import UsageError
from pretune.language import translate
from pretune.report.charts import Curve, draw
from pretune.report.curves import score_chart
from pretune.report.html import alert, card, clock, has_content, is_number, note, page, phrase, section, short, text
from pretune.report.pages import check_page, write_page
from pretune.report.run_files import RunFiles, read_run
from pretune.report.words import metric_name, score

PAGE = "comparison.html"
_OWN = ("output", "resume", "device", "threads", "track")
"""Fields of a recipe that differ without making another model."""

Format = Callable[[float], str]
Values = Sequence[float | None]


def write_comparison(run_dirs: Sequence[Path], output: Path | None = None) -> Path:
    """Writes a page that compares runs.

    Args:
        output: the page, `comparison.html` by default; an earlier one is replaced.

    Raises:
        UsageError: one run is named twice.
        MissingInputError: a folder is no run.
        CannotCreateError: something else is there, or it cannot be written.
    """
    paths = [path.resolve() for path in run_dirs]
    if twice := [path for path in paths if paths.count(path) > 1]:
        raise UsageError(f"{twice[0]} is named twice; name each run once")
    target = output or Path(PAGE)
    check_page(target, PAGE)
    write_page(target, render_comparison([read_run(path) for path in run_dirs]))
    return target


def render_comparison(runs: Sequence[RunFiles]) -> str:
    """Renders the page."""
    aligned = _align(runs)
    named = list(zip(_names(runs), aligned, strict=True))
    names = [name for name, _ in named]
    header = f"<header><h1>{phrase('Comparison of runs')}</h1><p>{escape(' · '.join(names))}</p></header>"
    return page(
        " · ".join([*names, "pretune"]),
        [header, _cautions(named), _numbers(named), _differences(named), _curves(named)],
    )


def _names(runs: Sequence[RunFiles]) -> list[str]:
    """What each run is called: the end of its path that no other has."""
    paths = [run.path.resolve().parts for run in runs]
    depth = next(n for n in range(1, 100) if len({path[-n:] for path in paths}) == len(paths))
    return [os.sep.join(path[-depth:]) for path in paths]


def _align(runs: Sequence[RunFiles]) -> list[RunFiles]:
    """The runs with one horizontal axis for all."""
    longest = max(run.token_total for run in runs)
    by_epochs = all(run.counts_epochs for run in runs)
    return [replace(run, axis_tokens=longest, by_epochs=by_epochs) for run in runs]


def _cautions(named: Sequence[tuple[str, RunFiles]]) -> str:
    """Renders why numbers of these runs do not compare."""
    runs = [run for _, run in named]
    points = []
    if _differ([_validation(run) for run in runs]):
        points.append("The runs were not evaluated on the same validation data: their scores do not compare.")
    if _differ([run.facts.get("tokenizer") for run in runs]):
        points.append("The runs have different tokenizers: their losses and their counts of tokens do not compare.")
    if _differ([_goal(run) for run in runs]):
        points.append("The runs learn different things: their losses do not compare.")
    points += [f"{name} has not finished: its newest evaluation is shown." for name, run in named if run.is_unfinished]
    return alert("Before you compare:", [translate(point) for point in points]) if points else ""


def _goal(run: RunFiles) -> str | None:
    """The objectives and the task, where they are known."""
    return " + ".join(sorted(run.abilities)) or None


def _losses_compare(runs: Sequence[RunFiles]) -> bool:
    return not _differ([_goal(run) for run in runs]) and not _differ([run.facts.get("tokenizer") for run in runs])


def _validation(run: RunFiles) -> object:
    """The digest of what it is evaluated on: validation rows, or stores, which have a split for it; None if unknown."""
    data = run.facts.get("data")
    digests = data if isinstance(data, dict) else {}
    stores = sorted(str(digest) for name, digest in digests.items() if name.startswith("data.stores"))
    return digests.get("data.validation") or stores or None


def _differ(values: Sequence[object]) -> bool:
    """Whether known values are not all the same."""
    known = {str(value) for value in values if value is not None}
    return len(known) > 1


def _numbers(named: Sequence[tuple[str, RunFiles]]) -> str:
    """Renders the scores and the cost of each run; the best score of a row is marked, where they compare."""
    runs = [run for _, run in named]
    rows = []
    is_same = not _differ([_validation(run) for run in runs])
    for name in dict.fromkeys(name for run in runs for name in run.score_names):
        best = max if is_same else None
        rows.append(_row(metric_name(name), [run.saved(name) for run in runs], partial(score, name), best))
    for name, best in (("eval/loss", min if is_same and _losses_compare(runs) else None), ("loss", None)):
        label = "validation loss" if name == "eval/loss" else "training loss"
        values = [run.saved(name) if name == "eval/loss" else run.last(name) for run in runs]
        rows.append(_row(label, values, lambda x: f"{x:.3f}", best))
    for key, label, show in _COST:
        rows.append(_row(label, [run.last(key) for run in runs], show, None))
    rows.append(_row("parameters", [_number(run.facts.get("parameters")) for run in runs], lambda x: f"{x:,.0f}", None))
    speeds = [run.series("tokens_per_second")[1] for run in runs]
    medians = [float(np.nanmedian(speed)) if len(speed) else None for speed in speeds]
    rows.append(_row("tokens per second", medians, short, None))
    return section("Numbers", card(_table(named, rows)))


def _row(label: str, values: Values, show: Format, best: Callable[[Sequence[float]], float] | None) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    top = best(known) if best is not None and len(set(known)) > 1 else None
    cells = "".join(
        f'<td class="number{" hit" if value is not None and value == top else ""}">'
        f"{'' if value is None else escape(show(value))}</td>"
        for value in values
    )
    return f"<tr><th>{phrase(label)}</th>{cells}</tr>"


def _table(named: Sequence[tuple[str, RunFiles]], rows: Sequence[str]) -> str:
    return f'<table class="compare"><thead>{_head(named)}</thead><tbody>{"".join(rows)}</tbody></table>'


def _head(named: Sequence[tuple[str, RunFiles]]) -> str:
    cells = "".join(f'<th class="number">{escape(name)}</th>' for name, _ in named)
    return f"<tr><th></th>{cells}</tr>"


def _differences(named: Sequence[tuple[str, RunFiles]]) -> str:
    """Renders the fields of the recipes that are not the same in all runs."""
    settings = [run.settings for _, run in named]
    names = [name for name in dict.fromkeys(name for each in settings for name in each) if not _is_own(name)]
    rows = []
    for name in names:
        values = [each.get(name) for each in settings]
        if len({text(value) for value in values}) > 1:
            rows.append(_setting_row(name, values, settings))
    if not rows:
        return section("What differs", note("Their recipes are the same."))
    return section("What differs", card(_table(named, rows)))


def _is_own(name: str) -> bool:
    return name.partition(".")[0] in _OWN


def _setting_row(name: str, values: Sequence[object], settings: Sequence[Mapping[str, Any]]) -> str:
    cells = "".join(
        f'<td class="number wide">{escape(text(value) if has_content(value) else _absent(name, each))}</td>'
        for value, each in zip(values, settings, strict=True)
    )
    return f"<tr><th>{escape(name)}</th>{cells}</tr>"


def _absent(name: str, settings: Mapping[str, Any]) -> str:
    return translate("by default") if name in settings and settings[name] is None else "–"


def _curves(named: Sequence[tuple[str, RunFiles]]) -> str:
    """Renders what all runs measured, a chart for each metric."""
    runs = [run for _, run in named]
    charts = [score_chart(named, name) for name in dict.fromkeys(name for run in runs for name in run.score_names)]
    for key, title, style in _CHARTS:
        lines = [Curve(name, *run.series(key), style) for name, run in named]
        lines = [line for line in lines if len(line.x) > 1]
        charts.append(draw(title, lines, runs[0].axis) if lines else "")
    cards = "".join(card(chart) for chart in charts if chart)
    return section("Curves", f'<div class="pair">{cards}</div>' if cards else "")


def _number(value: object) -> float | None:
    return float(value) if is_number(value) and isinstance(value, int | float) else None


_COST: Sequence[tuple[str, str, Format]] = (
    ("step", "steps", lambda value: f"{value:,.0f}"),
    ("epoch", "epochs", lambda value: f"{value:.2f}"),
    ("tokens", "tokens seen", short),
    ("time", "training time", clock),
)
_CHARTS: Sequence[tuple[str, str, Any]] = (
    ("eval/loss", "Validation loss", "dots"),
    ("loss", "Training loss", "trace"),
    ("lr", "Learning rate", "line"),
)
