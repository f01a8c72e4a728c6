"""Tiny tokenizers, and tiny random models as `transformers` saves them, for tests that compare with it."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from pretune.text.tokenizer.tokenizer import Tokenizer

TEXTS = [
    "the quick brown fox jumps over the lazy dog and the cat ate a hat",
    "模型 learns 语言 quickly, don't you think?",
]
END = "<|endoftext|>"


@cache
def byte_tokenizer(size: int = 300) -> Tokenizer:
    """GPT-2-like: bytes and a few merges; id 0 ends a text."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(TEXTS * 3, trainer)
    return Tokenizer(backend, {"eos_token": END, "bos_token": END})


@cache
def word_tokenizer() -> Tokenizer:
    """BERT-like: lower-cased pieces of words, the same in every process.

    The trainer numbers the characters inside of words by a hash table and breaks ties by number, so they are given.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    learner = _bert_pipeline(models.WordPiece(unk_token="[UNK]"))
    normalize, split = learner.normalizer.normalize_str, learner.pre_tokenizer.pre_tokenize_str
    inner = sorted({f"##{character}" for text in TEXTS for word, _ in split(normalize(text)) for character in word[1:]})
    trainer = trainers.WordPieceTrainer(vocab_size=160, special_tokens=[*special, *inner], show_progress=False)
    learner.train_from_iterator(TEXTS * 3, trainer)
    backend = _bert_pipeline(models.WordPiece(learner.get_vocab(), unk_token="[UNK]"))
    backend.add_special_tokens(special)
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return Tokenizer(backend, dict(zip(names, special, strict=True)))


def _bert_pipeline(model: models.Model) -> tokenizers.Tokenizer:
    backend = tokenizers.Tokenizer(model)
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return backend


def save_gpt2(
    folder: Path, tokenizer: Tokenizer, *, seed: int = 0, positions: int = 64, std: float = 0.3, extra: int = 0
) -> transformers.GPT2LMHeadModel:
    """A random GPT-2 and its tokenizer in `folder`; `extra` tokens that the tokenizer does not have."""
    torch.manual_seed(seed)
    config = transformers.GPT2Config(
        vocab_size=tokenizer.vocabulary.size + extra,
        n_positions=positions,
        n_embd=32,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        initializer_range=std,
    )
    return _save(transformers.GPT2LMHeadModel(config), folder, tokenizer)


def save_bert(
    folder: Path,
    tokenizer: Tokenizer,
    kind: type = transformers.BertForMaskedLM,
    labels: list[str] | None = None,
    *,
    positions: int = 48,
) -> transformers.PreTrainedModel:
    """A random BERT and its tokenizer in `folder`."""
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=tokenizer.vocabulary.size,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=positions,
        initializer_range=0.3,
    )
    if labels:
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: n for n, label in enumerate(labels)}
    return _save(kind(config), folder, tokenizer)


def save_t5(folder: Path, tokenizer: Tokenizer) -> transformers.T5ForConditionalGeneration:
    """A random T5 and its tokenizer in `folder`; without a pad token, token 0 begins what the decoder writes."""
    vocabulary = tokenizer.vocabulary
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=vocabulary.size,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        initializer_factor=3.0,
        pad_token_id=vocabulary.pad or 0,
        decoder_start_token_id=vocabulary.pad or 0,
        eos_token_id=vocabulary.eos,
    )
    return _save(transformers.T5ForConditionalGeneration(config), folder, tokenizer)


def _save(model: Any, folder: Path, tokenizer: Tokenizer) -> Any:
    model.eval().save_pretrained(folder)
    tokenizer.save(folder)
    return model
