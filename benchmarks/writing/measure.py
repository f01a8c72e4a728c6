"""Runs on sets of writing, seed by seed, each in a process of its own; the file of results keeps what is done.

sets x seeds -> orders -> a process each, with a time limit -> writing-<capability>.json -> table
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measurements import machine, write
from benchmarks.understanding.measure import run_apart
from benchmarks.writing.one import Order, score_written
from benchmarks.writing.sets import WritingSet
from benchmarks.writing.table import scores_text

_log = logging.getLogger("benchmarks")


@dataclass(frozen=True)
class Measurement:
    """How sets are measured.

    Attributes:
        path: of the file of results.
        folder: where runs stay.
        seeds: runs of each set.
        minutes, limit, recipe: see `Order`.
        timeout: minutes of a run, its writing included.
    """

    path: Path
    folder: Path
    seeds: int = 3
    minutes: float = 0.0
    limit: int = 0
    timeout: float = 240.0
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def tree(self) -> dict[str, Any]:
        """What the file holds."""
        if self.path.is_file():
            known: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            return known
        return {"benchmark": "writing", "machine": machine(), "writing": {}}

    def baseline(self, writing: WritingSet) -> None:
        """Scores what is free of training on all test records, unless the file has it."""
        key = f"{writing.name} / {writing.baseline_name}"
        if key in self.tree()["writing"]:
            return
        parts = writing.read()
        scores = score_written(writing, writing.baseline(parts), parts.test)
        self._keep(key, {"set": writing.name, "scores": scores, "test": len(parts.test)})

    def run(self, sets: Sequence[WritingSet]) -> None:
        """Makes the runs that are not in the file yet."""
        for writing in sets:
            for seed in range(self.seeds):
                key = f"{self.group(writing)} / seed {seed}"
                if "score" in self.tree()["writing"].get(key, {}):
                    _log.info("%s: in %s", key, self.path)
                    continue
                folder = self.folder / self._digest(writing)
                order = Order(writing.name, seed, str(folder), self.minutes, self.limit, dict(self.recipe))
                self._keep(key, {"set": writing.name, **run_apart(order, self.timeout, "benchmarks.writing.one")})

    def group(self, writing: WritingSet) -> str:
        """The name of all runs of a set with these settings."""
        part = f" of {self.limit}" if self.limit else ""
        limit = f", {self.minutes:g} minutes" if self.minutes else ""
        return f"{writing.name}{part} / trained{limit} / {self._digest(writing)}"

    def _digest(self, writing: WritingSet) -> str:
        """Of what a run is trained with: other settings are other runs in other folders."""
        settings = [writing.recipe, dict(writing.fields), dict(writing.tokenizer), dict(self.recipe), self.minutes]
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:8]

    def _keep(self, key: str, result: Mapping[str, Any]) -> None:
        tree = self.tree()
        tree["writing"][key] = result
        write(self.path, tree)
        _log.info("%s: %s", key, result.get("error") or scores_text(result["scores"], {}))
