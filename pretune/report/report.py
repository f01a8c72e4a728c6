"""Renders a run directory as `report.html`: one self-contained page, which fetches nothing.

It is made of `metrics.jsonl`, `recipe.toml`, `data_stats.json`, `samples.json`, `validation.json` and `run.json`, those
that exist.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from pretune.disk import replace_file
from pretune.language import translate
from pretune.report.answers import confusion, label_scores, mistakes
from pretune.report.curves import curves
from pretune.report.html import card, folded, page, row, section, table, text
from pretune.report.next_commands import adapters_base, named_tasks, next_commands, run_abilities
from pretune.report.overview import goal, header, overview, state, warnings
from pretune.report.pages import check_page, write_page
from pretune.report.run_files import RunFiles, read_run
from pretune.report.tuning import tuning
from pretune.seals import changing

PAGE = "report.html"


def write_report(run_dir: Path, output: Path | None = None) -> Path:
    """Writes the page of a run, whole or not at all.

    Args:
        output: where to; by default `report.html` in the run directory.

    Raises:
        MissingInputError: the directory holds no `metrics.jsonl`.
        DataError: one of its files is not what a run writes.
        CannotCreateError: `output` is something else than a page.
    """
    if output is not None and output.resolve() != (run_dir / PAGE).resolve():
        check_page(output, PAGE)
        write_page(output, render(read_run(run_dir)))
        return output
    content = render(read_run(run_dir))
    with changing(run_dir, [PAGE]):
        replace_file(run_dir / PAGE, content.encode())
    return run_dir / PAGE


def render(run: RunFiles) -> str:
    """Renders the page."""
    title = " · ".join(filter(None, [run.title, goal(run), "pretune"]))
    return page(title, [render_part(run) for render_part in _PARTS])


def _samples(run: RunFiles) -> str:
    cells = "".join(
        f'<div class="sample"><div class="prompt">{escape(str(s.get("prompt", "")))}</div>'
        f'<div class="output">{escape(text(s.get("output", "")) + _truth(s))}</div></div>'
        for s in run.samples
        if isinstance(s, dict)
    )
    return section("Samples", card(cells))


def _truth(sample: Mapping[str, Any]) -> str:
    """What is true of a sample, after the model's output; nothing where that is not known."""
    if sample.get("label") is not None:
        return "; " + translate(f"true label: {sample['label']}")
    return "; " + translate(f"masked word: “{sample['word']}”") if sample.get("word") else ""


def _data_stats(run: RunFiles) -> str:
    return section("Data statistics", card(table(run.data_stats)) if run.data_stats else "")


def _next(run: RunFiles) -> str:
    columns = tomllib.loads(run.recipe).get("data", {}).get("columns", {})
    is_paired = columns.get("second") is not None
    language = str(run.facts.get("language", "en"))
    abilities = run_abilities(run.abilities.values(), run.facts)
    tasks = named_tasks(run.facts)
    lines = next_commands(
        str(run.path),
        abilities,
        run.mask,
        is_paired=is_paired,
        language=language,
        tasks=tasks,
        records=run.facts.get("records"),
        base=adapters_base(run.facts),
    )
    if run.is_unfinished:
        uses = ("pretune predict", "pretune fill", "pretune generate", "pretune embed")
        lines = [f"{line} --step last" for line in lines if run.checkpoints and line.startswith(uses)]
    return section("Next commands", card(f"<pre>{escape(chr(10).join(lines))}</pre>") if lines else "")


def _configuration(run: RunFiles) -> str:
    parts = []
    if run.recipe:
        parts.append(folded("recipe.toml, which trains this model again", f"<pre>{escape(run.recipe.strip())}</pre>"))
    if run.settings:
        rows = "".join(row(name, _setting(value)) for name, value in run.settings.items())
        parts.append(folded("Every field, with the values that the run resolved", f"<table>{rows}</table>"))
    elsewhere = ("settings", "warnings", "proof", "adapters")
    facts = {name: value for name, value in run.facts.items() if name not in elsewhere}
    if facts:
        parts.append(folded("Environment and outcome (run.json)", table(facts)))
    return section("Configuration", *parts)


def _setting(value: object) -> object:
    return translate("by default") if value is None else value


_PARTS: Sequence[Callable[[RunFiles], str]] = (
    header,
    state,
    warnings,
    overview,
    curves,
    label_scores,
    confusion,
    mistakes,
    tuning,
    _samples,
    _next,
    _data_stats,
    _configuration,
)
