"""Writes a tokenizer as `transformers` loads it, and tells which special token has which role."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers

from pretune.text.tokenizer.vocabulary import ROLES

Settings = dict[str, Any]
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
"""The files that `write_tokenizer` writes."""
_GUESSES = {
    "pad": ("[PAD]", "<pad>"),
    "cls": ("[CLS]",),
    "sep": ("[SEP]",),
    "mask": ("[MASK]", "<mask>"),
    "bos": ("<s>", "<|endoftext|>"),
    "eos": ("</s>", "<|endoftext|>"),
}
AS_WRITTEN = "PreTrainedTokenizerFast"
"""The class of `transformers` that uses a tokenizer.json as it is; the others put their own pipeline in its place."""
KEEP_AS_WRITTEN = {"AutoTokenizer": [None, "as_written.TokenizersBackend"]}
"""A value of `auto_map` that names no file. `transformers` has model types for which it overrules the class that is
written, except where `auto_map` names a class of the folder's own: that is not trusted, and the class written is."""
_REBUILDING = ("add_bos_token", "add_eos_token")  # with these, `transformers` makes the template anew


def write_tokenizer(
    directory: Path, backend: tokenizers.Tokenizer, settings: Mapping[str, Any], roles: Mapping[str, str]
) -> None:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
    directory.mkdir(parents=True, exist_ok=True)
    special = {f"{role}_token": token for role, token in roles.items()}
    segments = {"cls", "sep"} <= roles.keys() and any(backend.encode("a", "b").type_ids)
    defaults = {
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", *(["token_type_ids"] if segments else []), "attention_mask"],
    }
    kept = {name: value for name, value in settings.items() if name not in _REBUILDING}
    if kept.get("auto_map") != KEEP_AS_WRITTEN:  # code of a folder that this one is not
        kept.pop("auto_map", None)
    files = {
        "tokenizer_config.json": {**defaults, **kept, **special, "tokenizer_class": AS_WRITTEN},
        "special_tokens_map.json": special,
    }
    (directory / "tokenizer.json").write_text(backend.to_str(pretty=True) + "\n", encoding="utf-8")
    for name, content in files.items():
        text = json.dumps(content, ensure_ascii=False, indent=2, sort_keys=True) + "\n"
        (directory / name).write_text(text, encoding="utf-8")


def roles_of(layout: Mapping[str, Any], settings: Mapping[str, Any], backend: tokenizers.Tokenizer) -> dict[str, int]:
    """The id of each special role: as the settings say, else by the usual names; the unknown one as the model says."""
    special = {token["content"] for token in layout["added_tokens"] if token["special"]}
    role_ids: dict[str, int] = {}
    for role in ROLES:
        if role == "unk":
            continue
        stated = settings.get(f"{role}_token")
        names = [stated["content"] if isinstance(stated, Mapping) else stated] if stated else []
        names = names or [name for name in _GUESSES[role] if name in special and f"{role}_token" not in settings]
        ids = [i for name in names if (i := backend.token_to_id(name)) is not None]
        if ids:
            role_ids[role] = ids[0]
    unknown = _unknown(layout["model"], backend)
    return role_ids if unknown is None else role_ids | {"unk": unknown}


def _unknown(model: Mapping[str, Any], backend: tokenizers.Tokenizer) -> int | None:
    if model["type"] == "Unigram":
        return model.get("unk_id")
    name = model.get("unk_token")
    token_id: int | None = None if name is None else backend.token_to_id(name)
    return token_id
