"""Renders a run directory as `report.html`: one self-contained page, which fetches nothing.

It is made of `metrics.jsonl`, `recipe.toml`, `data_stats.json`, `samples.json` and `run.json`, those that exist.
"""

from __future__ import annotations

import math
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from pretune import __version__
from pretune.disk import replace_file
from pretune.report.answers import confusion, label_scores, mistakes
from pretune.report.curves import curves
from pretune.report.html import alert, card, clock, is_number, row, short, table, text, tiles
from pretune.report.next_commands import next_commands
from pretune.report.run_files import RunFiles, read_run
from pretune.report.words import metric_name, score
from pretune.seals import changing

PAGE = "report.html"


def write_report(run_dir: Path) -> Path:
    """Writes `report.html` into a run directory, whole or not at all.

    Raises:
        MissingInputError: the directory holds no `metrics.jsonl`.
        DataError: one of its files is not what a run writes.
    """
    page = run_dir / PAGE
    content = render(read_run(run_dir))
    with changing(run_dir, [PAGE]):
        replace_file(page, content.encode())
    return page


def render(run: RunFiles) -> str:
    """Renders the page."""
    body = "\n".join(section(run) for section in _SECTIONS)
    template = resources.files("pretune.report").joinpath("report_template.html").read_text(encoding="utf-8")
    title = " · ".join(filter(None, [run.title, _goal(run), "pretune"]))
    return Template(template).substitute(title=escape(title), body=body, version=__version__, source="this run")


def _header(run: RunFiles) -> str:
    """Renders the title: what was trained on which data, and when."""
    size = run.facts.get("parameters")
    parts = [
        _origin(run),
        f"{size:,} parameters" if is_number(size) else "",
        _goal(run),
        _sources(run),
        str(run.facts.get("began", ""))[:16].replace("T", " "),
    ]
    return f"<header><h1>{escape(run.title)}</h1><p>{escape(' · '.join(filter(None, parts)))}</p></header>"


def _origin(run: RunFiles) -> str:
    """What the run began with: a folder, or a family and a size."""
    if not run.recipe:
        return ""
    model = tomllib.loads(run.recipe).get("model", {})
    return str(model.get("init") or f"{model.get('family', 'bert')} {model.get('size', 'mini')} from random weights")


def _goal(run: RunFiles) -> str:
    """The objectives and the task by their names."""
    recipe = tomllib.loads(run.recipe)
    targets = [*recipe.get("objective", {}), *recipe.get("task", {})]
    return " + ".join(name.upper() if len(name) < 4 else name for name in targets)


def _sources(run: RunFiles) -> str:
    """The stores or files that it reads."""
    data = tomllib.loads(run.recipe).get("data", {})
    sources = [*data.get("stores", []), *data.get("train", [])]
    return f"on {', '.join(map(str, sources))}" if sources else ""


def _state(run: RunFiles) -> str:
    """Renders that a run has not finished, with the command that resumes it."""
    if not run.is_unfinished:
        return ""
    step = round(run.last("step") or 0)
    recipe = tomllib.loads(run.recipe)
    verb = "finetune" if recipe.get("task") else "pretrain"
    commands = [f"pretune {verb} {shlex.quote(str(run.path / 'recipe.toml'))}"] if run.recipe else []
    reached = f"This run has not finished: it has reached step {step:,}{_of_budget(recipe)}."
    if not run.checkpoints:
        return alert(f"{reached} It has no checkpoint yet, so no model can be used. To resume it:", (), commands)
    return alert(f"{reached} Its newest checkpoint is that of step {run.checkpoints[0]:,}. To resume it:", (), commands)


def _of_budget(recipe: Mapping[str, Any]) -> str:
    """The budget of a recipe, after the step that was reached."""
    unit, total = next(iter(recipe.get("budget", {}).items()), ("", 0))
    return "" if not unit else f" of {total:,}" if unit == "steps" else f" of a budget of {total:,} {unit}"


def _warnings(run: RunFiles) -> str:
    """Renders what the run warned of, and what share of the text its tokenizer does not know."""
    points = [warning.removeprefix("warning: ") for warning in run.warnings]
    unknown = run.validation.get("unknown")
    if isinstance(unknown, str) and unknown:
        points.append(unknown)
    return alert("Warnings of this run:", points) if points else ""


def _tiles(run: RunFiles) -> str:
    """Renders the headline numbers: scores of the saved model first, what is comparable beside them, then the run."""
    cells: list[tuple[str, str, str]] = []
    for name in run.score_names:
        if (value := run.saved(name)) is not None:
            cells.append((score(name, value), metric_name(name), run.validation_note))
            cells += [
                (score(name, other), label, f"{metric_name(name)}, for comparison")
                for label, other in run.baselines(name)
            ]
    if (held_out := run.saved("eval/loss")) is not None:
        cells.append((f"{held_out:.3f}", "validation loss", run.validation_note))
    if (loss := run.last("loss")) is not None:
        cells.append((f"{loss:.3f}", "training loss", "last logged"))
    if (perplexity := _perplexity(run)) is not None:
        cells.append((f"{perplexity:,.1f}", "perplexity", run.validation_note))
    for name, label, show in _FACTS:
        if (value := run.last(name)) is not None:
            cells.append((show(value), label, ""))
    cells += [(f"{count:,} of {steps:,}", label, "") for count, steps, label in run.left_out]
    speed = run.series("tokens_per_second")[1]
    if len(speed):
        cells.append((short(float(np.nanmedian(speed))), "tokens per second", "median"))
    return tiles(cells)


def _samples(run: RunFiles) -> str:
    if not run.samples:
        return ""
    cells = "".join(
        f'<div class="sample"><div class="prompt">{escape(str(s.get("prompt", "")))}</div>'
        f'<div class="output">{escape(text(s.get("output", "")))}</div></div>'
        for s in run.samples
        if isinstance(s, dict)
    )
    return f'<h2>Samples</h2><div class="card">{cells}</div>'


def _data_stats(run: RunFiles) -> str:
    return f"<h2>Data statistics</h2>{card(table(run.data_stats))}" if run.data_stats else ""


def _next(run: RunFiles) -> str:
    columns = tomllib.loads(run.recipe).get("data", {}).get("columns", {})
    is_paired = columns.get("second") is not None
    language = str(run.facts.get("language", "en"))
    abilities = set(run.abilities.values())
    lines = next_commands(str(run.path), abilities, run.mask, is_paired=is_paired, language=language)
    if run.is_unfinished:
        uses = ("pretune predict", "pretune fill", "pretune generate", "pretune embed")
        lines = [f"{line} --step last" for line in lines if run.checkpoints and line.startswith(uses)]
    if not lines:
        return ""
    return f'<h2>Next commands</h2><div class="card"><pre>{escape(chr(10).join(lines))}</pre></div>'


def _configuration(run: RunFiles) -> str:
    parts = ["<h2>Configuration</h2>"] if run.recipe or run.facts else []
    if run.recipe:
        parts.append(_folded("recipe.toml, which trains this model again", f"<pre>{escape(run.recipe.strip())}</pre>"))
    if run.settings:
        rows = "".join(row(name, _setting(value)) for name, value in run.settings.items())
        parts.append(_folded("Every field, with the values that the run resolved", f"<table>{rows}</table>"))
    facts = {name: value for name, value in run.facts.items() if name not in ("settings", "warnings")}
    if facts:
        parts.append(_folded("Environment and outcome (run.json)", table(facts)))
    return "\n".join(parts)


def _folded(title: str, content: str) -> str:
    return f'<div class="card"><details><summary>{escape(title)}</summary>{content}</details></div>'


def _setting(value: object) -> object:
    return "by default" if value is None else value


def _perplexity(run: RunFiles) -> float | None:
    """Returns the perplexity of the term that predicts each next token."""
    term = next((name for name, ability in run.abilities.items() if ability == "generate"), None)
    loss = run.saved(f"eval/loss/{term}")
    return math.exp(loss) if loss is not None and loss < 50 else None


_FACTS: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("tokens", "tokens seen", short),
    ("step", "steps", lambda value: f"{value:,.0f}"),
    ("epoch", "epochs", lambda value: f"{value:.2f}"),
    ("time", "training time", clock),
)
_SECTIONS: Sequence[Callable[[RunFiles], str]] = (
    _header,
    _state,
    _warnings,
    _tiles,
    curves,
    label_scores,
    confusion,
    mistakes,
    _samples,
    _next,
    _data_stats,
    _configuration,
)
