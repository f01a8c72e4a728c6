"""Runs of two ranks, forked from a process that has imported everything, as torchrun would start them.

Usage: python ranks.py STORE FOLDER; prints JSON: for each fault, the exit codes and standard errors of both ranks. The
folder `one` gets the same run of a single process.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import traceback
from pathlib import Path
from typing import Any

import torch
from trainkit import recipe

from pretune.errors import PretuneError
from pretune.train.recipe import Recipe
from pretune.train.run import pretrain
from pretune.train.step import Stepper

FAULTS = ("none", "kill", "raise", "term", "missing")


def settled(output: Path, store: Path, accumulate: int) -> Recipe:
    """Without dropout, whose seeds know the rank, and with an eps that leaves rounding small."""
    over: dict[str, Any] = {"model": {"dropout": 0.0}, "optimizer": {"eps": 1e-3}, "data": {"accumulate": accumulate}}
    return recipe(output, store, **over)


def rank(number: int, fault: str, store: Path, output: Path) -> int:
    """What one rank does; its exit code."""
    run = Stepper.run

    def faulty(self: Stepper, step: int, *args: Any) -> Any:
        if number == 1 and step == 4:
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "term":
                os.kill(os.getpid(), signal.SIGTERM)
            if fault == "raise":
                raise ValueError("this rank is broken")
        return run(self, step, *args)

    Stepper.run = faulty  # type: ignore[method-assign]
    try:
        pretrain(settled(output, store.with_name("nowhere") if fault == "missing" else store, 2))
    except PretuneError as error:
        print(error, file=sys.stderr, flush=True)
        return error.code
    return 0


def both(fault: str, store: Path, output: Path) -> tuple[list[int], list[str]]:
    """Exit codes (negative: signals) and standard errors."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    children, said = [], [output.with_suffix(f".{number}") for number in range(2)]
    for number in range(2):
        child = os.fork()
        if child == 0:
            os.dup2(os.open(said[number], os.O_WRONLY | os.O_CREAT), 2)
            os.environ |= {"WORLD_SIZE": "2", "RANK": str(number), "LOCAL_RANK": str(number)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            code = 1
            try:
                code = rank(number, fault, store, output)
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(code)
        children.append(child)
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    return codes, [path.read_text() for path in said]


def main(store: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    pretrain(settled(folder / "one", store, 1))
    print(json.dumps({fault: both(fault, store, folder / fault) for fault in FAULTS}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
