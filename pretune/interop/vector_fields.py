"""The tables of the files of `sentence-transformers`: what becomes of each field, for `field_table.check_fields`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pretune.field_table import FieldTable, Treatment, done, handed_on, no_effect, refused

WITHOUT = "or delete modules.json to use the model without its vectors"
REMEDY = f"read this folder with sentence-transformers itself, {WITHOUT}"
_TEXT_ONLY = {"text": {"method": "forward", "method_output_name": "last_hidden_state"}}
_CALLS = handed_on("read where a call names the task query or document, which no call of `embed` does")
_FEATURE = refused(
    "only rows of tokens and vectors of texts are computed, each by itself",
    REMEDY,
    allowed=(None, "sentence_embedding", "token_embeddings"),
)


def _of_class(whose: str, *harmless: str) -> Treatment:
    """Arguments for a class of `transformers`, of which some change nothing here."""
    known = {"trust_remote_code", "attn_implementation", "torch_dtype", "dtype", "use_cache", "low_cpu_mem_usage"}

    def changes(value: object) -> bool:
        return bool(value) and not (isinstance(value, dict) and value.keys() <= {*known, *harmless})

    return refused(
        f"arguments that change what is read {whose} are not done here", f"say it in its own files, {WITHOUT}",
        refuses=changes,
    )  # fmt: skip


def _changes_calls(value: object) -> bool:
    """Whether arguments of each call ask for more than a limit of length."""
    if not value:
        return False
    texts: Any = value.get("text", {}) if isinstance(value, dict) and value.keys() <= {"text"} else None
    if not isinstance(texts, dict) or texts.keys() - {"max_length", "truncation", "padding"}:
        return True
    return texts.get("truncation", True) not in (True, "longest_first", "only_first")


TRANSFORMER_FIELDS: FieldTable = {
    "max_seq_length": done("tokens of a text; the last of the limits that counts", types=(int,)),
    "do_lower_case": done("texts are lower-cased before all else", types=(bool,)),
    "processing_kwargs": refused("only the `max_length` of `text` is done", REMEDY, refuses=_changes_calls),
    **dict.fromkeys(("processor_kwargs", "tokenizer_args"), _of_class("of the tokenizer", "model_max_length")),
    **dict.fromkeys(("model_kwargs", "model_args"), _of_class("of the model")),
    **dict.fromkeys(("config_kwargs", "config_args"), _of_class("of the configuration")),
    "transformer_task": refused(
        "only the rows of the last layer are computed", REMEDY, allowed=(None, "feature-extraction")
    ),
    "modality_config": refused("only texts are read, as they are", REMEDY, allowed=(None, _TEXT_ONLY)),
    "module_output_name": refused("only rows of tokens are computed", REMEDY, allowed=(None, "token_embeddings")),
    "tokenizer_name_or_path": refused("the tokenizer is that of the folder", "put its files into the folder"),
    **dict.fromkeys(("query_length", "document_length", "query_expansion"), _CALLS),
    "unpad_inputs": handed_on("how a batch is laid out"),
}
"""Fields of `sentence_bert_config.json`, which older versions call by the family, such as
`sentence_roberta_config.json`."""
_LOGITS = {"text": {"method": "forward", "method_output_name": "logits"}}
SCORES_TRANSFORMER = "sentence_transformers.base.modules.transformer.Transformer"
SPARSE_SETTINGS: Mapping[str, Any] = {
    "transformer_task": "fill-mask",
    "modality_config": _LOGITS,
    "module_output_name": "token_embeddings",
}
"""Fields of `sentence_bert_config.json` of a sparse encoder, which reads the scores of masked language modelling."""
SPARSE_FIELDS: FieldTable = {
    **TRANSFORMER_FIELDS,
    "transformer_task": refused(
        "only the scores of masked language modelling are computed", REMEDY, allowed=(None, "fill-mask")
    ),
    "modality_config": refused("only texts are read, as they are", REMEDY, allowed=(None, _LOGITS)),
}
PAIR_SETTINGS: Mapping[str, Any] = {
    "transformer_task": "sequence-classification",
    "modality_config": _LOGITS,
    "module_output_name": "scores",
}
"""Fields of `sentence_bert_config.json` of a cross-encoder, which reads the scores of a pair."""
PAIR_FIELDS: FieldTable = {
    **TRANSFORMER_FIELDS,
    "transformer_task": refused(
        "only the scores of sequences are computed", REMEDY, allowed=(None, "sequence-classification")
    ),
    "modality_config": refused("only texts are read, as they are", REMEDY, allowed=(None, _LOGITS)),
    "module_output_name": refused("only scores are computed", REMEDY, allowed=(None, "scores")),
}
MODEL_FIELDS: FieldTable = {
    "model_type": done("another than SentenceTransformer: its modules are not read, and that is said", types=(str,)),
    "prompts": done("put before each text: `embed --prompt-name`", types=(dict,)),
    "default_prompt_name": done("the prompt that is used where none is named", types=(str,)),
    "truncate_dim": done("leading numbers of a vector that are kept", types=(int,)),
    "similarity_fn_name": handed_on("how others compare vectors", types=(str,)),
    "activation_fn": done("of a cross-encoder's score: Sigmoid or Identity of torch.nn", types=(str,)),
    "requirements": handed_on("versions of other software"),
    "__version__": handed_on("a record"),
}
"""Fields of `config_sentence_transformers.json`."""
MODULES_FIELDS: FieldTable = {
    "idx": no_effect("modules follow each other as they are listed"),
    "name": done("each module's own; the same name twice is refused"),
    "path": done("folder of the module's files, `0_Transformer` too; one that leads outside is refused"),
    "type": done(
        "Transformer, Pooling, SpladePooling, Dense, Normalize, LayerNorm, Dropout; others, and code, are refused"
    ),
    "kwargs": handed_on("names of arguments of calls"),
}
"""Fields of each entry of `modules.json`."""
FLAGS = tuple(
    f"pooling_mode_{name}"
    for name in ("cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
)
SPLADE_FIELDS: FieldTable = {
    "pooling_strategy": done("max, or sum"),
    "activation_function": done("relu, or log1p_relu"),
    "embedding_dimension": no_effect("it is the size of the vocabulary"),
    "chunk_size": handed_on("how much is computed at once"),
}
"""Fields of `N_SpladePooling/config.json`."""
POOLING_FIELDS: FieldTable = {
    "pooling_mode": done("one or several of cls, max, mean, mean_sqrt_len_tokens, weightedmean, lasttoken"),
    **dict.fromkeys(FLAGS, done("an older form of `pooling_mode`", types=(bool,))),
    "pooling_mode_*": refused("no such pooling is known", REMEDY),
    "include_prompt": done("whether the rows of the prompt count", types=(bool,)),
    "embedding_dimension": done("must be the width of the rows", types=(int,)),
    "word_embedding_dimension": done("an older form of `embedding_dimension`", types=(int,)),
}
"""Fields of `N_Pooling/config.json`."""
DENSE_FIELDS: FieldTable = {
    "in_features": done("must be the width of what it reads", types=(int,)),
    "out_features": done(types=(int,)),
    "bias": done(types=(bool,)),
    "activation_function": done("a class of torch.nn without arguments; others, and code, are refused", types=(str,)),
    "use_residual": done(types=(bool,)),
    "module_input_name": _FEATURE,
    "module_output_name": _FEATURE,
}
"""Fields of `N_Dense/config.json`."""
NORMALIZE_FIELDS: FieldTable = {"module_input_name": _FEATURE, "module_output_name": _FEATURE}
"""Fields of `N_Normalize/config.json`, which may be absent."""
NORM_FIELDS: FieldTable = {"dimension": done("must be the width of the vectors", types=(int,))}
"""Fields of `N_LayerNorm/config.json`."""
DROPOUT_FIELDS: FieldTable = {"dropout": handed_on("read in training alone", types=(float,))}
"""Fields of `N_Dropout/config.json`."""
VECTOR_TABLES: Mapping[str, FieldTable] = {
    "modules.json": MODULES_FIELDS,
    "sentence_bert_config.json": TRANSFORMER_FIELDS,
    "config_sentence_transformers.json": MODEL_FIELDS,
    "N_Pooling/config.json": POOLING_FIELDS,
    "N_SpladePooling/config.json": SPLADE_FIELDS,
    "N_Dense/config.json": DENSE_FIELDS,
    "N_Normalize/config.json": NORMALIZE_FIELDS,
    "N_LayerNorm/config.json": NORM_FIELDS,
    "N_Dropout/config.json": DROPOUT_FIELDS,
}
"""By the name of the file."""
