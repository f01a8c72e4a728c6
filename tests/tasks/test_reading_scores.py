"""Scores of answers equal those of the official scripts, which `official_reading.py` froze."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pretune.tasks.shared.reading_scores import cmrc_tokens, find_threshold, score_answer, treebank_words
from tests.tasks.official_reading import FROZEN, cases


@pytest.fixture(scope="module")
def frozen() -> dict[str, Any]:
    return json.loads(FROZEN.read_text())


@pytest.mark.parametrize("name", ["squad", "squad2", "cmrc"])
def test_equal_to_the_official_script(frozen: dict[str, Any], name: str) -> None:
    expected = frozen[name]["scores"] if name == "squad2" else frozen[name]
    scorer = "cmrc" if name == "cmrc" else "squad"
    scores = [
        score_answer(answer, truth, scorer, may_be_empty=name == "squad2")  # type: ignore[arg-type]
        for answer, truth, _ in cases(name)
    ]
    assert len(scores) == len(expected) == 1000
    for case, score, (exact, f1) in zip(cases(name), scores, expected, strict=True):
        assert score.exact == exact, case
        assert score.f1 == pytest.approx(f1, abs=1e-12), case


def test_the_best_threshold_is_that_of_the_official_script(frozen: dict[str, Any]) -> None:
    all_cases = cases("squad2")
    scores = [score_answer(answer or "-", truth, "squad", may_be_empty=True).f1 for answer, truth, _ in all_cases]
    best = find_threshold([gap for _, _, gap in all_cases], scores, [bool(truth) for _, truth, _ in all_cases])
    assert best is not None
    assert best[0] == frozen["squad2"]["best"][1]
    assert best[1] == pytest.approx(frozen["squad2"]["best"][0], abs=1e-12)


def test_no_answer_at_all_may_be_best() -> None:
    assert find_threshold([0.0, 1.0], [0.2, 0.9], [True, False]) == (0.0, 0.6)
    assert find_threshold([1.0, 0.0], [0.2, 0.9], [True, False]) is None


def test_chinese_is_compared_by_characters_and_the_rest_by_words() -> None:
    assert cmrc_tokens("《北京》2010年, U-20") == ["北", "京", "2010", "年", ",", "u20"]
    assert treebank_words("it's 3.5% (no.)") == ["it", "'s", "3.5", "%", "(", "no", ".", ")"]
