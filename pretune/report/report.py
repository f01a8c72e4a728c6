"""Renders a run directory as `report.html`: one self-contained page, which fetches nothing.

It is made of `metrics.jsonl`, `recipe.toml`, `data_stats.json`, `samples.json` and `run.json`, those that exist.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Collection, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

from pretune import __version__
from pretune.disk import replace_file
from pretune.report.charts import Curve, Level, Style, draw
from pretune.report.html import card, clock, is_number, score, short, table, text, words
from pretune.report.run_files import RunFiles, read_run
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
    return Template(template).substitute(title=escape(_title(run)), body=body, version=__version__)


def _title(run: RunFiles) -> str:
    return run.path.resolve().name


def _header(run: RunFiles) -> str:
    """Renders the title: what was trained on which data, and when."""
    recipe = tomllib.loads(run.recipe)
    model, data = recipe.get("model", {}), recipe.get("data", {})
    origin = model.get("init") or f"{model.get('family', 'bert')} {model.get('size', 'mini')} from random weights"
    targets = [*recipe.get("objective", {}), *recipe.get("task", {})]
    sources = [*data.get("stores", []), *data.get("train", [])]
    size = run.facts.get("parameters")
    parts = [
        str(origin) if run.recipe else "",
        f"{size:,} parameters" if is_number(size) else "",
        " + ".join(name.upper() if len(name) < 4 else name for name in targets),
        f"on {', '.join(map(str, sources))}" if sources else "",
        str(run.facts.get("began", ""))[:16].replace("T", " "),
    ]
    return f"<header><h1>{escape(_title(run))}</h1><p>{escape(' · '.join(filter(None, parts)))}</p></header>"


def _tiles(run: RunFiles) -> str:
    """Renders the headline numbers."""
    tiles: list[tuple[str, str, str]] = []
    if (held_out := run.saved("eval/loss")) is not None:
        tiles.append((f"{held_out:.3f}", "validation loss", run.validation_note))
    if (loss := run.last("loss")) is not None:
        tiles.append((f"{loss:.3f}", "training loss", "last logged"))
    tiles += [(score(v), words(name.removeprefix("eval/")), run.validation_note) for name, v in _scores(run)]
    if (perplexity := _perplexity(run)) is not None:
        tiles.append((f"{perplexity:,.1f}", "perplexity", run.validation_note))
    for name, label, show in _FACTS:
        if (value := run.last(name)) is not None:
            tiles.append((show(value), label, ""))
    tiles += [(f"{count:,} of {steps:,}", label, "") for count, steps, label in run.left_out]
    speed = run.series("tokens_per_second")[1]
    if len(speed):
        tiles.append((short(float(np.nanmedian(speed))), "tokens per second", "median"))
    for name, label in (("gemm_utilization", "of the GEMM limit"), ("data_wait", "waiting for data")):
        ratio = run.series(name)[1]
        if len(ratio):
            tiles.append((f"{np.nanmedian(ratio):.1%}", label, "median"))
    cells = "".join(
        f'<div class="tile"><b>{escape(value)}</b><span>{escape(label)}</span><small>{escape(note)}</small></div>'
        for value, label, note in tiles
    )
    return f'<section class="tiles">{cells}</section>'


def _curves(run: RunFiles) -> str:
    """Renders the loss first and wide, then all other charts in pairs."""
    terms = [name.removeprefix("loss/") for name in run.names("loss/")]
    main = next((f"loss/{term}" for term in run.token_terms if term in terms), "loss")
    if main not in run.names():
        main = "loss"
    wide, narrow = (_loss_chart(run, main, wide) for wide in (True, False))
    both = f'<div class="on-wide">{wide}</div><div class="on-narrow">{narrow}</div>' if wide else ""
    scores = [name for name, _ in _scores(run)]
    out = ["<h2>Loss</h2>", card(both), _entropy_note(run, main)]
    others = [name for name in ("loss", *run.names("loss/")) if name != main] if len(terms) > 1 else []
    small = [_loss_chart(run, name) for name in others]
    small += [
        _plain_chart(run, name, f"{words(name.removeprefix('eval/')).capitalize()}, validation", "dots")
        for name in scores
    ]
    small += [_plain_chart(run, name, title, style) for name, title, style in _CHARTS]
    for name in run.names("accuracy/"):
        title = f"{name.removeprefix('accuracy/').upper()} accuracy, training"
        small.append(_plain_chart(run, name, title, "trace"))
    cards = [card(chart) for chart in small if chart]
    if cards:
        out.append(f'<h2>During training</h2><div class="pair">{"".join(cards)}</div>')
    return "\n".join(out)


def _loss_chart(run: RunFiles, name: str, wide: bool = False) -> str:
    train, held = run.series(name), run.series(f"eval/{name}")
    curves = [Curve("training", *train, "trace")] if len(train[0]) else []
    if len(held[0]):
        curves.append(Curve("validation", *held, "dots"))
    levels = []
    if run.entropy is not None and name.removeprefix("loss/") in run.token_terms:
        levels.append(Level("unigram entropy", run.entropy))
    term = name.removeprefix("loss/").upper()
    title = "Loss, nats" if name == "loss" else f"{term} loss, nats per prediction"
    return draw(title, curves, run.axis, levels, wide) if curves else ""


def _plain_chart(run: RunFiles, name: str, title: str, style: Style) -> str:
    x, y = run.series(name)
    floor = 0.0 if name in _FROM_ZERO else None
    return draw(title, [Curve(title, x, y, style)], run.axis, floor=floor) if len(x) > 1 else ""


def _entropy_note(run: RunFiles, main: str) -> str:
    if run.entropy is None or main == "loss":
        return ""
    return (
        '<p class="note">The dashed line is the unigram entropy of the corpus: the loss of a model that knows only '
        "token frequencies. Below it, the model uses context.</p>"
    )


def _labels(run: RunFiles) -> str:
    """Renders the scores of each label, where a task has them."""
    newest = {name: run.saved(name) for name in run.names("eval/") if name.count("/") == 2}
    labels = [str(label) for label in run.facts.get("labels") or ()]
    columns = [
        column
        for column in dict.fromkeys(name.split("/")[1] for name in newest)
        if labels and all(f"eval/{column}/{label}" in newest for label in labels)
    ]
    if not columns:
        return ""
    head = "".join(f'<th class="number">{escape(words(column))}</th>' for column in columns)
    rows = "".join(
        f"<tr><th>{escape(label)}</th>"
        + "".join(f'<td class="number">{_cell(newest[f"eval/{column}/{label}"])}</td>' for column in columns)
        + "</tr>"
        for label in labels
    )
    whole = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<h2>Scores by label</h2>{card(whole)}"


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}" if value > 1 else f"{value:.3f}"


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
    if not run.data_stats:
        return ""
    return "<h2>Data statistics</h2>" + card(table(run.data_stats))


def _next(run: RunFiles) -> str:
    columns = tomllib.loads(run.recipe).get("data", {}).get("columns", {})
    is_paired = columns.get("second_column") is not None
    lines = next_commands(str(run.path), set(run.abilities.values()), run.mask, is_paired)
    return f'<h2>Next commands</h2><div class="card"><pre>{escape(chr(10).join(lines))}</pre></div>'


def next_commands(model: str, abilities: Collection[str], mask: str, is_paired: bool) -> list[str]:
    """Returns the commands that use a model.

    Args:
        abilities: of `generate`, `fill`, `classify`.
        mask: the mask token of its tokenizer.
        is_paired: it was trained on pairs of texts.
    """
    lines = []
    if "generate" in abilities:
        lines.append(f'pretune generate {model} "The function returns"')
    if "fill" in abilities:
        lines.append(f'pretune fill {model} "The function returns a {mask}."')
    if "classify" in abilities:
        second = ' --second "its second text"' if is_paired else ""
        lines.append(f'pretune predict {model} "a text to label"{second}')
    else:
        fields = "--task classification --data.train labelled.csv --budget.epochs 3"
        lines.append(f"pretune finetune --model.init {model} {fields}")
    return [*lines, f'pretune embed {model} "a text" --output vectors.npy']


def _configuration(run: RunFiles) -> str:
    parts = []
    if run.recipe:
        parts.append(
            f'<h2>Configuration</h2><div class="card"><details open><summary>recipe.toml, resolved</summary>'
            f"<pre>{escape(run.recipe.strip())}</pre></details></div>"
        )
    if run.facts:
        parts.append(
            f'<div class="card"><details><summary>Environment and outcome (run.json)</summary>{table(run.facts)}'
            "</details></div>"
        )
    return "\n".join(parts)


def _scores(run: RunFiles) -> list[tuple[str, float]]:
    """Returns the scores of a task over all its labels."""
    names = [name for name in run.names("eval/") if name.count("/") == 1 and name != "eval/loss"]
    return [(name, value) for name in names if (value := run.saved(name)) is not None]


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
_CHARTS: Sequence[tuple[str, str, Style]] = (
    ("lr", "Learning rate", "line"),
    ("grad_norm", "Gradient norm", "trace"),
    ("tokens_per_second", "Tokens per second", "trace"),
)
_FROM_ZERO = ("tokens_per_second", "grad_norm")
_SECTIONS: Sequence[Callable[[RunFiles], str]] = (
    _header,
    _tiles,
    _curves,
    _labels,
    _samples,
    _next,
    _data_stats,
    _configuration,
)
