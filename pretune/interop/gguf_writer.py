"""Writes a model as llama.cpp's `.gguf` file: its architecture's metadata, and each tensor under llama.cpp's name.

Blocks of rounded weights are copied bit for bit. The rows of a Llama's queries and keys go in llama.cpp's order, pairs
of a rotation beside each other; blocks run along rows, so that this moves them whole.

Source: llama.cpp's `convert_hf_to_gguf.py` and `src/llama-model.cpp`, and the names in the `gguf` package.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pretune.interop.plain_parts import array, bias, matrix, stored_format, stored_tensors
from pretune.models.model import LanguageModel
from pretune.nn.attention import Attention
from pretune.nn.block import Block
from pretune.nn.formats.format import find_format, pack
from pretune.nn.heads import VocabularyHead
from pretune.nn.projection import ProjectionBrick
from pretune.nn.vocabulary import VocabularyBrick

TYPES = ("f32", "f16", "bf16", "q8_0", "q4_0")
BLOCKS = ("q8_0", "q4_0")
GROUP = 32
_FILE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q8_0": 7, "bf16": 32}
_LLAMA_NORMS = {"attn_norm": "before_attention", "ffn_norm": "before_feedforward"}
_NORMS: Mapping[str, Mapping[str, str]] = {
    **dict.fromkeys(("llama", "qwen2", "qwen3", "gpt2"), _LLAMA_NORMS),
    "bert": {"attn_output_norm": "after_attention", "layer_output_norm": "after_feedforward"},
}
FAMILIES = tuple(_NORMS)


@dataclass(frozen=True)
class Stored:
    """Holds a tensor as the file has it.

    Attributes:
        name: llama.cpp's.
        data: numbers, or the bytes of blocks, a row each.
        type: of the numbers, in the words of `TYPES`.
    """

    name: str
    data: NDArray[Any]
    type: str


def stored(model: LanguageModel, type: str) -> Iterator[Stored]:
    """Gives the tensors of a file one after another.

    Args:
        type: of matrices that are not rounded already; the vocabulary of a q4_0 file has q8_0.
    """
    word = "q8_0" if type == "q4_0" else type
    embedding = model.embedding
    yield _matrix("token_embd.weight", [embedding.word], word)
    if embedding.position is not None:
        yield _plain("position_embd.weight", cast(nn.Embedding, embedding.position).weight)
    if embedding.segment is not None:
        yield _plain("token_types.weight", embedding.segment.weight)
    yield from _norm("token_embd_norm", embedding.norm)
    for number, block in enumerate(model.stack.in_order):
        yield from _block(model, f"blk.{number}.", cast(Block, block), type)
    yield from _norm("output_norm", model.stack.norm)
    head = dict(model.heads.items()).get("clm")
    if isinstance(head, VocabularyHead) and not head.is_tied(embedding.word):
        yield _matrix("output.weight", [head.vocabulary], word)
    yield from _frequencies(model)


def _block(model: LanguageModel, prefix: str, block: Block, type: str) -> Iterator[Stored]:
    attention = block.attention
    inputs = {"attn_q": attention.query, "attn_k": attention.key, "attn_v": attention.value}
    groups: dict[str, list[ProjectionBrick]]
    if model.family == "gpt2":
        groups = {"attn_qkv": [*inputs.values()]}
    else:
        groups = {name: [brick] for name, brick in inputs.items()}
    groups["attn_output"] = [attention.output]
    inner = {"gate": "ffn_gate", "value": "ffn_up", "up": "ffn_up", "down": "ffn_down"}
    groups |= {
        inner[name]: [cast(ProjectionBrick, brick)]
        for name, brick in block.feedforward.named_children()
        if name in inner
    }
    for name, bricks in groups.items():
        order = _pairs(attention, name) if model.family == "llama" else None
        yield _matrix(f"{prefix}{name}.weight", bricks, type, order)
        biases = [bias(brick) for brick in bricks]
        if any(each is not None for each in biases):
            filled = [
                torch.zeros(brick.out_features) if own is None else own
                for brick, own in zip(bricks, biases, strict=True)
            ]
            whole = torch.cat(filled)
            yield _plain(f"{prefix}{name}.bias", whole if order is None else whole[order])
    for name, attribute in _NORMS[model.family].items():
        yield from _norm(f"{prefix}{name}", cast(nn.Module, getattr(block.norms, attribute)))
    for name, norm in {"attn_q_norm": attention.query_norm, "attn_k_norm": attention.key_norm}.items():
        if norm is not None:
            yield from _norm(f"{prefix}{name}", norm)


def _pairs(attention: Attention, name: str) -> Tensor | None:
    """The order of a Llama's rows in the file; None for a projection whose rows stay. Shape: (out,) int64."""
    heads = {"attn_q": attention.heads, "attn_k": attention.key_heads}.get(name)
    if heads is None:
        return None
    rows = torch.arange(heads * attention.head_width)
    return rows.view(heads, 2, -1).transpose(1, 2).reshape(-1)


def _matrix(
    name: str, bricks: Sequence[ProjectionBrick | VocabularyBrick], type: str, order: Tensor | None = None
) -> Stored:
    """The matrices of bricks, one below the other."""
    formats = {stored_format(brick) for brick in bricks}
    if type in BLOCKS and len(formats) == 1 and (own := formats.pop()) in BLOCKS:
        blocks = torch.cat([stored_tensors(brick)["blocks"].cpu() for brick in bricks])
        return Stored(name, _ordered(blocks, order).numpy(), own)
    whole = _ordered(torch.cat([matrix(brick) for brick in bricks]), order)
    if type in BLOCKS:
        return Stored(name, pack(find_format(type), whole)["blocks"].numpy(), type)
    return Stored(name, _numbers(whole, type), type)


def _ordered(rows: Tensor, order: Tensor | None) -> Tensor:
    return rows if order is None else rows[order]


def _numbers(values: Tensor, type: str) -> NDArray[Any]:
    if type == "f16":
        return np.asarray(values.to(torch.float16).numpy())
    if type == "bf16":
        return np.asarray(values.to(torch.bfloat16).contiguous().view(torch.uint8).numpy())
    return array(values)


def _plain(name: str, values: Tensor) -> Stored:
    return Stored(name, array(values), "f32")


def _norm(name: str, norm: nn.Module) -> Iterator[Stored]:
    for part in ("weight", "bias"):
        values = getattr(norm, part, None)
        if isinstance(values, Tensor):
            yield _plain(f"{name}.{part}", values)


def _frequencies(model: LanguageModel) -> Iterator[Stored]:
    """The factors of the wavelengths that Llama 3's scaling makes, which the file holds instead of naming it."""
    rope = getattr(model.config, "rope_parameters", None)
    if rope is None or rope.rope_type != "llama3":
        return
    rotary = cast(Block, model.stack.blocks[0]).attention.rotary
    assert rotary is not None
    plain = 1.0 / rotary.theta ** (torch.arange(0, rotary.width, 2) / rotary.width)
    yield _plain("rope_freqs.weight", plain / rotary.scaling.apply(plain, rotary.theta))


def metadata(model: LanguageModel, type: str) -> dict[str, int | float | str | bool]:
    """What the file says of the architecture, by llama.cpp's names."""
    config, family = model.config.model_dump(), model.family
    attention = cast(Block, model.stack.blocks[0]).attention
    first = cast(Block, model.stack.blocks[0])
    down = cast(ProjectionBrick, first.feedforward.down)
    out: dict[str, int | float | str | bool] = {
        "context_length": model.max_length or 0,
        "embedding_length": model.width,
        "block_count": len(model.stack.order),
        "feed_forward_length": down.in_features,
        "attention.head_count": attention.heads,
        "vocab_size": model.vocab_size,
    }
    if family in ("gpt2", "bert"):
        out["attention.layer_norm_epsilon"] = float(
            config["layer_norm_epsilon" if family == "gpt2" else "layer_norm_eps"]
        )
    else:
        out |= {
            "attention.head_count_kv": attention.key_heads,
            "attention.key_length": attention.head_width,
            "attention.value_length": attention.head_width,
            "attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
            "rope.dimension_count": attention.head_width,
        } | _rope(model)
    if family == "bert":
        out["attention.causal"] = False
    named = {f"{family}.{name}": value for name, value in out.items()}
    return {"general.file_type": _FILE_TYPES[type], "general.quantization_version": 2, **named}


def _rope(model: LanguageModel) -> dict[str, int | float | str | bool]:
    rope = cast(Any, model.config).rope_parameters
    out: dict[str, int | float | str | bool] = {"rope.freq_base": float(rope.rope_theta)}
    if rope.rope_type in ("linear", "yarn"):
        out |= {"rope.scaling.type": rope.rope_type, "rope.scaling.factor": float(rope.factor)}
    if rope.rope_type == "yarn":
        out["rope.scaling.original_context_length"] = int(rope.original_max_position_embeddings)
    return out
