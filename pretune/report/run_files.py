"""Reads the files of a run directory for its report, and tells which metrics are of the weights that were saved."""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pretune.config import flatten
from pretune.errors import DataError, MissingInputError
from pretune.report.charts import Values
from pretune.report.html import is_number
from pretune.seals import check, check_text, read_facts
from pretune.wording import counted

_ENTROPY = "unigram_entropy"


def averaged_scores(facts: Mapping[str, Any]) -> dict[str, float]:
    """The scores of a finished run whose weights are of several steps, their mean or not; empty for any other run."""
    finished = facts.get("finished")
    finished = finished if isinstance(finished, dict) else {}
    scores = finished.get("averaged", finished.get("adapter_scores"))
    return {name: float(each) for name, each in scores.items() if is_number(each)} if isinstance(scores, dict) else {}


@dataclass(frozen=True)
class RunFiles:
    """The files of a run directory.

    Attributes:
        rows: lines of `metrics.jsonl`, in order.
        recipe: text of `recipe.toml`.
        data_stats: documents and tokens read, used, truncated ...
        facts: how the run was made and how it ended: `run.json`.
        samples: prompts and the model's outputs.
        validation: what the saved model answers on the validation data: `validation.json`.
        mask: the mask token of the tokenizer.
        checkpoints: steps that have a checkpoint, newest first.
        axis_tokens: tokens of the longest run that is drawn beside it.
        by_epochs: whether it is drawn over epochs; None decides by the run.
    """

    path: Path
    rows: list[dict[str, Any]]
    recipe: str = ""
    data_stats: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    validation: dict[str, Any] = field(default_factory=dict)
    mask: str = "[MASK]"
    checkpoints: tuple[int, ...] = ()
    axis_tokens: float = 0.0
    by_epochs: bool | None = None

    @property
    def title(self) -> str:
        """The name of its directory."""
        return self.path.resolve().name

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Every field of its recipe, with what the run resolved; of an older build, those that the recipe states."""
        settings = self.facts.get("settings")
        stated = flatten(tomllib.loads(self.recipe)) if self.recipe else {}
        return settings if isinstance(settings, dict) else stated

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

    @property
    def is_unfinished(self) -> bool:
        """Whether it began and has not ended; False where no file says that it began."""
        return bool(self.facts.get("began")) and not isinstance(self.facts.get("finished"), dict)

    @property
    def failure(self) -> str:
        """Why it failed, if it did."""
        failed = self.facts.get("failed")
        return str(failed.get("reason", "")) if isinstance(failed, dict) else ""

    @property
    def score_names(self) -> list[str]:
        """The scores of a task over all its labels, as `eval/accuracy`."""
        return [name for name in self.names("eval/") if name.count("/") == 1 and name != "eval/loss"]

    @property
    def main_score(self) -> str:
        """The score that comparisons are made by: that of the run's evaluations, else the first."""
        name = f"eval/{self.facts.get('metric')}"
        return name if name in self.score_names else next(iter(self.score_names), "")

    @property
    def warnings(self) -> list[str]:
        """What the run warned of."""
        warnings = self.facts.get("warnings")
        return [str(warning) for warning in warnings] if isinstance(warnings, list) else []

    def baselines(self, name: str) -> list[tuple[str, float]]:
        """What is reached without fine-tuning, by a metric: the names and values of the comparisons."""
        known = self.validation.get("baselines")
        named = known.get(name.removeprefix("eval/")) if isinstance(known, dict) else None
        if not isinstance(named, dict):
            return []
        return [(label, float(named[key])) for key, label in _BASELINES.items() if is_number(named.get(key))]

    @property
    def confusion(self) -> tuple[list[str], list[list[int]]]:
        """The labels, and for each how often every label was answered."""
        labels, matrix = self.validation.get("labels"), self.validation.get("confusion")
        if not isinstance(labels, list) or not isinstance(matrix, list) or len(labels) != len(matrix):
            return [], []
        return [str(label) for label in labels], [[int(count) for count in row] for row in matrix]

    @property
    def mistakes(self) -> list[dict[str, Any]]:
        """The mistakes of which the model was most sure."""
        mistakes = self.validation.get("mistakes")
        return [mistake for mistake in mistakes if isinstance(mistake, dict)] if isinstance(mistakes, list) else []

    @cached_property
    def saved_step(self) -> int | None:
        """Step whose weights are the finished model's; None of a run that has not finished."""
        finished = self.facts.get("finished")
        step = finished.get("weights_of_step") if isinstance(finished, dict) else None
        return step if isinstance(step, int) else None

    def saved(self, name: str) -> float | None:
        """Returns a metric of the saved weights; of a run that has not finished, the newest."""
        scores = self.validation.get("scores")
        own = scores.get(name.removeprefix("eval/")) if isinstance(scores, dict) else None
        if own is not None and is_number(own) and self.validation.get("examples") == self.validation.get("of"):
            return float(own)
        averaged = averaged_scores(self.facts).get(name.removeprefix("eval/"))
        return self.logged(name) if averaged is None else averaged

    def logged(self, name: str) -> float | None:
        """Returns a metric as it was logged at the step of the saved weights; of an unfinished run, the newest."""
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
        if self.saved_step is None:
            return "validation, newest"
        return f"validation, step {self.saved_step:,} (saved)"

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
        if self.counts_epochs:
            return "epochs"
        return f"{_UNITS[self._unit]}tokens" if self._unit else "steps"

    @property
    def entropy(self) -> float | None:
        """Unigram entropy of the corpus in nats per token: the loss of a model that knows only token frequencies."""
        flat = flatten(self.data_stats) | flatten(self.facts)
        return next((float(v) for k, v in flat.items() if k.rpartition(".")[2] == _ENTROPY and is_number(v)), None)

    @cached_property
    def counts_epochs(self) -> bool:
        """Whether it is drawn over epochs, as a run of a task alone is."""
        if self.by_epochs is not None:
            return self.by_epochs
        abilities = set(self.abilities.values())
        is_task = "data.train" in self.settings and bool(self.settings["data.train"]) and not self.token_terms
        return (is_task or "classify" in abilities) and any(is_number(row.get("epoch")) for row in self.rows)

    @cached_property
    def _unit(self) -> float:
        """Tokens of a unit of the horizontal axis; 0 where no tokens were counted."""
        total = max(self.token_total, self.axis_tokens)
        return next((unit for unit in sorted(_UNITS, reverse=True) if total >= unit), 0.0)

    @cached_property
    def token_total(self) -> float:
        """Tokens of the whole run; 0 where none were counted."""
        return max((float(row["tokens"]) for row in self.rows if is_number(row.get("tokens"))), default=0.0)

    @cached_property
    def _positions(self) -> list[float]:
        """Position of each row on the axis; a row without a token count has that of the row before it."""
        out, latest = [], 0.0
        name, unit = ("epoch", 1.0) if self.counts_epochs else ("tokens", self._unit)
        for row in self.rows:
            latest = row.get(name, latest)
            out.append(latest / unit if unit else float(row.get("step", 0)))
        return out


_BASELINES = {
    "majority": "commonest label",
    "probe": "logistic regression",
    "tfidf": "TF-IDF",
}
_COMPARED = 5  # runs that a message compares
_UNITS = {1.0: "", 1e3: "thousand ", 1e6: "million ", 1e9: "billion "}


def read_run(path: Path) -> RunFiles:
    """Reads the files of a run directory; only the metrics are required."""
    metrics = path / "metrics.jsonl"
    if not metrics.is_file():
        raise MissingInputError(_no_run(path))
    recipe = path / "recipe.toml"
    check(path, ["metrics.jsonl", "samples.json", "validation.json", "tokenizer_config.json"])
    if recipe.is_file():
        check_text(recipe)
    run = RunFiles(
        path,
        read_metrics(metrics),
        recipe.read_text(encoding="utf-8") if recipe.is_file() else "",
        _read_facts(path / "data_stats.json"),
        _read_facts(path / "run.json"),
        _read_json(path / "samples.json", []),
        _read_json(path / "validation.json", {}),
        _mask_token(_read_json(path / "tokenizer_config.json", {})),
        tuple(_checkpoint_steps(path)),
    )
    if run.is_unfinished:  # what was written of an earlier end is not of this run's weights
        return replace(run, samples=[], validation={})
    return run if run.validation.get("step") == run.saved_step else replace(run, validation={})


def _no_run(path: Path) -> str:
    """Says why a path is no run, and what to name instead."""
    remedy = "name the directory of a run, which is what --output named when it was trained"
    if not path.exists():
        return f"{path}: no such folder; {remedy}"
    if not path.is_dir():
        return f"{path}: a file and no run; {remedy}"
    if (path / "recipe.toml").is_file():
        return f"{path}: this run has not made a step yet (no metrics.jsonl); write its report when it has"
    runs = sorted(entry.parent.name for entry in path.glob("*/metrics.jsonl"))
    if runs:
        some = " ".join(shlex.quote(str(path / name)) for name in runs[:_COMPARED])
        count = counted(len(runs), "run")
        return f"{path}: no run itself, but a folder of {count}; look at them with: pretune report {some}"
    return f"{path}: no run (no metrics.jsonl here); {remedy}"


def _checkpoint_steps(path: Path) -> list[int]:
    steps = (entry.name.removeprefix("checkpoint-") for entry in path.glob("checkpoint-*") if entry.is_dir())
    return sorted((int(step) for step in steps if step.isdecimal()), reverse=True)


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
