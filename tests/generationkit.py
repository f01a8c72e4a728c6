"""Tiny models that write, and texts that are to be written again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
import transformers
from tinymodels import byte_tokenizer, save_gpt2, save_t5

TOKENIZER = byte_tokenizer()
VOCABULARY = TOKENIZER.vocabulary
FIELDS: dict[str, Any] = {
    "batch": 8,
    "length": 40,
    "lr": 3e-3,
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
    "track": {"report": False, "progress": "quiet"},
}


def save_bart(folder: Path, std: float = 0.3) -> transformers.BartForConditionalGeneration:
    """A random BART and its tokenizer."""
    torch.manual_seed(0)
    config = transformers.BartConfig(
        vocab_size=VOCABULARY.size,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=0,
        decoder_start_token_id=0,
        forced_eos_token_id=None,
        init_std=std,
        dropout=0.0,
    )
    model = transformers.BartForConditionalGeneration(config).eval()
    model.save_pretrained(folder)
    TOKENIZER.save(folder)
    return model


def gpt2(folder: Path, std: float = 0.3) -> transformers.GPT2LMHeadModel:
    return save_gpt2(folder, TOKENIZER, std=std)


def t5(folder: Path, std: float = 0.3) -> transformers.T5ForConditionalGeneration:
    return save_t5(folder, TOKENIZER)


MODELS: dict[str, Callable[..., Any]] = {"gpt2": gpt2, "bart": save_bart, "t5": t5}


def copies(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Texts that are to be written again."""
    random = Random(seed)
    texts = [" ".join(random.choices(["fox", "dog", "cat", "hat"], k=2)) for _ in range(count)]
    return [{"text": text, "target": text} for text in texts]
