"""Judges texts: scores by several metrics, their intervals, and a comparison of two systems on the same texts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import Field, create_model

from pretune.config import Config
from pretune.errors import DataError, UsageError
from pretune.evaluate.aligned import read_aligned, single_texts
from pretune.evaluate.judges.judge import Judge, JudgeModel, build_judge
from pretune.find import find_class
from pretune.metrics.metric import Judgement, Metric, Texts, Values, build_metric, check_inputs
from pretune.metrics.significance import SAMPLES, Interval, Test, compare, find_intervals
from pretune.table import Table, round_digits

_DIGITS = 6  # significant ones of a score in JSON
_WITH_REFERENCES = ("bleu", "chrf", "rouge")
_WITHOUT = ("distinct", "repetition")
_WITH_SOURCES = ("numbers",)
_JUDGES = {"judge": "fluency", "tagger": "names", "entailment": "entailment"}  # a model and the judge made with it
T = TypeVar("T")


class Judged(dict[str, float]):
    """Scores by name, such as `bleu` or `rougeL`, that print as a table.

    Attributes:
        intervals: where the middle 95 % of the scores of drawn texts lie, for the scores that have such intervals.
        per_text: scores of single texts by name. Shape: (texts,) each; NaN where a text has none.
        details: more about each text by name, such as its numbers that the source does not hold.
        signatures: how each metric was computed.
        better: of each score, whether "higher" or "lower" is better.
        notes: sentences about what the scores do not say.
        other: the same of a second system, where there is one.
        p_values: how often chance alone makes a difference as large as that of the two systems.
    """

    def __init__(self) -> None:
        super().__init__()
        self.intervals: dict[str, Interval] = {}
        self.per_text: dict[str, Values] = {}
        self.details: dict[str, Sequence[object]] = {}
        self.signatures: dict[str, str] = {}
        self.better: dict[str, str] = {}
        self.notes: list[str] = []
        self.other: Judged | None = None
        self.p_values: dict[str, float] = {}

    def add(self, name: str, metric: Metric, judgement: Judgement) -> None:
        """Adds what one metric says."""
        self.update(judgement.scores)
        self.per_text.update(judgement.per_text)
        self.details.update(judgement.details)
        self.signatures[name] = judgement.signature
        self.better.update(dict.fromkeys(judgement.scores, metric.is_better))
        self.notes += judgement.notes

    def tables(self) -> list[Table]:
        """The scores, beside those of the other system where there is one."""
        columns = ["score", "value", "95 % interval"]
        if self.other is not None:
            columns += ["other", "difference", "p"]
        return [Table(columns, [self._row(name) for name in self])]

    def _row(self, name: str) -> list[object]:
        interval = self.intervals.get(name)
        row: list[object] = [name, self[name], f"{_short(interval.low)} to {_short(interval.high)}" if interval else ""]
        if self.other is not None:
            value = self.other[name]
            row += [value, value - self[name], _p_text(self.p_values[name]) if name in self.p_values else ""]
        return row

    def as_dict(self) -> dict[str, Any]:
        """What a file of JSON holds of it, without single texts."""
        out: dict[str, Any] = {"scores": {name: _rounded(value) for name, value in self.items()}}
        out["intervals"] = {name: [_rounded(i.low), _rounded(i.high)] for name, i in self.intervals.items()}
        out["signatures"] = self.signatures
        if self.notes:
            out["notes"] = self.notes
        if self.other is not None:
            out["other"] = self.other.as_dict()
            out["p_values"] = {name: _rounded(value) for name, value in self.p_values.items()}
        return out

    def rows(self) -> list[dict[str, object]]:
        """The scores and details of each text; None where a text has no such score."""
        columns: dict[str, Sequence[object]] = {name: list(values) for name, values in self.per_text.items()}
        columns.update(self.details)
        count = len(next(iter(columns.values()), ()))
        return [{name: _cell(values[n]) for name, values in columns.items()} for n in range(count)]

    def __str__(self) -> str:
        return "\n\n".join(table.text() for table in self.tables())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({dict.__repr__(self)})"

    def _repr_html_(self) -> str:
        return "".join(table.html() for table in self.tables())


def _short(value: float) -> str:
    return f"{value:.4g}"


def _p_text(value: float) -> str:
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def _rounded(value: float) -> float | None:
    """A score as JSON holds it, which has no word for NaN."""
    return round_digits(value, _DIGITS) if math.isfinite(value) else None


def _cell(value: object) -> object:
    return _rounded(float(value)) if hasattr(value, "dtype") else value  # type: ignore[arg-type]


@dataclass(frozen=True)
class JudgeOptions:
    """What is measured and how.

    Attributes:
        metrics: names of files in `metrics/`, or paths of a user's own; by default those that the texts allow.
        settings: of the metrics and judges, by name.
        models: for judges: `judge` (a language model), `tagger`, `entailment` (a classifier of pairs).
        samples: draws of the intervals; 0 for none.
        test: how two systems are compared.
    """

    metrics: Sequence[str] = ()
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    models: Mapping[str, JudgeModel] = field(default_factory=dict)
    samples: int = SAMPLES["bootstrap"]
    test: Test = "bootstrap"


def judge_texts(texts: Texts, options: JudgeOptions, others: Sequence[str] | None = None) -> Judged:
    """The scores of texts by several metrics.

    Args:
        others: the hypotheses of a second system for the same references and sources.

    Raises:
        UsageError: an unknown metric or setting, or a metric that lacks what it compares with.
        DataError: another number of texts of the second system.
    """
    if others is not None and len(others) != len(texts.hypotheses):
        raise DataError(f"{len(texts.hypotheses)} hypotheses of one system but {len(others)} of the other")
    metrics = build_all(texts, options)
    for name, metric in metrics.items():
        check_inputs(name, metric, texts)
    judged = Judged()
    if others is not None:
        judged.other = Judged()
    for name, metric in metrics.items():
        first = metric.judge(texts)
        _check_names(name, first, judged)
        judged.add(name, metric, first)
        if options.samples and first.statistics is not None:
            judged.intervals.update(find_intervals(first.statistics, options.samples))
        if judged.other is not None and others is not None:
            _add_other(
                judged, name, metric, first, Texts(others, texts.references, texts.sources, texts.language), options
            )
    return judged


def judge_files(
    hypotheses: Sequence[str] | Path,
    references: Sequence[str | Sequence[str]] | Path | None,
    sources: Sequence[str] | Path | None,
    other: Sequence[str] | Path | None,
    language: str | None,
    options: JudgeOptions,
) -> Judged:
    """The scores of texts in memory, or in files with one per line; see `judge_texts`."""
    right = _lines(references)
    texts = Texts.of(_lines(hypotheses) or [], right, _lines(sources), language)
    return judge_texts(texts, options, _lines(other))


def _lines(texts: Sequence[T] | Path | None) -> Sequence[T] | None:
    if not isinstance(texts, Path):
        return texts
    return cast("Sequence[T]", single_texts(read_aligned(texts, ("text",)), "text"))


def _add_other(
    judged: Judged, name: str, metric: Metric, first: Judgement, texts: Texts, options: JudgeOptions
) -> None:
    """What a metric says of the second system, and of the difference."""
    second = metric.judge(texts)
    assert judged.other is not None
    judged.other.add(name, metric, second)
    if first.statistics is None or second.statistics is None:
        return
    if options.samples:
        judged.other.intervals.update(find_intervals(second.statistics, options.samples))
    judged.p_values.update(compare(first.statistics, second.statistics, options.test))


def _check_names(name: str, judgement: Judgement, judged: Judged) -> None:
    if twice := judgement.scores.keys() & judged.keys():
        raise UsageError(f"metric {name}: another metric has a score {sorted(twice)[0]!r} too; leave one of them out")


def build_all(texts: Texts, options: JudgeOptions) -> dict[str, Metric]:
    """The metrics that are asked for, by name, and the judges of the models that are there.

    Raises:
        UsageError: an unknown name or field, or settings of what is not measured.
    """
    names = list(options.metrics) or default_metrics(texts, options.models)
    left = dict(options.settings)
    if twice := next((name for n, name in enumerate(names) if name in names[:n]), None):
        raise UsageError(f"metric {twice} is named twice; name it once")
    judges = {_JUDGES[role]: model for role, model in options.models.items()}
    metrics = {name: build_metric(name, left.pop(Path(name).stem, {})) for name in names if name not in judges}
    for name, model in judges.items():
        metrics[name] = build_judge(name, model, left.pop(name, {}))
    if left:
        raise UsageError(f"settings of {', '.join(left)}, which is not measured; name it in --metrics")
    return metrics


def settings_schema(options: JudgeOptions, names: Sequence[str]) -> type[Config]:
    """The settings of some metrics and of the judges of models, each in a table of its name.

    Raises:
        UsageError: an unknown metric.
    """
    judges = [_JUDGES[role] for role in options.models]
    configs = {Path(name).stem: find_class("metrics", name, Metric).Config for name in names if name not in judges}  # type: ignore[type-abstract]
    configs |= {name: find_class("evaluate.judges", name, Judge).Config for name in judges}  # type: ignore[type-abstract]
    fields: dict[str, Any] = {name: (schema, Field(default_factory=schema)) for name, schema in configs.items()}
    return create_model("Settings", __base__=Config, **fields)


def default_metrics(texts: Texts, models: Mapping[str, JudgeModel]) -> list[str]:
    """What is measured where nothing is named."""
    names = list(_WITH_REFERENCES) if texts.references else list(_WITHOUT)
    names += _WITH_SOURCES if texts.sources else ()
    return names + (["repetition"] if "judge" in models and "repetition" not in names else [])


def to_json(judged: Judged) -> str:
    """Scores as JSON."""
    return json.dumps(judged.as_dict(), ensure_ascii=False, indent=2, allow_nan=False)
