"""A tokenizer as llama.cpp's files have it: tokens, their types and merges, and the key that names how text is cut.

llama.cpp knows a fixed list of ways to cut text, by key. A tokenizer that cuts in another way is refused: it would be
read without an error, and give other ids.

Source: llama.cpp's `convert_hf_to_gguf.py` (`get_vocab_base_pre`) and `src/llama-vocab.cpp`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pretune.models.model import LanguageModel
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.vocabulary import stages

NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
Metadata = dict[str, Any]
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3, _QWEN2 = _WORD % r"\p{N}{1,3}", _WORD % r"\p{N}"
_ROLES = {
    "bos": "bos",
    "eos": "eos",
    "pad": "padding",
    "unk": "unknown",
    "cls": "cls",
    "sep": "seperator",
    "mask": "mask",
}


def tokenizer_problem(tokenizer: Tokenizer, family: str) -> str | None:
    """Says what of a tokenizer llama.cpp does not have, and the remedy; None where it has all."""
    layout = tokenizer.layout
    model_type = layout["model"]["type"]
    if family == "bert":
        return _word_problem(layout, tokenizer)
    if model_type != "BPE":
        return f"its tokenizer is a {model_type}, which llama.cpp has for other architectures; use a BPE"
    before, after = tokenizer.vocabulary.prefix, tokenizer.vocabulary.suffix
    bos, eos = tokenizer.vocabulary.bos, tokenizer.vocabulary.eos
    if before not in ((), (bos,)) or after not in ((), (eos,)):
        return "its tokenizer puts other tokens around a text than bos and eos, which llama.cpp cannot do"
    if layout["model"].get("byte_fallback"):
        return _sentencepiece_problem(layout)
    if pre_key(layout) is None:
        return (
            f"its tokenizer cuts text by {_shown(layout['pre_tokenizer'])}, for which llama.cpp has no key "
            "(tokenizer.ggml.pre); train a tokenizer that cuts as GPT-2's does: pretune tokenizer --kind bpe"
        )
    return None


def _shown(part: object) -> str:
    text = json.dumps(part, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."


def pre_key(layout: Mapping[str, Any]) -> str | None:
    """The key by which llama.cpp cuts text as a byte-level tokenizer does; None where it has none."""
    normalizer = stages(layout["normalizer"], "normalizers")
    steps = stages(layout["pre_tokenizer"], "pretokenizers")
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    whole, uses_regex = bool(layout["model"].get("ignore_merges")), steps[-1]["use_regex"]
    if any(step["type"] != "NFC" for step in normalizer):
        return None
    if len(steps) == 1:
        return "gpt-2" if uses_regex and not whole and not normalizer else None
    if len(steps) != 2:
        return None
    first = steps[0]
    if first["type"] == "Digits" and first["individual_digits"] and uses_regex and not whole and not normalizer:
        return "smollm"
    if first["type"] != "Split" or uses_regex or first["behavior"] != "Isolated" or first["invert"]:
        return None
    pattern = first["pattern"].get("Regex")
    if pattern == _QWEN2 and not whole:
        return "qwen2"
    return "llama-bpe" if pattern == _LLAMA3 and whole and not normalizer else None


def _sentencepiece_problem(layout: Mapping[str, Any]) -> str | None:
    """A BPE on pieces, of which llama.cpp wants scores: what is merged first must follow from what it makes."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(layout["model"]["merges"]):
        ranks.setdefault(left + right, rank)
    if layout["model"].get("ignore_merges"):
        return "its tokenizer takes whole pieces before merges, which llama.cpp's does not"
    return None


def _word_problem(layout: Mapping[str, Any], tokenizer: Tokenizer) -> str | None:
    model = layout["model"]
    if model["type"] != "WordPiece" or model.get("continuing_subword_prefix") != "##":
        return f"its tokenizer is a {model['type']}, and llama.cpp's bert has WordPiece; use a BERT of words' pieces"
    normalizer = stages(layout["normalizer"], "normalizers")
    plain = [step for step in normalizer if step["type"] == "BertNormalizer"]
    if len(normalizer) != 1 or not plain or not plain[0]["lowercase"] or plain[0]["strip_accents"] is False:
        return "its tokenizer keeps capitals or accents, which llama.cpp's WordPiece drops; use an uncased model"
    vocabulary = tokenizer.vocabulary
    if vocabulary.prefix != (vocabulary.cls,) or vocabulary.suffix != (vocabulary.sep,):
        return "its tokenizer puts other tokens around a text than cls and sep, which llama.cpp's bert always does"
    return None


def tokenizer_metadata(tokenizer: Tokenizer, model: LanguageModel, template: str | None) -> Metadata:
    """What the file says of the tokenizer, without the prefix `tokenizer.`.

    Args:
        template: of chats.
    """
    layout, vocabulary = tokenizer.layout, tokenizer.vocabulary
    out = _tokens(tokenizer, model)
    for role, name in _ROLES.items():
        number = getattr(vocabulary, role)
        if number is not None:
            out[f"ggml.{name}_token_id"] = int(number)
    if model.family == "bert":
        out["ggml.token_type_count"] = model.segments
        out |= {"ggml.bos_token_id": vocabulary.cls, "ggml.eos_token_id": vocabulary.sep}  # what it puts around a text
    else:
        out["ggml.add_bos_token"] = vocabulary.prefix == (vocabulary.bos,) and vocabulary.bos is not None
        out["ggml.add_eos_token"] = vocabulary.suffix == (vocabulary.eos,) and vocabulary.eos is not None
    if out["ggml.model"] == "llama":
        out["ggml.add_space_prefix"] = _has_prefix_space(layout)
    if template is not None:
        out["chat_template"] = template
    return out


def _tokens(tokenizer: Tokenizer, model: LanguageModel) -> Metadata:
    layout = tokenizer.layout
    added = {token["id"]: token for token in layout["added_tokens"]}
    names: list[str] = []
    types: list[int] = []
    unknown = tokenizer.vocabulary.unk
    for number in range(model.vocab_size):
        name = tokenizer.subwords[number] if number < len(tokenizer.subwords) else None
        if name is None:  # rows that no token has
            names.append(f"[PAD{number}]")
            types.append(UNUSED)
            continue
        token = added.get(number)
        names.append(name)
        if number == unknown:
            types.append(UNKNOWN)
        elif token is not None:
            types.append(CONTROL if token["special"] else USER)
        else:
            types.append(NORMAL)
    if model.family == "bert":
        return {
            "ggml.model": "bert",
            "ggml.pre": "default",
            "ggml.tokens": _words(names, types),
            "ggml.token_type": types,
        }
    merges: Sequence[Sequence[str]] = [
        merge.split(" ", 1) if isinstance(merge, str) else merge for merge in layout["model"]["merges"]
    ]
    if layout["model"].get("byte_fallback"):
        return _sentencepieces(names, types, merges)
    return {
        "ggml.model": "gpt2",
        "ggml.pre": pre_key(layout),
        "ggml.tokens": names,
        "ggml.token_type": types,
        "ggml.merges": [" ".join(merge) for merge in merges],
    }


def _words(names: Sequence[str], types: Sequence[int]) -> list[str]:
    """Pieces as llama.cpp has them: a mark before those that begin a word, none before those that go on with it."""
    return [
        name if type != NORMAL else name.removeprefix("##") if name.startswith("##") else f"▁{name}"
        for name, type in zip(names, types, strict=True)
    ]


def _sentencepieces(names: list[str], types: list[int], merges: Sequence[Sequence[str]]) -> Metadata:
    """Pieces with scores: the earlier a piece is made, the higher."""
    ranks: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        ranks.setdefault(left + right, rank)
    scores = []
    for number, name in enumerate(names):
        is_byte = len(name) == 6 and name.startswith("<0x") and name.endswith(">") and types[number] == NORMAL
        types[number] = BYTE if is_byte else types[number]
        scores.append(-float(ranks[name]) - 1 if name in ranks else 0.0 if types[number] != NORMAL else -1e9)
    return {
        "ggml.model": "llama",
        "ggml.pre": "default",
        "ggml.tokens": names,
        "ggml.token_type": types,
        "ggml.scores": scores,
    }


def _has_prefix_space(layout: Mapping[str, Any]) -> bool:
    for step in [*stages(layout["normalizer"], "normalizers"), *stages(layout["pre_tokenizer"], "pretokenizers")]:
        if step["type"] == "Prepend":
            return True
        if step["type"] == "Metaspace":
            return bool(step.get("prepend_scheme", "always") != "never")
    return False
