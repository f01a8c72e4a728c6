"""Special tokens in prompts, and what `span` and `denoise` train: sentinels, masks, chat marks, language codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers
import torch
import transformers
from tinymodels import TEXTS, byte_tokenizer, save_bert, save_gpt2, save_t5, word_tokenizer

import pretune
from pretune.errors import UsageError
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

CHAT = "<|im_start|>user\nthe quick fox<|im_end|>\n"


def save_bart(path: Path) -> Tokenizer:
    config = TokenizerConfig(kind="bpe", special_tokens="roberta", vocab_size=320, min_frequency=1)
    tokenizer = train_tokenizer(TEXTS * 9, config)
    vocabulary = tokenizer.vocabulary
    torch.manual_seed(0)
    bart = transformers.BartConfig(
        vocab_size=vocabulary.size,
        d_model=32,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
        init_std=0.3,
        pad_token_id=vocabulary.pad,
        bos_token_id=vocabulary.bos,
        eos_token_id=vocabulary.eos,
        decoder_start_token_id=vocabulary.eos,
        forced_eos_token_id=vocabulary.eos,
    )
    transformers.BartForConditionalGeneration(bart).save_pretrained(path)
    tokenizer.save(path)
    return tokenizer


def chat_tokenizer() -> Tokenizer:
    backend = tokenizers.Tokenizer.from_str(byte_tokenizer().backend.to_str())
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return Tokenizer(backend, dict(byte_tokenizer().settings))


def test_sentinels_are_read_and_written(tmp_path: Path) -> None:
    """`<extra_id_0>` was spelt out, so that what `span` trains could not be asked for."""
    save_t5(tmp_path, train_tokenizer(TEXTS * 9, TokenizerConfig(kind="unigram", vocab_size=80, sentinels=3)))
    model = pretune.load(tmp_path, device="cpu", precision="fp32")
    prompt = "the quick <extra_id_0> jumps over <extra_id_1> dog"
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = theirs(prompt, return_tensors="pt")
    (actual,) = model.continuations([prompt], max_new_tokens=8, keep_special=True)
    assert actual.prompt_tokens == ids.input_ids.shape[1]
    network = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path).eval()
    with torch.no_grad():
        expected = network.generate(input_ids=ids.input_ids, max_new_tokens=8)[0, 1:].tolist()
    assert actual.tokens == expected
    ended = expected[:-1] if actual.reason == "end" else expected
    assert actual.text == theirs.decode(ended, skip_special_tokens=False)
    spelt = model.continuations([prompt], max_new_tokens=8, special_tokens=False)[0]
    assert spelt.prompt_tokens > actual.prompt_tokens
    target = "<extra_id_0> fox <extra_id_1> the lazy <extra_id_2>"
    (scored,) = model.score([target], [prompt])
    labels = theirs(target, return_tensors="pt").input_ids
    with torch.no_grad():
        logits = network(input_ids=ids.input_ids, labels=labels).logits.log_softmax(-1)
    own = logits[0, range(1, labels.shape[1] - 1), labels[0, 1:-1]].sum()  # without <s> and </s>
    assert scored.log_prob == pytest.approx(float(own), abs=1e-3)
    with pytest.raises(
        UsageError, match="<extra_id_0> stands for a missing text of any length; give the text to `generate`"
    ):
        model.fill(prompt)


def test_bart_fills_masks(tmp_path: Path) -> None:
    """`bart` had no `fill`."""
    save_bart(tmp_path)
    model = pretune.load(tmp_path, device="cpu", precision="fp32")
    text = "the quick<mask> fox jumps over the<mask> dog"
    assert "fill" in model.abilities
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    inputs = theirs(text, return_tensors="pt")
    network = transformers.BartForConditionalGeneration.from_pretrained(tmp_path).eval()
    start = torch.tensor([[network.config.decoder_start_token_id]])
    with torch.no_grad():
        decoder = torch.cat([start, inputs.input_ids[:, :-1]], dim=1)
        logits = network(input_ids=inputs.input_ids, decoder_input_ids=decoder).logits[0]
    best = logits[inputs.input_ids[0] == theirs.mask_token_id].softmax(-1).topk(3)
    actual = model.fill(text, top=3)
    assert [[guess.id for guess in guesses] for guesses in actual] == best.indices.tolist()
    assert actual[1][0].probability == pytest.approx(float(best.values[1, 0]), abs=1e-5)
    (written,) = model.continuations([text], max_new_tokens=4)
    assert written.prompt_tokens == inputs.input_ids.shape[1]


@pytest.mark.parametrize("setting", ["tokens", "template"])
def test_chat_marks(setting: str, tmp_path: Path) -> None:
    tokenizer = chat_tokenizer() if setting == "tokens" else byte_tokenizer()
    save_gpt2(tmp_path, tokenizer)
    prompt = CHAT if setting == "tokens" else "<|endoftext|>the quick fox"
    if setting == "template":
        (tmp_path / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    model = pretune.load(tmp_path, device="cpu", precision="fp32")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    (actual,) = model.continuations([prompt], max_new_tokens=1)
    assert actual.prompt_tokens == len(theirs(prompt).input_ids)
    assert model.continuations([prompt], max_new_tokens=1, special_tokens=False)[0].prompt_tokens > actual.prompt_tokens


@pytest.mark.parametrize("kind", ["bytes", "words"])
def test_models_that_were_not_made_for_them_read_text(kind: str, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer() if kind == "bytes" else word_tokenizer()
    save_gpt2(tmp_path, tokenizer)
    model = pretune.load(tmp_path, device="cpu", precision="fp32")
    prompt = "the <|endoftext|>" if kind == "bytes" else "the [MASK] [SEP]"
    options: list[Any] = [{}, {"special_tokens": True}]
    plain, special = (model.continuations([prompt], max_new_tokens=1, **given)[0].prompt_tokens for given in options)
    assert plain > special
    save_bert(tmp_path / "bert", word_tokenizer())
    (scored,) = pretune.load(tmp_path / "bert", device="cpu").score(["the [MASK]"])
    assert scored.tokens > 2
