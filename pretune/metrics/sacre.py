"""What the metrics of sacrebleu share: scores from sums over texts, by its own functions."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest
from typing import Any

import numpy as np

from pretune.errors import MissingPackageError
from pretune.metrics.metric import Judgement, Statistics, Texts, Values


def library(metric: str) -> Any:
    """`sacrebleu.metrics`.

    Raises:
        MissingPackageError: it is not installed.
    """
    try:
        import sacrebleu.metrics
    except ImportError:
        raise MissingPackageError(f"{metric} needs the package sacrebleu: pip install 'pretune[tasks]'") from None
    return sacrebleu.metrics


def judge_by(name: str, scorer: Any, texts: Texts, text_scorer: Any = None) -> Judgement:
    """Scores texts by a metric of sacrebleu.

    Args:
        name: of the score.
        scorer: an instance of `sacrebleu.metrics.Metric`.
        text_scorer: the same for a single text, where that is computed in another way.
    """
    streams = [
        list(stream) for stream in zip_longest(*texts.references)
    ]  # (references, texts), None where it has fewer
    rows = np.array(scorer._extract_corpus_statistics(list(texts.hypotheses), streams), dtype=np.float64)
    compute = _computed_by(scorer)
    single = _computed_by(text_scorer or scorer)
    return Judgement(
        {name: compute(rows.sum(0))},
        {name: np.array([single(row) for row in rows])},
        scorer.get_signature().format(),
        Statistics(rows, lambda total: {name: compute(total)}),
    )


def _computed_by(scorer: Any) -> Callable[[Values], float]:
    """The score of a sum of rows; sacrebleu writes into the list that it is given, so it gets a new one."""

    def compute(total: Values) -> float:
        return float(scorer._compute_score_from_stats(total.tolist()).score)

    return compute
