"""Checks a parsed tokenizer.json before the `tokenizers` library sees it.

The library takes a file at its word: it builds what is written there, however long, however often, however deep, and
its regular expressions may take longer than anybody waits. All that it is handed has a bound here, far above what any
published tokenizer has.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Container, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from pretune.errors import DataError
from pretune.field_table import shown_value
from pretune.text.tokenizer.charsmap import check_charsmap
from pretune.text.tokenizer.pattern import check_pattern

FILE_LIMIT = 100 << 20
"""Bytes of a file with a vocabulary."""
SETTINGS_LIMIT = 32 << 20
"""Bytes of a file beside it, which may list many added tokens."""
MAX_IDS = 1 << 22
MAX_MERGES = 1 << 22
MAX_PIECE = 1024
"""Characters of a token."""
MAX_MERGED = 64 << 20
"""Characters of all merges."""
MAX_TRIE = 1 << 22
"""Beginnings of the subwords of a Unigram, each of which the library keeps by itself."""
MAX_SCORE = 1e30
"""Of a subword."""
MAX_ADDED = 1 << 18
MAX_WORD = 1000
"""Characters of a word that a WordPiece cuts, in time that grows with their square."""
_MAX_STEPS, _MAX_DEPTH = 64, 8
_MAX_TEXT = 256  # characters that a step puts into texts
_MAX_GROWTH = 1024
_MAX_TEMPLATE, _MAX_TEMPLATE_TOKENS = 64, 1024
_MAX_NUMBER = 1 << 31
_AROUND = ("TemplateProcessing", "BertProcessing", "RobertaProcessing")
_PARTS = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}


class _BoundError(Exception):
    """A part of a file that is refused, with the field and the reason."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(f"field {field!r} = {shown_value(value)}: {reason}")


def check_layout(where: Path | str, layout: Mapping[str, Any]) -> None:
    """Refuses what is no tokenizer.json, and what the library may not survive.

    Args:
        where: the file, for messages.

    Raises:
        DataError: naming file, field, value and reason.
    """
    model = layout.get("model")
    if not isinstance(model, dict):
        raise DataError(f"{where}: not a tokenizer.json: no field 'model'")
    try:
        _check_model(model)
        _check_added(layout.get("added_tokens"))
        for part, plural in _PARTS.items():
            steps = [*_steps(part, layout.get(part), plural)]
            if sum(step["type"] in _AROUND for _, step in steps) > 1:
                raise _BoundError(part, layout[part], "more than one step that sets tokens around a text")
            growth = math.prod(_check_step(field, step) for field, step in steps)
            if growth > _MAX_GROWTH:
                raise _BoundError(part, layout[part], f"its replacements make texts up to {growth:,} times longer")
    except _BoundError as error:
        raise DataError(f"{where}: {error}; the file is damaged or hostile, get it again from its source") from None


def check_subwords(where: Path | str, vocab: Mapping[str, int] | Sequence[Any], merges: Sequence[Any] = ()) -> None:
    """Refuses a vocabulary, from whatever file, that the library may not survive.

    Args:
        vocab: tokens and ids, or subwords and their scores.
        merges: pairs, or texts with a space between the two.

    Raises:
        DataError: naming file, field, value and reason.
    """
    try:
        _check_model({"vocab": vocab, "merges": merges})
    except _BoundError as error:
        raise DataError(f"{where}: {error}; the file is damaged or hostile, get it again from its source") from None


def _check_model(model: Mapping[str, Any]) -> None:
    vocab = model.get("vocab")
    if isinstance(vocab, dict):
        _check_ids(vocab)
    elif isinstance(vocab, list):
        _check_scores(vocab)
    elif vocab is not None:
        raise _BoundError(
            "model.vocab", vocab, "expected an object of tokens and ids, or a list of subwords and scores"
        )
    for name in ("unk_token", "continuing_subword_prefix", "end_of_word_suffix", "type"):
        value = model.get(name)
        if value is not None and (not isinstance(value, str) or len(value) > MAX_PIECE):
            raise _BoundError(f"model.{name}", value, f"expected a text of at most {MAX_PIECE} characters")
    known = vocab if isinstance(vocab, dict) else {}
    _check_merges(model.get("merges"), model.get("continuing_subword_prefix"), known)
    for name, most in (("max_input_chars_per_word", MAX_WORD), ("unk_id", MAX_IDS - 1)):
        value = model.get(name)
        if value is not None and not _is_count(value, most):
            raise _BoundError(f"model.{name}", value, f"expected a whole number of at most {most:,}")


def _check_ids(vocab: Mapping[str, Any]) -> None:
    numbers = vocab.values()
    if set(map(type, numbers)) != {int} or not 0 <= min(numbers) <= max(numbers) < MAX_IDS:
        bad = next((token for token, number in vocab.items() if not _is_count(number, MAX_IDS - 1)), None)
    else:
        bad = None
    if bad is not None:
        raise _BoundError(
            "model.vocab",
            {bad[:40]: vocab[bad]},
            f"no id of a vocabulary, which has at most {MAX_IDS:,} tokens: the largest id is {MAX_IDS - 1}",
        )
    _check_lengths("model.vocab", vocab)


def _check_scores(vocab: Sequence[Any]) -> None:
    if len(vocab) > MAX_IDS:
        raise _BoundError("model.vocab", len(vocab), f"more subwords than the {MAX_IDS:,} that a vocabulary may have")
    for entry in vocab:
        is_pair = isinstance(entry, list | tuple) and len(entry) == 2 and isinstance(entry[0], str)
        if not is_pair or type(entry[1]) not in (int, float) or not abs(entry[1]) < MAX_SCORE:
            raise _BoundError("model.vocab", entry, "expected a subword and its score")
    pieces = [entry[0] for entry in vocab]
    _check_lengths("model.vocab", pieces)
    if sum(map(len, pieces)) > MAX_TRIE and (count := _beginnings(pieces)) > MAX_TRIE:
        raise _BoundError("model.vocab", len(pieces), f"subwords with {count:,} beginnings; {MAX_TRIE:,} are allowed")


def _beginnings(pieces: Sequence[str]) -> int:
    """How many different beginnings subwords have, in bytes: the nodes of a trie of them."""
    before, count = b"", 0
    for piece in sorted(piece.encode() for piece in pieces):
        both = zip(before, piece, strict=False)
        count += len(piece) - next((n for n, (a, b) in enumerate(both) if a != b), min(len(before), len(piece)))
        before = piece
    return count


def _check_lengths(field: str, pieces: Mapping[str, Any] | Sequence[str]) -> None:
    longest = max(pieces, key=len, default="")
    if len(longest) > MAX_PIECE:
        raise _BoundError(field, longest, f"a token of {len(longest):,} characters, more than {MAX_PIECE:,}")


def _check_merges(merges: Any, prefix: Any, vocab: Container[str]) -> None:
    """Refuses merges of another form, too many, too long, of unknown tokens, or without the prefix that is cut off."""
    if merges is None:
        return
    if not isinstance(merges, list | tuple) or len(merges) > MAX_MERGES:
        raise _BoundError("model.merges", merges, f"expected a list of at most {MAX_MERGES:,} merges")
    characters, rest = 0, merges
    if not prefix and set(map(type, merges)) <= {list, tuple} and set(map(len, merges)) == {2}:
        sides = [*chain.from_iterable(merges)]
        if set(map(type, sides)) == {str}:  # as all files have them, a fifth of the time
            characters, rest = sum(map(len, sides)), ()
            _check_product(next(((a, b) for a, b in merges if a + b not in vocab), None))
    for merge in rest:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        is_pair = isinstance(pair, list | tuple) and len(pair) == 2 and all(isinstance(side, str) for side in pair)
        if not is_pair:
            raise _BoundError("model.merges", merge, "expected two subwords")
        if prefix and isinstance(prefix, str) and not pair[1].startswith(prefix):
            raise _BoundError("model.merges", merge, f"the second does not begin with the prefix {shown_value(prefix)}")
        characters += len(pair[0]) + len(pair[1])
        _check_product(None if pair[0] + pair[1][len(prefix or "") :] in vocab else pair)
    if characters > MAX_MERGED:
        raise _BoundError(
            "model.merges", len(merges), f"merges of {characters:,} characters; {MAX_MERGED:,} are allowed"
        )


def _check_product(pair: Sequence[str] | None) -> None:
    if pair is not None:
        raise _BoundError("model.merges", pair, "what they make is not in the vocabulary")


def _check_added(tokens: Any) -> None:
    if not isinstance(tokens, list):
        return  # refused where they are read
    if len(tokens) > MAX_ADDED:
        raise _BoundError("added_tokens", len(tokens), f"more added tokens than {MAX_ADDED:,}")
    for token in tokens:
        if not isinstance(token, dict):
            raise _BoundError("added_tokens", token, "expected objects")
        if not _is_count(token.get("id"), MAX_IDS - 1):
            raise _BoundError("added_tokens", token, f"expected an 'id', a whole number below {MAX_IDS:,}")
        content = token.get("content")
        if not isinstance(content, str) or not 0 < len(content) <= MAX_PIECE:
            raise _BoundError("added_tokens", token, f"expected a 'content' of 1 to {MAX_PIECE} characters")


def _steps(field: str, step: Any, plural: str, depth: int = 0) -> Iterator[tuple[str, dict[str, Any]]]:
    """The steps of a part, sequences flattened, each with its place."""
    if step is None and not depth:
        return
    if not isinstance(step, dict) or not isinstance(step.get("type"), str):
        raise _BoundError(field, step, "expected an object with a 'type'")
    if step["type"] != "Sequence":
        yield field, step
        return
    inner = step.get(plural)
    if not isinstance(inner, list) or len(inner) > _MAX_STEPS or depth == _MAX_DEPTH:
        raise _BoundError(
            f"{field}.{plural}", inner, f"expected a list of at most {_MAX_STEPS} steps, nested at most {_MAX_DEPTH}"
        )
    for n, each in enumerate(inner):
        yield from _steps(f"{field}.{plural}[{n}]", each, plural, depth + 1)


def _check_step(field: str, step: Mapping[str, Any]) -> float:
    """Refuses what is out of bounds in one step; returns how many times longer it can make a text."""
    if step["type"] == "TemplateProcessing":
        _check_template(field, step)
        return 1.0
    if step["type"] == "Precompiled":
        _check_table(f"{field}.precompiled_charsmap", step.get("precompiled_charsmap"))
        return 1.0
    least = _least_match(f"{field}.pattern", step["pattern"]) if "pattern" in step else 0
    for name, value in step.items():
        if name != "pattern":
            _check_value(f"{field}.{name}", value)
    if step["type"] == "FixedLength" and step.get("length") == 0:
        raise _BoundError(f"{field}.length", 0, "parts of no length")
    if step["type"] == "Strip" and step.get("stop"):
        raise _BoundError(f"{field}.stop", step["stop"], "the library fails on tokens that are nothing else")
    content = step.get("content")
    if step["type"] != "Replace" or not isinstance(content, str):
        return 1.0
    if not least and field.startswith("normalizer"):
        raise _BoundError(f"{field}.pattern", step["pattern"], "it may match nothing, which the library cannot replace")
    return max(1.0, len(content) / least) if least else 1.0 + len(content)


def _least_match(field: str, pattern: Any) -> int:
    """How many characters a pattern matches at least, once it is known that it is quick."""
    if not isinstance(pattern, dict) or len(pattern) != 1:
        raise _BoundError(field, pattern, "expected an object with 'String' or 'Regex'")
    ((name, text),) = pattern.items()
    if name not in ("String", "Regex") or not isinstance(text, str):
        raise _BoundError(field, pattern, "expected an object with 'String' or 'Regex'")
    if name == "String":
        if len(text) > _MAX_TEXT:
            raise _BoundError(field, text, f"more than {_MAX_TEXT} characters")
        return len(text)
    try:
        return check_pattern(text)
    except ValueError as error:
        raise _BoundError(field, text, f"{error}; patterns whose time nothing bounds are not run") from None


def _check_value(field: str, value: Any) -> None:
    if isinstance(value, str):
        if len(value) > _MAX_TEXT:
            raise _BoundError(field, value, f"more than {_MAX_TEXT} characters")
    elif isinstance(value, list):
        if len(value) > 2:
            raise _BoundError(field, value, "expected a token and its id")
        for n, each in enumerate(value):
            _check_value(f"{field}[{n}]", each)
    elif isinstance(value, dict):
        raise _BoundError(field, value, "expected no object here")
    elif isinstance(value, int | float) and not 0 <= value < _MAX_NUMBER:
        raise _BoundError(field, value, f"expected a number from 0 to {_MAX_NUMBER:,}")


def _check_template(field: str, step: Mapping[str, Any]) -> None:
    tokens = step.get("special_tokens")
    if not isinstance(tokens, dict) or len(tokens) > _MAX_TEMPLATE_TOKENS:
        raise _BoundError(
            f"{field}.special_tokens", tokens, f"expected an object of at most {_MAX_TEMPLATE_TOKENS} tokens"
        )
    for name, token in tokens.items():
        ids = token.get("ids") if isinstance(token, dict) else None
        if not isinstance(ids, list) or len(ids) > _MAX_TEMPLATE or not all(_is_count(i, MAX_IDS - 1) for i in ids):
            raise _BoundError(f"{field}.special_tokens", {name[:40]: token}, "expected an object with its 'ids'")
    for name, texts in (("single", ("A",)), ("pair", ("A", "B"))):
        parts = step.get(name)
        if not isinstance(parts, list) or len(parts) > _MAX_TEMPLATE:
            raise _BoundError(f"{field}.{name}", parts, f"expected a list of at most {_MAX_TEMPLATE} parts")
        for part in parts:
            _check_part(f"{field}.{name}", part, {"Sequence": texts, "SpecialToken": tokens})


def _check_part(field: str, part: Any, known: Mapping[str, Container[str]]) -> None:
    """Refuses a part of a template that names neither a text nor a token that it defines."""
    kind, inner = next(iter(part.items())) if isinstance(part, dict) and len(part) == 1 else ("", None)
    if kind not in known or not isinstance(inner, dict) or not isinstance(inner.get("id"), str):
        raise _BoundError(field, part, f"expected an object with {' or '.join(known)}, and its 'id' in it")
    if inner["id"] not in known[kind]:
        raise _BoundError(field, part, "names a text that is not there, or a token without saying which id it has")
    if not _is_count(inner.get("type_id"), _MAX_NUMBER):
        raise _BoundError(field, part, f"expected a 'type_id' of at most {_MAX_NUMBER:,}")


def _check_table(field: str, value: Any) -> None:
    try:
        check_charsmap(base64.b64decode(value, validate=True) if isinstance(value, str) else b"")
    except (binascii.Error, ValueError) as error:
        raise _BoundError(field, value, f"no normalization table: {error}") from None


def _is_count(value: Any, most: int) -> bool:
    return type(value) is int and 0 <= value <= most
