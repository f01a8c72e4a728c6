"""Makes the files of this folder importable from every test; the folder of real data; a server that runs verbs."""

from __future__ import annotations

import gc
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drillkit import Zygote
from hypothesis import HealthCheck, settings

# Models of the tests are so small that a second thread costs more than it gives. Before torch is loaded; processes that
# tests start inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # each process that tests start would compile the package again
sys.dont_write_bytecode = False
os.environ["LANGUAGE"] = "en"  # whatever the locale of who runs them: tests compare what is said


settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")  # no test hangs on how long it takes

gc.disable()  # until all is collected, which makes a million objects that stay

_peaks: dict[tuple[object, ...], float] = {}
_drawn = {"whole": False}


def _fsync(handle: int) -> None:
    """A run syncs a hundred times, for a millisecond or more each, so that it is whole after a power loss: not here.

    `tests/drill/test_power_loss.py` and tests that record calls hold that files are synced, and when; an error of the
    handle is still one. Processes that tests start sync.
    """
    os.fstat(handle)


os.fsync = _fsync


def pytest_collection_finish() -> None:
    """Modules that tests write, and write again within a second, are compiled each time; what is there now stays.

    What is replaced here is so for fixtures of modules and sessions too.
    """
    sys.dont_write_bytecode = True
    _read_in_this_process()
    _measure_once()
    _draw_where_wanted()
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Tests of the page of a run have its charts whole, and those that are marked `charts`."""
    of_the_page = "report" in (item.path.parent.name, *item.path.stem.split("_"))
    _drawn["whole"] = of_the_page or item.get_closest_marker("charts") is not None


def _read_in_this_process() -> None:
    """`export` has `transformers` read its result in a process of its own, which takes seconds: here it is this one.

    `tests/interop/test_foreign_reader.py` starts that process too.
    """
    from pretune.interop import foreign_reader

    def run(folder: Path, question: Path, reply: Path) -> str:
        from pretune.interop.transformers_script import main

        main(str(folder), str(question), str(reply))
        return ""

    foreign_reader.run_script = run


def _measure_once() -> None:
    """Each run measures the speed of a large matmul, which is as long as the ten steps of a tiny model: here, once.

    `tests/runtime/test_precision.py` measures it.
    """
    from pretune.runtime import precision

    measure = precision.measure

    def known(device: Any, name: str, *seconds: float) -> float:
        key = (str(device), name, *seconds)
        if key not in _peaks:
            _peaks[key] = measure(device, name, *seconds)
        return _peaks[key]

    precision.measure = known


def _draw_where_wanted() -> None:
    """The page of each run has four charts and more, a fifth of a second each to lay out and write: here, an empty one.

    What is in them is plotted all the same.
    """
    from pretune.report import charts

    render = charts._render
    charts._render = lambda figure: render(figure) if _drawn["whole"] else '<svg width="1pt" height="1pt"></svg>'


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """`PRETUNE_DATA`, else `../shared/data` beside the checkout; the test is skipped where neither exists."""
    beside = Path(__file__).parents[2] / "shared" / "data"
    folder = Path(os.environ.get("PRETUNE_DATA", beside))
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}; set PRETUNE_DATA")
    return folder


@pytest.fixture(scope="session")
def zygote(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    """Runs verbs in forked children of a process that has imported everything; see `drillkit`."""
    if sys.platform != "linux":
        pytest.skip("the drill needs Linux")
    with Zygote(tmp_path_factory.mktemp("zygote")) as server:
        yield server


@pytest.fixture
def unsealed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Folders are read as those of others, without digests: for tests that save one and change it to be another's."""
    monkeypatch.setattr("pretune.seals.read_seal", lambda folder: {})


@pytest.fixture(autouse=True)
def own_voice() -> None:
    """Verbs set how the library speaks for their own process: each test begins as if none had run, nor any fixture.

    Scripts that tests run in this process may have silenced all logging.
    """
    logging.disable(logging.NOTSET)
    for name in ("pretune", "benchmarks"):
        log = logging.getLogger(name)
        log.setLevel(logging.NOTSET)
        log.handlers = []
