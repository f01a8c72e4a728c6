"""Two ranks whose loss explodes in step 16, stopped in step 5 or not, as a process of its own.

Usage: python rollback_ranks.py STORE FOLDER; prints the exit codes and standard errors of each run as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from ranks import both
from trainkit import recipe

from pretune.batch import Batch
from pretune.loss import Term
from pretune.objectives.objective import Objective
from pretune.train.recipe import Recipe
from pretune.train.run import pretrain

OVER: dict[str, Any] = {
    "spike": {"policy": "rollback", "window": 8, "every": 4},
    "budget": {"steps": 24},
    "checkpoint": {"every": 100},
    "evaluation": {"samples": 0},
    "optimizer": {"lr": 1e-3},
    "track": {"every": 1, "progress": "plain"},
}
STEP = 15  # whose samples are poisoned


def main(store: Path, folder: Path) -> None:
    torch.set_num_threads(1)
    forward = Objective.forward
    seen: list[set[tuple[int, ...]]] = []

    def exploding(self: Objective, model: Any, batch: Batch) -> list[Term]:
        samples = {tuple(map(int, sample)) for sample in batch.samples}
        terms = forward(self, model, batch)
        scale = 300.0 if bad & samples else 1.0
        seen.append(samples)
        return [Term(t.name, t.sum * scale, t.count, t.weight, t.correct) for t in terms]

    def made(name: str) -> Recipe:
        return recipe(folder / name, store, **OVER)

    bad: set[tuple[int, ...]] = set()
    Objective.forward = exploding  # type: ignore[method-assign]
    pretrain(made("clean"))
    bad |= seen[STEP]
    pretrain(made("one"))
    runs = [both("none", made("whole")), both("term", made("parts")), both("none", made("parts"))]
    print(json.dumps(runs))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
