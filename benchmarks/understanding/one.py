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

_CONTINUED: dict[str, Any] = {"length": 128, "batch": 32, "optimizer": "muon", "lr": 3e-3}


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
        continued: minutes for which the model first goes on with masked words, on the texts of the training records.
    """

    name: str
    fold: int
    seed: int
    model: str
    fraction: float
    limit: int
    develop: bool
    recipe: dict[str, Any]
    continued: float = 0.0

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


def continue_pretraining(order: Order, split: Split, folder: Path) -> str:
    """The model after some minutes of masked words on the texts of the training records, whose labels are not read.

    Returns:
        its folder.
    """
    import pretune
    from pretune.text.store.prepare import PrepareConfig, prepare
    from pretune.text.tokenizer.tokenizer import Tokenizer

    file = folder / "texts.txt"
    texts = [str(record[name]) for record in split.train for name in ("text", "second") if name in record]
    file.write_text("\n\n".join(texts), encoding="utf-8")
    prepare([file], Tokenizer.load(Path(order.model)), folder / "store", PrepareConfig(processes=1))
    run = folder / "continued"
    pretune.pretrain(
        model=order.model,
        objective="mlm",
        stores=[str(folder / "store")],
        output=str(run),
        minutes=order.continued,
        seed=order.seed,
        track={"report": False, "progress": "quiet"},
        **_CONTINUED,
    )
    return str(run)


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
        base = continue_pretraining(order, split, Path(folder)) if order.continued else order.model
        fields = {**fields_of(labelled, order, split, Path(folder) / "run"), "model": base}
        model = pretune.finetune(train=[*split.train], **fields)
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
