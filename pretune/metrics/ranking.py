"""Scores rankings against relevance judgements: nDCG, recall, reciprocal rank and the others of ir-measures.

    {query: ids, best first} + {query: {id: grade}} -> ir-measures -> {"nDCG@10": 0.71, "R@10": 0.93, "RR@10": 0.66}

The scorers take the order of the ids and no scores: trec_eval holds scores in single precision and breaks ties by the
ids, so scores that differ in their eighth digit would be put in the order of the alphabet.

Source: ir-measures 0.4 (https://ir-measur.es), whose nDCG, recall and average precision are trec_eval's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from pretune.errors import DataError, MissingPackageError, UsageError

Judgements: TypeAlias = Mapping[str, Mapping[str, int]]
"""How relevant each judged id is to each query: 0 is not at all; ids that are not named are not relevant."""
Rankings: TypeAlias = Mapping[str, Sequence[str]]
"""What was found for each query: ids, the best first."""
MEASURES = ("nDCG@10", "R@1", "R@5", "R@10", "R@100", "RR@10")
"""What is measured where nothing else is asked for."""


def score_rankings(rankings: Rankings, judgements: Judgements, measures: Sequence[str] = MEASURES) -> dict[str, float]:
    """The means over all judged queries; a query without a ranking, or without a relevant id, counts as 0.

    Args:
        rankings: what was found for each query, best first; queries that are not judged are left out.
        judgements: how relevant ids are to each query.
        measures: as ir-measures names them: nDCG@10, R@100, RR@10, AP, Success@1 ...

    Raises:
        UsageError: a name that is no measure.
        DataError: no judged query, or an id that a ranking names twice.
        MissingPackageError: ir-measures is not installed.
    """
    scores = score_each(rankings, judgements, measures)
    return {name: sum(values[name] for values in scores.values()) / len(scores) for name in measures}


def score_each(
    rankings: Rankings, judgements: Judgements, measures: Sequence[str] = MEASURES
) -> dict[str, dict[str, float]]:
    """The scores of each judged query, in the order of the judgements; see `score_rankings`."""
    if not judgements:
        raise DataError("no judged query: give at least one, with the id of what is relevant to it")
    ir_measures = _library()
    parsed = {_parse(ir_measures, name): name for name in measures}
    run = {query: _by_rank(query, rankings.get(query, ())) for query in judgements}
    judged = {query: {str(key): int(grade) for key, grade in grades.items()} for query, grades in judgements.items()}
    scores: dict[str, dict[str, float]] = {query: dict.fromkeys(measures, 0.0) for query in judgements}
    for metric in ir_measures.iter_calc(list(parsed), judged, {query: ranks for query, ranks in run.items() if ranks}):
        scores[metric.query_id][parsed[metric.measure]] = float(metric.value)
    return scores


def _by_rank(query: str, ids: Sequence[str]) -> dict[str, float]:
    """A score for each id that falls with its rank, in whole numbers, which single precision holds."""
    ranks = {key: float(len(ids) - rank) for rank, key in enumerate(ids)}
    if len(ranks) < len(ids):
        twice = next(key for key, count in Counter(ids).items() if count > 1)
        raise DataError(f"query {query!r}: its ranking names {twice!r} twice; rank each id once")
    return ranks


def _parse(ir_measures: Any, name: str) -> Any:
    try:
        measure = ir_measures.parse_measure(name)
        if not ir_measures.DefaultPipeline.supports(measure):
            raise ValueError
    except (NameError, ValueError, SyntaxError, TypeError, KeyError):
        known = ", ".join(MEASURES)
        raise UsageError(
            f"measure {name!r}: ir-measures computes no such; usual ones: {known}, AP, Success@1"
        ) from None
    return measure


def _library() -> Any:
    try:
        import ir_measures
    except ImportError:
        raise MissingPackageError(
            "scores of rankings need the package ir-measures: pip install 'pretune[tasks]'"
        ) from None
    return ir_measures
