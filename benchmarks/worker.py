"""A side's process: load a script, set it up, run it once for each line that comes. Standard library only.

JSON lines. In, once: `{"script", "function", "options", "allocator", "threads", "load", "packages"}`. Out: `{"ready":
true, "versions": {...}}` or `{"error": text}`. In: `"run"`. Out: `{"seconds", "cpu" (seconds of all threads),
"peak_mb", ...what the run returned}` or `{"error": text}`. The end of the input ends the process. It runs under any
Python, without pretune.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

HERE = Path(__file__).resolve().parent
ALLOCATOR = HERE.parent / "pretune" / "runtime" / "allocator.py"


def main() -> None:
    """Serve until the input ends."""
    sys.path[:] = [
        entry for entry in sys.path if not entry or Path(entry).resolve() != HERE
    ]  # its names are common words
    commands, answers = _take_streams()
    try:
        order = json.loads(commands.readline())
        run = _set_up(order)
        _answer(answers, {"ready": True, "versions": _versions(order["packages"])})
    except BaseException:
        _answer(answers, {"error": traceback.format_exc()})
        return
    while commands.readline():
        try:
            with _busy_processes(order["load"]):
                start, cpu = time.perf_counter(), time.process_time()
                result = run()
                spent = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu}
            _answer(answers, {**spent, "peak_mb": _peak(), **result})
        except Exception:
            _answer(answers, {"error": traceback.format_exc()})


def _take_streams() -> tuple[TextIO, TextIO]:
    """The protocol's own ends, hidden from libraries: what they print goes to stderr, what they read is empty."""
    commands, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return commands, answers


def _answer(answers: TextIO, result: dict[str, Any]) -> None:
    answers.write(json.dumps(result) + "\n")
    answers.flush()


def _set_up(order: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    if order["allocator"] == "ours":
        allocator = load("pretune_allocator", ALLOCATOR)
        os.environ.__setitem__(*allocator.HUGE_PAGES)  # read when torch is loaded, which it is not yet
        allocator.tune_allocator()
    module = load("side", Path(order["script"]))
    _limit_threads(order["threads"])
    run: Callable[[], dict[str, Any]] = getattr(module, order["function"])(**order["options"])
    _limit_threads(order["threads"])
    return run


@contextmanager
def _busy_processes(number: int) -> Iterator[None]:
    """Processes that compute without end while the block runs."""
    processes = [subprocess.Popen([sys.executable, "-SE", "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def load(name: str, path: Path) -> ModuleType:
    """The module of a file, under that name."""
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickling look it up
    spec.loader.exec_module(module)
    return module


def _limit_threads(threads: int) -> None:
    """OMP_NUM_THREADS was set before the start; a library may have thought otherwise."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.set_num_threads(threads)


def _versions(packages: list[str]) -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _peak() -> float:
    """The most memory that this process held, in MB; `ru_maxrss` would begin with the parent's, from before exec."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / 1e3
    except (OSError, StopIteration):
        size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return size / (1e6 if sys.platform == "darwin" else 1e3)


if __name__ == "__main__":
    main()
