"""Scores of spans: the numbers of seqeval and nervaluate on 1,000 random cases each."""

from __future__ import annotations

import json

import pytest

from pretune.tasks.shared.span_scores import PARTIAL_SCORES, Rates, partial_counts, partial_scores, rates, span_scores
from pretune.text.schemes import Scheme, read_chunks, strict_chunks
from tests.tasks.spancases import COUNT, FROZEN, span_cases, tag_cases

KNOWN = json.loads(FROZEN.read_text())


@pytest.mark.parametrize("strict", [False, True])
def test_whole_spans_are_scored_as_seqeval_does(strict: bool) -> None:
    read = strict_chunks if strict else read_chunks
    compared = 0
    for (name, truth, guess), expected in zip(tag_cases(), KNOWN["seqeval"], strict=True):
        if name == "BILOU" and not strict:
            continue  # by default seqeval does not know L and U
        scheme: Scheme = "IOBES" if name == "BILOU" else name  # type: ignore[assignment]
        known, named = ([[tuple(chunk) for chunk in read(tags, scheme)] for tags in texts] for texts in (truth, guess))
        scores = span_scores(known, named, "XYZ")  # type: ignore[arg-type]
        actual = [scores[score] for score in ("precision", "recall", "f1", "f1_macro")]
        assert actual == pytest.approx(expected[strict], abs=1e-8), (truth, guess)
        compared += 1
    assert compared > COUNT * 0.7


def test_parts_of_spans_are_scored_as_nervaluate_does() -> None:
    for (truth, guess), expected in zip(span_cases(), KNOWN["nervaluate"], strict=True):
        counts = partial_counts(truth, guess)
        actual = [
            [c.correct, c.incorrect, c.partial, c.missed, c.spurious] for c in (counts[name] for name in PARTIAL_SCORES)
        ]
        assert actual == expected, (truth, guess)


def test_half_of_what_is_partly_right_counts() -> None:
    scores = partial_scores([[(0, 4, "X"), (6, 9, "Y")]], [[(1, 4, "X"), (6, 9, "X")]])
    assert scores == {"f1_exact": 0.5, "f1_partial": 0.75, "f1_type": 0.5}
    assert rates(0, 0, 3) == Rates(0.0, 0.0, 0.0)


def test_labels_that_are_nowhere_do_not_lower_the_mean() -> None:
    scores = span_scores([[(0, 1, "X")]], [[(0, 1, "X")]], ["X", "Y"])
    assert (scores["f1_macro"], scores["f1/Y"], scores["count/Y"]) == (1.0, 0.0, 0.0)
