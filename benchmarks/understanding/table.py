"""The table of runs on public sets, as Markdown: mean and deviation over seeds, beside the strongest simple method."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from benchmarks.understanding.sets import LabelledSet, all_sets

_HEAD = ("set", "score", "ours", "simple method", "target", "runs", "minutes a run")


def table(tree: Mapping[str, Any]) -> str:
    """A row for each set, part of it, model and settings that were measured; failed runs are named below."""
    sets = all_sets()
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    failed = []
    for key, run in tree["understanding"].items():
        if "score" in run:
            groups[key.partition(" / fold ")[0]].append(run)
        else:
            failed.append(f"- {key}: {run['error']}")
    lines = [_line(_HEAD), _line(["---"] * len(_HEAD))]
    lines += [_line(_row(group, runs, sets.get(str(runs[0]["set"])))) for group, runs in groups.items()]
    return "\n".join([*lines, *(["", "Failed:", "", *failed] if failed else [])])


def _row(group: str, runs: list[Mapping[str, Any]], labelled: LabelledSet | None) -> list[str]:
    scores = [run["score"] for run in runs]
    spread = f" ± {statistics.stdev(scores):.3f}" if len(scores) > 1 else ""
    name, model = group.split(" / ")[:2]
    baseline = target = ""
    if labelled is not None and labelled.baseline is not None:
        baseline = f"{labelled.baseline:.3f} ({labelled.baseline_name})"
    if labelled is not None and labelled.target is not None:
        target = f"{labelled.target:.3f}"
    minutes = statistics.mean(run["train_seconds"] for run in runs) / 60
    score = f"{statistics.mean(scores):.3f}{spread}"
    return [f"{name} ({model})", str(runs[0]["metric"]), score, baseline, target, str(len(runs)), f"{minutes:.1f}"]


def _line(cells: list[str] | tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"
