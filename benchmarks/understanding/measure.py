"""Runs on public sets, seed by seed and fold by fold, each in a process of its own; the file keeps what is done.

    sets x folds x seeds -> orders -> a process each, with a time limit -> understanding-<capability>.json -> table

A run that is in the file is not made again, unless its model, its settings or its part of the data are others.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measurements import machine, write
from benchmarks.understanding.one import Order
from benchmarks.understanding.sets import LabelledSet

_log = logging.getLogger("benchmarks")
_REPOSITORY = Path(__file__).parents[2]
_TAIL = 3  # lines of a failed run's errors that are kept


@dataclass(frozen=True)
class Measurement:
    """How sets are measured.

    Attributes:
        path: of the file of results.
        models: folder of the model by language.
        seeds: runs of each fold.
        folds: folds of each set at most; 0 for all.
        fraction, limit, develop, recipe, continued: see `Order`.
        minutes: of a run at most.
    """

    path: Path
    models: Mapping[str, str]
    seeds: int = 3
    folds: int = 0
    fraction: float = 1.0
    limit: int = 0
    develop: bool = False
    recipe: Mapping[str, Any] = field(default_factory=dict)
    minutes: float = 60.0
    continued: float = 0.0

    def orders(self, labelled: LabelledSet) -> list[Order]:
        """The runs of a set; none where its language has no model."""
        model = self.models.get(labelled.language)
        if model is None:
            _log.info("%s: no model of language %s; name one with --model", labelled.name, labelled.language)
            return []
        folds = len(labelled.read())
        folds = min(folds, self.folds) if self.folds else folds
        return [
            Order(
                labelled.name,
                fold,
                seed,
                model,
                self.fraction,
                self.limit,
                self.develop,
                dict(self.recipe),
                self.continued,
            )
            for fold in range(folds)
            for seed in range(self.seeds)
        ]

    def run(self, sets: Sequence[LabelledSet]) -> dict[str, Any]:
        """Makes the runs that are not in the file yet, and gives what the file then holds."""
        for labelled in sets:
            for order in self.orders(labelled):
                self._run(labelled, order)
        return self.tree()

    def tree(self) -> dict[str, Any]:
        """What the file holds."""
        if self.path.is_file():
            known: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            return known
        return {"benchmark": "understanding", "machine": machine(), "understanding": {}}

    def _run(self, labelled: LabelledSet, order: Order) -> None:
        key = key_of(labelled, order)
        if "score" in self.tree()["understanding"].get(key, {}):
            _log.info("%s: in %s", key, self.path)
            return
        result = run_apart(order, self.minutes)
        tree = self.tree()
        tree["understanding"][key] = {"set": labelled.name, "metric": labelled.metric, **result}
        write(self.path, tree)
        _log.info("%s: %s", key, result.get("score", result.get("error")))


def key_of(labelled: LabelledSet, order: Order) -> str:
    """The name of a run: what it is of, and a digest of the settings that differ from a plain run's."""
    fields = {**asdict(order), "recipe": {**labelled.recipe, **order.recipe}, "task": labelled.task}
    if not order.continued:
        del fields["continued"]
    fields["model"] = "/".join(Path(order.model).parts[-2:])
    group = hashlib.sha256(json.dumps({**fields, "fold": 0, "seed": 0}, sort_keys=True).encode()).hexdigest()[:8]
    part = f" of {order.fraction:g}" if order.fraction != 1 else ""
    part += f" of {order.limit}" if order.limit else ""
    part += f" after {order.continued:g} minutes on its texts" if order.continued else ""
    part += " (development)" if order.develop else ""
    return f"{labelled.name}{part} / {fields['model']} / {group} / fold {order.fold} / seed {order.seed}"


def run_apart(order: Any, minutes: float, module: str = "benchmarks.understanding.one") -> dict[str, Any]:
    """Makes a run in a process of its own.

    Args:
        order: a dataclass that the module reads.

    Returns:
        What the module prints, such as what `one.run` gives, or its error.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "order.json"
        path.write_text(json.dumps(asdict(order)), encoding="utf-8")
        command = [sys.executable, "-m", module, str(path)]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(_REPOSITORY), os.environ.get("PYTHONPATH", "")])}
        child = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
            start_new_session=True,  # so that all that it starts ends with it
        )
        try:
            out, errors = child.communicate(timeout=60 * minutes)
        except BaseException as error:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            if isinstance(error, subprocess.TimeoutExpired):
                return {"error": f"not finished after {minutes:g} minutes"}
            raise
    if child.returncode:
        return {"error": " | ".join(errors.strip().splitlines()[-_TAIL:])}
    result: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return result
