"""Intervals and comparisons of two systems beside sacrebleu's own."""

from __future__ import annotations

import random

import numpy as np
import pytest

from pretune.errors import UsageError
from pretune.metrics.metric import Judgement, Statistics, Texts, build_metric, mean_judgement
from pretune.metrics.significance import compare, find_intervals

sacrebleu = pytest.importorskip("sacrebleu.metrics")
significance = pytest.importorskip("sacrebleu.significance")

WORDS = [f"w{n}" for n in range(12)]


def systems(texts: int = 120) -> tuple[list[str], list[str], list[list[str]]]:
    """A worse and a better system, and references."""
    draw = random.Random("systems")

    def noisy(text: str, rate: float) -> str:
        return " ".join(draw.choice(WORDS) if draw.random() < rate else word for word in text.split())

    references = [" ".join(draw.choice(WORDS) for _ in range(draw.randint(5, 15))) for _ in range(texts)]
    return [noisy(t, 0.4) for t in references], [noisy(t, 0.38) for t in references], [[t] for t in references]


def judged(name: str, hypotheses: list[str], references: list[list[str]]) -> Statistics:
    judgement: Judgement = build_metric(name).judge(Texts.of(hypotheses, references, language="en"))
    assert judgement.statistics is not None
    return judgement.statistics


@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_intervals_are_sacrebleus(name: str) -> None:
    worse, _, references = systems()
    interval = find_intervals(judged(name, worse, references), 300)[name]
    metric = {"bleu": sacrebleu.BLEU, "chrf": sacrebleu.CHRF}[name]()
    expected = metric.corpus_score(worse, [[each[0] for each in references]], n_bootstrap=300)
    assert (interval.high - interval.low) / 2 == pytest.approx(expected._ci, abs=1e-3)  # theirs sums in fp32
    assert interval.low < expected.score < interval.high


@pytest.mark.parametrize(("test", "theirs"), [("bootstrap", "bs"), ("randomization", "ar")])
@pytest.mark.parametrize("name", ["bleu", "chrf"])
def test_p_values_are_sacrebleus(test: str, theirs: str, name: str) -> None:
    worse, better, references = systems()
    ours = compare(judged(name, worse, references), judged(name, better, references), test, 400)  # type: ignore[arg-type]
    metric = {"bleu": sacrebleu.BLEU, "chrf": sacrebleu.CHRF}[name]()
    paired = significance.PairedTest(
        [("worse", worse), ("better", better)], {name: metric}, [[each[0] for each in references]], theirs, 400
    )
    results = paired()[1]
    expected = results[next(key for key in results if key != "System")][1].p_value
    assert ours[name] == pytest.approx(expected, abs=1e-9)
    assert 0.05 < ours[name] < 0.95  # chance has a say


def test_a_system_beside_itself_is_no_better() -> None:
    worse, _, references = systems(40)
    for name in ("bleu", "rouge"):
        one = judged(name, worse, references)
        assert set(compare(one, one, "randomization", 100).values()) == {1.0}
        assert set(compare(one, one, "bootstrap", 100).values()) == {1.0}


def test_means_leave_texts_without_a_value_out() -> None:
    values = np.array([[1.0], [np.nan], [0.0], [1.0]])
    judgement = mean_judgement(["share"], values, "")
    assert judgement.scores["share"] == pytest.approx(2 / 3)
    assert judgement.statistics is not None
    interval = find_intervals(judgement.statistics, 200)["share"]
    assert 0.0 <= interval.low < 2 / 3 < interval.high <= 1.0


def test_blocks_of_draws_are_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    worse, better, references = systems(64)
    first, second = judged("bleu", worse, references), judged("bleu", better, references)
    whole = [find_intervals(first, 50), compare(first, second, "bootstrap", 50)]
    monkeypatch.setattr("pretune.metrics.significance._BLOCK", 64 * 7)
    assert [find_intervals(first, 50), compare(first, second, "bootstrap", 50)] == whole


def test_systems_of_unequal_size_are_refused() -> None:
    worse, better, references = systems(20)
    with pytest.raises(UsageError, match="20 and 19 texts"):
        compare(judged("bleu", worse, references), judged("bleu", better[1:], references[1:]))
