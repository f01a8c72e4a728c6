"""One rank of a run under torchrun. Usage: worker.py STORE OUTPUT FAULT."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from trainkit import recipe

from pretune.errors import PretuneError
from pretune.train.run import pretrain
from pretune.train.step import Stepper


def main(store: Path, output: Path, fault: str) -> int:
    torch.set_num_threads(1)
    rank = int(os.environ["RANK"])
    run = Stepper.run

    def faulty(self: Stepper, step: int, *args: Any) -> Any:
        if rank == 1 and step == 4 and fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if rank == 1 and step == 4 and fault == "raise":
            raise RuntimeError("this rank is broken")
        if rank == 1 and step == 4 and fault == "term":
            os.kill(os.getpid(), signal.SIGTERM)
        return run(self, step, *args)

    Stepper.run = faulty  # type: ignore[method-assign]
    try:
        pretrain(recipe(output, store, model={"dropout": 0.0}, data={"accumulate": 2}, optimizer={"eps": 1e-3}))
    except PretuneError as error:
        print(f"rank {rank}: {error}", file=sys.stderr)
        return error.code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]))
