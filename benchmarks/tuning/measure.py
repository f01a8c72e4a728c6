"""Runs of methods on sets, each in a process of its own; the file keeps what is done.

    sets x methods x rates, on a part of the training records -> the best rate of each set and method
    sets x methods x seeds, at that rate, on the test records -> tuning-<capability>.json -> table, chart

A run that is in the file is not made again. A run that failed is tried again, and counts as the worst rate till then.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measurements import machine, today, write
from benchmarks.tuning.methods import METHODS, RATES
from benchmarks.tuning.one import Order
from benchmarks.tuning.sets import length_of, model_of
from benchmarks.understanding.measure import run_apart

_log = logging.getLogger("benchmarks")


@dataclass(frozen=True)
class Measurement:
    """How methods are measured.

    Attributes:
        path: of the file of results.
        models: folder of a model by `en`, `zh` and `decoder`; sets of one that is not there are left out.
        methods: names in `METHODS`.
        rates: of the sweep.
        seeds: runs of each set and method on the test records.
        limit: training records at most; 0 for all.
        minutes: of a run at most.
    """

    path: Path
    models: Mapping[str, str]
    methods: Sequence[str] = tuple(METHODS)
    rates: Sequence[float] = RATES
    seeds: int = 3
    limit: int = 0
    minutes: float = 60.0

    def run(self, sets: Sequence[str]) -> dict[str, Any]:
        """Makes the runs that are not in the file yet, and gives what the file then holds."""
        for name in sets:
            if model_of(name) not in self.models:
                _log.info("%s: no model %r; name one on the command line", name, model_of(name))
                continue
            for method in self.methods:
                for order in self.sweep(name, method):
                    self._run(order)
                for order in self.final(name, method):
                    self._run(order)
        return self.tree()

    def sweep(self, name: str, method: str) -> Iterator[Order]:
        """The runs by which a rate is chosen."""
        for rate in self.rates:
            yield Order(name, method, rate, 0, self.models[model_of(name)], self.limit, develop=True)

    def final(self, name: str, method: str) -> Iterator[Order]:
        """The runs that count."""
        tree = self.tree()["runs"]
        known = {order.rate: tree.get(key_of(order), {}).get("score") for order in self.sweep(name, method)}
        scores = {rate: score for rate, score in known.items() if score is not None}
        if not scores:
            _log.info("%s, %s: every run of the sweep failed", name, method)
            return
        best = max(scores, key=lambda rate: (scores[rate], -rate))
        for seed in range(self.seeds):
            yield Order(name, method, best, seed, self.models[model_of(name)], self.limit)

    def tree(self) -> dict[str, Any]:
        """What the file holds."""
        if self.path.is_file():
            known: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            return known
        return {"benchmark": "tuning", "machine": machine(), "date": today(), "runs": {}}

    def _run(self, order: Order) -> None:
        key = key_of(order)
        if "score" in self.tree()["runs"].get(key, {}):
            return
        result = run_apart(order, self.minutes, "benchmarks.tuning.one")
        tree = self.tree()
        part = {"set": order.name, "method": order.method, "rate": order.rate, "seed": order.seed}
        tree["date"] = today()
        tree["runs"][key] = {**part, "develop": order.develop, "model": _name(order.model), **result}
        write(self.path, tree)
        _log.info("%s: %s", key, result.get("score", result.get("error")))


def key_of(order: Order) -> str:
    """The name of a run: what it is of, with all on which its score depends."""
    length = length_of(order.name)
    part = f" of {order.limit}" if order.limit else ""
    settings = json.dumps(METHODS[order.method].tune, sort_keys=True)
    kind = "development" if order.develop else "test"
    return (
        f"{order.name}{part} / {_name(order.model)} / {order.method} {settings} / {length.epochs:g} epochs of "
        f"{length.batch} / {kind} / rate {order.rate:g} / seed {order.seed}"
    )


def _name(model: str) -> str:
    return "/".join(Path(model).parts[-2:])
