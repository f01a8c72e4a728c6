"""Which fields of a fine-tuning recipe its training data may decide: those that nobody gave a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pretune.errors import PretuneError
from pretune.find import find
from pretune.train.task_tables import are_named, listed

FIELDS = (
    "budget",
    "optimizer.lr",
    "schedule.warmup",
    "data.batch",
    "data.length",
    "evaluation.every",
    "evaluation.keep",
    "evaluation.keep_initial",
    "task.head",
    "task.fit_head",
    "task.contrast",
    "task.apart",
)
_METHODS = ("full", "frozen")


def open_fields(tree: Mapping[str, Any]) -> tuple[str, ...]:
    """Names the fields of a recipe's tree that `finetune` may choose.

    Nothing is open where the recipe names a budget, trains on stores too, starts from random weights, or tunes by
    surgery: then the fixed defaults hold. Of several tasks, the settings of each stay as they are, and so do those of a
    task whose scores are compared while it trains, which a head that is fitted at the end has not.
    """
    tasks, tune, model = tree.get("task"), tree.get("tune"), tree.get("model")
    names = [tasks] if isinstance(tasks, str) else list(tasks or ())
    if not names or tree.get("objective") or tree.get("budget") is not None:
        return ()
    if any(method not in _METHODS for method in ([tune] if isinstance(tune, str) else list(tune or ()))):
        return ()
    if not _value(model, "init") or _value(model, "init") == "tfidf":
        return ()
    is_several = are_named(tasks if isinstance(tasks, Mapping) else dict.fromkeys(names))
    evaluation = tree.get("evaluation")
    is_compared = _value(evaluation, "patience") is not None or _value(evaluation, "keep") in ("best", "average")
    possible = [field for field in FIELDS if not ((is_several or is_compared) and field.startswith("task."))]
    fields = [field for field in possible if not _is_given(tree, place_of(field, names[0]))]
    batch_tokens = _value(tree.get("data"), "batch_tokens")
    return tuple(field for field in fields if field != "data.batch" or batch_tokens is None)


def place_of(field: str, task: str) -> list[str]:
    """Where a field stands in the tree of a recipe; those of the task without its name, which may be a path."""
    first, *rest = field.split(".")
    return [first, task, *rest] if first == "task" else [first, *rest]


def _is_given(tree: object, path: Sequence[str]) -> bool:
    """Whether a value stands at a path of a tree."""
    value: object = tree
    for name in path:
        value = _value(value, name)
    return value is not None


def _value(tree: object, name: str) -> object:
    """A field of a table, or of a typed part of a recipe where it was set."""
    if isinstance(tree, Mapping):
        return tree.get(name)
    return getattr(tree, name, None) if name in getattr(tree, "model_fields_set", ()) else None


def default_rate(tree: Mapping[str, Any]) -> float | None:
    """The learning rate for fine-tuning that the tuning method's file says, if it says one."""
    try:
        methods = [find("tune", name) for name in listed(tree.get("tune") or ())]
    except PretuneError:  # refused with its reason where the method is looked up
        return None
    return getattr(methods[0], "RATE", None) if methods else None
