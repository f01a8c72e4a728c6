"""Random tiny models of all families as `transformers` saves them, odd ones among them, and one judge of their reading.

Each case is a function of its seed: a family, a class of `transformers`, fields of its configuration, and what was done
to its files afterwards. The judge reads the folder with both and asks for the same results, or for a refusal that names
what it refuses.
"""

from __future__ import annotations

import json
import random
import re
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers as hf
from safetensors.torch import load_file, save_file
from torch import Tensor

from pretune.batch import ragged
from pretune.errors import PretuneError
from pretune.interop.huggingface import load_model, save_model
from pretune.interop.weight_names import FileTable
from pretune.interop.weights import Weights
from pretune.models.model import LanguageModel
from pretune.nn.heads import SequenceHead

hf.logging.set_verbosity_error()
hf.logging.disable_progress_bar()
VOCABULARY = 61
LENGTHS = (9, 1, 14)
ACTIVATIONS = (
    *(
        "gelu",
        "gelu_new",
        "relu",
        "silu",
        "gelu_pytorch_tanh",
        "tanh",
        "gelu_fast",
        "quick_gelu",
        "gelu_python",
        "mish",
    ),
    *("leaky_relu", "sigmoid", "linear", "relu2", "swish", "gelu_10", "laplace", "relu6", "gelu_accurate"),
)
_YARN = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
_LONG = {"rope_type": "longrope", "rope_theta": 500.0, "factor": 2.0, "original_max_position_embeddings": 20}
ROTATIONS: tuple[dict[str, Any] | None, ...] = (
    None,
    {"rope_type": "default", "rope_theta": 77.0},
    {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.5},
    {"rope_type": "dynamic", "rope_theta": 500.0, "factor": 2.0},
    _YARN,
    {**_YARN, "mscale": 0.7, "mscale_all_dim": 0.5},
    {**_YARN, "truncate": False},
    {**_YARN, "beta_fast": 20.0, "beta_slow": 2.0, "attention_factor": 1.3},
    {**_YARN, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5},
    {**_LONG, "short_factor": [1.0, 1.2], "long_factor": [2.0, 3.0]},
)


@dataclass
class Case:
    """A folder to be read.

    Attributes:
        seed: of all that is random in it.
        family, model: names of ours and of the class of `transformers`.
        fields: of its configuration.
        change: what was done to the files afterwards.
    """

    seed: int
    family: str
    model: str
    fields: dict[str, Any]
    change: str = "none"
    raw: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.seed} {self.model} change={self.change} raw={self.raw} {self.fields}"


def _bert(rng: random.Random) -> dict[str, Any]:
    heads = rng.choice([1, 2, 4])
    return {
        "hidden_size": heads * rng.choice([4, 6, 8]),
        "num_attention_heads": heads,
        "num_hidden_layers": rng.choice([1, 2, 3]),
        "intermediate_size": rng.choice([12, 33]),
        "max_position_embeddings": rng.choice([20, 31]),
        "type_vocab_size": rng.choice([1, 2, 3]),
        "hidden_act": rng.choice(ACTIVATIONS),
        "layer_norm_eps": rng.choice([1e-12, 1e-5, 1e-2]),
        "hidden_dropout_prob": rng.choice([0.0, 0.1, 0.4]),
        "attention_probs_dropout_prob": rng.choice([0.0, 0.1]),
        "classifier_dropout": rng.choice([None, 0.2]),
        "pad_token_id": rng.choice([0, 1, 5, None]),
        "chunk_size_feed_forward": rng.choice([0, 0, 1]),
        "is_decoder": rng.choice([False] * 9 + [True]),
        "add_cross_attention": rng.choice([False] * 15 + [True]),
    }


def _roberta(rng: random.Random) -> dict[str, Any]:
    return {**_bert(rng), "pad_token_id": rng.choice([0, 1, 3, 1]), "bos_token_id": rng.choice([0, 2])}


def _narrow(rng: random.Random) -> dict[str, Any]:
    out = {**_bert(rng), "embedding_size": rng.choice([8, 12, 16])}
    if rng.random() < 0.3:
        out["embedding_size"] = out["hidden_size"]
    return out


def _albert(rng: random.Random) -> dict[str, Any]:
    out = {**_narrow(rng), "inner_group_num": rng.choice([1, 1, 1, 2])}
    out["num_hidden_groups"] = rng.choice([1, out["num_hidden_layers"]])
    out["classifier_dropout_prob"] = rng.choice([0.1, 0.0])
    return out


def _electra(rng: random.Random) -> dict[str, Any]:
    return {
        **_narrow(rng),
        "summary_type": rng.choice(["first", "first", "last", "mean"]),
        "summary_use_proj": rng.choice([True, True, False]),
        "summary_activation": rng.choice(["gelu", "tanh", None, "relu"]),
    }


def _distilbert(rng: random.Random) -> dict[str, Any]:
    heads = rng.choice([1, 2, 4])
    return {
        "dim": heads * rng.choice([4, 6, 8]),
        "n_heads": heads,
        "n_layers": rng.choice([1, 2, 3]),
        "hidden_dim": rng.choice([12, 33]),
        "max_position_embeddings": rng.choice([20, 31]),
        "activation": rng.choice(ACTIVATIONS),
        "sinusoidal_pos_embds": rng.random() < 0.3,
        "pad_token_id": rng.choice([0, 1, 5]),
        "seq_classif_dropout": 0.3,
    }


def _modernbert(rng: random.Random) -> dict[str, Any]:
    heads, layers = rng.choice([1, 2, 4]), rng.choice([1, 2, 4])
    out: dict[str, Any] = {
        "hidden_size": heads * rng.choice([4, 8]),
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "intermediate_size": rng.choice([12, 33]),
        "max_position_embeddings": rng.choice([20, 31]),
        "hidden_activation": rng.choice(ACTIVATIONS),
        "classifier_activation": rng.choice(ACTIVATIONS),
        "norm_eps": rng.choice([1e-5, 1e-2]),
        "classifier_pooling": rng.choice(["cls", "mean"]),
        "local_attention": rng.choice([2, 3, 4, 5, 8, 128]),
        "deterministic_flash_attn": rng.random() < 0.3,
        "sparse_prediction": rng.random() < 0.2,
        **{name: rng.random() < 0.4 for name in ("norm_bias", "attention_bias", "mlp_bias", "classifier_bias")},
        "decoder_bias": rng.random() < 0.6,
        "mlp_dropout": rng.choice([0.0, 0.0, 0.0, 0.1]),
        "embedding_dropout": rng.choice([0.0, 0.1]),
        "pad_token_id": 0,
        "cls_token_id": 1,
        "sep_token_id": 2,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if rng.random() < 0.4:
        out["layer_types"] = [rng.choice(["full_attention", "sliding_attention"]) for _ in range(layers)]
    elif rng.random() < 0.5:
        out["global_attn_every_n_layers"] = rng.choice([1, 2, 3])
    if rng.random() < 0.4:
        rotations = [{"rope_type": "default", "rope_theta": 99.0}, {**ROTATIONS[2]}, {**ROTATIONS[4]}]  # type: ignore[dict-item]
        out["rope_parameters"] = {name: rng.choice(rotations) for name in ("full_attention", "sliding_attention")}
    return out


def _xlnet(rng: random.Random) -> dict[str, Any]:
    heads = rng.choice([1, 2, 4])
    return {
        "d_model": heads * rng.choice([4, 6, 8]),
        "n_head": heads,
        "n_layer": rng.choice([1, 2]),
        "d_inner": rng.choice([12, 33]),
        "ff_activation": rng.choice(ACTIVATIONS),
        "attn_type": rng.choice(["bi", "bi", "bi", "uni"]),
        "layer_norm_eps": rng.choice([1e-12, 1e-2]),
        "mem_len": rng.choice([None, 512, 4]),
        "reuse_len": rng.choice([None, 2]),
        "bi_data": rng.choice([False] * 4 + [True]),
        "clamp_len": rng.choice([-1, -1, -1, 4]),
        "same_length": rng.choice([False] * 4 + [True]),
        "summary_type": rng.choice(["last", "last", "first", "mean"]),
        "summary_use_proj": rng.choice([True, True, False]),
        "summary_activation": rng.choice(["tanh", "tanh", None, "gelu"]),
        "use_mems_eval": rng.random() < 0.7,
        "use_mems_train": rng.random() < 0.3,
        "untie_r": True,
        "start_n_top": 1,
        "end_n_top": 1,
    }


def _gpt(rng: random.Random) -> dict[str, Any]:
    heads = rng.choice([1, 2, 4])
    return {
        "n_embd": heads * rng.choice([4, 6, 8]),
        "n_head": heads,
        "n_layer": rng.choice([1, 2, 3]),
        "n_positions": rng.choice([20, 31]),
        "layer_norm_epsilon": rng.choice([1e-5, 1e-2]),
        "summary_type": rng.choice(["cls_index", "last"]),
        "resid_pdrop": rng.choice([0.0, 0.2]),
        "attn_pdrop": rng.choice([0.0, 0.1]),
        "pad_token_id": 0,
    }


def _gpt1(rng: random.Random) -> dict[str, Any]:
    return {**_gpt(rng), "afn": rng.choice(["gelu", "relu", "silu", "swish", "gelu_new", "tanh"])}


def _gpt2(rng: random.Random) -> dict[str, Any]:
    return {
        **_gpt(rng),
        "activation_function": rng.choice(ACTIVATIONS),
        "n_inner": rng.choice([None, 20]),
        "scale_attn_weights": rng.random() < 0.7,
        "scale_attn_by_inverse_layer_idx": rng.random() < 0.3,
        "reorder_and_upcast_attn": rng.random() < 0.3,
        "add_cross_attention": rng.random() < 0.08,
        "eos_token_id": rng.choice([7, [7, 8], None]),
        "bos_token_id": rng.choice([7, None]),
    }


def _gpt3(rng: random.Random) -> dict[str, Any]:
    heads, pattern = rng.choice([1, 2, 4]), rng.choice([["global"], ["local"], ["global", "local"]])
    times = rng.choice([1, 2])
    return {
        "hidden_size": heads * rng.choice([4, 6, 8]),
        "num_heads": heads,
        "num_layers": len(pattern) * times,
        "attention_types": [[pattern, times]],
        "window_size": rng.choice([2, 3, 5, 256]),
        "max_position_embeddings": rng.choice([20, 31]),
        "activation_function": rng.choice(ACTIVATIONS),
        "intermediate_size": rng.choice([None, 20]),
        "classifier_dropout": rng.choice([0.1, 0.3]),
        "layer_norm_epsilon": rng.choice([1e-5, 1e-2]),
        "pad_token_id": 0,
    }


def _llama(rng: random.Random) -> dict[str, Any]:
    heads, width = rng.choice([2, 4]), rng.choice([4, 8])
    out: dict[str, Any] = {
        "hidden_size": heads * width,
        "num_attention_heads": heads,
        "num_key_value_heads": rng.choice([1, 2, heads]),
        "num_hidden_layers": rng.choice([1, 2, 3]),
        "intermediate_size": rng.choice([12, 33]),
        "max_position_embeddings": rng.choice([20, 64]),
        "hidden_act": rng.choice(ACTIVATIONS),
        "rms_norm_eps": rng.choice([1e-6, 1e-2]),
        "attention_bias": rng.random() < 0.3,
        "mlp_bias": rng.random() < 0.3,
        "attention_dropout": rng.choice([0.0, 0.1]),
        "pretraining_tp": rng.choice([1, 1, 2]),
        "pad_token_id": 0,
        "eos_token_id": rng.choice([2, [2, 9, 11], None]),
        "bos_token_id": rng.choice([1, None]),
    }
    if rng.random() < 0.4:
        out["head_dim"] = rng.choice([4, 6, 8])
    rotation = rng.choice(ROTATIONS)
    if rotation is not None:
        out["rope_parameters"] = dict(rotation)
        if "short_factor" in rotation:
            pairs = out.get("head_dim", width) // 2
            out["rope_parameters"] |= {
                name: [1.0 + n / 3 + (name[0] == "l") for n in range(pairs)] for name in ("short_factor", "long_factor")
            }
    return out


def _qwen(rng: random.Random) -> dict[str, Any]:
    out = _llama(rng)
    out.pop("mlp_bias"), out.pop("pretraining_tp")
    if rng.random() < 0.3:
        out |= {
            "use_sliding_window": rng.random() < 0.6,
            "sliding_window": rng.choice([3, 5, 4096]),
            "max_window_layers": rng.choice([0, 1, 28]),
        }
        if rng.random() < 0.3:
            kinds = ["full_attention", *(["sliding_attention"] if out["use_sliding_window"] else [])]
            out["layer_types"] = [rng.choice(kinds) for _ in range(out["num_hidden_layers"])]
    return out


def _t5(rng: random.Random) -> dict[str, Any]:
    return {
        "d_model": rng.choice([8, 12, 24]),
        "d_kv": rng.choice([3, 4, 8]),
        "d_ff": rng.choice([12, 33]),
        "num_heads": rng.choice([1, 2, 4]),
        "num_layers": rng.choice([1, 2, 3]),
        "num_decoder_layers": rng.choice([None, 1, 2]),
        "relative_attention_num_buckets": rng.choice([8, 32]),
        "relative_attention_max_distance": rng.choice([20, 128]),
        "layer_norm_epsilon": rng.choice([1e-6, 1e-2]),
        "feed_forward_proj": rng.choice(["relu", "gelu", "gated-gelu", "gated-silu", "gated-relu", "silu", "gelu_new"]),
        "classifier_dropout": rng.choice([0.0, 0.2]),
        "decoder_start_token_id": rng.choice([0, 0, 3]),
        "eos_token_id": 1,
    }


def _bart(rng: random.Random) -> dict[str, Any]:
    heads = rng.choice([1, 2, 4])
    return {
        "d_model": heads * rng.choice([4, 6, 8]),
        "encoder_layers": rng.choice([1, 2]),
        "decoder_layers": rng.choice([1, 2]),
        "encoder_attention_heads": heads,
        "decoder_attention_heads": heads,
        "encoder_ffn_dim": rng.choice([12, 33]),
        "decoder_ffn_dim": rng.choice([12, 33]),
        "max_position_embeddings": rng.choice([20, 31]),
        "activation_function": rng.choice(ACTIVATIONS),
        "scale_embedding": rng.random() < 0.5,
        "encoder_layerdrop": rng.choice([0.0, 0.1]),
        "activation_dropout": rng.choice([0.0, 0.1]),
        "classifier_dropout": rng.choice([0.0, 0.2]),
        "normalize_before": rng.choice([False, False, True]),
        "forced_bos_token_id": rng.choice([None, 0]),
        "forced_eos_token_id": rng.choice([None, 2]),
        "decoder_start_token_id": rng.choice([2, 0]),
    }


def _marian(rng: random.Random) -> dict[str, Any]:
    out = {**_bart(rng), "pad_token_id": rng.choice([0, VOCABULARY - 1]), "decoder_vocab_size": None}
    out |= {"decoder_start_token_id": out["pad_token_id"], "eos_token_id": rng.choice([0, 2])}
    if rng.random() < 0.2:
        out |= {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": rng.choice([VOCABULARY, 50])}
    return out


FAMILIES: Mapping[str, tuple[str, str, Callable[[random.Random], dict[str, Any]], Sequence[str]]] = {
    "bert": ("Bert", "BertConfig", _bert, (
        "Model", "ForPreTraining", "ForMaskedLM", "LMHeadModel", "ForNextSentencePrediction",
        "ForSequenceClassification", "ForMultipleChoice", "ForTokenClassification", "ForQuestionAnswering")),
    "roberta": ("Roberta", "RobertaConfig", _roberta, (
        "Model", "ForMaskedLM", "ForCausalLM", "ForSequenceClassification", "ForMultipleChoice",
        "ForTokenClassification", "ForQuestionAnswering")),
    "distilbert": ("DistilBert", "DistilBertConfig", _distilbert, (
        "Model", "ForMaskedLM", "ForSequenceClassification", "ForMultipleChoice", "ForTokenClassification",
        "ForQuestionAnswering")),
    "albert": ("Albert", "AlbertConfig", _albert, (
        "Model", "ForPreTraining", "ForMaskedLM", "ForSequenceClassification", "ForMultipleChoice",
        "ForTokenClassification", "ForQuestionAnswering")),
    "electra": ("Electra", "ElectraConfig", _electra, (
        "Model", "ForPreTraining", "ForMaskedLM", "ForCausalLM", "ForSequenceClassification", "ForMultipleChoice",
        "ForTokenClassification", "ForQuestionAnswering")),
    "modernbert": ("ModernBert", "ModernBertConfig", _modernbert, (
        "Model", "ForMaskedLM", "ForSequenceClassification", "ForMultipleChoice", "ForTokenClassification",
        "ForQuestionAnswering")),
    "xlnet": ("XLNet", "XLNetConfig", _xlnet, (
        "Model", "LMHeadModel", "ForSequenceClassification", "ForMultipleChoice", "ForTokenClassification",
        "ForQuestionAnsweringSimple", "ForQuestionAnswering")),
    "gpt": ("OpenAIGPT", "OpenAIGPTConfig", _gpt1, (
        "Model", "LMHeadModel", "DoubleHeadsModel", "ForSequenceClassification")),
    "gpt2": ("GPT2", "GPT2Config", _gpt2, (
        "Model", "LMHeadModel", "DoubleHeadsModel", "ForSequenceClassification", "ForTokenClassification",
        "ForQuestionAnswering")),
    "gpt3": ("GPTNeo", "GPTNeoConfig", _gpt3, (
        "Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")),
    "llama": ("Llama", "LlamaConfig", _llama, (
        "Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")),
    "qwen2": ("Qwen2", "Qwen2Config", _qwen, (
        "Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")),
    "qwen3": ("Qwen3", "Qwen3Config", _qwen, (
        "Model", "ForCausalLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering")),
    "t5": ("T5", "T5Config", _t5, (
        "Model", "EncoderModel", "ForConditionalGeneration", "ForSequenceClassification", "ForTokenClassification",
        "ForQuestionAnswering")),
    "bart": ("Bart", "BartConfig", _bart, (
        "Model", "ForConditionalGeneration", "ForCausalLM", "ForSequenceClassification", "ForQuestionAnswering")),
    "marian": ("Marian", "MarianConfig", _marian, ("Model", "MTModel", "ForCausalLM")),
}  # fmt: skip
CHANGES = (
    *("missing body", "missing head", "missing any", "extra", "extra layer", "extra head", "lora", "shape", "prefix"),
    *("own output", "no output", "old norms", "fewer layers", "half", "no architectures", "no model_type", "positions"),
    *("split shared", "bin"),
)


def random_case(seed: int) -> Case:
    """A case by its number."""
    rng = random.Random(seed)
    family = list(FAMILIES)[seed % len(FAMILIES)]
    stem, _, fields_of, ends = FAMILIES[family]
    model = stem + rng.choice(ends)
    fields = {"vocab_size": VOCABULARY, **fields_of(rng)}
    if rng.random() < 0.3:
        fields["tie_word_embeddings"] = rng.random() < 0.5
    if "Classification" in model:
        fields["num_labels"] = rng.choice([1, 2, 3, 5])
        if rng.random() < 0.4:
            fields["problem_type"] = rng.choice(
                ["single_label_classification", "multi_label_classification", "regression"]
            )
        if rng.random() < 0.4 or family == "bart":  # whose two labels transformers does not read back
            names = [f"class {n}" for n in range(fields.pop("num_labels"))]
            fields |= {"id2label": dict(enumerate(names)), "label2id": {name: n for n, name in enumerate(names)}}
    change = rng.choice(CHANGES) if rng.random() < 0.45 else "none"
    return Case(seed, family, model, fields, change, _raw(rng, family))


def _raw(rng: random.Random, family: str) -> dict[str, Any]:
    """Fields that are written into config.json by hand; None takes one out."""
    if rng.random() < 0.6:
        return {}
    config = getattr(hf, FAMILIES[family][1])
    own = [name for name in config().to_dict() if name not in ("model_type", "transformers_version", "architectures")]
    choices: list[dict[str, Any]] = [
        {"some_field": {"a": [1, 2]}},
        {"output_attentions": True, "use_cache": False},
        {"torch_dtype": "float16"},
        {"dtype": "bfloat16"},
        {"task_specific_params": {"summarization": {"max_length": 5}}},
        {"task_specific_params": [1]},
        {"prefix": 3},
        {"num_beams": 4, "max_length": 30, "repetition_penalty": 1.3},
        {"pruned_heads": {}, "quantization_config": None},
        {"pruned_heads": {"0": [0]}},
        {"cross_attention_hidden_size": 3},
        {"auto_map": {"AutoModel": "modeling.X"}},
        {"_attn_implementation": "eager", "gradient_checkpointing": True},
        dict.fromkeys(getattr(config, "attribute_map", {}), 5),
        {rng.choice(own): "DROP"},
        {rng.choice(own): "DROP"},
        {rng.choice(own): None},
        {rng.choice(own): "text"},
        {rng.choice(own): 1},
        {rng.choice(own): True},
        {rng.choice(own): 0.5},
        {rng.choice(own): [1, 2]},
    ]
    return rng.choice(choices)


def write(case: Case, folder: Path) -> None:
    """Saves the model of a case, and changes its files."""
    config = getattr(hf, FAMILIES[case.family][1])(**case.fields)
    torch.manual_seed(case.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(hf, case.model)(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embed_positions" not in name or case.family != "marian":
                parameter.normal_(1.0 if "norm" in name.lower() or ".ln_" in name else 0.0, 0.2)
        for name, buffer in model.named_buffers():
            if name == "final_logits_bias":
                buffer.normal_()
    model.save_pretrained(folder)
    rng = random.Random(case.seed + 1)
    path = folder / "model.safetensors"
    tensors, fields = load_file(path), json.loads((folder / "config.json").read_text())
    tensors = _change(case, rng, tensors, fields)
    save_file({name: tensor.contiguous().clone() for name, tensor in tensors.items()}, path, {"format": "pt"})
    fields = {name: value for name, value in {**fields, **case.raw}.items() if value != "DROP"}
    (folder / "config.json").write_text(json.dumps(fields))
    if case.change == "bin":
        torch.save(load_file(path), folder / "pytorch_model.bin")
        path.unlink()


def _is_head(name: str) -> bool:
    bodies = (
        "bert.",
        "roberta.",
        "distilbert.",
        "albert.",
        "electra.",
        "model.",
        "transformer.",
        "encoder.",
        "decoder.",
        "shared",
        "embeddings.",
        "layers.",
        "h.",
        "wte",
        "wpe",
    )
    return not name.startswith(bodies)  # fmt: skip


def _change(case: Case, rng: random.Random, tensors: dict[str, Tensor], fields: dict[str, Any]) -> dict[str, Tensor]:
    names, change = sorted(tensors), case.change
    heads, body = [n for n in names if _is_head(n)], [n for n in names if not _is_head(n)]
    if change == "missing body":
        tensors.pop(rng.choice(body))
    elif change == "missing head" and heads:
        tensors.pop(rng.choice(heads))
    elif change == "missing any":
        tensors.pop(rng.choice(names))
    elif change == "extra":
        tensors[rng.choice(["some.thing.weight", "adapter.down.weight", "cls.extra.bias"])] = torch.randn(3)
    elif change == "extra layer":
        numbered = [n for n in names if re.search(r"\.0\.", n)]
        for name in numbered:
            tensors[re.sub(r"\.0\.", ".7.", name, count=1)] = tensors[name].clone()
    elif change == "extra head":
        width = tensors[next(n for n in names if "embed" in n or "wte" in n or "shared" in n)].shape[-1]
        name = rng.choice(["qa_outputs", "classifier", "score", "lm_head", "cls.seq_relationship", "head.dense"])
        tensors.setdefault(f"{name}.weight", torch.randn(2, width))
        tensors.setdefault(f"{name}.bias", torch.randn(2))
    elif change == "lora":
        name = rng.choice([n for n in body if tensors[n].dim() == 2])
        tensors[name.replace(".weight", ".lora_A.default.weight")] = torch.randn(2, tensors[name].shape[1])
        tensors[name.replace(".weight", ".lora_B.default.weight")] = torch.randn(tensors[name].shape[0], 2)
    elif change == "shape":
        name = rng.choice(names)
        tensors[name] = torch.cat([tensors[name], tensors[name][:1]])
    elif change == "prefix":
        start = rng.choice(["module.", "_orig_mod.", "base_model.model."])
        return {start + name: tensor for name, tensor in tensors.items()}
    elif change == "own output":
        for output in _outputs(case):
            tensors.setdefault(output, torch.randn(_embedding(tensors).shape) * 0.3)
    elif change == "no output":
        for output in _outputs(case):
            tensors.pop(output, None)
    elif change == "old norms":
        return {_old(name): tensor for name, tensor in tensors.items()}
    elif change == "fewer layers":
        for name in ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers"):
            if fields.get(name, 1) > 1:
                fields[name] -= 1
    elif change == "half":
        return {name: tensor.to(rng.choice([torch.float16, torch.bfloat16])) for name, tensor in tensors.items()}
    elif change == "no architectures":
        fields.pop("architectures", None)
    elif change == "no model_type":
        fields.pop("model_type", None)
    elif change == "positions":
        for name in names:
            if "position_embeddings" in name or "embed_positions" in name:
                tensors[name] = tensors[name][:-1].clone()
    elif change == "split shared" and case.family in ("t5", "bart", "marian"):
        side = rng.choice(["encoder", "decoder"])
        start = "" if case.family == "t5" or "model.shared.weight" not in tensors else "model."
        tensors[f"{start}{side}.embed_tokens.weight"] = torch.randn(_embedding(tensors).shape)
    return tensors


def _embedding(tensors: Mapping[str, Tensor]) -> Tensor:
    return next(t for n, t in tensors.items() if t.dim() == 2 and t.shape[0] == VOCABULARY)


def _outputs(case: Case) -> list[str]:
    """What the class calls its output layer, where it has one."""
    keys = getattr(getattr(hf, case.model), "_tied_weights_keys", None) or {}
    return [name for name in keys if name.endswith(".weight") and "embed" not in name]


def _old(name: str) -> str:
    if "LayerNorm" not in name:
        return name
    return name.replace(".weight", ".gamma").replace(".bias", ".beta")


_OTHER_HEADS = ("DoubleHeadsModel", "XLNetForQuestionAnswering")
"""Classes with a head that is not built here, so that its weights are said to be left over, and are not written."""


@dataclass(frozen=True)
class Verdict:
    """What came of a case.

    Attributes:
        result: `equal`, `refused`, `said` (equal, and what is left over or missing is said), `not compared`,
            `not built` or `fault`.
        reason: for the reader.
    """

    result: str
    reason: str = ""


def judge(case: Case, folder: Path) -> Verdict:
    """Reads a folder with both, and compares."""
    try:
        ours = load_model(folder).eval()
    except PretuneError as error:
        text = str(error)
        named = re.search(r"'|[a-z]_[a-z]", text.replace(str(folder), "")) is not None
        return Verdict("refused" if named else "fault", f"{type(error).__name__}: {text.replace(str(folder), '')}")
    assert ours.loaded is not None
    if "return_dict" in case.raw or "chunk_size_feed_forward" in case.raw or "dtype" in case.raw:
        return Verdict("not compared", "their class breaks on it")
    try:
        theirs, info = getattr(hf, case.model).from_pretrained(folder, output_loading_info=True, dtype=torch.float32)
    except Exception as error:
        if case.raw:
            return Verdict("said", "a value that they refuse and that has one meaning here")
        return Verdict("fault", f"they refuse and we do not: {type(error).__name__}: {str(error)[:300]}")
    theirs.eval()
    if case.model.endswith(_OTHER_HEADS) and ours.loaded.unexpected:
        return Verdict("said", "a head that is not built")
    missing = {name for name in info["missing_keys"] if "embed_positions" not in name and name != "final_logits_bias"}
    if info["mismatched_keys"]:
        return Verdict("fault", f"read in spite of shapes {info['mismatched_keys']}")
    if missing:
        spoken = " ".join(ours.loaded.notes + ours.loaded.initialised)
        left = [name for name in missing if name not in spoken]
        if left:
            return Verdict("fault", f"not said to be missing: {sorted(left)}")
        return Verdict("said", "missing")
    used = {name for name, _ in FileTable("", case.family, Weights(folder)).sources(ours).values()}
    left = [name for name in info["unexpected_keys"] if name not in ours.loaded.unexpected and name not in used]
    if left:
        return Verdict("fault", f"left over and not said: {left[:5]}, we say {ours.loaded.unexpected[:5]}")
    if any("'architectures' names no class" in note for note in ours.loaded.notes):
        return Verdict("said", "a head that may be another")
    try:
        difference = compare(case, ours, theirs)
    except PretuneError as error:  # such as texts longer than the positions that config.json says
        return Verdict("refused", str(error))
    if not difference and not info["unexpected_keys"] and not case.model.endswith(_OTHER_HEADS):
        difference = written(case, ours, folder)
    if difference:
        return Verdict("fault", difference)
    return Verdict("said" if info["unexpected_keys"] else "equal")


def written(case: Case, ours: LanguageModel, folder: Path) -> str:
    """What differs where `transformers` reads what we write of a model, or nothing."""
    target = folder.with_name(folder.name + " written")
    save_model(ours, target)
    again, info = getattr(hf, case.model).from_pretrained(target, output_loading_info=True, dtype=torch.float32)
    shutil.rmtree(target)
    optional = ("embed_positions", "final_logits_bias")
    missing = [name for name in info["missing_keys"] if not name.endswith((*optional, "embed_positions.weight"))]
    if missing:
        return f"missing in what we write: {missing[:4]}"
    difference = compare(case, ours, again.eval())
    return f"what we write: {difference}" if difference else ""


def compare(case: Case, ours: LanguageModel, theirs: Any) -> str:
    """What differs, or nothing."""
    rng = np.random.default_rng(case.seed)
    lengths = LENGTHS
    rows = [rng.integers(6, VOCABULARY - 2, n) for n in lengths]
    if case.family in ("t5", "bart") and "SequenceClassification" in case.model:
        for row in rows:
            row[-1] = theirs.config.eos_token_id
    segments = _segments(case, rows, theirs)
    own = our_outputs(ours, rows, segments)
    want = [their_outputs(case, theirs, row, None if segments is None else segments[n]) for n, row in enumerate(rows)]
    for name in want[0]:
        if name not in own:
            return f"{name} is not among our outputs {sorted(own)}"
        for n, expected in enumerate(want):
            value = own[name][n]
            tensor = expected[name]
            if value.shape != tensor.shape:
                return f"{name}: shape {tuple(value.shape)} for {tuple(tensor.shape)}"
            limit = 1e-5 * max(1.0, float(tensor.abs().max()))
            off = float((value - tensor).abs().max())
            if not off <= limit:
                return f"{name} differs by {off:.2e} of {float(tensor.abs().max()):.2e} (row of {lengths[n]})"
    head = dict(ours.heads.items()).get("classification")
    if isinstance(head, SequenceHead):
        stated = theirs.config.problem_type or (
            "regression" if theirs.config.num_labels == 1 else "single_label_classification"
        )
        if head.problem_type != stated:
            return f"problem_type {head.problem_type} for {stated}"
        if head.labels != [theirs.config.id2label[n] for n in range(theirs.config.num_labels)]:
            return f"labels {head.labels} for {theirs.config.id2label}"
    return ""


def _segments(case: Case, rows: Sequence[np.ndarray], theirs: Any) -> list[np.ndarray] | None:
    if case.family not in ("bert", "albert", "electra", "xlnet") or getattr(theirs.config, "type_vocab_size", 2) < 2:
        return None
    return [np.arange(len(row)) * 2 // len(row) for row in rows]


@torch.no_grad()
def our_outputs(
    model: LanguageModel, rows: list[np.ndarray], segments: list[np.ndarray] | None
) -> dict[str, list[Tensor]]:
    """Outputs by role, for each row."""
    batch = ragged(rows, segments)
    two_texts = not getattr(model, "is_encoder_alone", False)
    if model.has_encoder and two_texts and not {"classification", "question_answering"} & set(model.heads):
        batch = replace(ragged([row[: max(1, len(row) // 2)] for row in rows]), source=batch)
    hidden = model(batch).last_hidden_state
    bounds = batch.layout.bounds

    def split(tensor: Tensor) -> list[Tensor]:
        return [tensor[a:b] for a, b in pairwise(bounds)]

    out = {"hidden": split(hidden)}
    for role, head in model.heads.items():
        if role == "pooler":
            out[role] = list(head(hidden[batch.layout.first]))
        elif isinstance(head, SequenceHead):
            out[role] = list(head(hidden, batch.layout))
        else:
            out[role] = split(head(hidden))
    return out


@torch.no_grad()
def their_outputs(case: Case, model: Any, row: np.ndarray, segments: np.ndarray | None) -> dict[str, Tensor]:
    """The same of one row, without any padding."""
    inputs = {"input_ids": torch.from_numpy(row)[None]}
    if segments is not None:
        inputs["token_type_ids"] = torch.from_numpy(segments)[None]
    ending = case.model.removeprefix(FAMILIES[case.family][0])
    if ending == "ForMultipleChoice":
        inputs = {name: tensor[None] for name, tensor in inputs.items()}
    if case.family in ("t5", "bart", "marian") and ending in ("Model", "ForConditionalGeneration", "MTModel"):
        inputs["decoder_input_ids"] = inputs["input_ids"][:, : max(1, len(row) // 2)]
    if case.family == "modernbert":  # its mean over the rows asks for one
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    got = model(**inputs, output_hidden_states=True)
    roles = {
        "ForMaskedLM": "mlm",
        "ForConditionalGeneration": "clm",
        "MTModel": "clm",
        "ForSequenceClassification": "classification",
        "ForTokenClassification": "token_classification",
        "ForMultipleChoice": "multiple_choice",
        "ForNextSentencePrediction": "nsp",
        "LMHeadModel": {"xlnet": "plm", "bert": "mlm"}.get(case.family, "clm"),
        "ForCausalLM": "mlm" if case.family in ("roberta", "electra") else "clm",
    }
    out: dict[str, Tensor] = {}
    if hasattr(got, "last_hidden_state"):
        out["hidden"] = got.last_hidden_state[0]
    if getattr(got, "pooler_output", None) is not None:
        out["pooler"] = got.pooler_output[0]
    if case.model == "ElectraForPreTraining":
        out["rtd"] = got.logits[0]
    elif ending == "ForPreTraining":
        pair = {"nsp": got.seq_relationship_logits} if case.family == "bert" else {"sop": got.sop_logits}
        out |= {"mlm": got.prediction_logits[0], **{name: tensor[0] for name, tensor in pair.items()}}
    elif hasattr(got, "start_logits"):
        out["question_answering"] = torch.stack([got.start_logits, got.end_logits], dim=-1)[0]
    elif ending in roles:
        out[roles[ending]] = got.logits[0] if ending != "ForMultipleChoice" else got.logits[0, 0]
    elif ending == "DoubleHeadsModel":
        out["clm"] = got.logits[0]
    return out


def run(seeds: Sequence[int], folder: Path) -> list[tuple[Case, Verdict]]:
    """Judges cases by their numbers."""
    out = []
    for seed in seeds:
        case, target = random_case(seed), folder / str(seed)
        try:
            write(case, target)
        except Exception as error:  # a configuration that they do not build
            out.append((case, Verdict("not built", f"{type(error).__name__}: {str(error)[:200]}")))
            shutil.rmtree(target, ignore_errors=True)
            continue
        try:
            verdict = judge(case, target)
        except Exception as error:
            verdict = Verdict("fault", f"defect: {type(error).__name__}: {str(error)[:300]}")
        out.append((case, verdict))
        shutil.rmtree(target, ignore_errors=True)
    return out
