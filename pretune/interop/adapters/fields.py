"""Says what becomes of every field of the configurations of `adapters`; what is not done and asks for it is refused."""

from __future__ import annotations

from collections.abc import Mapping

from pretune.field_table import FieldTable, done, no_effect, refused

FORMAT_VERSION = "adapters.1.3.0"
"""The release whose files these are, which stands in what is written."""
_ELSEWHERE = "use this adapter in the library adapters"
_NOTHING: tuple[object, ...] = (None, False, 0, "", "none")


def _asks(value: object) -> bool:
    return value not in ([], {}) and not any(value is each or value == each for each in _NOTHING)


UNKNOWN = refused("pretune does not do what it asks for", _ELSEWHERE, refuses=_asks)
OUTER: FieldTable = {
    "config": done("the method and its settings", types=(dict,)),
    "model_type": done("compared with the base", types=(str,)),
    "hidden_size": done("compared with the base", types=(int,)),
    "model_name": done("finds the base, where it is a folder", types=(str,)),
    "name": done("stands in the names of the tensors", types=(str,)),
    "version": done("releases before 1.1.0 mean other things by some fields", types=(str,)),
    "*": no_effect("a record, which adapters does not read either"),
}
_SEED = no_effect("initial values")
_PHM = no_effect("without `phm_layer`")
BOTTLENECK: FieldTable = {
    "architecture": done("chooses the file of `interop/adapters/`", types=(str,)),
    **dict.fromkeys(("mh_adapter", "output_adapter", "cross_adapter"), done("which branches", types=(bool,))),
    "leave_out": done("the layers without", types=(list,)),
    "reduction_factor": done("the width", types=(int, float, dict)),
    "non_linearity": done("the activation", types=(str,)),
    "scaling": refused(
        "a learned factor stands in the file, and pretune's adapters have a constant one",
        _ELSEWHERE,
        refuses=lambda value: isinstance(value, str),
    ),
    "dropout": done("in training", types=(int, float)),
    "is_parallel": done("the form `parallel`", types=(bool,)),
    "original_ln_before": done("the form: `pfeiffer` where true, else `houlsby`", types=(bool,)),
    "original_ln_after": refused(
        "without the residual connection and the norm behind it", _ELSEWHERE, allowed=(None, True)
    ),
    "residual_before_ln": refused(
        "the adapter is added to something else than the branch's answer", _ELSEWHERE, allowed=(None, True)
    ),
    **dict.fromkeys(
        ("ln_before", "ln_after"), refused("pretune's adapters have no norm", _ELSEWHERE, allowed=(None, False))
    ),
    "adapter_residual_before_ln": no_effect("without `ln_after`"),
    "use_gating": refused("pretune's adapters have no gate", _ELSEWHERE, allowed=(None, False)),
    "inv_adapter": refused("pretune has no invertible adapter behind the embedding", _ELSEWHERE),
    "invertible_adapter": refused("pretune has no invertible adapter behind the embedding", _ELSEWHERE),
    "inv_adapter_reduction_factor": no_effect("without `inv_adapter`"),
    "phm_layer": refused("pretune has no hypercomplex layers (Compacter)", _ELSEWHERE, allowed=(None, False)),
    **dict.fromkeys(("phm_dim", "phm_rank", "phm_bias", "phm_c_init", "phm_init_range", "learn_phm"), _PHM),
    **dict.fromkeys(("factorized_phm_W", "factorized_phm_rule", "shared_W_phm", "shared_phm_rule"), _PHM),
    "hypercomplex_nonlinearity": _PHM,
    "stochastic_depth": refused("pretune's adapters are not left out by chance", _ELSEWHERE, allowed=(None, 0, 0.0)),
    **dict.fromkeys(("init_weights", "init_weights_seed"), _SEED),
    **dict.fromkeys(("attention_type", "new_attention_norm"), no_effect("of a fusion, in the first releases")),
    "*": UNKNOWN,
}
_LOW_RANK: FieldTable = {
    "architecture": done("chooses the file of `interop/adapters/`", types=(str,)),
    "composition_mode": done("`add` is LoRA, `scale` is (IA)^3", types=(str,)),
    **dict.fromkeys(("selfattn_lora", "intermediate_lora", "output_lora"), done("which modules", types=(bool,))),
    "attn_matrices": done("which matrices of attention", types=(list,)),
    "leave_out": done("the layers without", types=(list,)),
    "use_gating": refused("pretune has no gate there", _ELSEWHERE, allowed=(None, False)),
    "use_dora": refused(
        "adapters divides by lengths without the scale and multiplies the bias too, and pretune and peft do neither",
        _ELSEWHERE,
        allowed=(None, False),
    ),
    **dict.fromkeys(("vera_d", "vera_b"), refused("pretune has no VeRA", _ELSEWHERE)),
    "dtype": refused("its tensors are computed with in fp32", "leave the field out", allowed=(None, "float32")),
    **dict.fromkeys(("init_weights", "init_weights_seed"), _SEED),
    "*": UNKNOWN,
}
LORA: FieldTable = {
    "r": done("the rank", types=(int,)),
    "alpha": done("the scale", types=(int, float)),
    "dropout": done("in training", types=(int, float)),
    **_LOW_RANK,
}
IA3: FieldTable = {
    "r": refused("factors have one number a row", _ELSEWHERE, allowed=(None, 1)),
    "alpha": refused("it multiplies rows that have no factors too", _ELSEWHERE, allowed=(None, 1, 1.0)),
    "dropout": refused("adapters has none there either", _ELSEWHERE, allowed=(None, 0, 0.0)),
    **_LOW_RANK,
}
TABLES: Mapping[str, FieldTable] = {"bottleneck": BOTTLENECK, "lora": LORA, "ia3": IA3}
HEAD: FieldTable = {
    "config": done("the head that was configured; none for the head of a class of `transformers`", types=(dict,)),
    "model_class": done("which head, where none was configured", types=(str,)),
    "label2id": done("the names of the classes", types=(dict,)),
    "name": done("stands in the names of the tensors", types=(str,)),
    "num_labels": no_effect("the tensors say the same"),
    "*": no_effect("as in adapter_config.json"),
}
