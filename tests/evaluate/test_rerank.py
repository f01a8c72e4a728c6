"""Reranking what a first stage found, and whether that helps on held-out queries."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import transformers
from tinymodels import save_bert, word_tokenizer

import pretune
from pretune.errors import DataError, UsageError
from pretune.evaluate.rerank import HeldOutQuery, Reranker, check_reranking, rank

TEXTS = {"a": "a fox", "b": "the lazy dog", "c": "a hat", "d": "the cat ate"}


def oracle(best: Sequence[str]) -> Reranker:
    """A reranker that puts some ids first."""

    def scores(queries: Sequence[str], passages: Sequence[Sequence[str]]) -> list[list[float]]:
        chosen = {TEXTS[key] for key in best}
        return [[float(text in chosen) for text in own] for own in passages]

    return cast(Reranker, scores)


def queries(count: int, relevant: str = "c") -> list[HeldOutQuery]:
    found = list(TEXTS.items())
    return [HeldOutQuery(str(n), f"query {n}", found, {relevant: 1}) for n in range(count)]


def test_a_better_order_helps() -> None:
    check = check_reranking(oracle("c"), queries(8))
    assert check.first["RR@10"] == pytest.approx(1 / 3)
    assert check.reranked["RR@10"] == 1.0
    assert (check.better, check.worse, check.queries, check.helps) == (8, 0, 8, True)
    assert check.describe().startswith(
        "the reranker helps: RR@10 0.3333 -> 1.0000 on 8 held-out queries, a gain of +0.6667 (+0.6667 to +0.6667)"
    )


def test_a_gain_by_chance_is_none() -> None:
    mixed = [*queries(5, "c"), *(HeldOutQuery(f"x{n}", "q", list(TEXTS.items()), {"a": 1}) for n in range(4))]
    check = check_reranking(oracle("c"), mixed)
    assert check.gain > 0
    assert check.low < 0 < check.high
    assert not check.helps
    assert "is not shown to help" in check.describe()


def test_equal_scores_keep_the_order_of_the_first_stage() -> None:
    assert rank(list(TEXTS.items()), [0.0, 1.0, 0.0, 1.0]) == ["b", "d", "a", "c"]
    check = check_reranking(oracle(""), queries(3))
    assert check.gain == 0.0
    assert not check.helps


def test_judgements_of_other_passages_are_refused() -> None:
    with pytest.raises(DataError, match="no candidate of the 3 held-out queries is relevant: their judgements name"):
        check_reranking(oracle("a"), queries(3, relevant="z"))
    with pytest.raises(DataError, match="two held-out queries have one id"):
        check_reranking(oracle("a"), [*queries(2), *queries(1)])


def load(folder: Path) -> tuple[Any, Reranker]:
    model = pretune.load(folder, device="cpu", precision="fp32")
    return model, Reranker.of(model.network, model.tokenizer, folder)


def test_a_published_cross_encoder_scores_lists(tmp_path: Path) -> None:
    peer = save_bert(tmp_path, word_tokenizer(), transformers.BertForSequenceClassification, ["LABEL_0"]).eval()
    _, reranker = load(tmp_path)
    lists = [["a fox", "the lazy dog jumps over the cat"], [], ["a hat"]]
    scores = reranker(["the fox", "nothing", "a cat"], lists)
    assert [len(own) for own in scores] == [2, 0, 1]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    batch = tokenizer(["the fox", "the fox", "a cat"], [*lists[0], *lists[2]], return_tensors="pt", padding=True)
    with torch.no_grad():
        wanted = peer(**batch).logits[:, 0].sigmoid().tolist()
    assert [*scores[0], *scores[2]] == pytest.approx(wanted, abs=1e-5)


def test_other_heads_are_no_rerankers(tmp_path: Path) -> None:
    save_bert(tmp_path / "two", word_tokenizer(), transformers.BertForSequenceClassification, ["bad", "good"])
    with pytest.raises(UsageError, match="a reranker has one score, and this model's head has 2: bad, good"):
        load(tmp_path / "two")
    save_bert(tmp_path / "none", word_tokenizer())
    with pytest.raises(UsageError, match="has no head 'classification'"):
        load(tmp_path / "none")
