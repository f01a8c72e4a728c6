"""Runs of two ranks, forked from a process that has imported everything, as torchrun would start them.

Usage: python ranks.py STORE FOLDER; prints JSON: for each fault, the exit codes and standard errors of both ranks. The
folder `one` gets the same run of a single process. With a third argument, names of objectives: for each of them the
codes and errors of two ranks, in the folder `NAME-two`, and a run of a single process in `NAME-one`.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from trainkit import home_recipe, measure_peak_once, recipe

from pretune.errors import PretuneError
from pretune.train.recipe import Recipe
from pretune.train.run import pretrain
from pretune.train.step import TrainStep

FAULTS = ("none", "kill", "raise", "term", "missing")


def over(accumulate: int) -> dict[str, Any]:
    """With dropout, and with an eps that leaves rounding small."""
    return {"model": {"dropout": 0.1}, "optimizer": {"eps": 1e-3}, "data": {"accumulate": accumulate}}


def rank(number: int, fault: str, run_recipe: Recipe) -> int:
    """What one rank does; its exit code."""
    run = TrainStep.run

    def faulty(self: TrainStep, step: int, *args: Any) -> Any:
        if number == 1 and step == 4:
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "term":
                os.kill(os.getpid(), signal.SIGTERM)
            if fault == "raise":
                raise ValueError("this rank is broken")
        return run(self, step, *args)

    TrainStep.run = faulty  # type: ignore[method-assign]
    try:
        pretrain(run_recipe)
    except PretuneError as error:
        print(error, file=sys.stderr, flush=True)
        return error.code
    return 0


def both(fault: str, run_recipe: Recipe) -> tuple[list[int], list[str]]:
    """Exit codes (negative: signals) and standard errors."""
    importlib.import_module("torch._dynamo")  # as `DistributedDataParallel` has it: here, so that no rank pays for it
    output = Path(run_recipe.output)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children, messages = [], [output.with_suffix(f".{number}") for number in range(2)]
    for number in range(2):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(messages[number], os.O_WRONLY | os.O_CREAT), 2)
            os.environ |= {"WORLD_SIZE": "2", "RANK": str(number), "LOCAL_RANK": str(number)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            code = 1
            try:
                code = rank(number, fault, run_recipe)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return codes, [path.read_text() for path in messages]


def faults(store: Path, folder: Path) -> dict[str, Any]:
    """One run of two ranks for each fault."""
    pretrain(recipe(folder / "one", store, **over(1)))
    if "torch._dynamo" in sys.modules:
        raise SystemExit("a run imported torch's compiler, which takes a second; see pretune.optim.without_compiler")
    places = {fault: store.with_name("nowhere") if fault == "missing" else store for fault in FAULTS}
    return {fault: both(fault, recipe(folder / fault, place, **over(2))) for fault, place in places.items()}


def objectives(store: Path, folder: Path, names: list[str]) -> dict[str, Any]:
    """A run of one rank and one of two for each objective."""
    actual = {}
    for name in names:
        pretrain(home_recipe(name, folder / f"{name}-one", store, **over(1)))
        actual[name] = both("none", home_recipe(name, folder / f"{name}-two", store, **over(2)))
    return actual


def main(store: Path, folder: Path, *names: str) -> None:
    torch.set_num_threads(1)
    measure_peak_once()
    print(json.dumps(objectives(store, folder, list(names)) if names else faults(store, folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:])
