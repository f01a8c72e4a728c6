"""A `.gguf` file as llama.cpp keeps models: what it says of itself, and the tokenizer in it.

Read with the `gguf` package, an extra: it knows the format and its quantisations, which change.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from pretune.errors import DataError, MissingInputError, MissingPackageError
from pretune.text.tokenizer.gguf_check import check_gguf
from pretune.text.tokenizer.gguf_words import read_gguf_words
from pretune.text.tokenizer.layout_check import MAX_ADDED, MAX_SCORE, check_subwords
from pretune.text.tokenizer.sentencepiece import merges_of, metaspace, set_template

MAX_CHAT_TEMPLATE = 256 << 10  # characters, as in the files of a folder
_MAGIC = b"GGUF"
_UNKNOWN, _CONTROL, _USER = 2, 3, 4  # kinds of tokens
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|%s| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_CUT = {"llama-bpe": r"\p{N}{1,3}", "llama3": r"\p{N}{1,3}", "smaug-bpe": r"\p{N}{1,3}", "qwen2": r"\p{N}"}
_WHOLE = ("default", "gpt-2", "gpt2")


def open_gguf(path: Path) -> Any:
    """A `gguf.GGUFReader`.

    Raises:
        MissingInputError: no such file.
        MissingPackageError: the extra is not installed.
        DataError: not a GGUF file, or a damaged one.
    """
    if not path.is_file():
        raise MissingInputError(f"{path}: no such file")
    with path.open("rb") as file:
        if file.read(4) != _MAGIC:
            raise DataError(f"{path}: not a GGUF file: it does not begin with {_MAGIC.decode()}")
    try:
        import gguf
    except ImportError:
        raise MissingPackageError(f"{path}: reading GGUF needs the package gguf: pip install 'pretune[gguf]'") from None
    try:
        stat = path.stat()
        return _reader(gguf.GGUFReader, path, stat.st_mtime_ns, stat.st_size)
    except DataError:
        raise
    except Exception as error:  # numpy, struct and enum errors of many kinds, each for a damaged file
        raise DataError(f"{path}: a damaged GGUF file, or one that is newer than gguf: {error}") from None


@lru_cache(maxsize=1)
def _reader(reader_class: Any, path: Path, *version: int) -> Any:
    """Reading takes seconds where there are many tokens, and a model and its tokenizer come from one file."""
    check_gguf(path)
    return reader_class(path)


def read_metadata(path: Path, reader: Any) -> dict[str, Any]:
    """All that a file says beside its tensors.

    Raises:
        DataError: a string that is not UTF-8, or a value of no kind.
    """
    try:
        return {name: field.contents() for name, field in reader.fields.items()}
    except Exception as error:  # as in open_gguf
        raise DataError(f"{path}: a damaged GGUF file: {error}") from None


def read_gguf_tokenizer(path: Path) -> tuple[tokenizers.Tokenizer, dict[str, Any]]:
    """The tokenizer of a file, and its settings as tokenizer_config.json would say them.

    Raises:
        DataError: none in it, or one of a kind that is not known.
    """
    metadata = read_metadata(path, open_gguf(path))
    prefix = "tokenizer.ggml."
    own = {name.removeprefix(prefix): value for name, value in metadata.items() if name.startswith(prefix)}
    pieces, tokenizer_kind = own.get("tokens"), own.get("model")
    if not isinstance(pieces, list) or not all(isinstance(piece, str) for piece in pieces):
        raise DataError(f"{path}: no tokenizer in this file (tokenizer.ggml.tokens)")
    if tokenizer_kind == "gpt2":
        backend = _bytes(path, own, pieces)
    elif tokenizer_kind == "llama":
        backend = _pieces(path, own, pieces)
    elif tokenizer_kind == "bert":
        return read_gguf_words(path, own, pieces)
    else:
        raise DataError(f"{path}: tokenizer.ggml.model {tokenizer_kind!r}: expected gpt2, llama or bert")
    types = _list(own, "token_type") or [1] * len(pieces)
    if (count := sum(type_ in (_CONTROL, _UNKNOWN, _USER) for type_ in types)) > MAX_ADDED:
        raise DataError(f"{path}: tokenizer.ggml.token_type: {count:,} special tokens, more than {MAX_ADDED:,}")
    backend.add_special_tokens([p for p, type_ in zip(pieces, types, strict=False) if type_ in (_CONTROL, _UNKNOWN)])
    backend.add_tokens(
        [AddedToken(p, normalized=False) for p, type_ in zip(pieces, types, strict=False) if type_ == _USER]
    )
    settings: dict[str, Any] = {}
    for role, name in {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}.items():
        number = own.get(f"{name}_token_id")
        settings[f"{role}_token"] = pieces[number] if isinstance(number, int) and 0 <= number < len(pieces) else None
    # where the file is silent, as llama.cpp has it
    begins = tokenizer_kind == "llama" or str(own.get("pre")).startswith("llama")
    settings["add_bos_token"] = bool(own.get("add_bos_token", begins))
    settings["add_eos_token"] = bool(own.get("add_eos_token", False))
    set_template(backend, settings)
    if templates := _chat_templates(path, metadata):
        settings["chat_template"] = templates
    return backend, settings


def _chat_templates(path: Path, metadata: Mapping[str, Any]) -> str | list[dict[str, str]] | None:
    """The chat template of a file, or all where it has several, as tokenizer_config.json has them.

    Raises:
        DataError: one that is no text, or too long.
    """
    first = "tokenizer.chat_template"
    values = {name: value for name, value in metadata.items() if name == first or name.startswith(f"{first}.")}
    for name, value in values.items():
        if not isinstance(value, str) or len(value) > MAX_CHAT_TEMPLATE:
            raise DataError(f"{path}: {name} is no text of at most {MAX_CHAT_TEMPLATE:,} characters; correct the file")
    if values.keys() == {first}:
        return str(values[first])
    named = {name.removeprefix(first).removeprefix(".") or "default": value for name, value in values.items()}
    return [{"name": name, "template": value} for name, value in named.items()] or None


def _list(own: Mapping[str, Any], name: str) -> list[Any]:
    value = own.get(name)
    return value if isinstance(value, list) else []


def _bytes(path: Path, own: Mapping[str, Any], pieces: Sequence[str]) -> tokenizers.Tokenizer:
    """Byte-level BPE."""
    name = str(own.get("pre", "default"))
    if name in _CUT:
        split = pre_tokenizers.Split(Regex(_WORD % _CUT[name]), "isolated")
        before: Any = pre_tokenizers.Sequence(
            [split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
        )
    elif name == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        before = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    elif name in _WHOLE:
        before = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        known = ", ".join(sorted([*_CUT, *_WHOLE, "smollm"]))
        raise DataError(f"{path}: tokenizer.ggml.pre {name!r} is not known; known: {known}")
    merges: list[Any] = [tuple(str(merge).split(" ", 1)) for merge in _list(own, "merges")]
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    if not all(len(pair) == 2 and {*pair, "".join(pair)} <= vocabulary.keys() for pair in merges):
        raise DataError(f"{path}: tokenizer.ggml.merges names pieces that are not among the tokens")
    check_subwords(path, vocabulary, merges)
    whole = name.startswith(("llama", "smaug"))
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, merges, ignore_merges=whole))
    if name == "qwen2":
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer, backend.decoder = before, decoders.ByteLevel()
    return backend


def _check_scores(path: Path, merges: Sequence[tuple[str, str]], scores: Mapping[str, float]) -> None:
    """Refuses scores that do not say what is merged first: llama.cpp merges pieces of one score from left to right.

    Raises:
        DataError: naming two pieces of one score.
    """
    by_score: dict[float, str] = {}
    for piece in dict.fromkeys(left + right for left, right in merges):
        other = by_score.setdefault(scores[piece], piece)
        if other != piece:
            raise DataError(
                f"{path}: field 'tokenizer.ggml.scores': {other!r} and {piece!r} have one score, {scores[piece]:g}, so "
                "that the file does not say which is merged first; use the tokenizer.json of the model it was made of"
            )


def _pieces(path: Path, own: Mapping[str, Any], pieces: Sequence[str]) -> tokenizers.Tokenizer:
    """BPE by scores, as sentencepiece has it."""
    scores = _list(own, "scores")
    if len(scores) != len(pieces) or not all(
        isinstance(score, int | float) and abs(score) < MAX_SCORE for score in scores
    ):
        raise DataError(f"{path}: tokenizer.ggml.scores does not have a score for each token")
    unknown = own.get("unknown_token_id", 0)
    if not isinstance(unknown, int) or not 0 <= unknown < len(pieces):
        raise DataError(f"{path}: tokenizer.ggml.unknown_token_id {unknown!r} is not one of {len(pieces)} tokens")
    vocabulary = {piece: n for n, piece in enumerate(pieces)}
    merges = merges_of(pieces, scores)
    _check_scores(path, merges, {piece: float(score) for piece, score in zip(pieces, scores, strict=True)})
    check_subwords(path, vocabulary, merges)
    model = models.BPE(vocabulary, merges, unk_token=pieces[unknown], fuse_unk=True, byte_fallback=True)
    backend = tokenizers.Tokenizer(model)
    metaspace(backend, [], prefix=bool(own.get("add_space_prefix", True)), split=False, byte_fallback=True)
    return backend
