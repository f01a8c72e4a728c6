"""Checks a sentencepiece model file, before its parser and the `tokenizers` library see it and after it is parsed.

    raw bytes --fields of the message counted--> parser --pieces, numbers, normalization table--> the library

Source: google/sentencepiece, sentencepiece_model.proto; the encoding of protocol buffers.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from pretune.errors import DataError
from pretune.text.tokenizer.charsmap import check_charsmap
from pretune.text.tokenizer.layout_check import MAX_IDS, MAX_PIECE, MAX_SCORE, MAX_TRIE

FILE_LIMIT = 64 << 20
"""Bytes of a model file."""
_PIECES = 1
_FIELDS = {_PIECES: "pieces", 2: "trainer_spec", 3: "normalizer_spec", 4: "self_test_data", 5: "denormalizer_spec"}
_PIECE_LIMIT = 4 * MAX_PIECE + 64  # bytes of a piece with its score and type
_SPEC_LIMIT = 16 << 20
_BYTES_FIELD = 2  # of the encoding: a length, and as many bytes
_SHORT_PIECE = _PIECES << 3 | _BYTES_FIELD
_DAMAGED = "the file is damaged or hostile, fetch it again from its source"


def check_message(path: Path, raw: bytes) -> None:
    """Walks the outermost fields of a message: lengths, kinds, and how many pieces there are.

    Raises:
        DataError: not such a message, or one that no trainer writes.
    """
    place = pieces = 0
    while place < len(raw):
        if raw[place] == _SHORT_PIECE and raw[place + 1 : place + 2] < b"\x80":  # nearly all, in a tenth of the time
            pieces += 1
            place += 2 + int.from_bytes(raw[place + 1 : place + 2], "little")
            continue
        tag, place = _number(path, raw, place)
        name = _FIELDS.get(tag >> 3)
        if name is None or tag & 7 != _BYTES_FIELD:
            raise _not_a_model(path, f"it has a field {tag >> 3} of kind {tag & 7} before byte {place:,}")
        length, place = _number(path, raw, place)
        if length > (_PIECE_LIMIT if tag >> 3 == _PIECES else _SPEC_LIMIT):
            raise _not_a_model(path, f"{name} is to have {length:,} bytes at byte {place:,}")
        pieces += tag >> 3 == _PIECES
        place += length
    if place > len(raw):
        raise _not_a_model(path, f"its last field is to end at byte {place:,}, and the file has {len(raw):,}")
    if pieces > MAX_IDS:
        raise _not_a_model(path, f"it has {pieces:,} pieces, more than {MAX_IDS:,}")


def _number(path: Path, raw: bytes, place: int) -> tuple[int, int]:
    """A number of the encoding, and the place behind it."""
    value = 0
    for n, byte in enumerate(raw[place : place + 10]):
        value |= (byte & 0x7F) << 7 * n
        if byte < 0x80:
            return value, place + n + 1
    raise _not_a_model(path, f"it ends within a number at byte {place:,}")


def _not_a_model(path: Path, reason: str) -> DataError:
    return DataError(f"{path}: not a sentencepiece model: {reason}")


def check_model(path: Path, proto: Any) -> None:
    """Refuses a parsed model that the sentencepiece library would refuse, or that others may not survive.

    Raises:
        DataError: naming the piece or the field, its value and the reason.
    """
    names = [piece.piece for piece in proto.pieces]
    for number, (name, piece) in enumerate(zip(names, proto.pieces, strict=True)):
        if not isinstance(name, str):  # the parser hands on bytes that it cannot decode
            raise DataError(f"{path}: piece {number}, {name[:40]!r}, is not UTF-8; {_DAMAGED}")
        if not 0 < len(name) <= MAX_PIECE:
            raise DataError(f"{path}: piece {number} has {len(name):,} characters, not 1 to {MAX_PIECE:,}; {_DAMAGED}")
        if not abs(piece.score) < MAX_SCORE:
            raise DataError(f"{path}: piece {number}, {name[:40]!r}, has the score {piece.score}; {_DAMAGED}")
    if len(set(names)) < len(names):
        twice, count = Counter(names).most_common(1)[0]
        raise DataError(f"{path}: {count} pieces are {twice[:40]!r}; {_DAMAGED}")
    if (characters := sum(map(len, names))) > MAX_TRIE:
        raise DataError(f"{path}: pieces of {characters:,} characters in all, more than {MAX_TRIE:,}; it is not read")
    trainer = proto.trainer_spec
    for field in ("unk_id", "bos_id", "eos_id", "pad_id"):
        value = getattr(trainer, field)
        if not -1 <= value < len(proto.pieces):
            raise DataError(f"{path}: field 'trainer_spec.{field}' = {value}: there are {len(proto.pieces)} pieces")
    for field in ("unk_piece", "bos_piece", "eos_piece", "pad_piece"):
        _check_name(path, f"trainer_spec.{field}", trainer, field)
    table = proto.normalizer_spec.precompiled_charsmap
    try:
        if table:
            check_charsmap(table)
    except ValueError as error:
        raise DataError(
            f"{path}: field 'normalizer_spec.precompiled_charsmap' is no normalization table: {error}; {_DAMAGED}"
        ) from None


def _check_name(path: Path, where: str, spec: Any, field: str) -> None:
    name = getattr(spec, field)
    if not isinstance(name, str):
        raise DataError(f"{path}: field {where!r} = {name[:40]!r} is not UTF-8; {_DAMAGED}")
    if len(name) > MAX_PIECE:
        raise DataError(f"{path}: field {where!r} has {len(name):,} characters, more than {MAX_PIECE:,}")
