"""The tables of `config.json`, `generation_config.json` and GGUF metadata: what becomes of each field.

`config.json` has a table for each family: the fields of its `Config`, what its file says in `FILE_FIELDS`, and what
every configuration may hold. `TABLES` joins these with the tables of the files of tokenizers and of
`sentence-transformers`, for `docs/compatibility.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import NoneType
from typing import Literal, get_args, get_origin

from pretune.errors import DataError
from pretune.field_table import FieldTable, Treatment, done, handed_on, no_effect, refused, treatment_of
from pretune.interop.vector_fields import VECTOR_TABLES
from pretune.models.generation_fields import GENERATION_FIELDS
from pretune.models.model import Config, Family
from pretune.text.tokenizer.file_fields import TOKENIZER_TABLES

GENERATION = "generation_config.json"
CARRIED_WHOLE = ("chat_template.jinja", "additional_chat_templates/*.jinja")
"""Files that are handed on as they are; names or patterns."""
_LOG = no_effect("what is recorded of a forward", types=(bool,))
_CODE = no_effect("code in a model's folder is never run: the family's own arithmetic is used", note_unless=(None, {}))
_USES = handed_on("used by `generate`, see generation_config.json")
QUANTIZATION = "quantization_config"
ROUNDED_NOTICE = {"written_by": "pretune", "read_with": "pretune.load, or as a plain model after pretune export"}
"""Of a model with rounded matrices; `quant_method` is missing on purpose, which `transformers` refuses."""
COMMON_FIELDS: FieldTable = {
    "model_type": done("names the family"),
    "architectures": done("names the heads"),
    "pretune": done("what no format has a place for: objectives, task, heads"),
    "id2label": done("names the classes"),
    "label2id": no_effect("follows from `id2label`"),
    "num_labels": done("the number of classes, where `id2label` is absent", types=(int,)),
    "_num_labels": done("an older name of `num_labels`", types=(int,)),
    "problem_type": done("what the scores of a sequence are"),
    "sentence_transformers": handed_on("of it `activation_fn` is done: what is said of one score", types=(dict,)),
    "sbert_ce_default_activation_function": handed_on("done: what is said of one score", types=(str,)),
    "tokenizer_class": done("which rules the tokenizer's files are read by", types=(str,)),
    **dict.fromkeys(
        ("dtype", "torch_dtype"), no_effect("weights keep their values; `precision` decides the dtype", types=(str,))
    ),
    **dict.fromkeys(("transformers_version", "_name_or_path", "name_or_path", "_commit_hash"), no_effect("a record")),
    **dict.fromkeys(
        ("output_attentions", "output_hidden_states", "output_past", "return_dict", "return_dict_in_generate"), _LOG
    ),
    **dict.fromkeys(
        ("use_cache", "torchscript", "use_bfloat16", "gradient_checkpointing"),
        no_effect("speed, memory", types=(bool,)),
    ),
    **dict.fromkeys(
        (
            "attn_implementation",
            "_attn_implementation",
            "_attn_implementation_internal",
            "_attn_implementation_autoset",
        ),
        no_effect("which kernel computes the same attention"),
    ),
    "chunk_size_feed_forward": no_effect("rows of a feed-forward at once", types=(int,)),
    "tf_legacy_loss": no_effect("TensorFlow's loss"),
    "finetuning_task": no_effect("a record"),
    "task_specific_params": handed_on("what a pipeline sets", types=(dict,)),
    "prefix": handed_on("what a pipeline puts before a text", types=(str,)),
    "transformers.js_config": handed_on("settings of another software", types=(dict,)),
    **dict.fromkeys(("auto_map", "custom_pipelines", "trust_remote_code"), _CODE),
    QUANTIZATION: refused(
        "quantized weights of others are not read",
        "save the model without quantization first",
        allowed=(None, {}, ROUNDED_NOTICE),
    ),
    "pruned_heads": refused("heads are missing from the weights", "save the model whole", allowed=(None, {})),
    "add_cross_attention": refused("cross-attention in a single stack is not built", "use the model without it"),
    "cross_attention_hidden_size": refused(
        "cross-attention in a single stack is not built", "use the model without it"
    ),
    "position_embedding_type": refused(
        "other kinds of positions than the family's own are not built",
        "use a model without",
        allowed=("absolute", None),
    ),
    "is_encoder_decoder": refused("two stacks of this family are not built", "use one of them alone"),
    "per_layer_config": refused("layers of different shapes are not built", "use a model of equal layers"),
    "tie_encoder_decoder": refused("encoder and decoder with the same weights are not built", "save them untied"),
    **{
        f"{role}_token_id": done("the special token; the tokenizer's own goes first on saving", types=(int, list))
        for role in ("pad", "bos", "eos", "cls", "sep", "mask", "unk", "decoder_start")
    },
    **dict.fromkeys(
        (
            *("max_length", "min_length", "do_sample", "early_stopping", "num_beams", "num_beam_groups"),
            *("diversity_penalty", "temperature", "top_k", "top_p", "typical_p", "repetition_penalty"),
            *("length_penalty", "no_repeat_ngram_size", "encoder_no_repeat_ngram_size", "bad_words_ids"),
            *("num_return_sequences", "output_scores", "forced_bos_token_id", "forced_eos_token_id"),
            *("remove_invalid_values", "exponential_decay_length_penalty", "suppress_tokens", "begin_suppress_tokens"),
        ),
        _USES,
    ),
}
"""Fields that the configuration of any family may hold."""
AT_READING: FieldTable = {
    name: handed_on() if treatment.name == "refused" else treatment for name, treatment in GENERATION_FIELDS.items()
}
"""Of `generation_config.json` when a model is read: what is refused there is refused by `generate` alone."""
_EXPERTS = refused("experts are not built here", "use a model without experts", allowed=(None, 0))
_SCALED = refused("a scaling of this kind is not built here", "use a model without it", allowed=(None, 0, 1))
GGUF_FIELDS: FieldTable = {
    "general.architecture": done("names the family"),
    "general.*": no_effect("a record"),
    "GGUF.*": no_effect("the form of the file"),
    "split.count": refused(
        "a model in several files is not read", "join them: llama-gguf-split --merge", allowed=(0, 1)
    ),
    "split.*": no_effect("the form of the file"),
    "quantize.*": no_effect("a record"),
    **{
        f"*.{name}": done()
        for name in (
            *("embedding_length", "block_count", "feed_forward_length", "context_length", "attention.head_count"),
            *("attention.head_count_kv", "attention.key_length", "attention.layer_norm_rms_epsilon", "rope.freq_base"),
            *("rope.scaling.type", "rope.scaling.factor", "rope.scaling.original_context_length"),
        )
    },
    "*.attention.value_length": done("refused where it is not the length of keys"),
    "*.rope.dimension_count": done("refused where it is not the length of keys"),
    "*.vocab_size": no_effect("the embedding says it"),
    "*.rope.scaling.finetuned": no_effect("a record"),
    "*.rope.scaling.attn_factor": _SCALED,
    "*.rope.scaling.yarn_*": _SCALED,
    "*.attention.sliding_window": refused("windows are not read here", "use a model without", allowed=(None, 0)),
    "bert.attention.causal": refused("a BERT sees both sides", "convert the model again", allowed=(False, None)),
    "bert.pooling_type": done("what makes a vector of a text's rows"),
    "*.attention.layer_norm_epsilon": done(),
    "*.attention.causal": refused("only a causal model is built", "use a model that writes", allowed=(True, None)),
    **dict.fromkeys(("*.attention.scale", "*.logit_scale", "*.embedding_scale", "*.residual_scale"), _SCALED),
    **dict.fromkeys(("*.expert_count", "*.expert_used_count", "*.expert_feed_forward_length"), _EXPERTS),
    "tokenizer.*": done("read with the tokenizer"),
}
"""Metadata of a `.gguf` file."""
_ADAPTER = refused(
    "an adapter of peft, which transformers reads with the model",
    "merge it into its base (merge_and_unload), save that",
)
_SAME = no_effect("the same weights for other software")
_OTHER_RUN = no_effect("a record of a training that is not continued here")
WHOLE_FILES: FieldTable = {
    **dict.fromkeys(("model.safetensors", "model.safetensors.index.json"), done("weights")),
    **dict.fromkeys(
        ("pytorch_model.bin", "pytorch_model.bin.index.json"), done("weights, where no safetensors stand beside them")
    ),
    **dict.fromkeys(
        ("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "tokenizer.model", "source.spm", "target.spm"),
        done("the tokenizer, where no tokenizer.json stands beside them"),
    ),
    **dict.fromkeys(CARRIED_WHOLE, handed_on("written as it was read; refused where it does not parse")),
    **dict.fromkeys(("adapter_config.json", "adapter_model.*"), _ADAPTER),
    "*.py": no_effect("code in a model's folder is never run"),
    **dict.fromkeys(("tf_model.h5", "flax_model.msgpack", "rust_model.ot", "*.onnx", "*.mlmodel"), _SAME),
    **dict.fromkeys(
        ("training_args.bin", "trainer_state.json", "optimizer.pt", "scheduler.pt", "rng_state*.pth"), _OTHER_RUN
    ),
    **dict.fromkeys(("README.md", "LICENSE*", ".gitattributes"), no_effect("a text for people")),
}
"""Files of a model folder that are read, handed on or refused whole."""
TABLES: Mapping[str, FieldTable] = {
    "config.json": COMMON_FIELDS,
    GENERATION: GENERATION_FIELDS,
    **TOKENIZER_TABLES,
    **VECTOR_TABLES,
    "GGUF metadata": GGUF_FIELDS,
    "Whole files": WHOLE_FILES,
}
"""By the name of the file; of `config.json` what is common to all families."""


def check_files(folder: Path) -> None:
    """Refuses a folder with a file that others read with the model and that is not read here.

    Raises:
        DataError: naming the file and the remedy.
    """
    for path in folder.iterdir():
        treatment = treatment_of(path.name, WHOLE_FILES)
        if treatment is not None and treatment.name == "refused":
            raise DataError(f"{path}: {treatment.reason}; {treatment.remedy}")


def config_table(family: Family, schema: type[Config] | None = None) -> FieldTable:
    """Returns the table of `config.json` for a family: its own fields go before those that are common to all.

    Args:
        schema: its fields in the configuration of another family; by default its `Config`.
    """
    return {**COMMON_FIELDS, **own_fields(family, schema)}


def own_fields(family: Family, schema: type[Config] | None = None) -> FieldTable:
    """Returns what is particular to a family in the table of its `config.json`."""
    fields = schema or family.Config
    older: frozenset[str] = getattr(fields, "OLDER_FIELDS", frozenset())
    own: dict[str, Treatment] = dict.fromkeys(sorted(older), done("an older form of another field"))
    for name, field in fields.model_fields.items():
        allowed = _only_values(field.annotation)
        own[name] = done() if allowed is None else _literal(allowed)
    own |= {other: done(f"another name of `{name}`") for other, name in getattr(family, "OTHER_NAMES", {}).items()}
    stated: FieldTable = getattr(family, "FILE_FIELDS", {})
    return {**own, **stated}


def _literal(allowed: tuple[object, ...]) -> Treatment:
    values = ", ".join(repr(value) for value in allowed)
    return refused(f"only {values} is built here", "use a model without it", allowed=(*allowed, None))


def _only_values(annotation: object) -> tuple[object, ...] | None:
    """Returns the values of a field that has a single one, such as `Literal[False]`; None for any other field."""
    options = [each for each in get_args(annotation) if each is not NoneType]
    if get_origin(annotation) is Literal:
        return tuple(options) if len(options) == 1 else None
    return None
