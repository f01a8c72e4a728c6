"""Real texts that some benchmarks read, and that pretune does not carry."""

from __future__ import annotations

import os
from pathlib import Path

from pretune.errors import BenchError


def text_file(name: str) -> Path:
    """A file below the folder of `PRETUNE_DATA`, by default `shared/data` beside the checkout.

    Raises:
        BenchError: it is not there.
    """
    beside = Path(__file__).parents[2] / "shared" / "data"
    path = Path(os.environ.get("PRETUNE_DATA", beside)) / name
    if not path.is_file():
        raise BenchError(f"{path}: not there; PRETUNE_DATA names a folder that has {name}")
    return path
