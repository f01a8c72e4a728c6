"""Rankings: equal to ir-measures asked directly and to a slow reference, whatever the scores' order says."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import ir_measures
import pytest

from pretune.errors import DataError, UsageError
from pretune.metrics.ranking import MEASURES, score_each, score_rankings


def _case(number: int) -> tuple[dict[str, list[str]], dict[str, dict[str, int]]]:
    """Rankings of one to four queries, some of which are not judged, some judged without a ranking."""
    draw = random.Random(number)
    ids = [f"d{n}" for n in range(draw.choice([3, 12, 150]))]
    rankings, judgements = {}, {}
    for query in (f"q{n}" for n in range(draw.randint(1, 4))):
        if draw.random() < 0.9:
            rankings[query] = draw.sample(ids, draw.randint(1, len(ids)))
        if draw.random() < 0.9 or not judgements:
            chosen = draw.sample(ids, draw.randint(1, min(6, len(ids))))
            judgements[query] = {key: draw.choice([0, 1, 1, 2, 3]) for key in chosen}
    return rankings, judgements


def _slow(ids: Sequence[str], grades: Mapping[str, int], name: str) -> float:
    """What a measure is by its definition."""
    kind, _, cutoff = name.partition("@")
    first = ids[: int(cutoff)]
    relevant = {key for key, grade in grades.items() if grade > 0}
    if kind == "R":
        return len(relevant & set(first)) / len(relevant) if relevant else 0.0
    if kind == "RR":
        return next((1 / rank for rank, key in enumerate(first, 1) if key in relevant), 0.0)
    gain = sum(grades.get(key, 0) / math.log2(rank + 1) for rank, key in enumerate(first, 1))
    best = sorted(grades.values(), reverse=True)[: int(cutoff)]
    ideal = sum(grade / math.log2(rank + 1) for rank, grade in enumerate(best, 1))
    return gain / ideal if ideal else 0.0


def test_scores_equal_a_slow_reference_on_1000_cases() -> None:
    for number in range(1000):
        rankings, judgements = _case(number)
        for query, scores in score_each(rankings, judgements).items():
            for name, value in scores.items():
                expected = _slow(rankings.get(query, ()), judgements[query], name)
                assert value == pytest.approx(expected, abs=1e-9), (number, query, name)


def test_means_equal_those_of_ir_measures_on_1000_queries() -> None:
    rankings: dict[str, list[str]] = {}
    judgements: dict[str, dict[str, int]] = {}
    for number in range(1000):
        found, judged = _case(number)
        rankings |= {f"{number}/{query}": ids for query, ids in found.items()}
        judgements |= {f"{number}/{query}": grades for query, grades in judged.items()}
    run = {query: {key: -float(rank) for rank, key in enumerate(ids)} for query, ids in rankings.items()}
    expected = ir_measures.calc_aggregate([ir_measures.parse_measure(name) for name in MEASURES], judgements, run)
    means = score_rankings(rankings, judgements)
    assert means == pytest.approx({str(measure): value for measure, value in expected.items()}, abs=1e-12)


def test_ids_are_no_tie_breakers() -> None:
    assert score_rankings({"q": ["b", "a"]}, {"q": {"b": 1}}, ["RR@10"]) == {"RR@10": 1.0}
    assert score_rankings({"q": ["a", "b"]}, {"q": {"b": 1}}, ["RR@10"]) == {"RR@10": 0.5}


def test_query_without_ranking_counts_as_zero() -> None:
    assert score_rankings({"q": ["a"]}, {"q": {"a": 1}, "p": {"a": 1}}, ["R@1"]) == {"R@1": 0.5}


def test_bad_input_is_refused() -> None:
    with pytest.raises(DataError, match="names 'a' twice"):
        score_rankings({"q": ["a", "b", "a"]}, {"q": {"a": 1}})
    with pytest.raises(DataError, match="no judged query"):
        score_rankings({"q": ["a"]}, {})
    with pytest.raises(UsageError, match="measure 'F1'"):
        score_rankings({"q": ["a"]}, {"q": {"a": 1}}, ["F1"])
