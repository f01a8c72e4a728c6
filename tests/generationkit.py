"""Tiny models that write, and texts that are to be written again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from tinymodels import byte_tokenizer, save_gpt2, save_t5

_written: dict[tuple[object, ...], list[list[int]]] = {}
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


def written_once(
    write: Callable[..., list[list[int]]], model: Any, runs: Sequence[NDArray[np.int64]], options: dict[str, object]
) -> list[list[int]]:
    """What `write` has `transformers` write, which takes longer than what it is compared with: once for equal weights.

    Args:
        write: called with all other arguments; its result depends on nothing else.
    """
    digest = hashlib.sha256(model.generation_config.to_json_string().encode())
    for name, parameter in model.named_parameters():
        digest.update(name.encode() + parameter.detach().numpy().tobytes())
    inputs = (tuple(run.tolist()) for run in runs)
    key = (write, digest.hexdigest(), model.config.to_json_string(), *inputs, *sorted(options.items()))
    if key not in _written:
        _written[key] = write(model, runs, options)
    return [list(row) for row in _written[key]]


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
    return _saved(transformers.BartForConditionalGeneration(config), folder)


def gpt2(folder: Path, std: float = 0.3) -> transformers.GPT2LMHeadModel:
    return save_gpt2(folder, TOKENIZER, std=std)


def t5(folder: Path, std: float = 0.3) -> transformers.T5ForConditionalGeneration:
    return save_t5(folder, TOKENIZER)


def save_llama(folder: Path, std: float = 0.3) -> transformers.LlamaForCausalLM:
    """A random Llama and its tokenizer."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY.size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=None,
        initializer_range=std,
    )
    return _saved(transformers.LlamaForCausalLM(config), folder)


def save_marian(folder: Path, std: float = 0.3) -> transformers.MarianMTModel:
    """A random Marian and its tokenizer."""
    torch.manual_seed(0)
    config = transformers.MarianConfig(
        vocab_size=VOCABULARY.size,
        decoder_vocab_size=VOCABULARY.size,
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        max_position_embeddings=64,
        pad_token_id=1,
        eos_token_id=0,
        bos_token_id=None,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
        init_std=std,
        dropout=0.0,
    )
    return _saved(transformers.MarianMTModel(config), folder)


def _saved(model: Any, folder: Path) -> Any:
    model.eval().save_pretrained(folder)
    TOKENIZER.save(folder)
    return model


MODELS: dict[str, Callable[..., Any]] = {
    "gpt2": gpt2,
    "llama": save_llama,
    "bart": save_bart,
    "marian": save_marian,
    "t5": t5,
}
DECODERS = ("gpt2", "llama")


def copies(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Texts that are to be written again."""
    random = Random(seed)
    texts = [" ".join(random.choices(["fox", "dog", "cat", "hat"], k=2)) for _ in range(count)]
    return [{"text": text, "target": text} for text in texts]
