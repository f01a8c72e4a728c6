"""What llama.cpp calls the fields and the tensors of each family, and what a Hugging Face folder calls them.

Source: the names of the `gguf` package, and llama.cpp's `convert_hf_to_gguf.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class GgufNames:
    """Holds the names of one family.

    Attributes:
        fields: names in config.json, by llama.cpp's.
        optional: fields that a file may lack.
        tensors: names outside of layers, by llama.cpp's.
        layer: what the names of a layer begin with in the folder, with `{}` for its number.
        parts: names within a layer, by llama.cpp's.
        transposed: parts whose matrix is (in, out) in the folder.
        fixed: what config.json says of every file of the family.
    """

    fields: Mapping[str, str]
    tensors: Mapping[str, str]
    layer: str
    parts: Mapping[str, str]
    optional: tuple[str, ...] = ()
    transposed: frozenset[str] = frozenset()
    fixed: Mapping[str, object] | None = None


_LLAMA = GgufNames(
    {
        "embedding_length": "hidden_size",
        "block_count": "num_hidden_layers",
        "attention.head_count": "num_attention_heads",
        "attention.head_count_kv": "num_key_value_heads",
        "attention.key_length": "head_dim",
        "feed_forward_length": "intermediate_size",
        "context_length": "max_position_embeddings",
        "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    },
    {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"},
    "model.layers.{}.",
    {
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    },
    optional=("attention.head_count_kv", "attention.key_length"),
)
_GPT2 = GgufNames(
    {
        "embedding_length": "n_embd",
        "block_count": "n_layer",
        "attention.head_count": "n_head",
        "feed_forward_length": "n_inner",
        "context_length": "n_positions",
        "attention.layer_norm_epsilon": "layer_norm_epsilon",
    },
    {
        "token_embd": "transformer.wte",
        "position_embd": "transformer.wpe",
        "output_norm": "transformer.ln_f",
        "output": "lm_head",
    },
    "transformer.h.{}.",
    {
        "attn_norm": "ln_1",
        "attn_qkv": "attn.c_attn",
        "attn_output": "attn.c_proj",
        "ffn_norm": "ln_2",
        "ffn_up": "mlp.c_fc",
        "ffn_down": "mlp.c_proj",
    },
    transposed=frozenset({"attn_qkv", "attn_output", "ffn_up", "ffn_down"}),
    fixed={"activation_function": "gelu_new"},
)
_BERT = GgufNames(
    {
        "embedding_length": "hidden_size",
        "block_count": "num_hidden_layers",
        "attention.head_count": "num_attention_heads",
        "feed_forward_length": "intermediate_size",
        "context_length": "max_position_embeddings",
        "attention.layer_norm_epsilon": "layer_norm_eps",
    },
    {
        "token_embd": "bert.embeddings.word_embeddings",
        "position_embd": "bert.embeddings.position_embeddings",
        "token_types": "bert.embeddings.token_type_embeddings",
        "token_embd_norm": "bert.embeddings.LayerNorm",
    },
    "bert.encoder.layer.{}.",
    {
        "attn_q": "attention.self.query",
        "attn_k": "attention.self.key",
        "attn_v": "attention.self.value",
        "attn_output": "attention.output.dense",
        "attn_output_norm": "attention.output.LayerNorm",
        "ffn_up": "intermediate.dense",
        "ffn_down": "output.dense",
        "layer_output_norm": "output.LayerNorm",
    },
    fixed={"hidden_act": "gelu", "architectures": ["BertModel"]},
)
FAMILIES: Mapping[str, GgufNames] = {"llama": _LLAMA, "qwen2": _LLAMA, "qwen3": _LLAMA, "gpt2": _GPT2, "bert": _BERT}
ROTARY = ("llama", "qwen2", "qwen3")
EMBEDDINGS = ("model.embed_tokens.weight", "transformer.wte.weight", "bert.embeddings.word_embeddings.weight")
