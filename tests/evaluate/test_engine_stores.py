"""Losses on a store against `transformers` and against counting."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import transformers
from tinymodels import TEXTS, byte_tokenizer, save_bert, save_gpt2, word_tokenizer

from pretune.errors import DataError
from pretune.evaluate.engine import bytes_per_token, evaluate_store
from pretune.evaluate.stores import evaluate_folder
from pretune.interop.huggingface import load_model
from pretune.objectives.mixture import build
from pretune.text.store.prepare import PrepareConfig, prepare
from pretune.text.store.store import TokenStore
from pretune.text.tokenizer.tokenizer import Tokenizer

DOCUMENTS = [f"{text} number {n}. The cat {n} sat. A dog ran {n} miles." for n in range(12) for text in TEXTS]


def make_store(folder: Path, tokenizer: Tokenizer) -> TokenStore:
    (folder / "text.txt").write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    return prepare(folder / "text.txt", tokenizer, folder / "store", PrepareConfig(validation=0.0, processes=1))


@pytest.mark.parametrize("budget", [16, 4096])
def test_causal_loss_is_that_of_transformers(tmp_path: Path, budget: int) -> None:
    tokenizer = byte_tokenizer()
    theirs = save_gpt2(tmp_path / "model", tokenizer, std=0.1)
    split = make_store(tmp_path, tokenizer).split("train")
    actual = evaluate_store(
        load_model(tmp_path / "model"),
        build({"clm": 1.0}, tokenizer.vocabulary),
        split,
        tokenizer,
        length=32,
        pack="stream",
        budget=budget,
    )
    tokens = torch.from_numpy(split.read(0, split.token_count))
    total, count = 0.0, 0
    for start in range(0, len(tokens) - 1, 32):
        window = tokens[start : start + 33]
        with torch.no_grad():
            logits = theirs(window[None, :-1]).logits[0]
        total += float(torch.nn.functional.cross_entropy(logits, window[1:], reduction="sum"))
        count += len(window) - 1
    assert actual["predictions/clm"] == count == split.token_count - 1
    assert actual["loss/clm"] == pytest.approx(total / count, rel=1e-5)
    assert actual["perplexity/clm"] == pytest.approx(math.exp(total / count), rel=1e-4)
    size = sum(len(document.encode()) for document in DOCUMENTS)
    assert actual["bits_per_byte"] == pytest.approx(total / math.log(2) / size, rel=0.01)
    assert bytes_per_token(split, tokenizer) == pytest.approx(size / split.token_count, rel=0.01)


def test_mixture_reports_each_objective(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    save_bert(tmp_path / "model", tokenizer, transformers.BertForPreTraining)
    split = make_store(tmp_path, tokenizer).split("train")
    model = load_model(tmp_path / "model")
    objective = build({"mlm": 1.0, "nsp": 1.0}, tokenizer.vocabulary)
    first, again = (
        evaluate_store(model, objective, split, tokenizer, length=32, budget=budget) for budget in (64, 2048)
    )
    assert set(first) == {
        f"{kind}/{name}" for kind in ("loss", "perplexity", "accuracy", "predictions") for name in ("mlm", "nsp")
    }
    assert first == pytest.approx(again, rel=1e-5), "the corruption does not depend on batches"
    assert 0 < first["predictions/mlm"] < 0.2 * split.token_count


def test_a_damaged_split_is_not_evaluated(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    save_gpt2(tmp_path / "model", tokenizer, std=0.1)
    store = make_store(tmp_path, tokenizer)
    model = load_model(tmp_path / "model")
    path = store.path / "train-tokens-00000.npy"
    raw = bytearray(path.read_bytes())
    raw[-3] ^= 1
    path.write_bytes(raw)

    def evaluate(split: str) -> dict[str, float]:
        return evaluate_folder(
            model, tokenizer, store.path, {"clm": 1.0}, model_folder=tmp_path / "model", split=split, length=32
        )

    with pytest.raises(DataError, match=r"train-tokens-00000\.npy: content differs"):
        evaluate("train")
    with pytest.raises(DataError, match="has no text"):  # nothing was held out, and nothing of it is damaged
        evaluate("validation")
