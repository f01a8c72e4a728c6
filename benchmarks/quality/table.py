"""The table of a comparison of objectives, as Markdown."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.quality.trials import TRIALS

MARKER = "<!-- measured: benchmarks/results/objectives-*.json -->"
_NAMES = {"en": "English", "zh": "Chinese"}
_ORDER = [trial.name for trial in TRIALS]


def table(tree: Mapping[str, Any]) -> str:
    """For each language accuracies in percent, mean and deviation over seeds; best means of whole columns are bold."""
    return "\n".join(line for name, trials in tree["languages"].items() for line in _language(name, trials, tree))


def with_tables(page: str, trees: Sequence[Mapping[str, Any]]) -> str:
    """A page with the tables of some comparisons at its end, behind its marker."""
    head = page[: page.index(MARKER) + len(MARKER)]
    return "\n\n".join([head, *(_section(tree).strip() for tree in trees)]) + "\n"


def _section(tree: Mapping[str, Any]) -> str:
    """A comparison with the machine and the date that it is of."""
    machine = tree["machine"]
    where = f"{machine['cores']} cores of {machine['cpu']}, {machine['capability']}, {tree['precision']}"
    return f"On {where}, {tree['date']}:\n\n{table(tree)}"


def _language(name: str, trials: Mapping[str, Any], tree: Mapping[str, Any]) -> list[str]:
    known = [*(key for key in _ORDER if key in trials), *(key for key in trials if key not in _ORDER)]
    scored = {key: trials[key] for key in known if "sets" in trials[key]}
    sets = list(dict.fromkeys(labels for trial in scored.values() for labels in trial["sets"]))
    columns = [(labels, method) for labels in sets for method in ("probe", "fine-tuning")]
    cells = {
        key: [trial["sets"].get(labels, {}).get(method, []) for labels, method in columns]
        for key, trial in scored.items()
    }
    best = [
        max((statistics.mean(row[n]) for row in cells.values()), default=0.0)
        if all(row[n] for row in cells.values())
        else None  # of a part of them it says nothing
        for n in range(len(columns))
    ]
    head = ["objective", "million tokens", *(f"{labels}, {method}" for labels, method in columns), "mean"]
    lines = [f"**{_NAMES.get(name, name)}**, {tree['minutes']:g} minutes each, {tree['seeds']} seeds", "", _line(head)]
    lines.append(_line(["---"] * len(head)))
    for key, trial in scored.items():
        tokens = sum(stage.get("tokens", 0) for stage in trial["stages"]) / 1e6
        row = [_cell(values, best[n]) for n, values in enumerate(cells[key])]
        whole = all(cells[key])  # a mean over other columns than its neighbour's would mislead
        mean = f"{100 * statistics.mean(map(statistics.mean, cells[key])):.1f}" if whole else ""
        lines.append(_line([trial["label"], f"{tokens:.1f}" if tokens else "", *row, mean]))
    return [*lines, ""]


def _cell(values: Sequence[float], best: float | None) -> str:
    if not values:
        return ""
    mean = statistics.mean(values)
    spread = statistics.stdev(values) if len(values) > 1 else 0.0
    text = f"{100 * mean:.1f} ± {100 * spread:.1f}"
    return f"**{text}**" if mean == best else text


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
