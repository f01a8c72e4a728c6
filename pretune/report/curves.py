"""Charts of a run: its loss first and wide, then everything else that was measured, in pairs."""

from __future__ import annotations

from collections.abc import Sequence

from pretune.language import translate
from pretune.report.charts import Curve, Level, Style, draw
from pretune.report.html import card, note, section
from pretune.report.run_files import RunFiles
from pretune.report.words import metric_name

_CHARTS: Sequence[tuple[str, str, Style]] = (
    ("lr", "Learning rate", "line"),
    ("grad_norm", "Gradient norm", "trace"),
    ("tokens_per_second", "Tokens per second", "trace"),
)
_FROM_ZERO = ("tokens_per_second", "grad_norm")
_NAMES = {"classification": "label", "similarity": "similarity", "cert": "CERT"}


def curves(run: RunFiles) -> str:
    """Renders the loss first and wide, then all other charts in pairs."""
    terms = [name.removeprefix("loss/") for name in run.names("loss/")]
    main = next((f"loss/{term}" for term in run.token_terms if term in terms), "loss")
    if main not in run.names():
        main = "loss"
    wide, narrow = (_loss_chart(run, main, wide) for wide in (True, False))
    both = f'<div class="on-wide">{wide}</div><div class="on-narrow">{narrow}</div>' if wide else ""
    out = [section("Loss", card(both), _entropy_note(run, main) if both else "")]
    others = [name for name in ("loss", *run.names("loss/")) if name != main] if len(terms) > 1 else []
    small = [_loss_chart(run, name) for name in others]
    small += [score_chart([("", run)], name) for name in run.score_names]
    small += [_plain_chart(run, name, title, style) for name, title, style in _CHARTS]
    terms = [name.removeprefix("accuracy/") for name in run.names("accuracy/")]
    for term in terms:
        title = f"Training accuracy, {_NAMES.get(term, term.upper())}" if len(terms) > 1 else "Training accuracy"
        small.append(_plain_chart(run, f"accuracy/{term}", title, "trace"))
    cards = [card(chart) for chart in small if chart]
    if cards:
        out.append(section("During training", f'<div class="pair">{"".join(cards)}</div>', _levels_note(run)))
    return "\n".join(out)


def score_chart(runs: Sequence[tuple[str, RunFiles]], name: str) -> str:
    """Draws a score of validation over the course of some runs, with what is reached without fine-tuning.

    Args:
        runs: each with its name, which is empty for a single one.
    """
    lines = [Curve(label or translate("validation"), *run.series(name), "dots") for label, run in runs]
    lines = [line for line in lines if len(line.x)]
    if not any(len(line.x) > 1 for line in lines):
        return ""
    levels = [Level(label, value) for label, value in runs[0][1].baselines(name)] if len(runs) == 1 else []
    title = translate(metric_name(name))
    return draw(f"{title[:1].upper()}{title[1:]}, validation", lines, runs[0][1].axis, levels)


def _loss_chart(run: RunFiles, name: str, wide: bool = False) -> str:
    train, held = run.series(name), run.series(f"eval/{name}")
    lines = [Curve(translate("training"), *train, "trace")] if len(train[0]) else []
    if len(held[0]):
        lines.append(Curve(translate("validation"), *held, "dots"))
    levels = []
    if run.entropy is not None and name.removeprefix("loss/") in run.token_terms:
        levels.append(Level("unigram entropy", run.entropy))
    term = name.removeprefix("loss/")
    title = "Loss" if name == "loss" else f"{_NAMES.get(term, term.upper())} loss per prediction"
    return draw(title[:1].upper() + title[1:], lines, run.axis, levels, wide) if lines else ""


def _plain_chart(run: RunFiles, name: str, title: str, style: Style) -> str:
    x, y = run.series(name)
    floor = 0.0 if name in _FROM_ZERO else None
    return draw(title, [Curve(title, x, y, style)], run.axis, floor=floor) if len(x) > 1 else ""


def _entropy_note(run: RunFiles, main: str) -> str:
    if run.entropy is None or main == "loss":
        return ""
    return note(
        "The dashed line is the unigram entropy of the corpus: the loss of a model that knows only token frequencies. "
        "Below it, the model uses context."
    )


def _levels_note(run: RunFiles) -> str:
    """Renders what the lines of comparison are, and why one is not there."""
    known = run.validation.get("baselines")
    if not run.score_names or not isinstance(known, dict):
        return ""
    if problem := known.get("probe_problem"):
        return note(f"The dashed line is what answering the commonest label reaches. No logistic regression: {problem}")
    return note(
        "The dashed line is what answering the commonest label reaches; the dotted one what logistic regression "
        "reaches on the vectors that the model gave before training."
    )
