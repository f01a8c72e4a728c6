"""Fields of `config.json`: what they mean where a file leaves them out, says them otherwise, or has them wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import parity
import pytest
import torch
import transformers as hf
from transformers.activations import ACT2FN

from pretune.errors import DataError
from pretune.field_table import check_fields
from pretune.find import variants
from pretune.interop.file_fields import config_table
from pretune.interop.huggingface import load_model, save_model
from pretune.models.model import get_family
from pretune.nn.activation import ACTIVATIONS, activation

CLASSES = {
    "gpt": hf.OpenAIGPTConfig,
    "gpt2": hf.GPT2Config,
    "gpt3": hf.GPTNeoConfig,
    "xlnet": hf.XLNetConfig,
    "modernbert": hf.ModernBertConfig,
    "distilbert": hf.DistilBertConfig,
    "roberta": hf.RobertaConfig,
    "bert2bert": lambda: hf.EncoderDecoderConfig.from_encoder_decoder_configs(hf.BertConfig(), hf.BertConfig()),
}
OURS_ALONE = {
    "mem_len",  # memory of earlier texts, which a model in use does not keep
    "layer_types",  # follow from the number of layers, and are written where they do not
    "decoder_vocab_size",  # follows from vocab_size
}
LEARNED = {"prelu", "xielu"}  # activations with parameters
QWEN = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


def config_class(family: str) -> Any:
    return CLASSES.get(family) or getattr(hf, f"{family.capitalize()}Config")


@pytest.mark.parametrize("family", variants("models"))
def test_a_field_that_a_file_leaves_out_means_what_it_means_to_transformers(family):
    """RoBERTa's files may leave out 512 positions, Marian's its activation: our defaults are those of the papers."""
    module = get_family(family)
    theirs = json.loads(config_class(family)().to_json_string(use_diff=False))
    ours = module.Config.model_validate(getattr(module, "FILE_DEFAULTS", {})).model_dump(mode="json")
    skipped = {getattr(module, "ATTENTION_DROPOUT", ""), *OURS_ALONE}
    if theirs.get("decoder_start_token_id", 0) is None:
        skipped.add("decoder_start_token_id")  # without it transformers writes nothing
    ends = {name for name in ours if name.endswith(("bos_token_id", "eos_token_id"))}
    shared = (ours.keys() & theirs.keys()) - skipped - ends
    for name in shared:
        mine, other = ours[name], theirs[name]
        if isinstance(mine, dict) and isinstance(other, dict):  # another family's, whose own test compares it whole
            both = (mine.keys() & other.keys()) - {"attention_probs_dropout_prob"}
            mine, other = ({each: side[each] for each in both} for side in (mine, other))
        assert mine == other, name


@pytest.mark.parametrize("family", variants("models"))
def test_every_field_of_transformers_stands_in_a_table(family):
    table = config_table(get_family(family))
    fields = json.loads(config_class(family)().to_json_string(use_diff=False))
    assert [name for name in fields if name not in table] == []
    assert [name for name in config_class(family)().attribute_map if name not in table] == []


@pytest.mark.parametrize("name", sorted(set(ACT2FN) - LEARNED))
def test_all_activations_of_transformers(name):
    x = torch.randn(999) * 4
    torch.testing.assert_close(activation(name)(x), ACT2FN[name](x), rtol=1e-5, atol=1e-6)


def test_activations_are_all_known_there():
    assert set(ACTIVATIONS) <= set(ACT2FN)


@pytest.mark.parametrize(
    "fields",
    [
        {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1},
        {
            "use_sliding_window": True,
            "sliding_window": 4,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
        {"use_sliding_window": False, "sliding_window": 3, "max_window_layers": 0},
    ],
)
@pytest.mark.parametrize("family", ["Qwen2", "Qwen3"])
def test_windows_of_qwen(family, fields, tmp_path):
    torch.manual_seed(0)
    model_class = getattr(hf, f"{family}ForCausalLM")
    theirs = model_class(getattr(hf, f"{family}Config")(**QWEN, **fields))
    parity.randomise(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    parity.assert_parity(ours, theirs)
    save_model(ours, tmp_path / "ours")
    parity.assert_parity(ours, parity.reload(model_class, tmp_path / "ours"))


def save_gpt2(folder: Path, **fields: object) -> Path:
    torch.manual_seed(0)
    config = hf.GPT2Config(vocab_size=61, n_embd=32, n_layer=1, n_head=2, n_positions=40, pad_token_id=0)
    theirs = hf.GPT2LMHeadModel(config)
    parity.randomise(theirs)
    theirs.save_pretrained(folder)
    path = folder / "config.json"
    config_fields = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({name: value for name, value in config_fields.items() if value != "DROP"}))
    return folder


def test_other_names_of_fields(tmp_path):
    folder = save_gpt2(tmp_path, hidden_size=32, n_embd="DROP", num_hidden_layers=1, n_layer="DROP")
    parity.assert_parity(load_model(folder), hf.GPT2LMHeadModel.from_pretrained(folder))
    folder = save_gpt2(tmp_path, hidden_size=64)
    with pytest.raises(DataError, match=r"config.json: field 'hidden_size' = 64 is another name of 'n_embd' = 32"):
        load_model(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"summary_type": 3}, r"field 'summary_type' = 3: expected a text; correct the field"),
        ({"task_specific_params": [1]}, r"field 'task_specific_params' = \[1\]: expected an object"),
        ({"eos_token_id": "</s>"}, r"field 'eos_token_id' = \"</s>\""),
        ({"per_layer_config": {"0": {}}}, r"field 'per_layer_config' = .*; use a model of equal layers"),
        ({"attn_pdrop": "high"}, r"field 'attn_pdrop' = \"high\""),
    ],
)
def test_a_field_of_the_wrong_type_is_named_with_its_remedy(fields, message, tmp_path):
    with pytest.raises(DataError, match=message):
        load_model(save_gpt2(tmp_path, **fields))


def test_fields_that_are_not_known_are_said_and_handed_on(tmp_path):
    large = {"some_field": {"text": "x" * 5000}, "_another": [1]}
    ours = load_model(save_gpt2(tmp_path / "theirs", **large))
    assert any("2 fields 'some_field', '_another' are not known here" in note for note in ours.loaded.notes)
    save_model(ours, tmp_path / "ours")
    written = json.loads((tmp_path / "ours" / "config.json").read_text())
    assert {name: written[name] for name in large} == large


def test_two_labels_of_bart_are_counted_in_its_head(tmp_path):
    """`transformers` writes neither names nor number of two, and reads three: its own folder does not load there."""
    sizes = {
        f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads", "ffn_dim")
    }
    config = hf.BartConfig(vocab_size=61, d_model=32, max_position_embeddings=40, num_labels=2, **sizes)
    hf.BartForSequenceClassification(config).save_pretrained(tmp_path / "theirs")
    ours = load_model(tmp_path / "theirs")
    assert ours.labels == ["LABEL_0", "LABEL_1"]
    save_model(ours, tmp_path / "ours")
    assert hf.BartForSequenceClassification.from_pretrained(tmp_path / "ours").config.num_labels == 2


PUBLISHED: dict[str, dict[str, Any]] = {
    "modernbert": {
        **dict.fromkeys(("global_rope_theta", "local_rope_theta"), 1e4),
        "global_attn_every_n_layers": 3,
        "gradient_checkpointing": False,
        "layer_norm_eps": 1e-5,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
    },
    "bart": {
        "classif_dropout": 0.1,
        "classifier_dropout": 0.0,
        "num_hidden_layers": 12,
        "encoder_layers": 12,
        "_num_labels": 3,
        "add_bias_logits": False,
        "add_final_layer_norm": False,
        "normalize_before": False,
        "normalize_embedding": True,
        "static_position_embeddings": False,
        "gradient_checkpointing": False,
        "num_beams": 4,
        "no_repeat_ngram_size": 3,
        "early_stopping": True,
        "prefix": " ",
        "output_past": False,
    },
    "marian": {
        "_name_or_path": "x",
        "bad_words_ids": [[58100]],
        "extra_pos_embeddings": 58101,
        "max_length": 512,
        "scale_embedding": True,
        "static_position_embeddings": True,
        "use_cache": True,
        "num_beams": 6,
    },
    "t5": {"n_positions": 512, "output_past": True, "task_specific_params": {}, "dense_act_fn": "relu"},
    "gpt2": {"n_ctx": 1024, "summary_type": "cls_index", "summary_activation": None, "predict_special_tokens": True},
    "gpt": {"n_special": 0, "n_ctx": 512, "predict_special_tokens": True, "summary_first_dropout": 0.1},
    "gpt3": {"attention_layers": ["global"], "gradient_checkpointing": False, "tokenizer_class": "GPT2Tokenizer"},
    "llama": {"pretraining_tp": 1, "rope_scaling": None, "is_llama_config": True, "rope_interleaved": False},
    "qwen2": {"use_mrope": False, "max_window_layers": 28, "sliding_window": 32768, "use_sliding_window": False},
    "xlnet": {"untie_r": True, "start_n_top": 5, "end_n_top": 5, "reuse_len": None, "same_length": False},
    "albert": {"down_scale_factor": 1, "gap_size": 0, "net_structure_type": 0, "num_memory_blocks": 0},
    "bert": {"directionality": "bidi", "pooler_fc_size": 768, "pooler_type": "first_token_transform"},
    "distilbert": {"tie_weights_": True, "output_past": True},
    "electra": {"summary_use_proj": True, "summary_last_dropout": 0.1, "position_embedding_type": "absolute"},
}


@pytest.mark.parametrize("family", PUBLISHED)
def test_fields_of_published_models_pass_without_a_word(family):
    """As they stand in the config.json of the families' first and best known models."""
    assert check_fields("config.json", PUBLISHED[family], config_table(get_family(family))) == []


def test_bart_says_an_older_rate_beside_its_own(tmp_path):
    sizes = {
        f"{side}_{name}": 2 for side in ("encoder", "decoder") for name in ("layers", "attention_heads", "ffn_dim")
    }
    hf.BartModel(hf.BartConfig(vocab_size=61, d_model=32, max_position_embeddings=40, **sizes)).save_pretrained(
        tmp_path
    )
    path = tmp_path / "config.json"
    fields = json.loads(path.read_text()) | {"classif_dropout": 0.1, "classifier_dropout": 0.0, "num_hidden_layers": 2}
    path.write_text(json.dumps(fields))
    assert load_model(tmp_path).config.classifier_dropout == 0.0
