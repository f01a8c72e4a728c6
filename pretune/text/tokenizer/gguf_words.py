"""WordPiece as llama.cpp's files have it, for BERT: pieces that begin a word have a mark, those that go on have none.

llama.cpp lower-cases every text and drops accents; there are no cased tokenizers of this kind.

Source: llama.cpp's `convert_hf_to_gguf.py` (`BertModel.set_vocab`) and `llm_tokenizer_wpm` of `src/llama-vocab.cpp`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors

from pretune.errors import DataError

_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3
_BEGINS = "▁"
_ROLES = {"unk": "unknown", "cls": "cls", "sep": "seperator", "pad": "padding", "mask": "mask"}


def read_gguf_words(
    path: Path, own: Mapping[str, Any], pieces: Sequence[str]
) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The tokenizer of a file, and its settings as tokenizer_config.json would say them.

    Args:
        own: the fields of the tokenizer, without their prefix.
        pieces: of all ids.

    Raises:
        DataError: a special token that the file does not name, or that is not among the tokens.
    """
    types = own.get("token_type")
    types = types if isinstance(types, list) and len(types) == len(pieces) else [_NORMAL] * len(pieces)
    names = [_plain(piece, type_) for piece, type_ in zip(pieces, types, strict=True)]
    settings: dict[str, Any] = {}
    numbers: dict[str, int] = {}
    for role, name in _ROLES.items():
        number = own.get(f"{name}_token_id", own.get("bos_token_id") if role == "cls" else None)
        if isinstance(number, int) and 0 <= number < len(pieces):
            settings[f"{role}_token"], numbers[role] = names[number], number
    missing = [role for role in ("unk", "cls", "sep") if role not in numbers]
    if missing:
        raise DataError(
            f"{path}: tokenizer.ggml.{_ROLES[missing[0]]}_token_id is missing or not one of {len(pieces)} tokens; "
            "convert the model again"
        )
    vocabulary = {name: n for n, name in reversed(list(enumerate(names)))}
    backend = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=settings["unk_token"]))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    cls, sep = ((settings[f"{role}_token"], numbers[role]) for role in ("cls", "sep"))
    backend.post_processor = processors.BertProcessing(sep, cls)
    backend.add_special_tokens([n for n, type_ in zip(names, types, strict=True) if type_ in (_UNKNOWN, _CONTROL)])
    return backend, settings


def _plain(piece: str, type_: int) -> str:
    """A piece as a vocabulary of WordPiece has it."""
    if type_ != _NORMAL:
        return piece
    return piece.removeprefix(_BEGINS) if piece.startswith(_BEGINS) else f"##{piece}"
