"""Tokenizers of the sentencepiece library, made into those of `tokenizers`: Unigram, and BPE by scores.

The file is a protocol buffer, which is read by the `sentencepiece` package, an extra. The result gives the ids that
`SentencePieceProcessor.encode` gives.

Source: Kudo and Richardson 2018, arXiv 1808.06226.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers

from pretune.errors import DataError, MissingPackageError
from pretune.field_table import read_file
from pretune.text.tokenizer.classes import set_begin_end
from pretune.text.tokenizer.layout_check import check_subwords
from pretune.text.tokenizer.library import library_errors
from pretune.text.tokenizer.proto_check import FILE_LIMIT, check_message, check_model
from pretune.text.tokenizer.sources import SpecialTokens

FILE_NAMES = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
NORMAL, _UNKNOWN, _CONTROL, USER = 1, 2, 3, 4  # kinds of pieces
UNIGRAM, _BPE = 1, 2
_ENDS = {"bos": "<s>", "eos": "</s>"}


def read_sentencepiece(path: Path, settings: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """A backend from a model file alone, with the ids of the sentencepiece library.

    Args:
        settings: the values of tokenizer_config.json: `add_bos_token` and `add_eos_token`.

    Raises:
        MissingPackageError: the extra is not installed.
        DataError: not such a file, or a kind that is not known.
    """
    proto = read_proto(path)
    backend = _backend(path, proto)
    types = [(piece.piece, piece.type) for piece in proto.pieces]
    backend.add_special_tokens([piece for piece, type_ in types if type_ in (_CONTROL, _UNKNOWN)])
    set_template(backend, settings)
    return backend


@dataclass(frozen=True)
class Pieces:
    """Holds what a class of `transformers` takes from a model file.

    Attributes:
        vocab: pieces and scores for a Unigram, pieces and ids for a BPE.
        merges: of a BPE, by the ids of what they make.
        charsmap: the normalization table.
        control: special pieces, and those of the user, which are not special.
        unk_id: of the unknown piece.
        proto: the message of the file.
    """

    vocab: dict[str, int] | list[tuple[str, float]]
    merges: list[tuple[str, str]]
    charsmap: bytes | None
    control: list[AddedToken]
    unk_id: int
    proto: Any


def read_pieces(path: Path, model: str | None = None) -> Pieces:
    """Reads a model file as the classes of `transformers` do.

    Args:
        model: "Unigram" or "BPE": what the class makes of it; by default what the file is.

    Raises:
        MissingPackageError: the extra is not installed.
        DataError: not such a file, or one of another kind than the class makes.
    """
    proto = read_proto(path)
    kinds = {UNIGRAM: "Unigram", _BPE: "BPE"}
    own = kinds.get(proto.trainer_spec.model_type)
    if own is None or (model is not None and own != model):
        raise DataError(
            f"{path}: model type {proto.trainer_spec.model_type}: expected {model or 'unigram (1) or bpe (2)'}; name "
            "the tokenizer class that this file is for"
        )
    control = [
        AddedToken(piece.piece, normalized=False, special=piece.type == _CONTROL)
        for piece in proto.pieces
        if piece.type in (_CONTROL, USER)
    ]
    charsmap, unk_id = proto.normalizer_spec.precompiled_charsmap or None, proto.trainer_spec.unk_id
    if own == "Unigram":
        scores = [(piece.piece, piece.score) for piece in proto.pieces]
        return Pieces(scores, [], charsmap, control, unk_id, proto)
    vocab = {piece.piece: n for n, piece in enumerate(proto.pieces)}
    merges = _merges_by_id(vocab)
    check_subwords(path, vocab, merges)
    return Pieces(vocab, merges, charsmap, control, unk_id, proto)


def read_ids(path: Path) -> dict[str, int]:
    """The pieces of a model file and their ids; none where the extra that reads it is not installed."""
    try:
        proto = read_proto(path)
    except MissingPackageError:
        return {}
    return {piece.piece: n for n, piece in enumerate(proto.pieces)}


def _merges_by_id(vocab: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges of a BPE whose pieces stand in the order of their merging."""
    merges = sorted(
        (number, cut, len(piece) - cut, vocab[piece[:cut]], vocab[piece[cut:]])
        for piece, number in vocab.items()
        for cut in range(1, len(piece))
        if piece[:cut] in vocab and piece[cut:] in vocab
    )
    names = {number: piece for piece, number in vocab.items()}
    return [(names[left], names[right]) for *_, left, right in merges]


def read_generic(
    path: Path, tokens: SpecialTokens
) -> tuple[tokenizers.Tokenizer, dict[str, str | AddedToken | None], list[AddedToken]]:
    """A backend as `transformers` makes it where no class has rules for a tokenizer.model, and its special tokens.

    Raises:
        MissingPackageError: the extra is not installed.
        DataError: not such a file, or added tokens beside a Unigram.
    """
    pieces = read_pieces(path)
    trainer = pieces.proto.trainer_spec
    vocab, fallback = pieces.vocab, trainer.byte_fallback
    if isinstance(vocab, dict):
        names = {number: piece for piece, number in vocab.items()}
        for entry in tokens.stated:  # placeholders get the names of the tokens that have their ids
            old, new = names.get(entry.id), entry.token.content
            if old and old != new and new not in vocab:
                vocab[new] = vocab.pop(old)
        unknown = trainer.unk_piece
        what = f"{path}: added tokens have the ids of pieces that others are merged of"
        lost = next((left + right for left, right in pieces.merges if left + right not in vocab), None)
        if lost is not None:
            raise DataError(f"{what}: {lost!r} is not in the vocabulary")
        with library_errors(what):
            model: Any = models.BPE(vocab, pieces.merges, unk_token=unknown, fuse_unk=True, byte_fallback=fallback)
    elif tokens.stated:
        raise DataError(
            f"{tokens.stated[0].where}: tokens beside a unigram model need a class with rules of its own; name the "
            "tokenizer_class in tokenizer_config.json"
        )
    else:
        model = models.Unigram(vocab, unk_id=unknown_id(path, pieces.unk_id), byte_fallback=fallback)
    backend = tokenizers.Tokenizer(model)
    first = [normalizers.Precompiled(pieces.charsmap)] if pieces.charsmap else []
    backend.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", "▁")])
    steps: list[Any] = [decoders.Replace("▁", " ")]
    backend.decoder = decoders.Sequence([*steps, decoders.ByteFallback(), decoders.Fuse()] if fallback else steps)
    spec = {"bos": (trainer.bos_id, trainer.bos_piece), "eos": (trainer.eos_id, trainer.eos_piece)}
    spec["unk"] = (trainer.unk_id, trainer.unk_piece)
    roles: dict[str, str | AddedToken | None] = {
        f"{role}_token": piece for role, (number, piece) in spec.items() if number >= 0
    }
    return backend, roles, pieces.control


def unknown_id(path: Path, number: int) -> int:
    """The id of the unknown piece.

    Raises:
        DataError: there is none.
    """
    if number < 0:
        raise DataError(f"{path}: field 'trainer_spec.unk_id' = {number}: a unigram model has an unknown piece")
    return number


def read_proto(path: Path) -> Any:
    """The message of a model file: `pieces`, `trainer_spec`, `normalizer_spec`.

    Raises:
        MissingPackageError: the extra is not installed.
        DataError: not such a file.
    """
    try:
        from sentencepiece import sentencepiece_model_pb2

        messages: Any = sentencepiece_model_pb2
    except ImportError:
        raise MissingPackageError(
            f"{path}: reading sentencepiece needs two packages: pip install 'pretune[sentencepiece]'"
        ) from None
    raw = read_file(path, FILE_LIMIT)
    check_message(path, raw)
    proto = messages.ModelProto()
    try:
        proto.ParseFromString(raw)
    except Exception as error:  # protobuf raises its own DecodeError, whose module is an implementation's
        raise DataError(f"{path}: not a sentencepiece model: {error}") from None
    if not proto.pieces:
        raise DataError(f"{path}: not a sentencepiece model: it has no pieces")
    check_model(path, proto)
    return proto


def _backend(path: Path, proto: Any) -> tokenizers.Tokenizer:
    pieces, scores = [piece.piece for piece in proto.pieces], [piece.score for piece in proto.pieces]
    trainer = proto.trainer_spec
    unknown = next((n for n, piece in enumerate(proto.pieces) if piece.type == _UNKNOWN), None)
    if trainer.model_type == UNIGRAM:
        model: Any = models.Unigram(
            list(zip(pieces, scores_of(proto.pieces), strict=True)), unk_id=unknown, byte_fallback=trainer.byte_fallback
        )
    elif trainer.model_type == _BPE:
        name = None if unknown is None else pieces[unknown]
        own = [piece.piece for piece in proto.pieces if piece.type == USER]
        if own:
            raise DataError(
                f"{path}: {len(own)} user-defined pieces ({own[0]!r}) in a BPE, which the tokenizers library would cut "
                "otherwise; save its tokenizer.json and use that"
            )
        ordinary = [piece.type not in (_UNKNOWN, _CONTROL) for piece in proto.pieces]
        vocab, merges = {piece: n for n, piece in enumerate(pieces)}, merges_of(pieces, scores, ordinary)
        check_subwords(path, vocab, merges)
        model = models.BPE(
            vocab,
            merges,
            unk_token=name,
            fuse_unk=True,
            byte_fallback=trainer.byte_fallback,
        )
    else:
        raise DataError(f"{path}: model type {trainer.model_type}: expected unigram ({UNIGRAM}) or bpe ({_BPE})")
    return with_rules(path, tokenizers.Tokenizer(model), proto)


def with_rules(path: Path, backend: tokenizers.Tokenizer, proto: Any) -> tokenizers.Tokenizer:
    """The backend, with what a model file says of normalization and of white space.

    Raises:
        DataError: rules that the `tokenizers` library does not have.
    """
    trainer, rules = proto.trainer_spec, proto.normalizer_spec
    if trainer.treat_whitespace_as_suffix:
        raise DataError(f"{path}: white space is a suffix in this model, which the tokenizers library does not have")
    steps: list[Any] = []
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    plain = normalizers.Sequence(steps)
    lost = [p.piece for p in proto.pieces if p.type == USER and plain.normalize_str(p.piece) != p.piece]
    if lost:
        raise DataError(f"{path}: the user-defined piece {lost[0]!r} is not what normalization makes of it")
    metaspace(
        backend,
        steps,
        prefix=rules.add_dummy_prefix,
        split=rules.remove_extra_whitespaces and trainer.split_by_whitespace,
        byte_fallback=trainer.byte_fallback,
    )
    return backend


def scores_of(pieces: Sequence[Any]) -> list[float]:
    """Scores of a Unigram's pieces; user-defined pieces win over every other cut.

    Source: sentencepiece, unigram_model.cc, `EncodeOptimized`.
    """
    max_score = max((piece.score for piece in pieces if piece.type == NORMAL), default=0.0)
    return [len(p.piece.encode()) * max_score - 0.1 if p.type == USER else p.score for p in pieces]


def merges_of(
    pieces: Sequence[str], scores: Sequence[float], ordinary: Sequence[bool] | None = None
) -> list[tuple[str, str]]:
    """The merges of a BPE that knows its pieces by scores alone: a higher one is merged first.

    Args:
        ordinary: which pieces a merge may make; by default all of two characters and more.

    Shape:
        pieces, scores, ordinary: (V,)
    """
    known = {piece: n for n, piece in enumerate(pieces)}
    merges: list[tuple[float, int, int]] = []
    for n, (piece, score) in enumerate(zip(pieces, scores, strict=True)):
        if ordinary is not None and not ordinary[n]:
            continue
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in known and right in known:
                merges.append((-score, known[left], known[right]))
    return [(pieces[left], pieces[right]) for _, left, right in sorted(merges)]


def metaspace(
    backend: tokenizers.Tokenizer, steps: Sequence[Any], *, prefix: bool, split: bool, byte_fallback: bool
) -> None:
    """Set how white space becomes "▁" and comes back.

    Args:
        steps: normalizers that come before.
        prefix: a text begins with one.
        split: no piece goes across a space, which makes long texts quicker.
    """
    scheme = "always" if prefix else "never"
    whole: list[Any] = [*steps]
    if split:
        backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme)
    else:  # spaces at the beginning come behind the prefix, and not in its place
        whole += [*([normalizers.Prepend("▁")] if prefix else []), normalizers.Replace(" ", "▁")]
    if whole:
        backend.normalizer = normalizers.Sequence(whole)
    spaces = decoders.Metaspace(replacement="▁", prepend_scheme=scheme)
    if not byte_fallback:
        backend.decoder = spaces
        return
    undone: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*undone, decoders.Strip(" ", 1, 0)] if prefix else undone)


def token_of(settings: Mapping[str, Any], role: str, usual: str) -> str:
    """The special token that the settings name for a role."""
    stated = settings.get(f"{role}_token")
    if isinstance(stated, AddedToken):
        return stated.content
    return str(stated["content"] if isinstance(stated, Mapping) else stated or usual)


def set_template(backend: tokenizers.Tokenizer, settings: Mapping[str, Any]) -> None:
    """Sets what the settings put around texts by `add_bos_token` and `add_eos_token`, if they do.

    Raises:
        DataError: a special token that the vocabulary does not have, or with a space or a colon in it.
    """
    if any(settings.get(f"add_{role}_token") for role in _ENDS):
        names = {f"{role}_token": token_of(settings, role, usual) for role, usual in _ENDS.items()}
        set_begin_end(backend, {**settings, **names})
