"""Fills the spec classes of CTranslate2 from a model's bricks, without `transformers`.

Source: `ctranslate2.specs` 4.8, and the loaders of its converter of `transformers` models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pretune.interop.plain_parts import activation_name, array, bias, matrix
from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.model import LanguageModel
from pretune.nn.attention import Attention
from pretune.nn.block import Block, DecoderBlock
from pretune.nn.embedding import Embedding, Learned
from pretune.nn.feedforward import FeedForward, GatedFeedForward
from pretune.nn.heads import Pooler, VocabularyHead
from pretune.nn.projection import ProjectionBrick
from pretune.nn.rotary import Linear, Llama3, Scaling
from pretune.nn.stack import Stack
from pretune.nn.vocabulary import VocabularyBrick

ACTIVATIONS: Mapping[str, str] = {
    "gelu": "GELU",
    "gelu_new": "GELUTanh",
    "silu": "SWISH",
    "relu": "RELU",
    "quick_gelu": "GELUSigmoid",
    "tanh": "Tanh",
    "sigmoid": "Sigmoid",
}
DECODERS = ("gpt", "gpt2", "llama", "qwen2", "qwen3")
TRANSLATORS = ("bart", "marian", "t5")
ENCODERS = ("bert", "roberta", "distilbert")
_DTYPES = {"float32": None, "bfloat16": "bfloat16", "float16": "float16", "int8": "int8"}
TYPES = tuple(_DTYPES)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    """The values of a tensor, of which the spec classes may make what they like: int8 is rounded in place."""
    return array(tensor).copy()


def build_spec(model: LanguageModel, tokens: Sequence[str], names: Mapping[str, str], type: str) -> Any:
    """The spec of a model, with its vocabulary, ready to be saved.

    Args:
        tokens: a name for each row of the embedding.
        names: of the tokens bos, eos, unk and start.
        type: of the weights.
    """
    if model.family in TRANSLATORS:
        spec = _translator(cast(EncoderDecoder, model))
        spec.register_source_vocabulary(list(tokens))
        spec.register_target_vocabulary(list(tokens))
        spec.config.decoder_start_token = names["start"]
        spec.config.add_source_eos = False
    else:
        spec = _decoder(model) if model.family in DECODERS else _encoder(model)
        spec.register_vocabulary(list(tokens))
    for role in ("bos", "eos", "unk"):
        if hasattr(spec.config, f"{role}_token"):
            setattr(spec.config, f"{role}_token", names[role])
    spec.config.layer_norm_epsilon = _epsilon(model)
    spec.validate()
    spec.optimize(quantization=_DTYPES[type])
    return spec


def _epsilon(model: LanguageModel) -> float:
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm | nn.RMSNorm)]
    return float(norms[0].eps or torch.finfo(torch.float32).eps)


def _decoder(model: LanguageModel) -> Any:
    from ctranslate2.specs import transformer_spec

    decoder = transformer_spec.TransformerDecoderSpec(
        len(model.stack.order), **_sizes(model.stack), with_encoder_attention=False, **_rotary(model.stack)
    )
    _fill_stack(decoder, model.embedding, model.stack)
    _fill_head(decoder, model)
    return transformer_spec.TransformerDecoderModelSpec(decoder)


def _translator(model: EncoderDecoder) -> Any:
    from ctranslate2.specs import transformer_spec

    first = cast(Block, model.stack.blocks[0])
    shared = {
        "layernorm_embedding": not isinstance(model.embedding.norm, nn.Identity),
        "relative_attention_bias": first.attention.relative is not None,
    }
    encoder = transformer_spec.TransformerEncoderSpec(
        len(model.encoder.stack.order), **_sizes(model.encoder.stack), **shared
    )
    decoder = transformer_spec.TransformerDecoderSpec(len(model.stack.order), **_sizes(model.stack), **shared)
    _fill_stack(encoder, model.encoder.embedding, model.encoder.stack)
    _fill_stack(decoder, model.embedding, model.stack)
    _fill_head(decoder, model)
    return transformer_spec.TransformerSpec(encoder, decoder)


def _encoder(model: LanguageModel) -> Any:
    from ctranslate2.specs import common_spec, transformer_spec

    embedding = model.embedding
    encoder = transformer_spec.TransformerEncoderSpec(
        len(model.stack.order),
        **_sizes(model.stack),
        layernorm_embedding=not isinstance(embedding.norm, nn.Identity),
        num_source_embeddings=1 if embedding.segment is None else 2,
        embeddings_merge=common_spec.EmbeddingsMerge.ADD,
    )
    _fill_stack(encoder, embedding, model.stack)
    if embedding.segment is not None:
        encoder.embeddings[1].weight = _array(embedding.segment.weight)
    pooler = dict(model.heads.items()).get("pooler")
    spec = transformer_spec.TransformerEncoderModelSpec(
        encoder, pooling_layer=isinstance(pooler, Pooler), pooling_activation=common_spec.Activation.Tanh
    )
    if isinstance(pooler, Pooler):
        _fill_linear(spec.pooler_dense, [pooler.dense])
    return spec


def _sizes(stack: Stack) -> dict[str, Any]:
    """What the layers of a stack have in common."""
    from ctranslate2.specs import common_spec

    block = cast(Block, stack.blocks[0])
    attention, feedforward = block.attention, cast(FeedForward, block.feedforward)
    is_pre = not isinstance(block.norms.before_attention, nn.Identity)
    norm = block.norms.before_attention if is_pre else block.norms.after_attention
    name = activation_name(feedforward.activation, ACTIVATIONS)
    assert name is not None  # it was checked
    out = {
        "num_heads": attention.heads,
        "pre_norm": is_pre,
        "activation": getattr(common_spec.Activation, ACTIVATIONS[name]),
        "ffn_glu": isinstance(feedforward, GatedFeedForward),
        "rms_norm": isinstance(norm, nn.RMSNorm),
    }
    if attention.key_heads != attention.heads:
        out["num_heads_kv"] = attention.key_heads
    if attention.rotary is not None:
        out["head_dim"] = attention.head_width
    if attention.query_norm is not None:
        out["qk_norm"] = True
    return out


def rotary_problem(scaling: Scaling) -> str | None:
    """Says which scaling of rotary positions it lacks; None where it has it."""
    if type(scaling) in (Scaling, Linear, Llama3):
        return None
    return f"its rotary positions are scaled by {type(scaling).__name__.lower()}, which it does not have"


def _rotary(stack: Stack) -> dict[str, Any]:
    from ctranslate2.specs import attention_spec

    rotary = cast(Block, stack.blocks[0]).attention.rotary
    if rotary is None:
        return {}
    out = {"rotary_dim": 0, "rotary_interleave": False, "rotary_base": rotary.theta}
    scaling = rotary.scaling
    if isinstance(scaling, Linear):
        return out | {
            "rotary_scaling_type": attention_spec.RotaryScalingType.Linear,
            "rotary_scaling_factor": scaling.factor,
        }
    if isinstance(scaling, Llama3):
        return out | {
            "rotary_scaling_type": attention_spec.RotaryScalingType.Llama3,
            "rotary_scaling_factor": scaling.factor,
            "original_max_position_embeddings": scaling.original,
        }
    return out


def _fill_stack(spec: Any, embedding: Embedding, stack: Stack) -> None:
    words = spec.embeddings[0] if isinstance(spec.embeddings, list) else spec.embeddings
    words.weight = _matrix(embedding.word)
    spec.scale_embeddings = embedding.scale if embedding.scale != 1.0 else False
    if embedding.position is not None:
        spec.position_encodings.encodings = _positions(embedding)
    if hasattr(spec, "layernorm_embedding"):
        _fill_norm(spec.layernorm_embedding, embedding.norm)
    if hasattr(spec, "layer_norm"):
        _fill_norm(spec.layer_norm, stack.norm)
    for layer, block in zip(spec.layer, stack.in_order, strict=True):
        _fill_layer(layer, cast(Block, block))


def _positions(embedding: Embedding) -> NDArray[np.float32]:
    position = embedding.position
    if isinstance(position, Learned):
        return _array(position.weight[position.offset :])
    assert position is not None
    assert position.max_length is not None
    return _array(position(torch.arange(position.max_length)))


def _fill_layer(spec: Any, block: Block | DecoderBlock) -> None:
    norms = block.norms
    _fill_attention(spec.self_attention, block.attention, is_self=True)
    _fill_norm(spec.self_attention.layer_norm, _either(norms.before_attention, norms.after_attention))
    if isinstance(block, DecoderBlock):
        _fill_attention(spec.attention, block.cross, is_self=False)
        _fill_norm(spec.attention.layer_norm, _either(norms.before_cross, norms.after_cross))
    _fill_norm(spec.ffn.layer_norm, _either(norms.before_feedforward, norms.after_feedforward))
    feedforward = block.feedforward
    if isinstance(feedforward, GatedFeedForward):
        _fill_linear(spec.ffn.linear_0, [feedforward.gate])
        _fill_linear(spec.ffn.linear_0_noact, [feedforward.value])
        _fill_linear(spec.ffn.linear_1, [feedforward.down])
    else:
        plain = cast(FeedForward, feedforward)
        _fill_linear(spec.ffn.linear_0, [plain.up])
        _fill_linear(spec.ffn.linear_1, [plain.down])


def _either(first: nn.Module, second: nn.Module) -> nn.Module:
    return second if isinstance(first, nn.Identity) else first


def _fill_attention(spec: Any, attention: Attention, *, is_self: bool) -> None:
    inputs = [attention.query, attention.key, attention.value]
    for linear, bricks in zip(spec.linear, [inputs] if is_self else [inputs[:1], inputs[1:]], strict=False):
        _fill_linear(linear, bricks)
    _fill_linear(spec.linear[-1], [attention.output])
    if attention.scale != attention.head_width**-0.5:
        spec.queries_scale = float(attention.scale)
    if attention.query_norm is not None and attention.key_norm is not None:
        _fill_norm(spec.q_norm, attention.query_norm)
        _fill_norm(spec.k_norm, attention.key_norm)
    if attention.relative is not None:
        spec.relative_attention_bias = _array(attention.relative.table.weight)
        spec.relative_attention_max_distance = np.dtype("int32").type(attention.relative.max_distance)
    scaling = None if attention.rotary is None else attention.rotary.scaling
    if isinstance(scaling, Llama3):
        vars(spec)["rotary_scaling_factor"] = np.dtype("float32").type(scaling.factor)  # read, and not in the class
        spec.rotary_low_freq_factor = np.dtype("float32").type(scaling.low)
        spec.rotary_high_freq_factor = np.dtype("float32").type(scaling.high)


def _fill_linear(spec: Any, bricks: Sequence[ProjectionBrick]) -> None:
    """The matrices of bricks, one below the other; a bias of zeros where only some have one."""
    spec.weight = _array(torch.cat([matrix(brick) for brick in bricks]))
    biases = [bias(brick) for brick in bricks]
    if any(each is not None for each in biases):
        pairs = zip(bricks, biases, strict=True)
        spec.bias = _array(torch.cat([torch.zeros(brick.out_features) if own is None else own for brick, own in pairs]))


def _fill_norm(spec: Any, norm: nn.Module) -> None:
    weight, own = cast(Tensor, norm.weight), getattr(norm, "bias", None)
    spec.gamma = _array(weight)
    if hasattr(spec, "beta"):
        spec.beta = np.zeros(weight.shape, np.float32) if own is None else _array(own)


def _fill_head(decoder: Any, model: LanguageModel) -> None:
    head = cast(VocabularyHead, model.heads["clm"])
    decoder.projection.weight = _matrix(head.vocabulary)
    if head.bias is not None:
        decoder.projection.bias = _array(head.bias)
    factor = getattr(head.transform, "factor", None)
    if factor is not None:
        decoder.scale_outputs = float(factor)


def _matrix(brick: VocabularyBrick) -> NDArray[np.float32]:
    return _array(matrix(brick))
