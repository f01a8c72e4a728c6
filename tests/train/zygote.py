"""Kills training at random moments: a process that has imported everything forks one child for each attempt.

Usage: python zygote.py STORE FOLDER KILLS SEED; prints JSON: for "mlm" and "clm", {"whole": result, "runs": [results]}.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from trainkit import clm_recipe, measure_peak_once, recipe, shas, untimed

from pretune.train.recipe import Recipe
from pretune.train.run import pretrain

STEPS = 8
OVER: dict[str, Any] = {
    "budget": {"steps": STEPS},
    "checkpoint": {"every": 2},
    "evaluation": {"every": 4, "samples": 4},
    "model": {"dropout": 0.1},
}


def attempt(run_recipe: Recipe, seconds: float | None) -> tuple[bool, float]:
    """Train in a child, killed after some time; was it killed, and how long did it take."""
    begin = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            pretrain(run_recipe)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise SystemExit(f"the child failed with {os.WEXITSTATUS(status)}")
    return os.WIFSIGNALED(status), time.monotonic() - begin


def result(run: Path) -> dict[str, Any]:
    """Everything that must be equal."""
    return {**shas(run, STEPS), "metrics": untimed(run), "model": (run / "model.safetensors").read_bytes().hex()}


def series(store: Path, folder: Path, make: Any, kills: int, chance: random.Random) -> dict[str, Any]:
    """An undisturbed run, and as many runs that were killed once as asked for."""
    pretrain(make(folder / "warm", store, **OVER))  # here, so that no child pays for what torch does once
    _, whole = attempt(make(folder / "whole", store, **OVER), None)
    runs: list[dict[str, Any]] = []
    for n in range(10 * kills):
        run = folder / f"run{n}"
        killed, taken = attempt(make(run, store, **OVER), chance.uniform(0.0, whole))
        if not killed:
            whole = taken
            continue
        attempt(make(run, store, **OVER), None)
        runs.append(result(run))
        if len(runs) == kills:
            break
    return {"whole": result(folder / "whole"), "runs": runs}


def main(store: Path, folder: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    measure_peak_once()
    chance = random.Random(seed)
    kinds = {"mlm": recipe, "clm": clm_recipe}
    print(json.dumps({name: series(store, folder / name, make, kills, chance) for name, make in kinds.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
