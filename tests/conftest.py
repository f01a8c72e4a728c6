"""Makes `tests/fakes.py` importable from every test, and gives the folder of real data where there is one."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

# Models of the tests are so small that a second thread costs more than it gives. Before torch is loaded; processes that
# tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """`PRETUNE_DATA`, else `../shared/data` beside the checkout; the test is skipped where neither exists."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PRETUNE_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}; set PRETUNE_DATA")
    return folder


@pytest.fixture(autouse=True)
def own_voice() -> None:
    """Verbs set how the library speaks for their own process: each test begins as if none had run, nor any fixture."""
    for name in ("pretune", "benchmarks"):
        log = logging.getLogger(name)
        log.setLevel(logging.NOTSET)
        log.handlers = []
