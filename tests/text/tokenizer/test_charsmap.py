"""Normalization tables are walked before a library does: real ones pass, damaged ones are named."""

import random
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from folders import TEXTS
from sentencepiece import sentencepiece_model_pb2

from pretune.text.tokenizer import charsmap
from pretune.text.tokenizer.charsmap import check_charsmap


@pytest.fixture(scope="module", params=["nmt_nfkc", "nmt_nfkc_cf"])
def table(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """As the sentencepiece library makes it."""
    folder = tmp_path_factory.mktemp("tables")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS),
        model_prefix=str(folder / "m"),
        vocab_size=200,
        hard_vocab_limit=False,
        normalization_rule_name=request.param,
        minloglevel=2,
    )
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(Path(folder / "m.model").read_bytes())
    content: bytes = proto.normalizer_spec.precompiled_charsmap
    assert len(content) > 100_000
    return content


def test_tables_of_the_library_pass(table: bytes) -> None:
    check_charsmap(table)


def test_the_walk_finds_what_a_text_reaches(table: bytes) -> None:
    size = int.from_bytes(table[:4], "little")
    units = np.frombuffer(table, np.uint32, size // 4, 4).astype(np.int64)
    values = charsmap._values(units)
    texts = table[4 + size :]
    replacements = {texts[v : texts.index(0, v)].decode() for v in values.tolist()}
    assert {"fi", "A", "1", "カ", " "} <= replacements | {r.upper() for r in replacements}
    assert len(values) > 5000


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 bytes that are to begin"),
        (b"\x04\0\0\0\0\0\0", "7 bytes that are to begin"),
        ((8).to_bytes(4, "little") + b"\0" * 4, "a trie of 8"),
        ((6).to_bytes(4, "little") + b"\0" * 8, "a trie of 6"),
        ((4).to_bytes(4, "little") + b"\0" * 4, "leads out of the table"),
    ],
)
def test_sizes_that_do_not_fit(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_charsmap(content)


def small(value: int, texts: bytes, label: int = 0x61) -> bytes:
    """A table of one key, `a`."""
    units = np.zeros(512, np.uint32)
    units[0] = 256 << 10  # the root's children lie from 256 on
    units[256 ^ label] = label | 1 << 8 | (0x61 ^ 5) << 10  # a leaf follows, at 256 ^ 5
    units[256 ^ 5] = value | 1 << 31
    return (2048).to_bytes(4, "little") + units.tobytes() + texts


def test_replacements(monkeypatch: pytest.MonkeyPatch) -> None:
    check_charsmap(small(0, b"A\0"))
    for content, reason in (
        (small(2, b"A\0"), "outside the table"),
        (small(0, b"A"), "outside the table"),
        (small(1, "é\0".encode()), "within a character"),
        (small(0, b"\xff\0"), "not UTF-8 at byte 0"),
        (small(0, b"A" * 257 + b"\0"), "a replacement of 257 bytes"),
    ):
        with pytest.raises(ValueError, match=reason):
            check_charsmap(content)
    check_charsmap(small(0, b"A" * 256 + b"\0"))
    monkeypatch.setattr(charsmap, "MAX_BYTES", 2053)
    with pytest.raises(ValueError, match="2,054 bytes, more than 2,053"):
        check_charsmap(small(0, b"A\0"))


def test_a_trie_that_leads_back_into_itself_ends_the_walk() -> None:
    """A text's walk ends with the text, so that a circle does no harm."""
    units = np.zeros(512, np.uint32)
    units[0] = 256 << 10
    for label in range(1, 256):
        units[256 ^ label] = label | label << 10  # back to where the root's children lie
    check_charsmap((2048).to_bytes(4, "little") + units.tobytes() + b"A\0")


def test_keys_have_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(charsmap, "MAX_KEY", 1)
    check_charsmap(small(0, b"A\0"))
    monkeypatch.setattr(charsmap, "MAX_KEY", 0)
    with pytest.raises(ValueError, match="a key of more than 0 bytes"):
        check_charsmap(small(0, b"A\0"))


def test_damaged_tables_never_lead_outside(table: bytes) -> None:
    """After the check, every step of the walk that a text can ask for stays within the table."""
    rng = random.Random(0)
    accepted = 0
    for _ in range(60):
        content = bytearray(table)
        for _ in range(rng.choice([1, 4])):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
        try:
            check_charsmap(bytes(content))
        except ValueError:
            continue
        accepted += 1
        walk_all(bytes(content), rng)
    assert 0 < accepted < 60


def walk_all(content: bytes, rng: random.Random) -> None:
    """Walks as the library does, for texts at random: an index that is out of range raises."""
    size = int.from_bytes(content[:4], "little")
    units = np.frombuffer(content, np.uint32, size // 4, 4).tolist()
    texts = content[4 + size :]
    for _ in range(300):
        key = "".join(chr(rng.choice([rng.randrange(32, 0xD800), rng.randrange(0x1D400, 0x1F000)])) for _ in range(3))
        place = units[0] >> 10 << ((units[0] & 0x200) >> 6)
        for byte in key.encode():
            place ^= byte
            unit = units[place]
            if unit & 0x800000FF != byte:
                break
            place ^= unit >> 10 << ((unit & 0x200) >> 6)
            if unit >> 8 & 1:
                value = units[place] & 0x7FFFFFFF
                texts[value : texts.index(0, value)].decode()
