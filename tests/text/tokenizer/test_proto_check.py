"""The bounds of a sentencepiece file: a damaged or hostile one is named, at the piece or the field."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from folders import TEXTS
from sentencepiece import sentencepiece_model_pb2
from test_charsmap import small

from pretune.errors import DataError
from pretune.text.tokenizer import proto_check
from pretune.text.tokenizer.layout_check import MAX_PIECE
from pretune.text.tokenizer.proto_check import check_message, check_model
from pretune.text.tokenizer.tokenizer import Tokenizer

PATH = Path("spiece.model")


@pytest.fixture(scope="module")
def raw() -> bytes:
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_writer=out, vocab_size=300, hard_vocab_limit=False, minloglevel=2
    )
    return out.getvalue()


def parsed(raw: bytes) -> Any:
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(raw)
    return proto


def test_a_model_of_the_library_passes(raw: bytes) -> None:
    check_message(PATH, raw)
    check_model(PATH, parsed(raw))


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"\x0a", "its last field is to end at byte 2, and the file has 1"),
        (b"\x12", "ends within a number at byte 1"),
        (b"\x0a\x05ab", r"its last field is to end at byte 7, and the file has 4"),
        (b"\x0a\xff\x7f" + b"a" * 10, "pieces is to have 16,383 bytes"),
        (b"\x12\xff\xff\xff\xff\x7f", "trainer_spec is to have 34,359,738,367 bytes"),
        (b"\x08\x05", "a field 1 of kind 0"),
        (b"\x32\x00", "a field 6 of kind 2"),
        (b"\x0b\x0c", "a field 1 of kind 3"),
        (b"\xff" * 11, "ends within a number at byte 0"),
    ],
)
def test_messages_that_are_no_models(message: bytes, reason: str) -> None:
    with pytest.raises(DataError, match=rf"^spiece\.model: not a sentencepiece model: .*{reason}"):
        check_message(PATH, message)


def test_the_number_of_pieces(raw: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    count = len(parsed(raw).pieces)
    monkeypatch.setattr(proto_check, "MAX_IDS", count)
    check_message(PATH, raw)
    monkeypatch.setattr(proto_check, "MAX_IDS", count - 1)
    with pytest.raises(DataError, match=f"it has {count} pieces, more than {count - 1}"):
        check_message(PATH, raw)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda proto: setattr(proto.pieces[7], "piece", "b" * (MAX_PIECE + 1)), "piece 7 has 1,025 characters, not 1"),
        (lambda proto: setattr(proto.pieces[7], "piece", ""), "piece 7 has 0 characters"),
        (lambda proto: setattr(proto.pieces[7], "piece", proto.pieces[8].piece), "2 pieces are"),
        (lambda proto: setattr(proto.pieces[7], "score", float("nan")), "piece 7, .*, has the score nan"),
        (lambda proto: setattr(proto.pieces[7], "score", float("inf")), "has the score inf"),
        (lambda proto: setattr(proto.trainer_spec, "unk_id", 5000), r"'trainer_spec\.unk_id' = 5000: there are"),
        (lambda proto: setattr(proto.trainer_spec, "bos_id", -7), r"'trainer_spec\.bos_id' = -7"),
        (lambda proto: setattr(proto.trainer_spec, "unk_piece", "u" * (MAX_PIECE + 1)), "unk_piece' has 1,025"),
        (
            lambda proto: setattr(proto.normalizer_spec, "precompiled_charsmap", small(0, b"A" * 257 + b"\0")),
            "'normalizer_spec.precompiled_charsmap' is no normalization table: a replacement of 257 bytes",
        ),
    ],
)
def test_values_out_of_bounds(change: Callable[[Any], None], reason: str, raw: bytes, tmp_path: Path) -> None:
    proto = parsed(raw)
    change(proto)
    (tmp_path / "spiece.model").write_bytes(proto.SerializeToString())
    for settings in ("{}", '{"tokenizer_class": "T5Tokenizer"}'):
        (tmp_path / "tokenizer_config.json").write_text(settings)
        with pytest.raises(DataError, match=rf"spiece\.model: .*{reason}"):
            Tokenizer.load(tmp_path)


def test_a_piece_that_is_not_utf_8(raw: bytes, tmp_path: Path) -> None:
    name = parsed(raw).pieces[20].piece.encode()
    field = b"\x0a" + bytes([len(name)])
    assert field + name in raw
    (tmp_path / "spiece.model").write_bytes(raw.replace(field + name, field + b"\xff" * len(name), 1))
    with pytest.raises(DataError, match=r"spiece\.model: .*UTF-8"):
        Tokenizer.load(tmp_path)


def test_a_unigram_without_an_unknown_piece(raw: bytes, tmp_path: Path) -> None:
    proto = parsed(raw)
    proto.trainer_spec.unk_id = -1
    (tmp_path / "tokenizer.model").write_bytes(proto.SerializeToString())
    with pytest.raises(DataError, match=r"'trainer_spec\.unk_id' = -1: a unigram model has an unknown piece"):
        Tokenizer.load(tmp_path)


def test_the_size_of_a_file(tmp_path: Path) -> None:
    with (tmp_path / "spiece.model").open("wb") as file:
        file.truncate(proto_check.FILE_LIMIT + 1)
    with pytest.raises(DataError, match=r"spiece\.model: 67,108,865 bytes, more than the 67,108,864"):
        Tokenizer.load(tmp_path)
