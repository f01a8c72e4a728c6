"""Says what becomes of every field of an `adapter_config.json`; what is not known and asks for something is refused."""

from __future__ import annotations

from collections.abc import Mapping

from pretune.field_table import FieldTable, done, no_effect, refused

FORMAT_VERSION = "0.21.2"
"""The release of PEFT whose files these are, which stands in what is written."""
_NOTHING: tuple[object, ...] = (None, False, "", 0)


def _asks(value: object) -> bool:
    """Whether the value of a field that nobody here does asks for something."""
    return value not in ([], {}) and not any(value is each or value == each for each in _NOTHING)


UNKNOWN = refused(
    "pretune does not do what it asks for",
    "load the adapter in peft, merge it there, and use the merged model",
    refuses=_asks,
)
_COMMON: FieldTable = {
    "peft_type": done("chooses the file of `interop/peft/`", types=(str,)),
    "task_type": done("chooses the head", types=(str,)),
    "auto_mapping": done("chooses the head, where `task_type` is empty", types=(dict,)),
    "base_model_name_or_path": done("finds the base, where it is a folder", types=(str,)),
    "modules_to_save": done("their tensors stand in the file", types=(list,)),
    "inference_mode": no_effect("what peft trains"),
    "peft_version": no_effect("a record"),
    "revision": no_effect("of the base on the Hub; pretune compares the weights it is given by their shapes alone"),
    "*": UNKNOWN,
}
_TARGETED: FieldTable = {
    "target_modules": done("their tensors stand in the file", types=(str, list)),
    "exclude_modules": done("they have no tensors in the file", types=(str, list)),
    "fan_in_fan_out": done("the family's weight map says the same", types=(bool,)),
}
_BASE_CHANGED = refused(
    "it changes the base when the adapter is made, and the files do not hold the changed base",
    "convert the adapter to plain LoRA in peft (save_pretrained with path_initial_model_for_weight_conversion)",
    allowed=(None, True, False, "gaussian", "orthogonal", "eva"),
)
_LORA_FAMILY: FieldTable = {
    **_TARGETED,
    "lora_alpha": done("the scale", types=(int, float)),
    "lora_dropout": done("in training", types=(int, float)),
    "alpha_pattern": done("scales of single places", types=(dict,)),
    "layers_to_transform": done("the others have no tensors in the file", types=(int, list)),
    "layers_pattern": done("the same", types=(str, list)),
    "bias": done("their tensors stand in the file", types=(str,)),
    "init_lora_weights": _BASE_CHANGED,
    "ensure_weight_tying": done("tied vocabularies stay tied", types=(bool,)),
    "megatron_core": no_effect("the name of a package"),
    "qalora_group_size": no_effect("without `use_qalora`"),
    "runtime_config": no_effect("where peft keeps weights while it runs"),
    "eva_config": no_effect("initial values"),
}
LORA: FieldTable = {
    **_LORA_FAMILY,
    "r": done("the rank", types=(int,)),
    "use_rslora": done("the scale", types=(bool,)),
    "use_dora": done("`weight_decomposed`", types=(bool,)),
    "rank_pattern": done("ranks of single places", types=(dict,)),
    **_COMMON,
}
_SCHEDULE = no_effect("how the ranks came to be")
ADALORA: FieldTable = {
    **_LORA_FAMILY,
    "init_r": done("the scale", types=(int,)),
    "rank_pattern": done("which singular values are left", types=(dict,)),
    "r": no_effect("AdaLoRA reads `init_r`"),
    "use_rslora": no_effect("AdaLoRA does not read it"),
    **dict.fromkeys(("target_r", "tinit", "tfinal", "deltaT", "beta1", "beta2"), _SCHEDULE),
    **dict.fromkeys(("orth_reg_weight", "total_step"), _SCHEDULE),
    **_COMMON,
}
IA3: FieldTable = {
    **_TARGETED,
    "feedforward_modules": done("which scale their input", types=(str, list)),
    "init_ia3_weights": no_effect("initial values"),
    **_COMMON,
}
_VIRTUAL: FieldTable = {
    "num_virtual_tokens": done("the length", types=(int,)),
    "token_dim": done("compared with the tensor", types=(int,)),
    "num_transformer_submodules": done("2 for an encoder-decoder", types=(int,)),
    "num_attention_heads": done("compared with the tensor", types=(int,)),
    "num_layers": done("compared with the tensor", types=(int,)),
}
PREFIX_TUNING: FieldTable = {
    **_VIRTUAL,
    "prefix_projection": no_effect("the file holds what the projection gave"),
    "encoder_hidden_size": no_effect("of the projection"),
    "init_weights": no_effect("initial values"),
    **_COMMON,
}
PROMPT_TUNING: FieldTable = {
    **_VIRTUAL,
    **dict.fromkeys(("prompt_tuning_init", "prompt_tuning_init_text"), no_effect("initial values")),
    **dict.fromkeys(("tokenizer_name_or_path", "tokenizer_kwargs"), no_effect("initial values")),
    **_COMMON,
}
TABLES: Mapping[str, FieldTable] = {
    "LORA": LORA,
    "ADALORA": ADALORA,
    "IA3": IA3,
    "PREFIX_TUNING": PREFIX_TUNING,
    "PROMPT_TUNING": PROMPT_TUNING,
}
