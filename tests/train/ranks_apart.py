"""Ranks in folders of their own, as machines have them, forked from a process that has imported everything.

Usage: python ranks_apart.py JOBS; a file of JSON: for each job a list of ranks, each with its recipe as a tree and its
folder, and what befalls it. Prints JSON: for each job the exit codes, standard errors and seconds of all ranks.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from trainkit import make_store, measure_peak_once, recipe

from pretune.config import validate
from pretune.errors import PretuneError
from pretune.train.recipe import Recipe
from pretune.train.run import pretrain
from pretune.train.step import TrainStep


def befall(fault: str, at: int) -> None:
    """Lets something happen to this rank in the middle of a step."""
    run = TrainStep.run

    def faulty(self: TrainStep, step: int, *args: Any) -> Any:
        if step == at:
            if fault == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            if fault == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if fault == "sleep":
                time.sleep(1000)
            if fault == "raise":
                raise ValueError("this rank is broken")
            if fault == "memory":
                torch.empty(1 << 60)
        return run(self, step, *args)

    TrainStep.run = faulty  # type: ignore[method-assign]


def main_of(number: int, size: int, port: int, job: dict[str, Any]) -> int:
    """What one rank does; its exit code."""
    os.chdir(job["folder"])
    os.environ |= {"WORLD_SIZE": str(size), "RANK": str(number), "LOCAL_RANK": str(number)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    befall(job.get("fault", ""), job.get("at", 4))
    for name, value in job.get("patience", {}).items():
        from pretune.runtime import watchdog

        setattr(watchdog, name, value)
    try:
        pretrain(validate(Recipe, job["recipe"], "recipe"))
    except PretuneError as error:
        print(error, file=sys.stderr, flush=True)
        return error.code
    return 0


def run(jobs: list[dict[str, Any]], messages: Path) -> dict[str, Any]:
    """Starts all ranks of a job and waits for them; a stopped one goes on when all others have ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children: dict[int, int] = {}
    begin = time.monotonic()
    for number, job in enumerate(jobs):
        child = os.fork()
        if child == 0:
            code = 1
            os.dup2(os.open(messages / str(number), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            try:
                code = main_of(number, len(jobs), port, job)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        children[child] = number
    codes, seconds = [0] * len(jobs), [0.0] * len(jobs)
    while children:
        child, status = os.waitpid(-1, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            continue
        number = children.pop(child)
        codes[number], seconds[number] = os.waitstatus_to_exitcode(status), time.monotonic() - begin
        stopped = [other for other, n in children.items() if jobs[n].get("fault") == "stop"]
        if len(stopped) == len(children):
            for other in stopped:
                os.kill(other, signal.SIGCONT)
    return {
        "codes": codes,
        "errors": [(messages / str(n)).read_text() for n in range(len(jobs))],
        "seconds": seconds,
    }


def main(jobs: Path) -> None:
    torch.set_num_threads(1)
    measure_peak_once()
    importlib.import_module("torch._dynamo")  # as `DistributedDataParallel` has it
    with tempfile.TemporaryDirectory() as warm:  # here, so that no rank pays for what torch does once
        pretrain(recipe(Path(warm) / "run", make_store(Path(warm)), budget={"steps": 2}))
    tree = json.loads(jobs.read_text())
    print(json.dumps({name: run(ranks, jobs.parent) for name, ranks in tree.items()}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
