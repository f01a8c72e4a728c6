"""The table of runs on sets of writing, as Markdown: means over seeds, each set's free method above its runs."""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Any

_SHOWN = ("bleu", "chrf", "rouge1", "rouge2", "rougeL", "edit", "parses", "distinct2", "rep4", "ended")
_HEAD = ("set", "what", "scores", "test", "runs", "minutes", "MB")


def table(tree: Mapping[str, Any], names: Collection[str] | None = None) -> str:
    """A row for what is free of training on a set, and for each group of runs; failed runs are named below.

    Args:
        names: of sets; all that were measured by default.
    """
    lines = [_line(_HEAD), _line(["---"] * len(_HEAD))]
    results = {key: each for key, each in tree["writing"].items() if names is None or each["set"] in names}
    failed = [f"- {key}: {each['error']}" for key, each in results.items() if "error" in each]
    for name in dict.fromkeys(str(each["set"]) for each in results.values()):
        groups: dict[str, list[Mapping[str, Any]]] = {}
        for key, each in results.items():
            if each["set"] == name and "scores" in each:
                groups.setdefault(key.partition(" / seed ")[0], []).append(each)
        lines += [_line(_row(group, runs)) for group, runs in groups.items()]
    return "\n".join([*lines, *(["", "Failed:", "", *failed] if failed else [])])


def _row(group: str, runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The row of runs that differ in their seeds alone, or of one free method."""
    name, what = group.split(" / ")[:2]
    means = {each: statistics.mean(run["scores"][each] for run in runs) for each in runs[0]["scores"]}
    spread = {each: statistics.stdev(run["scores"][each] for run in runs) for each in means} if len(runs) > 1 else {}
    row = [name, what, scores_text(means, spread), str(runs[0]["test"])]
    if "train_seconds" not in runs[0]:
        return [*row, "", "", ""]
    minutes = statistics.mean(run["train_seconds"] for run in runs) / 60
    return [*row, str(len(runs)), f"{minutes:.1f}", f"{max(run['megabytes'] for run in runs):,.0f}"]


def scores_text(scores: Mapping[str, float], spread: Mapping[str, float]) -> str:
    """The scores that a reader wants, with their deviations where there are several runs."""
    shown = [name for name in _SHOWN if name in scores]
    return ", ".join(f"{name} {_number(scores[name])}{_deviation(spread.get(name))}" for name in shown)


def _number(value: float) -> str:
    return f"{value:.1f}" if value >= 1.5 else f"{value:.3f}"


def _deviation(value: float | None) -> str:
    return "" if value is None else f" ± {_number(value)}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
