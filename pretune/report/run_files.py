"""Reads the files of a run directory for its report, and tells which metrics are of the weights that were saved."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pretune.config import flatten
from pretune.errors import DataError, MissingInputError
from pretune.report.charts import Values
from pretune.report.html import is_number
from pretune.seals import check, check_text, read_facts

_ENTROPY = "unigram_entropy"


@dataclass(frozen=True)
class RunFiles:
    """The files of a run directory.

    Attributes:
        rows: lines of `metrics.jsonl`, in order.
        recipe: text of `recipe.toml`.
        data_stats: documents and tokens read, used, truncated ...
        facts: how the run was made and how it ended: `run.json`.
        samples: prompts and the model's outputs.
        mask: the mask token of the tokenizer.
    """

    path: Path
    rows: list[dict[str, Any]]
    recipe: str = ""
    data_stats: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    mask: str = "[MASK]"

    def names(self, prefix: str = "") -> list[str]:
        """Returns the metrics that begin with a prefix, in the order in which they first appear."""
        metrics = dict.fromkeys(name for row in self.rows for name in row)
        return [name for name in metrics if name.startswith(prefix)]

    def series(self, name: str) -> tuple[Values, Values]:
        """Returns a metric over the tokens of the run, or over its steps if tokens were not counted.

        Shape:
            return: (N,), (N,)
        """
        values = [(x, row[name]) for x, row in zip(self._positions, self.rows, strict=True) if is_number(row.get(name))]
        points = np.asarray(values, dtype=np.float64).reshape(-1, 2)
        return points[:, 0], points[:, 1]

    def last(self, name: str) -> float | None:
        """Returns the newest value of a metric."""
        values = [float(row[name]) for row in self.rows if is_number(row.get(name))]
        return values[-1] if values else None

    @cached_property
    def saved_step(self) -> int | None:
        """Step whose weights are the finished model's; None of a run that has not finished."""
        finished = self.facts.get("finished")
        step = finished.get("weights_of_step") if isinstance(finished, dict) else None
        return step if isinstance(step, int) else None

    def saved(self, name: str) -> float | None:
        """Returns a metric of the evaluation of the saved weights; of a run that has not finished, the newest."""
        rows = (
            self.rows if self.saved_step is None else [row for row in self.rows if row.get("step") == self.saved_step]
        )
        values = [float(row[name]) for row in rows if is_number(row.get(name))]
        return values[-1] if values else None

    @property
    def left_out(self) -> list[tuple[int, int, str]]:
        """How many of how many steps the optimizer did not see or that were odd, and what they were."""
        finished = self.facts.get("finished")
        facts = finished if isinstance(finished, dict) else {}
        counts = {
            "steps skipped": facts.get("skipped_steps"),
            "spikes": facts.get("spikes"),
            "rollbacks": len(facts["rollbacks"]) if isinstance(facts.get("rollbacks"), list) else 0,
        }
        steps = facts.get("steps")
        if not isinstance(steps, int):
            return []
        return [(count, steps, name) for name, count in counts.items() if isinstance(count, int) and count]

    @property
    def validation_note(self) -> str:
        """Says of which weights the scores of validation are."""
        return "validation, last" if self.saved_step is None else f"validation, step {self.saved_step:,} (saved)"

    @property
    def abilities(self) -> dict[str, str]:
        """What the model can do, by the name of the objective or task that taught it."""
        abilities = self.facts.get("abilities")
        return {str(k): str(v) for k, v in abilities.items()} if isinstance(abilities, dict) else {}

    @property
    def token_terms(self) -> list[str]:
        """Terms whose loss is that of predicted tokens of the text."""
        terms = self.facts.get("token_terms")
        return [str(term) for term in terms] if isinstance(terms, list) else []

    @property
    def axis(self) -> str:
        """What the horizontal axis of a chart counts."""
        return f"{_UNITS[self._unit]}tokens" if self._unit else "steps"

    @property
    def entropy(self) -> float | None:
        """Unigram entropy of the corpus in nats per token: the loss of a model that knows only token frequencies."""
        flat = flatten(self.data_stats) | flatten(self.facts)
        return next((float(v) for k, v in flat.items() if k.rpartition(".")[2] == _ENTROPY and is_number(v)), None)

    @cached_property
    def _unit(self) -> float:
        """Tokens of a unit of the horizontal axis; 0 where no tokens were counted."""
        total = max((row["tokens"] for row in self.rows if is_number(row.get("tokens"))), default=0)
        return next((unit for unit in sorted(_UNITS, reverse=True) if total >= unit), 0.0)

    @cached_property
    def _positions(self) -> list[float]:
        """Position of each row on the axis; a row without a token count has that of the row before it."""
        out, tokens = [], 0.0
        for row in self.rows:
            tokens = row.get("tokens", tokens)
            out.append(tokens / self._unit if self._unit else float(row.get("step", 0)))
        return out


_UNITS = {1.0: "", 1e3: "thousand ", 1e6: "million ", 1e9: "billion "}


def read_run(path: Path) -> RunFiles:
    """Reads the files of a run directory; only the metrics are required."""
    metrics = path / "metrics.jsonl"
    if not metrics.is_file():
        raise MissingInputError(f"{path}: no metrics.jsonl here; name the directory of a run (its recipe's `output`)")
    recipe = path / "recipe.toml"
    check(path, ["metrics.jsonl", "samples.json", "tokenizer_config.json"])
    if recipe.is_file():
        check_text(recipe)
    return RunFiles(
        path,
        read_metrics(metrics),
        recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        _read_facts(path / "data_stats.json"),
        _read_facts(path / "run.json"),
        _read_json(path / "samples.json", []),
        _mask_token(_read_json(path / "tokenizer_config.json", {})),
    )


def _mask_token(settings: dict[str, Any]) -> str:
    token = settings.get("mask_token")
    token = token.get("content") if isinstance(token, dict) else token
    return token if isinstance(token, str) else RunFiles.mask


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Reads metrics line by line; a last line truncated by a crash is skipped.

    Raises:
        DataError: another line is no JSON.
    """
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            if number == len(lines):
                break
            raise DataError(f"{path}:{number}: not a line of metrics: {error}; remove it") from None
        if isinstance(row, dict):
            rows.append(row)
    return rows


def _read_facts(path: Path) -> dict[str, Any]:
    return read_facts(path) if path.is_file() else {}


def _read_json(path: Path, default: Any) -> Any:
    if not path.is_file():
        return default
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {error}; remove the file to omit its section") from None
    if not isinstance(value, type(default)):
        raise DataError(f"{path}: expected a JSON {'list' if default == [] else 'object'}; remove the file")
    return value
