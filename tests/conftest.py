"""Makes `tests/fakes.py` importable from every test, and gives the folder of real data where there is one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """`PRETUNE_DATA`, else `../shared/data` beside the checkout; the test is skipped where neither exists."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PRETUNE_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}; set PRETUNE_DATA")
    return folder


@pytest.fixture(autouse=True)
def own_voice() -> Iterator[None]:
    """Verbs set how the library speaks for their own process; a test must not do so for the next one."""
    log = logging.getLogger("pretune")
    level, handlers = log.level, list(log.handlers)
    yield
    log.setLevel(level)
    log.handlers = handlers
