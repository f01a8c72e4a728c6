"""What SimCSE gives a model of our own: Spearman's correlation on STS-B, before and after.

A BERT of MiniLM's size (6 layers, 384 wide) learns to fill masks in the English texts; then SimCSE goes on from it with
each seed, on sentences of the same texts. Nothing is tuned on STS-B: its test pairs are looked at once.
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.measurements import machine, today, write
from benchmarks.quality.compare import prepare_language, pretrain_in_process, read_run
from benchmarks.quality.trials import COMMON, LANGUAGES
from benchmarks.texts import text_file
from pretune.api import load
from pretune.config import merge
from pretune.text.readers.labelled import LabelledConfig

log = logging.getLogger(__name__)
_PAIRS = "pairs/stsbenchmark/sts-test.csv"
_SHAPE = {"num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
_SIMCSE: Mapping[str, Any] = {
    "objective": {"simcse": {"pooling": "mean", "projection": False}},
    "model": {"dropout": 0.1},
    "data": {"batch": 64, "length": 64},
    "optimizer": {"name": "adamw", "lr": 5e-5},
    "schedule": {"kind": "linear", "warmup": 0.1},
}


@dataclass(frozen=True)
class Vectors:
    """The experiment.

    Attributes:
        folder: of everything that is made on the way.
        results: the file of the scores.
        minutes: of pretraining.
        steps: of SimCSE.
        seeds: of SimCSE.
        precision: dtype of matmuls in every run.
    """

    folder: Path
    results: Path
    minutes: float
    steps: int
    seeds: int
    precision: Literal["bf16", "fp32"]

    def run(self) -> Path:
        """Pretrain, go on with each seed, score; the file is written after every seed.

        Raises:
            BenchError: texts are missing, a run failed, or a finished one is of another recipe.
        """
        language = LANGUAGES[0]
        store = prepare_language(language, self.folder / language.name)
        pairs = _pairs(self.folder / "sts.csv")
        base = self.folder / language.name / "runs" / f"minilm-{self.minutes:g}"
        shape = {"model": {"overrides": _SHAPE}, "objective": {"mlm": 1.0}, "budget": {"minutes": self.minutes}}
        self._pretrain(base, store, merge(dict(COMMON), shape))
        facts = {"machine": machine(), "date": today(), "minutes": self.minutes, "precision": self.precision}
        facts |= {"steps": self.steps, "pretraining": read_run(base)}
        scores: dict[str, Any] = {"before": self._score(base, pairs), "after": []}
        runs: list[dict[str, Any]] = []
        quiet = {name: COMMON[name] for name in ("evaluation", "checkpoint", "track")}
        for seed in range(self.seeds):
            place = base.with_name(f"{base.name}-simcse-{self.steps}-{seed}")
            changes = {"seed": seed, "model": {"init": str(base)}, "budget": {"steps": self.steps}}
            self._pretrain(place, store, merge(merge(dict(_SIMCSE), quiet), changes))
            runs.append(read_run(place))
            scores["after"].append(self._score(place, pairs))
            log.info(f"STS-B: {scores}")
            write(self.results, {"benchmark": "simcse", **facts, "simcse": runs, "sts-b": scores})
        return self.results

    def _pretrain(self, output: Path, store: Path, recipe: dict[str, Any]) -> None:
        place = {"output": str(output), "precision": self.precision, "data": {"stores": [str(store)]}}
        pretrain_in_process(merge(recipe, place))

    def _score(self, model: Path, pairs: Path) -> float:
        columns = LabelledConfig(second="second")
        return load(model, precision=self.precision).evaluate(pairs, columns=columns, task="similarity")["spearman"]


def _pairs(path: Path) -> Path:
    """The test pairs with named columns; some lines of the file have two more."""
    lines = text_file(_PAIRS).read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t")[4:7] for line in lines]
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("label", "text", "second"))
        writer.writerows(rows)
    return path
