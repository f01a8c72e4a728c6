"""One run on a set, in a process of its own: `python -m benchmarks.understanding.one TASK.json` prints its score."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.understanding.sets import LabelledSet, Split, draw_with_each_label, fifths, find_set


@dataclass(frozen=True)
class Order:
    """What is run.

    Attributes:
        name: of the set.
        fold: number of the split.
        seed: of the run, and of the draw of its training records.
        model: folder of the model that is fine-tuned.
        fraction: of the training records that are used.
        limit: training records at most; 0 for all.
        develop: test on a fifth of the training records, which then do not train, to choose settings by.
        recipe: fields over those of the set.
    """

    name: str
    fold: int
    seed: int
    model: str
    fraction: float
    limit: int
    develop: bool
    recipe: dict[str, Any]

    def split(self, labelled: LabelledSet) -> Split:
        """The records of the run."""
        split = labelled.read()[self.fold]
        if self.develop:
            group = labelled.group
            split = fifths(split.train, None if group is None else lambda record: str(record[group]))[0]
        count = round(len(split.train) * self.fraction)
        count = min(count, self.limit) if self.limit else count
        train = split.train if count == len(split.train) else draw_with_each_label(split.train, count, self.seed)
        return Split(train, split.test)


def fields_of(labelled: LabelledSet, order: Order, split: Split, output: Path) -> dict[str, Any]:
    """The fields of the recipe."""
    fields: dict[str, Any] = {"second": "second"} if any("second" in record for record in split.train[:50]) else {}
    fields |= {"task": labelled.task, **labelled.recipe, **order.recipe}
    return fields | {
        "model": order.model,
        "seed": order.seed,
        "output": str(output),
        "track": {"report": False, "progress": "quiet"},
    }


def run(order: Order) -> dict[str, Any]:
    """Fine-tunes on the training records and scores the test records.

    Returns:
        score, all scores that are of no single label, seconds of training and of testing, numbers of records and of
        parameters.
    """
    import pretune

    labelled = find_set(order.name)
    split = order.split(labelled)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        model = pretune.finetune(train=[*split.train], **fields_of(labelled, order, split, Path(folder) / "run"))
        trained = time.perf_counter()
        scores = model.evaluate([*split.test])
        tested = time.perf_counter()
        counts = sizes(Path(folder) / "run")
    return {
        "score": float(scores[labelled.metric]),
        "scores": {name: float(value) for name, value in scores.items() if "/" not in name},
        "train": len(split.train),
        "test": len(split.test),
        "train_seconds": trained - start,
        "test_seconds": tested - trained,
        **counts,
    }


def sizes(run: Path) -> dict[str, Any]:
    """How many parameters a run's model has, how many of them learned, and how many of these below the heads; ranks."""
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    proof = facts["proof"]
    return {
        "parameters": facts["parameters"],
        "learned": facts["trained_parameters"],
        "learned_below_heads": proof["learned_below_heads"],
        "ranks": proof["ranks"],
    }


if __name__ == "__main__":
    print(json.dumps(run(Order(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))))
