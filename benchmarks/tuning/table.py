"""What methods reach, as a Markdown table and as a chart over the parameters that they train."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tuning.methods import METHODS
from benchmarks.tuning.sets import NAMES

MARKER = "<!-- measured: python -m benchmarks.tuning --draw -->"
"""In docs/tuning.md: what stands behind it is written from the results."""


@dataclass(frozen=True)
class Cell:
    """A method on a set.

    Attributes:
        scores: of the seeds.
        rate: that was chosen.
        learned: parameters that learn below the heads.
        parameters: of the whole model.
        ranks: at the end, of a method that chooses them; of the first seed.
    """

    scores: Sequence[float]
    rate: float
    learned: int
    parameters: int
    ranks: Mapping[str, int]

    @property
    def mean(self) -> float:
        """Over seeds."""
        return statistics.fmean(self.scores)


def cells(tree: Mapping[str, Any]) -> dict[tuple[str, str], Cell]:
    """By set with its number of training records, and method, what was measured on test records."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for run in tree["runs"].values():
        if "score" in run and not run["develop"]:
            groups.setdefault((f"{run['set']}, {run['train']:,}", run["method"]), []).append(run)
    return {key: _cell(runs) for key, runs in groups.items()}


def _sets(known: Mapping[tuple[str, str], Cell]) -> list[str]:
    """The sets of these cells, in the order of `NAMES`."""
    return sorted({name for name, _ in known}, key=lambda name: (NAMES.index(name.partition(",")[0]), name))


def _cell(runs: Sequence[Mapping[str, Any]]) -> Cell:
    runs = sorted(runs, key=lambda run: int(run["seed"]))
    first = runs[0]
    scores = [float(run["score"]) for run in runs]
    return Cell(scores, first["rate"], first["learned_below_heads"], first["parameters"], first.get("ranks") or {})


def table(tree: Mapping[str, Any]) -> str:
    """A row for each method, a column for each set, and the mean distance to full fine-tuning over the sets of both."""
    known = cells(tree)
    sets = _sets(known)
    methods = [name for name in METHODS if any(key[1] == name for key in known)]
    lines = [_line(["method", "trained below the heads", *sets, "mean - full"]), _line(["---"] * (len(sets) + 3))]
    for method in methods:
        own = {name: known[name, method] for name in sets if (name, method) in known}
        share = statistics.fmean(cell.learned / cell.parameters for cell in own.values())
        row = [_score(own.get(name)) for name in sets]
        lines.append(_line([method, f"{share:.2%}", *row, distance(known, method)]))
    notes = [f"- {name}, {method}: ranks {_ranks(cell)}" for (name, method), cell in known.items() if cell.ranks]
    failed = [f"- failed: {key}: {_cause(run['error'])}" for key, run in tree["runs"].items() if "error" in run]
    return "\n".join([*lines, *(["", *notes, *failed] if notes or failed else [])])


def _cause(error: str) -> str:
    """The last line of a traceback, up to what it lists."""
    return error.rpartition(" | ")[2].partition("; ")[0]


def with_tables(page: str, trees: Sequence[Mapping[str, Any]]) -> str:
    """A page with the table and the chart of each machine behind its marker; as it is where nothing was measured."""
    head = page[: page.index(MARKER) + len(MARKER)]
    return "\n\n".join([head, *(_section(tree) for tree in trees if cells(tree))]) + "\n"


def chart_name(tree: Mapping[str, Any]) -> str:
    """The file of a machine's chart."""
    return f"tuning-{tree['machine']['capability'].lower()}.svg"


def _section(tree: Mapping[str, Any]) -> str:
    machine = tree["machine"]
    where = f"{machine['cores']} cores of {machine['cpu']}, {machine['capability']}"
    what = (
        f"On {where}, {tree['date']}: scores in percent on test records behind that many training records, mean and "
        "deviation over seeds, with the chosen rate. The last column is the mean distance to `full` over sets."
    )
    return f"{what}\n\n{table(tree)}\n\n![Scores over trained parameters]({chart_name(tree)})"


def distance(known: Mapping[tuple[str, str], Cell], method: str) -> str:
    """The mean over sets of a method's score less that of full fine-tuning."""
    both = [name for name, other in known if other == method and (name, "full") in known]
    if not both:
        return ""
    return f"{statistics.fmean(known[name, method].mean - known[name, 'full'].mean for name in both):+.2f}"


def _score(cell: Cell | None) -> str:
    if cell is None:
        return ""
    spread = f" ± {statistics.stdev(cell.scores):.1f}" if len(cell.scores) > 1 else ""
    return f"{cell.mean:.1f}{spread} ({cell.rate:g})"


def _ranks(cell: Cell) -> str:
    values = list(cell.ranks.values())
    return f"{min(values)} .. {max(values)}, {sum(values)} in all at {len(values)} places"


def draw(tree: Mapping[str, Any], path: Path) -> None:
    """Draws scores over trained parameters, a panel for each set and a curve for methods that differ in size alone."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib.figure import Figure

    known = cells(tree)
    sets = _sets(known)
    curves = list(dict.fromkeys(method.curve for method in METHODS.values()))
    figure = Figure(figsize=(4.2 * len(sets), 3.8), layout="constrained")
    panels: Any = figure.subplots(1, len(sets), squeeze=False)[0]
    for axes, name in zip(panels, sets, strict=True):
        for number, curve in enumerate(curves):
            points = sorted(
                (max(known[name, method].learned, 1), known[name, method])
                for method, settings in METHODS.items()
                if settings.curve == curve and (name, method) in known
            )
            if points:
                x, values = [learned for learned, _ in points], [cell for _, cell in points]
                spread = [statistics.stdev(c.scores) if len(c.scores) > 1 else 0.0 for c in values]
                style = {"label": curve, "color": f"C{number % 10}", "capsize": 2, "markersize": 4}
                marker = "os^v"[number // 10 % 4]
                axes.errorbar(x, [cell.mean for cell in values], spread, marker=marker, linewidth=1, **style)
        axes.set(title=name, xscale="log", xlabel="parameters trained below the heads")
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("score on test records, %")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False)
    figure.savefig(path, metadata={"Date": None})


def _line(row: Sequence[str]) -> str:
    return f"| {' | '.join(row)} |"
