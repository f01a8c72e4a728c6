"""The tables of the files beside a tokenizer: what becomes of each field, for `field_table.check_fields`."""

from __future__ import annotations

from collections.abc import Mapping

from pretune.field_table import FieldTable, Treatment, done, handed_on, no_effect

_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")
_NAMED: FieldTable = {
    **{f"{role}_token": done("the special token of this role") for role in _ROLES},
    "additional_special_tokens": done("special tokens without a role", types=(list,)),
    "extra_special_tokens": done("special tokens without a role, or by names of the model's own"),
    "model_specific_special_tokens": done("special tokens by names of the model's own", types=(dict,)),
    "*_token": done("a special token by a name of the model's own"),
}
_TRUNCATION = handed_on("pretune cuts long texts as the task says, at the end", note_unless=(None, "right"))
_RECORD = no_effect("a record")
TOKENIZER_CONFIG: Mapping[str, Treatment] = {
    **_NAMED,
    "tokenizer_class": done("chooses the rules by which the files are read, as `transformers` 5 does", types=(str,)),
    "added_tokens_decoder": done("added tokens and their ids; other files' added tokens are then out of force"),
    "do_lower_case": done("lower-casing, where the class has it", types=(bool,)),
    "strip_accents": done("accents, where the class has it", types=(bool,)),
    "tokenize_chinese_chars": done("whether each Chinese character is a word, for BERT's class", types=(bool,)),
    "keep_accents": done("accents, for ALBERT's class", types=(bool,)),
    "remove_space": no_effect("`transformers` 5 does not read it", types=(bool,)),
    "add_prefix_space": done("a space before a text", types=(bool,)),
    "add_bos_token": done("the begin token, where no tokenizer.json says it", types=(bool,)),
    "add_eos_token": done("the end token, where no tokenizer.json says it", types=(bool,)),
    "trim_offsets": no_effect("offsets of tokens are pretune's own", types=(bool,)),
    "legacy": done("where Llama's class sets the mark of a space", types=(bool,)),
    "extra_ids": done("how many sentinels T5's class adds", types=(int,)),
    "model_max_length": done("the length that texts are cut to", types=(int, float)),
    "max_len": done("an older name of `model_max_length`", types=(int, float)),
    "clean_up_tokenization_spaces": done("spaces before signs, when text is written", types=(bool,)),
    "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output": done(
        "the same for byte-level BPE", types=(bool,)
    ),
    "separate_vocabs": done("Marian: a vocabulary for each side is refused", types=(bool,)),
    "source_lang": no_effect("Marian: names a language", types=(str,)),
    "target_lang": no_effect("Marian: names a language", types=(str,)),
    "sp_model_kwargs": Treatment(
        "refused",
        "options of the sentencepiece library, such as sampling, are not read",
        "remove the field from tokenizer_config.json",
        allowed=(None, {}),
    ),
    "chat_template": handed_on("used by chat software; refused where it does not parse", types=(str, list, dict)),
    "default_system_prompt": handed_on("used by chat software"),
    "use_default_system_prompt": handed_on("used by chat software"),
    "response_template": handed_on("used by chat software"),
    "response_schema": handed_on("used by chat software"),
    "chat_control_tokens": handed_on("used by chat software"),
    "padding_side": no_effect("there is no padding here", types=(str,)),
    "pad_token_type_id": no_effect("there is no padding here", types=(int,)),
    "pad_to_multiple_of": no_effect("there is no padding here", types=(int,)),
    "truncation_side": _TRUNCATION,
    "truncation_strategy": no_effect("the task says which text of a pair is cut"),
    "stride": no_effect("the task says how long texts are cut into windows"),
    "max_length": no_effect("the task says how long texts are cut"),
    "model_input_names": handed_on("what others give the model; here the model says which segments it has"),
    "split_special_tokens": handed_on("special tokens in a text are text here unless they are asked for"),
    "errors": no_effect("how bytes that are no UTF-8 are decoded: a replacement character", types=(str,)),
    "never_split": handed_on("`transformers` 5 does not read it"),
    "do_basic_tokenize": handed_on("`transformers` 5 does not read it", note_unless=(None, True)),
    "unk_id": done("the unknown token's id, for XLNet's class", types=(int,)),
    "auto_map": no_effect(
        "code in a folder is never run: the class that is named, or the model type's, reads the files"
    ),
    "use_fast": _RECORD,
    "backend": _RECORD,
    "is_local": _RECORD,
    "local_files_only": _RECORD,
    "name_or_path": _RECORD,
    "special_tokens_map_file": _RECORD,
    "tokenizer_file": _RECORD,
    "vocab_file": _RECORD,
    "merges_file": _RECORD,
    "processor_class": _RECORD,
    "image_processor_type": _RECORD,
    "init_inputs": Treatment("refused", "arguments without names are not read", "remove the field", allowed=(None, [])),
    "verbose": _RECORD,
    "full_tokenizer_file": _RECORD,
    "fast_tokenizer_files": Treatment(
        "refused",
        "a file for each version of the library is not read",
        "keep one as tokenizer.json and remove the field",
        allowed=(None, [], ["tokenizer.json"]),
    ),
    "transformers_version": _RECORD,
    "device_map": _RECORD,
    "dtype": _RECORD,
}
SPECIAL_TOKENS_MAP: FieldTable = _NAMED
ADDED_TOKENS: FieldTable = {"*": done("a token and its id; an id that leaves a gap in the vocabulary is refused")}
TOKENIZER_JSON: FieldTable = {
    "version": _RECORD,
    "model": done("the vocabulary and how words are cut; BPE dropout is not drawn, and this is said", types=(dict,)),
    "normalizer": done(
        "as it is, or as the class named has it; a pattern whose time nothing bounds is refused", types=(dict,)
    ),
    "pre_tokenizer": done(
        "as it is, or as the class named has it; a pattern whose time nothing bounds is refused", types=(dict,)
    ),
    "post_processor": done("what stands around a text", types=(dict,)),
    "decoder": done("as it is, or as the class named has it", types=(dict,)),
    "added_tokens": done("tokens beside the vocabulary, special or not", types=(list,)),
    "padding": no_effect("there is no padding here"),
    "truncation": no_effect("the task says how long texts are cut"),
}
TOKENIZER_TABLES: Mapping[str, FieldTable] = {
    "tokenizer.json": TOKENIZER_JSON,
    "tokenizer_config.json": TOKENIZER_CONFIG,
    "special_tokens_map.json": SPECIAL_TOKENS_MAP,
    "added_tokens.json": ADDED_TOKENS,
}
"""By the name of the file."""
