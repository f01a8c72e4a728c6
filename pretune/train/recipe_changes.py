"""Compares the recipe of a run with the one that it was begun with: which fields may change on the way."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pretune.config.field_names import matches
from pretune.errors import UsageError

# A run goes on with another value of these; anything else would make it another run.
_MAY_CHANGE = (
    "output",
    "device",
    "precision",
    "threads",
    "resume",
    "data.verify",
    "data.accumulate",
    "data.stores",  # a store is known by its fingerprint, not by its place
    "data.tokenizer",
    "data.train",
    "data.validation",
    "task.*.data.train",
    "task.*.data.validation",
    "model.checkpointing",
    "model.attention",
    "optimizer",
    "schedule",
    "nonfinite",
    "max_skipped",
    "spike",
    "budget",
    "evaluation",
    "checkpoint",
    "features",
    "distil.cache",
    "distil.baseline",
    "track",
    "parallel",
)
_OF_THE_SCREEN = ("track.progress", "track.verbose")


def compare(began: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What changed between two flat recipes, a line each.

    Args:
        began: the recipe that the run directory was begun with.
        now: the one that it is to go on with.

    Raises:
        UsageError: a field changed that makes it another run; every such field is named.
    """
    changed = [
        (name, began.get(name), now.get(name)) for name in sorted({*began, *now}) if began.get(name) != now.get(name)
    ]
    refused = [f"{name}: {_shown(a)} -> {_shown(b)}" for name, a, b in changed if not matches(name, _MAY_CHANGE)]
    if refused:
        raise UsageError(
            "this run directory was begun with another recipe, and these fields cannot change on the way: "
            + "; ".join(refused)
            + ". Put the old values back, or give another --output"
        )
    return [f"{name}: {_shown(a)} -> {_shown(b)}" for name, a, b in changed if not matches(name, _OF_THE_SCREEN)]


def _shown(value: Any) -> str:
    """A value of a recipe as its TOML file has it; "none" for a field without a value."""
    return "none" if value is None else json.dumps(value, ensure_ascii=False)
