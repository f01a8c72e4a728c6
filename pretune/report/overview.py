"""The head of the page of a run: what was trained, how far it is, what it warned of, and its numbers."""

from __future__ import annotations

import math
import shlex
import tomllib
from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import numpy as np

from pretune.language import translate
from pretune.report.html import alert, clock, is_number, note, short, tiles
from pretune.report.run_files import RunFiles
from pretune.report.words import metric_name, score
from pretune.wording import describe_budget


def header(run: RunFiles) -> str:
    """Renders the title: what was trained on which data, and when."""
    size = run.facts.get("parameters")
    parts = [
        _origin(run),
        translate(f"{size:,} parameters") if is_number(size) else "",
        goal(run),
        _sources(run),
        str(run.facts.get("began", ""))[:16].replace("T", " "),
    ]
    return f"<header><h1>{escape(run.title)}</h1><p>{escape(' · '.join(filter(None, parts)))}</p></header>"


def _origin(run: RunFiles) -> str:
    """What the run began with: a folder, or a family and a size."""
    if not run.recipe:
        return ""
    model = tomllib.loads(run.recipe).get("model", {})
    family, size = model.get("family", "bert"), model.get("size", "mini")
    return str(model.get("init") or translate(f"{family} {size} from random weights"))


def goal(run: RunFiles) -> str:
    """The objectives and the task by their names."""
    recipe = tomllib.loads(run.recipe)
    targets = [*recipe.get("objective", {}), *recipe.get("task", {})]
    return " + ".join(name.upper() if len(name) < 4 else name for name in targets)


def _sources(run: RunFiles) -> str:
    """The stores or files that it reads."""
    data = tomllib.loads(run.recipe).get("data", {})
    sources = [*data.get("stores", []), *data.get("train", [])]
    return translate(f"on {', '.join(map(str, sources))}") if sources else ""


def state(run: RunFiles) -> str:
    """Renders that a run has not finished, with the command that resumes it."""
    if not run.is_unfinished:
        return ""
    recipe = tomllib.loads(run.recipe)
    verb = "finetune" if recipe.get("task") else "pretrain"
    commands = [f"pretune {verb} {shlex.quote(str(run.path / 'recipe.toml'))}"] if run.recipe else []
    budget = _budget(recipe)
    step = max([round(run.last("step") or 0), *run.checkpoints])  # metrics are not logged at every step
    points = [f"It has reached step {step:,} of a budget of {budget}." if budget else f"It has reached step {step:,}."]
    if run.checkpoints:
        points.append(f"Its newest checkpoint is that of step {run.checkpoints[0]:,}.")
    else:
        points.append("It has no checkpoint yet, so no model can be used.")
    if failure := run.failure:
        points.append(f"It failed: {failure}")
    sentence = "This run has not finished. Unless it is running now, the command below resumes it."
    return alert(sentence, [translate(point) for point in points], commands)


def _budget(recipe: Mapping[str, Any]) -> str:
    """The budget of a recipe, in its unit."""
    amounts = dict(recipe.get("budget", {}))
    floor = amounts.pop("min_steps", 0)
    return next((describe_budget(amount, unit, floor) for unit, amount in amounts.items()), "")


def warnings(run: RunFiles) -> str:
    """Renders what the run warned of, and what its tokenizer does not know of the validation texts where it is much."""
    texts = [warning.removeprefix(_WARNING) for warning in [*run.warnings, *_unknown(run, of_many=True)]]
    word = translate(f"{_WARNING}x").removesuffix("x")  # the sentences are known with it before them
    points = [translate(f"{_WARNING}{text}").removeprefix(word) for text in dict.fromkeys(texts)]
    return alert("Warnings of this run:", points) if points else ""


def _unknown(run: RunFiles, *, of_many: bool) -> list[str]:
    """The sentence on unknown tokens of the validation texts, if it is a warning or if it is none."""
    unknown = run.validation.get("unknown")
    return [unknown] if isinstance(unknown, str) and unknown.startswith(_WARNING) == of_many else []


def overview(run: RunFiles) -> str:
    """Renders the headline numbers: scores of the saved model first, what is comparable beside them, then the run."""
    cells: list[tuple[str, str, str]] = []
    for name in run.score_names:
        if (value := run.saved(name)) is not None:
            cells.append((score(name, value), metric_name(name), run.validation_note))
            others = run.baselines(name) if name == run.main_score else []
            about = f"{translate(metric_name(name))}, for comparison"
            cells += [(score(name, other), label, about) for label, other in others]
    for name in ("eval/coverage", "eval/risk"):  # of a threshold that was chosen once training had ended
        if (value := run.saved(name)) is not None:
            cells.append((score(name, value), metric_name(name), run.validation_note))
    if (before := run.logged("eval/ece")) is not None and before != run.saved("eval/ece"):
        cells.append((score("eval/ece", before), metric_name("eval/ece"), "before calibration"))
    if (held_out := run.saved("eval/loss")) is not None:
        cells.append((f"{held_out:.3f}", "validation loss", run.validation_note))
    if (loss := run.last("loss")) is not None:
        cells.append((f"{loss:.3f}", "training loss", "last logged"))
    if (perplexity := _perplexity(run)) is not None:
        cells.append((f"{perplexity:,.1f}", "perplexity", run.validation_note))
    for name, label, show in _FACTS:
        if (value := run.last(name)) is not None:
            cells.append((show(value), label, ""))
    cells += [(f"{count:,} / {steps:,}", label, "") for count, steps, label in run.left_out]
    speed = run.series("tokens_per_second")[1]
    if len(speed):
        cells.append((short(float(np.nanmedian(speed))), "tokens per second", "median"))
    return tiles(cells) + "".join(note(unknown) for unknown in _unknown(run, of_many=False))


def _perplexity(run: RunFiles) -> float | None:
    """Returns the perplexity of the term that predicts each next token."""
    term = next((name for name, ability in run.abilities.items() if ability == "generate"), None)
    loss = run.saved(f"eval/loss/{term}")
    return math.exp(loss) if loss is not None and loss < 50 else None


_WARNING = "warning: "
_FACTS: Sequence[tuple[str, str, Callable[[float], str]]] = (
    ("tokens", "tokens seen", short),
    ("step", "steps", lambda value: f"{value:,.0f}"),
    ("epoch", "epochs", lambda value: f"{value:.2f}"),
    ("time", "training time", clock),
)
