"""Renders `docs/families.md`, `docs/objectives.md` and `docs/tasks.md`, from the files of the variants themselves.

`pretune show families --markdown` prints them; `pretune.cli.lists` has what is shown on a screen.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from pretune.cli.compatibility import compatibility

if TYPE_CHECKING:
    from pretune.models.model import LanguageModel
    from pretune.objectives.objective import Objective

_LENGTH = 128  # tokens of the sequences whose operations are counted
_VOCABULARY, _SPECIAL, _TEXTS = 30522, 105, 8  # of the texts on which objectives are compared
_VIEWS = {
    "stream": "any documents",
    "sentence": "sentences, of whatever documents",
    "sentences": "documents of several sentences",
    "pairs": "two documents or more, of several sentences",
}


def families() -> str:
    """Renders every family: what is different about it, its source, and its sizes."""
    from pretune.find import variants

    return _page("Families", _FAMILIES, (_family(name) for name in variants("models")))


def objectives() -> str:
    """Renders every objective: what it predicts, its source, its data and its fields."""
    from pretune.find import variants

    return _page("Objectives", _OBJECTIVES, (_objective(name) for name in variants("objectives")))


def tasks() -> str:
    """Renders every task: what it learns, its data and its fields."""
    from pretune.find import variants

    return _page("Tasks", _TASKS, (_task(name) for name in variants("tasks")))


PAGES: dict[str, Callable[[], str]] = {
    "families": families,
    "objectives": objectives,
    "tasks": tasks,
    "compatibility": compatibility,
}

_FAMILIES = f"""
Each family is one file of `pretune/models`, with the name that `--model.family` takes. Weights include the heads of
its first architecture. Training needs gradients and AdamW's two moments beside the weights, and activations, which
`pretune show` estimates for a run. Operations are those of layers and vocabulary in a forward pass over one token of
a sequence of {_LENGTH}, a multiply-add counted as two; a training step costs three times as many. Both sides of an
encoder-decoder read {_LENGTH} tokens.
"""
_OBJECTIVES = """
Each objective is one file of `pretune/objectives`, with the name that `--objective` takes:
[which-objective.md](which-objective.md) says when to use which. `--objective mlm,sop` mixes objectives that read the
same data. A field is set as `--objective.mlm.rate 0.3`. Operations are those of a training step, with all its passes
and heads, relative to those of `mlm` with a BERT of the same layers and width on the same texts of 126 tokens;
`benchmarks/README.md` has the measured times (`make bench ARGS=objective_cost`).
"""
_TASKS = """
Each task is one file of `pretune/tasks`, with the name that `--task` takes. A field is set as
`--task.classification.class_weights balanced`; which columns of the files are read is said in `data.columns`
(`--text`, `--label`, `--second`, `--third`). A task of your own is a file, too: [add/task.md](add/task.md).
"""


def _page(title: str, introduction: str, parts: Iterator[str]) -> str:
    note = f"<!-- made by `pretune show {title.lower()} --markdown` -->"
    text = " ".join(introduction.split())
    return "\n\n".join([f"# {title}", note, text, *parts]) + "\n"


def _family(name: str) -> str:
    from pretune.models.model import get_family

    family = get_family(name)
    classes = ", ".join(f"`{name}`" for name in family.ARCHITECTURES)
    table = ["| size | weights | fp32 | to train | MFLOP a token |", "|---|---|---|---|---|"]
    table += [_size(name, size) for size in family.SIZES]
    description = inspect.cleandoc(family.__doc__ or "")
    return "\n\n".join([f"## {name}", description, f"In `transformers`: {classes}.", "\n".join(table)])


def _size(name: str, size: str) -> str:
    from pretune.models import build
    from pretune.models.flops import count_parameters, encoder_flops, head_flops, stack_flops
    from pretune.models.model import get_family
    from pretune.nn.heads import reads_rows

    heads = next((roles for roles in get_family(name).ARCHITECTURES.values() if roles), ())
    model = build(name, size, heads, allocate=False)
    flops = stack_flops(model.stack, _LENGTH, _LENGTH) / _LENGTH
    flops += encoder_flops(model, _LENGTH) / _LENGTH
    flops += sum(head_flops(model, role) for role in heads if reads_rows(model.heads[role]))
    weights = count_parameters(model)
    memory = " | ".join(f"{times * 4 * weights / 1e6:,.0f} MB" for times in (1, 4))
    return f"| {size} | {_count(weights)} | {memory} | {flops / 1e6:,.1f} |"


def _count(weights: int) -> str:
    return f"{weights / 1e9:,.2f} B" if weights >= 1e9 else f"{weights / 1e6:,.1f} M"


def _objective(name: str) -> str:
    from pretune.cli.fields import describe
    from pretune.find import find_class
    from pretune.objectives.objective import Objective

    objective = find_class("objectives", name, Objective)  # type: ignore[type-abstract]
    module = inspect.getmodule(objective)
    heads = ", ".join(f"`{role}`" for role in _built(name)[0].heads)
    what = (
        f"a model with the head {heads}, such as {objective.default_family}"
        if heads
        else f"any encoder, such as {objective.default_family}"
    )
    facts = f"Needs: {_VIEWS[objective.view]}; {what}."
    facts += f" Operations of a step: {_step_flops(name) / _step_flops('mlm'):.2f} of those of `mlm`."
    fields = "```\n" + describe(objective.Config, f"--objective.{name}.") + "\n```"
    description = inspect.cleandoc((module.__doc__ if module else None) or "")
    return "\n\n".join([f"## {name}", description, facts, fields])


def _task(name: str) -> str:
    from pretune.cli.fields import describe
    from pretune.find import find_class
    from pretune.tasks.task import AnyTask, Task

    task: type[AnyTask] = find_class("tasks", name, Task)  # type: ignore[type-abstract]
    module = inspect.getmodule(task)
    some = "labels in validation data, if at all" if task.scores_unlabelled else "labels in validation data alone"
    labels = "labels" if task.needs_labels else some
    facts = f"Needs: {labels}. Checkpoints are compared by `{task.main_metric}`."
    fields = "```\n" + describe(task.Config, f"--task.{name}.", without=("columns",)) + "\n```"
    return "\n\n".join([f"## {name}", inspect.cleandoc((module.__doc__ if module else None) or ""), facts, fields])


@cache
def _built(name: str) -> tuple[LanguageModel, Objective]:
    """Builds a small model of an objective's default family, and the objective."""
    from pretune.draw import Draw
    from pretune.models import build
    from pretune.objectives.mixture import build as build_objective
    from pretune.text.tokenizer.vocabulary import numbered

    objective = build_objective({name: 1.0}, numbered(_VOCABULARY, _SPECIAL - 5))
    overrides = {"vocab_size": _VOCABULARY}
    model = build(objective.default_family, "mini", objective.heads, overrides, allocate=False)
    objective.setup(model, Draw(0))
    return model, objective


@cache
def _step_flops(name: str) -> float:
    """Counts the operations of a training step of an objective, with a small model of its default family."""
    import numpy as np

    from pretune.draw import Draw
    from pretune.models.flops import Flops
    from pretune.text.samples.rows import Row

    model, objective = _built(name)
    rows = []
    for n in range(_TEXTS):
        tokens = Draw(n).below(np.arange(_LENGTH - 2 + objective.lookahead), _VOCABULARY - _SPECIAL) + _SPECIAL
        half = np.array([len(tokens) // 2])
        rows.append(Row((0, 0, n), tokens, sentences=np.append(0, half), other=tokens[::-1], stops=half))
    return Flops(model, objective.passes)(objective.build_batch(rows, Draw(0)))
