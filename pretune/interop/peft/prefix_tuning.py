"""Prefixes in PEFT's files: the keys and values of all layers in one table, a row for each virtual token.

PEFT gives a prefix to the layers of one stack, which of an encoder-decoder is the decoder, and there to attention to
the decoder's own tokens alone. Of an encoder-decoder with L layers, layer i reads the pair 2i mod L of its table.
"""

from __future__ import annotations

from typing import cast

import torch

from pretune.errors import DataError
from pretune.interop.peft.contents import Contents, Found
from pretune.interop.peft.modules import ModuleTable
from pretune.models.model import LanguageModel
from pretune.nn.attention import Attention
from pretune.nn.prefix import LearnedPrefix, NoPrefix
from pretune.tune import prefix

TABLE = "prompt_embeddings"
PARTS = (TABLE,)


@torch.no_grad()
def read(model: LanguageModel, contents: Contents, by_module: Found) -> None:
    """Puts the prefix of a folder in front of every layer's keys."""
    table = by_module[""][TABLE]
    layers = attentions(model, contents.where)
    heads, width = layers[0].key_heads, layers[0].head_width
    length = int(contents.number("num_virtual_tokens", least=1))
    expected = [length, 2 * len(layers) * heads * width]
    if list(table.shape) != expected:
        raise contents.damaged(f"{TABLE!r} has shape {list(table.shape)}, the base and the length say {expected}")
    rows = table.view(length, len(layers), 2, heads, width)
    places = ("decoder.attention",) if model.has_encoder else ()
    prefix.apply(model, prefix.Config(length=length, places=places, initial="normal"))
    for number, layer in enumerate(layers):
        key, value = rows[:, pair_of(number, len(layers), model)].unbind(1)
        brick = cast(LearnedPrefix, layer.prefix)
        brick.key.copy_(key)
        brick.value.copy_(value)


def attentions(model: LanguageModel, where: str) -> list[Attention]:
    """The attention of each layer that PEFT gives a prefix.

    Raises:
        DataError: layers that share their weights, or are of another kind; PEFT gives each a prefix of its own.
    """
    blocks = model.stack.in_order
    layers = [block.attention for block in blocks]
    if len(model.stack.blocks) != len(blocks) or not all(isinstance(layer, Attention) for layer in layers):
        raise DataError(f"{where}: PEFT's prefix for {model.family}: its layers have no keys and values of their own")
    return cast(list[Attention], layers)


def pair_of(layer: int, layers: int, model: LanguageModel) -> int:
    """Which pair of keys and values of the table a layer reads."""
    return 2 * layer % layers if model.has_encoder else layer


@torch.no_grad()
def write(model: LanguageModel, table: ModuleTable) -> Contents | None:
    """What the files say of a model's prefixes; None where it has none."""
    prefixed = [s for s in prefix.attention_sites(model) if not isinstance(cast(Attention, s.brick).prefix, NoPrefix)]
    if not prefixed:
        return None
    layers = attentions(model, "format peft")
    if {id(site.brick) for site in prefixed} != {id(layer) for layer in layers}:
        raise DataError(
            "format peft: peft has a prefix for all layers of one stack, and none for an encoder or for attention to "
            "its output; this model has others. Keep the run's own folder"
        )
    pairs: dict[int, torch.Tensor] = {}
    for number, layer in enumerate(layers):
        pair = torch.stack(layer.prefix.rows(), dim=1)  # type: ignore[attr-defined]
        index = pair_of(number, len(layers), model)
        if not torch.equal(pairs.setdefault(index, pair), pair):
            raise DataError(
                f"format peft: of an encoder-decoder with {len(layers)} layers PEFT gives layer {number} the prefix of "
                "another one, so that the files cannot hold both; keep the run's own folder"
            )
    length, heads, width = layers[0].prefix.length, layers[0].key_heads, layers[0].head_width
    unused = torch.zeros_like(pairs[0])
    rows = torch.stack([pairs.get(number, unused) for number in range(len(layers))], dim=1)
    fields = {
        "peft_type": "PREFIX_TUNING",
        "num_virtual_tokens": length,
        "token_dim": heads * width,
        "num_transformer_submodules": 2 if model.has_encoder else 1,
        "num_attention_heads": heads,
        "num_layers": len(layers),
        "encoder_hidden_size": heads * width,
        "prefix_projection": False,
    }
    return Contents(model.family, fields, {TABLE: rows.reshape(length, -1)}, "base_model.")
