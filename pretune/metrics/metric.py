"""The base class of metrics of texts: they turn hypotheses, and what they are compared with, into scores.

    Texts(hypotheses, references, sources) -> Metric.judge -> Judgement(scores, per_text, signature, statistics)

A metric whose scores are a function of sums over the texts says so by `Statistics`; confidence intervals and
comparisons of two systems (`metrics/significance.py`) draw texts anew from these rows, and measure nothing twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from pretune import config as configuration
from pretune.config import validate
from pretune.errors import DataError, UsageError
from pretune.find import find_class
from pretune.metrics.words import base_language, language_of

Values = NDArray[np.float64]
Scores = dict[str, float]
_MAX_CHARACTERS = 1_000_000  # of a text
_MAX_CELLS = 1 << 27  # of a table that compares each character with each


@dataclass(frozen=True)
class Texts:
    """What is judged, aligned by position.

    Attributes:
        hypotheses: what a system wrote; may be empty texts.
        references: of each hypothesis one or more right texts, not always equally many; or nothing at all.
        sources: what each hypothesis was written from; or nothing at all.
        language: code of the language of the references, such as `zh`; see `Texts.of`.
    """

    hypotheses: Sequence[str]
    references: Sequence[Sequence[str]] = ()
    sources: Sequence[str] = ()
    language: str = "en"

    @classmethod
    def of(
        cls,
        hypotheses: Sequence[str],
        references: Sequence[str | Sequence[str]] | None = None,
        sources: Sequence[str] | None = None,
        language: str | None = None,
    ) -> Texts:
        """Checks texts; where no language is named, the script of the references says it, else that of the hypotheses.

        Args:
            references: for each hypothesis a text or several.

        Raises:
            DataError: no texts, unequal numbers, or a hypothesis without a reference.
            UsageError: one text in place of a list; no code of a language.
        """
        if language:
            base_language(language)
        for what, passed in (("hypotheses", hypotheses), ("references", references), ("sources", sources)):
            if isinstance(passed, str):
                raise UsageError(f"{what}: expected a list of texts, and this is one text: {passed[:40]!r}")
        if not hypotheses:
            raise DataError("no hypotheses: give at least one text to judge")
        several = [[each] if isinstance(each, str) else list(each) for each in references or ()]
        for what, texts in (("references", several), ("sources", list(sources or ()))):
            if texts and len(texts) != len(hypotheses):
                raise DataError(f"{len(hypotheses)} hypotheses but {len(texts)} {what}; give one for each hypothesis")
        _check_texts("hypothesis", hypotheses)
        _check_texts("source", sources or ())
        for number, each in enumerate(several, 1):
            _check_texts(f"hypothesis {number}: reference", each)
        for number, source in enumerate(sources or (), 1):
            if not source.strip():
                raise DataError(f"source {number} is empty; leave it out with its hypothesis")
        for number, each in enumerate(several, 1):
            if not any(text.strip() for text in each):
                raise DataError(f"hypothesis {number} has no reference, or an empty one; leave it out")
        kept = [[text for text in each if text.strip()] for each in several]
        read = [text for each in kept for text in each] or list(hypotheses)
        return cls(hypotheses, kept, list(sources or ()), language or language_of(read))

    def __iter__(self) -> Iterator[tuple[str, Sequence[str], str]]:
        """Each hypothesis with its references and its source; empty where there are none."""
        for index, hypothesis in enumerate(self.hypotheses):
            references = self.references[index] if self.references else ()
            yield hypothesis, references, self.sources[index] if self.sources else ""


def _check_texts(what: str, texts: Sequence[object]) -> None:
    """Refuses what is no text, and texts that no metric can compare in reasonable time.

    Raises:
        DataError: see above.
    """
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise DataError(f"{what} {number} is {type(text).__name__}, not text: {str(text)[:40]}; write a text")
        if len(text) > _MAX_CHARACTERS:
            raise DataError(
                f"{what} {number} has {len(text):,} characters, and {_MAX_CHARACTERS:,} are allowed; split it"
            )


@dataclass(frozen=True)
class Statistics:
    """What the scores are computed from: rows that add up, one for each text.

    Attributes:
        rows: Shape: (texts, statistics).
        compute: gives the scores of a sum of rows. Shape: (statistics,) -> scores.
    """

    rows: Values
    compute: Callable[[Values], Scores]


@dataclass(frozen=True)
class Judgement:
    """What a metric says of some texts.

    Attributes:
        scores: of all texts together.
        per_text: of single texts, for the scores that have such values. Shape: (texts,) each.
        signature: how it was computed, so that others can compute the same.
        statistics: what intervals and comparisons draw from; None for scores that are no function of sums.
        details: more about each text, by a name, for whoever reads single texts.
        notes: sentences about what the scores do not say.
    """

    scores: Scores
    per_text: Mapping[str, Values]
    signature: str
    statistics: Statistics | None = None
    details: Mapping[str, Sequence[object]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Metric(ABC):
    """Base of all metrics.

    Args:
        config: validated.

    Attributes:
        main: the score that stands for the metric where one number is wanted.
        is_better: whether more or less of a score is better; a comparison says so.
        needs_references, needs_sources: whether it compares hypotheses with these.
    """

    main: ClassVar[str] = ""
    is_better: ClassVar[str] = "higher"
    needs_references: ClassVar[bool] = True
    needs_sources: ClassVar[bool] = False

    class Config(configuration.Config):
        """How it is computed."""

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def judge(self, texts: Texts) -> Judgement:
        """Scores all texts together, and each.

        Raises:
            UsageError: the metric cannot be computed of this language.
            MissingPackageError: the library that computes it is not installed.
        """


class MeanMetric(Metric):
    """Base of metrics that are means over the texts: a subclass scores one text."""

    def prepare(self, texts: Texts) -> None:
        """Chooses what depends on all texts, such as a tokenizer of their language."""

    @abstractmethod
    def score_text(self, hypothesis: str, references: Sequence[str], source: str) -> Scores:
        """The scores of a text; the same names for each. NaN leaves the text out of the mean of that score."""

    def signature(self, texts: Texts) -> str:
        """How the scores were computed."""
        return signature_of(self.config, language=texts.language)

    def judge(self, texts: Texts) -> Judgement:
        """The means over all texts that have a value."""
        self.prepare(texts)
        rows = [self.score_text(*each) for each in texts]
        names = list(rows[0])
        values = np.array([[row[name] for name in names] for row in rows], dtype=np.float64)
        return mean_judgement(names, values, self.signature(texts))


def mean_judgement(names: Sequence[str], values: Values, signature: str) -> Judgement:
    """The judgement of scores that are means over texts; NaN leaves a text out.

    Shape:
        values: (texts, names)
    """
    has_value = ~np.isnan(values)
    rows = np.concatenate([np.where(has_value, values, 0.0), has_value], axis=1)
    count = len(names)

    def compute(total: Values) -> Scores:
        return {name: float(total[n] / total[count + n]) if total[count + n] else 0.0 for n, name in enumerate(names)}

    per_text = {name: values[:, n] for n, name in enumerate(names)}
    return Judgement(compute(rows.sum(0)), per_text, signature, Statistics(rows, compute))


def join_judgements(first: Judgement, second: Judgement) -> Judgement:
    """Two judgements of the same texts as one; their scores have different names."""
    statistics = None
    if first.statistics is not None and second.statistics is not None:
        left, right = first.statistics, second.statistics
        size = left.rows.shape[1]
        rows = np.concatenate([left.rows, right.rows], axis=1)
        statistics = Statistics(rows, lambda total: {**left.compute(total[:size]), **right.compute(total[size:])})
    return Judgement(
        {**first.scores, **second.scores},
        {**first.per_text, **second.per_text},
        f"{first.signature} {second.signature}",
        statistics,
    )


def signature_of(config: configuration.Config, **facts: str) -> str:
    """How a metric was computed, in the form of sacrebleu's signatures: `field:value|field:value`."""
    fields = {name: value for name, value in config.model_dump().items() if value is not None}
    return "|".join(f"{name}:{_word(value)}" for name, value in {**facts, **fields}.items())


def _word(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def build_metric(name: str, tree: Mapping[str, Any] | None = None) -> Metric:
    """Builds a metric by its file name, or a user's own by the path of its file.

    Args:
        tree: fields of its configuration.

    Raises:
        UsageError: an unknown name (with the nearest) or field.
    """
    metric = find_class("metrics", name, Metric)  # type: ignore[type-abstract]
    return metric(validate(metric.Config, tree or {}, f"metrics.{name}"))


def check_inputs(name: str, metric: Metric, texts: Texts) -> None:
    """Refuses a metric that needs references or sources where there are none.

    Raises:
        UsageError: see above.
    """
    if metric.needs_references and not texts.references:
        raise UsageError(f"metric {name} compares with references: give them with --references")
    if metric.needs_sources and not texts.sources:
        raise UsageError(f"metric {name} compares with sources: give their file (--sources) or column (--source)")


def check_cells(name: str, first: int, second: int, instead: str) -> None:
    """Refuses two texts whose table of comparison would take all time and memory.

    Args:
        first, second: characters of the texts.
        instead: what to use for such texts.

    Raises:
        DataError: see above.
    """
    if first * second > _MAX_CELLS:
        raise DataError(
            f"{name}: a text of {first:,} characters beside a reference of {second:,} is too long for it; "
            f"split them, or use {instead}"
        )


def score(
    name: str,
    hypotheses: Sequence[str],
    references: Sequence[str | Sequence[str]] | None = None,
    sources: Sequence[str] | None = None,
    language: str | None = None,
    **config: Any,
) -> Scores:
    """The scores of one metric over all texts: `score("bleu", hypotheses, references)["bleu"]`.

    Args:
        name: of the metric.
        hypotheses, references, sources, language: see `Texts.of`.
        config: fields of the metric's configuration.

    Raises:
        UsageError, DataError, MissingPackageError: see `build_metric`, `Texts.of`, `Metric.judge`.
    """
    metric = build_metric(name, config)
    texts = Texts.of(hypotheses, references, sources, language)
    check_inputs(name, metric, texts)
    return metric.judge(texts).scores


def score_texts(
    metrics: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[str | Sequence[str]] | None = None,
    language: str | None = None,
    sources: Sequence[str] | None = None,
) -> Scores:
    """The scores of several metrics over the same texts, under their own names; see `score`.

    Raises:
        UsageError, DataError, MissingPackageError: see `build_metric`, `Texts.of`, `Metric.judge`.
    """
    texts = Texts.of(hypotheses, references, sources, language)
    scores: Scores = {}
    for name in metrics:
        metric = build_metric(name)
        check_inputs(name, metric, texts)
        scores.update(metric.judge(texts).scores)
    return scores


def main_score(name: str) -> tuple[str, bool]:
    """The score that stands for a metric, such as `rougeL` for `rouge`, and whether more of it is better.

    Raises:
        UsageError: an unknown metric.
    """
    metric = find_class("metrics", name, Metric)  # type: ignore[type-abstract]
    return metric.main, metric.is_better == "higher"
