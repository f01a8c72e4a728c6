"""How many tokens a model's weights have learned from, where the records of our own runs say it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pretune.errors import DataError
from pretune.interop.run_names import FACTS
from pretune.seals import read_facts

_RUNS = 100  # each of which began with the weights of the one before


def tokens_per_parameter(folder: Path) -> float | None:
    """Tokens that all runs behind a model's weights have read, for each of its parameters.

    Returns:
        None where no record says so: the weights are not ours, or one of the folders they began with is gone.
    """
    total, place, parameters = 0, folder, 0
    for _ in range(_RUNS):
        facts = _facts(place)
        parameters = parameters or facts.get("parameters", 0)
        settings, finished = (facts.get(name) or {} for name in ("settings", "finished"))
        if "model.init" not in settings or "tokens" not in finished:
            return None
        total += finished["tokens"]
        before = settings["model.init"]
        if before is None:
            return total / parameters if parameters else None
        place = Path(before)
    return None


def _facts(folder: Path) -> dict[str, Any]:
    """What a run says of itself; nothing where there is no run, or where its file was changed, as other readers say."""
    try:
        return read_facts(folder / FACTS)
    except (FileNotFoundError, NotADirectoryError, DataError):
        return {}
