"""One run of a method on a set, in a process of its own: `python -m benchmarks.tuning.one FILE` prints its score."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.tuning.methods import METHODS
from benchmarks.tuning.sets import GENERATED, dialogues, length_of
from benchmarks.understanding import one as labelled
from benchmarks.understanding.sets import Record, draw_records, fifths


@dataclass(frozen=True)
class Order:
    """What is run.

    Attributes:
        name: of the set.
        method: name in `METHODS`.
        rate: of learning, at its peak.
        seed: of the run, and of the draw of its training records.
        model: folder of the model that is tuned.
        limit: training records at most; 0 for all.
        develop: test on a fifth of the training records, which then do not train.
    """

    name: str
    method: str
    rate: float
    seed: int
    model: str
    limit: int = 0
    develop: bool = False


def run(order: Order) -> dict[str, Any]:
    """Tunes on the training records and scores the test records.

    Returns:
        score in percent; numbers of all parameters, of those that learn and of those below the heads; ranks, of a
        method that chooses them; seconds of training.
    """
    return _generated(order) if order.name in GENERATED else _labelled(order)


def _fields(order: Order) -> dict[str, Any]:
    """The fields of a recipe that all sets share."""
    length = length_of(order.name)
    return {
        "tune": dict(METHODS[order.method].tune),
        "lr": order.rate,
        "epochs": length.epochs,
        "batch": length.batch,
        "length": length.length,
        "automatic": [],
    }


def _labelled(order: Order) -> dict[str, Any]:
    """A task with its own score."""
    name, seed, model = order.name, order.seed, order.model
    result = labelled.run(labelled.Order(name, 0, seed, model, 1.0, order.limit, order.develop, _fields(order)))
    return {**result, "score": 100 * result["score"]}


def _generated(order: Order) -> dict[str, Any]:
    """Next tokens of dialogues and their summaries that are right."""
    import pretune

    split = dialogues()
    if order.develop:
        split = fifths(split.train)[0]
    train = draw_records(split.train, order.limit or len(split.train), order.seed)
    with tempfile.TemporaryDirectory() as folder:
        parts = {"train": train, "test": split.test}
        stores = [_store(Path(folder) / name, part, order.model) for name, part in parts.items()]
        start = time.perf_counter()
        output = Path(folder) / "run"
        model = pretune.pretrain(
            **_fields(order),
            model=order.model,
            objective={"clm": 1.0},
            stores=[str(stores[0])],
            seed=order.seed,
            output=str(output),
            evaluation={"samples": 0, "keep": "last"},
            track={"report": False, "progress": "quiet"},
        )
        trained = time.perf_counter()
        scores = model.evaluate(str(stores[1]), split="train", length=length_of(order.name).length)
        tested = time.perf_counter()
        sizes = labelled.sizes(output)
    return {
        "score": 100 * float(scores["accuracy/clm"]),
        "scores": {name: float(value) for name, value in scores.items()},
        "train": len(train),
        "test": len(split.test),
        "train_seconds": trained - start,
        "test_seconds": tested - trained,
        **sizes,
    }


def _store(folder: Path, records: Sequence[Record], model: str) -> Path:
    """A token store of records, nothing held out."""
    from pretune.text.store.prepare import PrepareConfig, prepare
    from pretune.text.tokenizer.tokenizer import Tokenizer

    folder.mkdir()
    texts = folder / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": record["text"]}) + "\n" for record in records), encoding="utf-8")
    prepare(texts, Tokenizer.load(model), folder / "store", PrepareConfig(validation=0.0, processes=1))
    return folder / "store"


if __name__ == "__main__":
    print(json.dumps(run(Order(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))))
