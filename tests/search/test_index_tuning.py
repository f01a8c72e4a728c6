"""Tuning: the recorded ranking is never below its better part on held-out queries; rerankers must help there."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import transformers
from searchkit import load_model, records, save_model
from tinymodels import save_bert, word_tokenizer

import pretune
from pretune.errors import DataError, UsageError
from pretune.search.index import SearchIndex
from pretune.search.judgements import Judged
from pretune.search.tuning import MAIN, Judge, evaluate_index, tune_index


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> SearchIndex:
    folder = tmp_path_factory.mktemp("tuning")
    return pretune.index(records(60, words=30), folder / "index", model=load_model(save_model(folder / "model")))


@pytest.fixture(scope="module")
def judged() -> Judged:
    """Queries of some words of a document, which are relevant to it."""
    draw = random.Random(0)
    texts, grades = {}, {}
    for number, document in enumerate(records(60, words=30)):
        words = document["text"].lower().strip(".").split()
        texts[f"q{number}"] = " ".join(draw.sample(words, min(4, len(words))))
        grades[f"q{number}"] = {document["id"]: 1}
    return Judged(texts, grades)


def test_fused_is_never_below_its_better_part(index: SearchIndex, judged: Judged) -> None:
    choice = tune_index(index, judged)
    scores = {row.name: row.scores[MAIN] for row in choice.measured}
    assert (choice.tuning, choice.held_out) == (30, 30)
    assert scores[choice.ranking.mode] == max(scores.values())
    assert scores[choice.ranking.mode] >= max(scores["words"], scores["vectors"])
    again = pretune.open_index(index.folder)
    assert again.ranking == choice.ranking
    assert again.ranking.measured["words"][MAIN] == scores["words"]


def test_a_reranker_of_random_weights_is_left_out(index: SearchIndex, judged: Judged, tmp_path: Path) -> None:
    save_bert(tmp_path, word_tokenizer(), transformers.BertForSequenceClassification, ["score"])
    choice = tune_index(index, judged, tmp_path)
    assert choice.ranking.reranker is None
    assert "the reranker is not shown to help" in choice.reasons[-1]
    assert choice.measured[-1].name.endswith("+reranker")
    hits = index.search("the lazy dog", 10, reranker=tmp_path)
    assert {hit.document for hit in hits[:10]} <= {each["id"] for each in records(60)}


def test_a_reranker_orders_the_best_alone(index: SearchIndex, tmp_path: Path) -> None:
    save_bert(tmp_path, word_tokenizer(), transformers.BertForSequenceClassification, ["score"])
    index.manifest = index.manifest.model_copy(
        update={"ranking": index.ranking.model_copy(update={"reranked": 5, "mode": "vectors"})}
    )
    plain = [hit.document for hit in index.search("the lazy dog", 12)]
    hits = index.search("the lazy dog", 12, reranker=tmp_path)
    assert {hit.document for hit in hits[:5]} == set(plain[:5])
    assert [hit.document for hit in hits[5:]] == plain[5:]
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    scores = index.reranker(tmp_path)(["the lazy dog"], [[hit.text for hit in hits[:5]]])[0]
    assert [hit.score for hit in hits[:5]] == pytest.approx(scores, abs=1e-5)


def test_an_evaluation_has_a_row_for_each_way(index: SearchIndex, judged: Judged) -> None:
    rows = evaluate_index(index, judged, measures=["R@1"])
    assert [row.name for row in rows] == ["words", "vectors", "fused"]
    assert set(rows[0].scores) == {MAIN, "R@1"}
    hits = 0
    for query, text in judged.texts.items():
        found = index.search(text, 1, mode="words")
        hits += found[0].document in judged.grades[query]
    assert rows[0].scores["R@1"] == pytest.approx(hits / 60)


def test_what_cannot_be_measured(index: SearchIndex, judged: Judged) -> None:
    with pytest.raises(DataError, match="document 'none' of query 'q' is not in the index"):
        Judge(index, Judged({"q": "dog"}, {"q": {"none": 1}}))
    with pytest.raises(UsageError, match="measure 'F1'"):
        evaluate_index(index, judged, measures=["F1"])
    judge = Judge(index, Judged({"q0": "dog"}, {"q0": {"d0-0": 1}}))
    with pytest.raises(DataError, match="1 judged queries cannot be split"):
        judge.split(0.5)
    with pytest.raises(UsageError, match="held-out share 1"):
        judge.split(1)
    first, second = Judge(index, judged).split(0.25)
    assert (len(first), len(second)) == (45, 15)
    assert not set(first) & set(second)
