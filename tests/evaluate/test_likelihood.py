"""Scores of texts against slow sums over `transformers`' own logits, for every kind of model."""

from __future__ import annotations

import math
import re
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer

from pretune.errors import DataError, UsageError
from pretune.evaluate.likelihood import Score, score, windows
from pretune.generate import readings
from pretune.interop.huggingface import load_model
from pretune.models import build
from pretune.models.init import initialise

TEXTS = ["the quick brown foxhats", "语言 learns", "a", "the lazy dog and the cat ate a hat"]


def logs(logits: torch.Tensor) -> torch.Tensor:
    return logits.double().log_softmax(dim=-1)


@torch.no_grad()
def test_a_decoder_gives_the_log_probability(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    theirs = save_gpt2(tmp_path, tokenizer)
    actual = score(load_model(tmp_path).eval(), tokenizer, TEXTS)
    for text, one in zip(TEXTS, actual, strict=True):
        ids = tokenizer.encode(text)
        table = logs(theirs(torch.tensor([[0, *ids.tolist()]])).logits[0])
        expected = sum(float(table[n, token]) for n, token in enumerate(ids))
        assert one.log_prob == pytest.approx(expected, rel=1e-5)
        assert one.kind == "likelihood"
        assert (one.tokens, one.bytes) == (len(ids), len(text.encode()))
        assert one.bits_per_byte == pytest.approx(-expected / math.log(2) / len(text.encode()), rel=1e-5)
        assert one.perplexity == pytest.approx(math.exp(-expected / len(ids)), rel=1e-5)
    whole = -sum(one.log_prob for one in actual) / math.log(2) / sum(len(text.encode()) for text in TEXTS)
    assert reduce(add, actual).bits_per_byte == pytest.approx(whole)
    assert reduce(add, actual).tokens == sum(one.tokens for one in actual)


@pytest.mark.parametrize("masking", ["token", "word"])
@torch.no_grad()
def test_a_masked_model_gives_a_pseudo_likelihood(masking: Any, tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    theirs = save_bert(tmp_path, tokenizer).eval()
    actual = score(load_model(tmp_path).eval(), tokenizer, TEXTS, masking=masking)
    vocabulary, hidden_more = tokenizer.vocabulary, 0
    for text, one in zip(TEXTS, actual, strict=True):
        ids = tokenizer.encode(text).tolist()
        total = 0.0
        for n, token in enumerate(ids):
            masked = list(ids)
            masked[n] = vocabulary.mask
            later = n + 1
            while masking == "word" and later < len(ids) and vocabulary.continuation[ids[later]]:
                masked[later] = vocabulary.mask
                later += 1
                hidden_more += 1
            row = torch.tensor([[vocabulary.cls, *masked, vocabulary.sep]])
            total += float(logs(theirs(row).logits[0])[n + 1, token])
        assert one.log_prob == pytest.approx(total, rel=1e-5)
        assert one.kind == "pseudo-likelihood"
        assert one.unknown == ids.count(vocabulary.unk)
    assert (hidden_more > 0) == (masking == "word")


@torch.no_grad()
def test_a_permutation_model_reads_from_left_to_right(tmp_path: Path) -> None:
    """Against the two streams of `transformers`, by masks and mappings written from its documentation."""
    tokenizer = word_tokenizer()
    config = hf.XLNetConfig(vocab_size=tokenizer.vocabulary.size, d_model=32, n_layer=2, n_head=4, d_inner=48)
    torch.manual_seed(0)
    theirs = hf.XLNetLMHeadModel(config).eval()
    for parameter in theirs.parameters():
        parameter.normal_(0, 0.2)
    theirs.save_pretrained(tmp_path)
    actual = score(load_model(tmp_path, heads=["plm"]).eval(), tokenizer, TEXTS)
    for text, one in zip(TEXTS, actual, strict=True):
        ids = tokenizer.encode(text).tolist()
        run = torch.tensor([[tokenizer.vocabulary.cls, *ids, tokenizer.vocabulary.sep]])
        places = torch.arange(run.shape[1])
        inside = (places > 0) & (places <= len(ids))
        hidden = inside[None, :] & ~(inside[:, None] & (places[None, :] < places[:, None]))  # i cannot see j
        mapping = torch.eye(run.shape[1])[None, 1:-1]
        logits = theirs(run, perm_mask=hidden[None].float(), target_mapping=mapping).logits[0]
        total = sum(float(logs(logits)[n, token]) for n, token in enumerate(ids))
        assert one.log_prob == pytest.approx(total, rel=1e-5)
        assert one.kind == "likelihood"


@torch.no_grad()
def test_an_encoder_decoder_reads_a_source(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    config = hf.T5Config(
        vocab_size=300, d_model=32, d_kv=8, num_heads=4, d_ff=48, num_layers=2, decoder_start_token_id=1, eos_token_id=0
    )
    torch.manual_seed(0)
    theirs = hf.T5ForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path)
    model = load_model(tmp_path).eval()
    sources = ["the cat", "", "a hat", "模型"]
    for given in (sources, None):
        actual = score(model, tokenizer, TEXTS, given)
        for text, source, one in zip(TEXTS, given or [""] * 4, actual, strict=True):
            ids, read = tokenizer.encode(text).tolist(), tokenizer.encode(source).tolist()
            writing = torch.tensor([[1, *ids]])
            table = logs(theirs(torch.tensor([[*read, 0]]), decoder_input_ids=writing).logits[0])
            assert one.log_prob == pytest.approx(sum(float(table[n, t]) for n, t in enumerate(ids)), rel=1e-5)


def test_windows_ask_for_each_place_once_with_half_a_window_before() -> None:
    for total in range(40):
        for max_tokens in range(1, 12):
            requested: list[int] = []
            for begin, first, end in windows(total, max_tokens):
                assert end - begin <= max_tokens
                assert begin <= first < end
                assert first == 0 or first - begin >= max_tokens // 2
                requested += range(first, end)
            assert requested == list(range(total))
    with pytest.raises(UsageError, match="no room"):
        list(windows(3, 0))


@torch.no_grad()
def test_a_long_text_is_read_in_windows(tmp_path: Path) -> None:
    tokenizer = byte_tokenizer()
    theirs = save_gpt2(tmp_path, tokenizer, positions=16)
    text = " ".join(TEXTS * 2)
    ids = tokenizer.encode(text).tolist()
    assert len(ids) > 40
    run, total = [0, *ids], 0.0
    for begin, first, end in windows(len(ids), 16):
        table = logs(theirs(torch.tensor([run[begin:end]])).logits[0])
        total += sum(float(table[n - begin, ids[n]]) for n in range(first, end))
    (one,) = score(load_model(tmp_path).eval(), tokenizer, [text])
    assert one.log_prob == pytest.approx(total, rel=1e-5)
    masked = build("bert", "tiny", ["mlm"], {"vocab_size": 160, "max_position_embeddings": 8})
    initialise(masked, 0)
    (one,) = score(masked.eval(), word_tokenizer(), [TEXTS[3]], budget=1)
    assert math.isfinite(one.log_prob)


def test_batches_do_not_matter(tmp_path: Path) -> None:
    tokenizer = word_tokenizer()
    save_bert(tmp_path, tokenizer)
    model = load_model(tmp_path).eval()
    for one, other in zip(score(model, tokenizer, TEXTS, budget=1), score(model, tokenizer, TEXTS), strict=True):
        assert one.log_prob == pytest.approx(other.log_prob, rel=1e-5)


def test_what_cannot_be_scored() -> None:
    tokenizer = word_tokenizer()
    small = {"vocab_size": tokenizer.vocabulary.size}
    electra = build("electra", "tiny", ["rtd"], small)
    with pytest.raises(UsageError, match="gives no text a probability"):
        score(electra, tokenizer, TEXTS)
    bert = build("bert", "tiny", ["mlm"], small)
    with pytest.raises(DataError, match="text 2 of 2 has no tokens"):
        score(bert, tokenizer, ["a", ""])
    with pytest.raises(UsageError, match="bert has no encoder that could read a source"):
        score(bert, tokenizer, ["a"], ["b"])
    bart = build("bart", "tiny", ["clm"], {**small, "max_position_embeddings": 8})
    with pytest.raises(UsageError, match="2 texts but 1 sources"):
        score(bart, tokenizer, ["a", "a"], ["b"])
    with pytest.raises(DataError, match=r"text 1 has .* the model's context is 8"):
        score(bart, tokenizer, [TEXTS[3]])
    with pytest.raises(UsageError, match="no mask token"):
        score(build("bert", "tiny", ["mlm"], {"vocab_size": 300}), byte_tokenizer(), ["a"])


def test_an_empty_score() -> None:
    assert Score(-1.0, "likelihood", 0, 0, 0).bits_per_byte == math.inf
    assert np.isfinite(Score(-1e9, "likelihood", 1, 0, 1).perplexity)


def test_a_long_text_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    save_gpt2(tmp_path, byte_tokenizer())
    monkeypatch.setattr(readings, "_EVERY", 0.0)
    with caplog.at_level("INFO", "pretune"):
        score(load_model(tmp_path).eval(), byte_tokenizer(), ["the cat ate a hat. " * 200], budget=256)
    said = [record.getMessage() for record in caplog.records if "tokens scored" in record.getMessage()]
    assert len(said) > 3
    assert re.fullmatch(r"[\d,]+ of [\d,]+ tokens scored, \d+:\d\d left", said[0])
