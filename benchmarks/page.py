"""The page of all figures, `results/*.json` as Markdown. A file belongs to one kind of machine."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.measurements import Result
from benchmarks.quality.table import table
from benchmarks.tuning.table import table as tuning_table
from benchmarks.understanding.table import table as understanding_table
from benchmarks.writing.table import table as writing_table

HEAD = """# Benchmarks

`make bench` (`python -m benchmarks`) runs all of them, `make bench ARGS=--list` names them. Ours and the peer do the
same work in processes of their own, the peer in an environment of its own, and take turns; a ratio is taken in each
round, and the table has their median with the smallest and the largest. Above 1 means that pretune is faster. Each
peer runs with the C library's own allocator settings and with ours: the smaller ratio is the row, the other stands
beside it. Only real tokens count, never padding. Memory is the most that a side held. `LOG.md` has dated experiments,
with those that failed. This page is written from `results/`.
"""
_MIN_FRACTION = 0.01  # fraction of the time from which an operation has a line
_BY = {"own": "its own allocator", "ours": "our allocator"}
_COLUMNS = (
    "variant",
    "against",
    "ratio",
    "smallest .. largest",
    "allocator",
    "with the other",
    "ours",
    "theirs",
    "",
    "MB",
)


def write(folder: Path) -> Path:
    """Write the page of a folder of results: beside `benchmarks/results`, in any other folder."""
    path = (folder.parent if folder.resolve().parts[-2:] == ("benchmarks", "results") else folder) / "README.md"
    trees = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    sections = [section(tree) for tree in trees if "machine" in tree]  # scores of retrieval stand in LOG.md
    path.write_text("\n".join([HEAD, *filter(None, sections)]), encoding="utf-8")
    return path


def section(tree: Mapping[str, Any]) -> str:
    """One file of results as Markdown; nothing of scores across languages, which stand in LOG.md."""
    machine = tree["machine"]
    where = f"{machine['cores']} cores {machine['cpu']}, {machine['capability']}"
    if "languages" in tree:
        return "\n".join([f"## {tree['benchmark']} in equal time ({where})", "", table(tree)])
    if "sts-b" in tree:
        return "\n".join([f"## SimCSE ({where})", "", *_vectors(tree)])
    if tree["benchmark"] == "tuning":
        return "\n".join([f"## Tuning methods on public sets ({where})", "", tuning_table(tree), ""])
    if "understanding" in tree:
        return "\n".join([f"## Tasks of understanding on public sets ({where})", "", understanding_table(tree), ""])
    if "writing" in tree:
        return "\n".join([f"## Tasks that write on public sets ({where})", "", writing_table(tree), ""])
    if "figures" in tree:
        return "\n".join([f"## Prompts on SST-2 ({where})", "", *_figures(tree["figures"])])
    if "search" in tree:
        return "\n".join(
            [f"## {tree['benchmark']}: how the peer's best setting was searched ({where})", "", *_search(tree)]
        )
    if "profile" in tree:
        lines = [line for variant, result in tree["profile"].items() for line in profile(variant, result)]
        return "\n".join([f"## {tree['benchmark']}: where our time goes ({where})", "", *lines])
    if "variants" not in tree:
        return ""
    variants = tree["variants"]
    lines = [f"## {tree['benchmark']} ({where})", "", tree["about"], ""]
    rows = [line for name, result in variants.items() for line in _rows(name, result)]
    if rows:
        lines += [_line(_COLUMNS), "|---" * len(_COLUMNS) + "|", *rows, ""]
    lines += [f"- {name}: {'; '.join(notes)}." for name, result in variants.items() if (notes := _notes(result))]
    hows: dict[str, list[str]] = {}
    for name, result in variants.items():
        hows.setdefault(_how(result), []).append(name)
    lines += [f"- Measured on {how}: {', '.join(names)}." for how, names in hows.items()]
    return "\n".join(lines) + "\n"


def _vectors(tree: Mapping[str, Any]) -> list[str]:
    scores = tree["sts-b"]
    after = [100 * score for score in scores["after"]]
    return [
        f"A BERT of 6 layers, 384 wide, after {tree['minutes']:g} minutes of MLM ({tree['precision']}), and SimCSE "
        f"from there: Spearman's correlation on the test pairs of STS-B, in percent, {100 * scores['before']:.1f} "
        f"before, {statistics.mean(after):.1f} ({min(after):.1f} .. {max(after):.1f}) after, {len(after)} seeds. "
        f"{tree['date']}.",
        "",
    ]


def summary(result: Result) -> str:
    """A variant for the terminal."""
    fields = asdict(result)
    lines = [f"  {row['ratio']:.2f}x {_spread(row)} {row['peer']}, {_BY[row['allocator']]}" for row in fields["rows"]]
    return "\n".join([*lines, *(f"  {line}" for line in _notes(fields))])


def _rows(name: str, tree: Mapping[str, Any]) -> Iterator[str]:
    for row in (row for row in tree["rows"] if row["counts"]):
        others = [r for r in tree["rows"] if r["peer"] == row["peer"] and not r["counts"]]
        ours, theirs = row["ours"], row["theirs"]
        yield _line(
            (
                name,
                row["peer"],
                f"**{row['ratio']:.2f}**",
                _spread(row),
                row["allocator"],
                f"{others[0]['ratio']:.2f}" if others else "",
                _figure(ours["speed"]),
                _figure(theirs["speed"]),
                tree["unit"],
                f"{ours['peak_mb']:,.0f} : {theirs['peak_mb']:,.0f}",
            )
        )


def _how(tree: Mapping[str, Any]) -> str:
    """When and with what a variant was measured."""
    versions = {f"{package} {version}": None for side in tree["versions"].values() for package, version in side.items()}
    how = f"{tree['date']}, {tree['precision']}, {_many(tree['threads'], 'thread')}, {_many(tree['rounds'], 'round')}"
    return f"{how}{', CPU time' if tree.get('clock') == 'cpu' else ''} ({', '.join(versions)})"


def _notes(tree: Mapping[str, Any]) -> list[str]:
    lines = list(tree["notes"])
    if not tree["rows"]:
        ours = tree["ours"]
        lines.append(f"ours alone {_figure(ours['speed'])} {tree['unit']}, at the peak {ours['peak_mb']:,.0f} MB")
    lines += [f"absent: {peer}" for peer in tree["absent"]]
    if tree["drift"]:
        lines.append(f"the GEMM peak drifted by {tree['drift']:.0%}")
    return lines


def _figures(figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A row for each figure of `benchmarks.prompting`, and an empty line."""
    rows = [
        f"| {name} | {figure.get('accuracy', '')} | {figure.get('cpu_ratio', '')} | {figure['cpu_seconds']:,.0f} |"
        for name, figure in sorted(figures.items())
    ]
    return ["| what | accuracy | times as fast | CPU seconds |", "|---|---|---|---|", *rows, ""]


def _search(tree: Mapping[str, Any]) -> Iterator[str]:
    search = tree["search"]
    best = ", ".join(f"{axis} {value}" for axis, value in search["best"].items())
    size = f"{_many(search['threads'], 'thread')}, {_many(search['rounds'], 'round')}"
    yield f"{search['date']}, {search['variant']}, {size}. Best: {best}."
    yield ""
    yield _line(("pass", "axis", "from", "to", "gain", "smallest .. largest", "kept"))
    yield "|---" * 7 + "|"
    for trial in search["trials"]:
        gain = (f"{trial['gain']:.2f}", _spread(trial)) if "gain" in trial else ("failed", trial["failed"])
        taken = "yes" if trial["taken"] else "no"
        yield _line((trial["pass"], trial["axis"], trial["from"], trial["to"], *gain, taken))
    yield ""


def profile(variant: str, result: Mapping[str, Any]) -> list[str]:
    """A variant's operations as Markdown: those of a hundredth of the time and more."""
    whole = result["watched_seconds"]
    size = f"{_many(result['threads'], 'thread')}, {_many(result['rounds'], 'round')}"
    lines = [
        f"{variant}: {result['date']}, {result['precision']}, {size}. A run takes {result['seconds'] * 1e3:,.0f} ms, "
        f"{whole * 1e3:,.0f} ms under the profiler.",
        "",
        _line(("operation", "calls", "ms", "share", "most of it on")),
        "|---" * 5 + "|",
    ]
    listed = [each for each in result["operations"] if each["seconds"] >= _MIN_FRACTION * whole]
    for each in listed:
        cells = (each["name"], _figure(each["calls"]), _figure(each["seconds"] * 1e3), f"{each['seconds'] / whole:.1%}")
        lines.append(_line((*cells, "; ".join(each["shapes"]))))
    inside, named = (sum(each["seconds"] for each in part) for part in (result["operations"], listed))
    for name, seconds in (("other operations", inside - named), ("outside of operations", whole - inside)):
        lines.append(_line((name, "", _figure(seconds * 1e3), f"{seconds / whole:.1%}", "")))
    return [*lines, ""]


def _many(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _spread(row: Mapping[str, Any]) -> str:
    return f"{row['low']:.2f} .. {row['high']:.2f}"


def _figure(value: float) -> str:
    """Three digits at least."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _line(cells: tuple[Any, ...]) -> str:
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
