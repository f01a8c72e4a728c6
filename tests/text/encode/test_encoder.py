"""Piecewise encoding gives the ids of the whole text, whatever the text; sentences fall on the right tokens."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import pre_tokenizers

import pretune.text.encode.encoder as pieces
from pretune.text.encode.encoder import DocumentEncoder
from pretune.text.encode.pretokenize import cutter
from pretune.text.tokenizer import long_texts
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

LETTERS = list(
    "abcXYZ019'.,!?()[]-_  \n\n\t\r\x0b\x0c\x00\x1c\x1f\x85\xa0\u1680\u2003\u2028\u202f\u3000\u200b\ufeff\ufffd"
)
LETTERS += list("éÉßİſ́̈ﬁ½²Ⅷ一你好。，“”…—！㐀豈𠀀😀🏽한ำﷺ´¨‗ｱﾞ１")
LETTERS += ["'s", "'ll", "'re", " 's", "[MASK]", "<|endoftext|>", "<mask>", "the", " language ", "x" * 120]
TEXT = [
    "The language of the cat's model isn't learned; they'll re-learn 2019 (in [1]) ...",
    "语言模型。你好，世界！",
    "Xé 1½ aé bİ cß 9² café",  # so that pieces are learned across the border of ASCII
] * 20


def whole(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [run.tolist() for run in tokenizer.encode_batch(texts)]


SETS = {
    "all": LETTERS,
    "no NUL": [letter for letter in LETTERS if "\0" not in letter],
    "ASCII": [letter for letter in LETTERS if letter.isascii() and "\0" not in letter],
    "blanks and quotes": [*"abst 'rveldm  \n\t1.", "\u3000", "'", "'", "'s", "'ve", "'ll", " "],
    "mostly ASCII": [*list("abst 'relm1., \n") * 9, "é", "“", "\u2028", "你", "\xa0"],
}


def documents(seed: int, count: int, letters: str) -> list[str]:
    random.seed(seed)
    return ["".join(random.choices(SETS[letters], k=random.randrange(1, 40))) for _ in range(count)]


@pytest.fixture(scope="module", params=["wordpiece", "whole-chinese", "bpe", "unigram", "byte-fallback", "unknown"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    kind = {"whole-chinese": "wordpiece", "byte-fallback": "unigram", "unknown": "bpe"}.get(
        request.param, request.param
    )
    trained = train_tokenizer(
        TEXT,
        TokenizerConfig(
            kind=kind,
            vocab_size=500,
            split_chinese=request.param != "whole-chinese",
            byte_fallback=request.param == "byte-fallback",
        ),
    )
    if request.param == "unknown":
        trained.backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
        return Tokenizer(trained.backend, trained.settings)
    return trained


@pytest.mark.parametrize(
    "letters", [pytest.param(name, marks=() if name in ("all", "mostly ASCII") else pytest.mark.slow) for name in SETS]
)
def test_pieces_give_the_ids_of_the_whole(tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch, letters: str) -> None:
    monkeypatch.setattr(pieces, "MAX_PRETOKENS", 5000)  # the memory is forgotten several times on the way
    encoder = DocumentEncoder(tokenizer, np.dtype(np.uint16))
    for seed in range(3):
        texts = [*documents(seed, 1500, letters), *(TEXT[:2] if letters != "ASCII" else TEXT[:1]), ""]
        actual = encoder.encode(texts, [[0]] * len(texts))
        runs = np.split(actual.tokens, np.cumsum(actual.lengths)[:-1])
        end = tokenizer.vocabulary.end
        assert [run.tolist() for run in runs] == [[*ids, end] for ids in whole(tokenizer, texts)]
        np.testing.assert_array_equal(actual.sentences, np.cumsum(actual.lengths) - actual.lengths)


def test_sentences_begin_at_the_token_of_their_first_character(tokenizer: Tokenizer) -> None:
    texts = ["One two.  Three four.\n\n  Five", "你好。世界！“语言”模型。", "They said.", "Not here. 你好。Yes"]
    starts = [[0, 10, 25], [0, 3, 6], [0], [0, 10, 13]]
    actual = DocumentEncoder(tokenizer, np.dtype(np.uint32)).encode(texts, starts)
    begins = np.cumsum(actual.lengths) - actual.lengths
    want: list[int] = []
    for text, run, begin in zip(texts, starts, begins.tolist(), strict=True):
        ids, offsets = tokenizer.encode_offsets(text)
        for start in run:
            place = int(np.argmax(offsets[:, 1] > start)) if start else 0
            own_space = place > 0 and tokenizer.token(ids[place - 1]) == "▁"
            want.append(begin + place - own_space)
    assert actual.sentences.tolist() == want


def test_a_sentence_that_gives_no_token_is_none() -> None:
    tokenizer = train_tokenizer(TEXT, TokenizerConfig(vocab_size=500))
    actual = DocumentEncoder(tokenizer, np.dtype(np.uint16)).encode(
        ["Cat. \u200b", "Cat. \u200b Cat."], [[0, 5], [0, 5]]
    )
    first = len(tokenizer.encode("Cat."))
    assert actual.sentences.tolist() == [0, first + 1, 2 * first + 1]


def test_patterns_are_known_for_ours_alone() -> None:
    def pattern(kind: str, **changes: Any) -> Any:
        layout = train_tokenizer(TEXT, TokenizerConfig(kind=kind, vocab_size=500)).layout
        return cutter({**layout, **changes})

    extra = {"id": 600, "content": "the cat", "special": False}
    for kind in ("wordpiece", "bpe", "unigram"):
        assert pattern(kind) is not None
        assert pattern(kind, added_tokens=[extra]) is None
        assert pattern(kind, pre_tokenizer={"type": "Whitespace"}) is None
        assert pattern(kind, normalizer={"type": "Lowercase"}) is None


def test_dropout_is_left_to_the_library() -> None:
    layout = train_tokenizer(TEXT, TokenizerConfig(kind="bpe", vocab_size=500)).layout
    assert cutter({**layout, "model": {**layout["model"], "dropout": 0.1}}) is None


def test_an_error_leaves_the_encoder_sound() -> None:
    tokenizer = train_tokenizer(TEXT, TokenizerConfig(kind="bpe", vocab_size=500))
    encoder = DocumentEncoder(tokenizer, np.dtype(np.uint16))
    with pytest.raises(Exception, match="surrogate"):
        encoder.encode(["new words \ud800"], [[0]])
    actual = encoder.encode(["new words"], [[0]])
    assert actual.tokens[:-1].tolist() == whole(tokenizer, ["new words"])[0]


def test_layout_is_that_of_the_library() -> None:
    """The known pipelines are told by what the library writes; a new version must not silently turn them off."""
    bert = tokenizers.implementations.BertWordPieceTokenizer()
    assert cutter(Tokenizer(bert._tokenizer).layout) is not None


def test_long_documents_of_unknown_pipelines_are_encoded_in_blocks(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = " ".join(random.Random(0).choices([*TEXT, "naïve", "\n"], k=400))
    starts = sorted(random.Random(1).sample(range(1, len(text)), 200))
    encoder = DocumentEncoder(tokenizer, np.dtype(np.int32))
    encoder._cutter = None  # as of a pipeline that is not known
    wanted = encoder.encode(["a b", text, "c"], [[0], [0, *starts], [0]])
    monkeypatch.setattr(pieces, "LONG", 1 << 12)
    monkeypatch.setattr(long_texts, "LONG", 1 << 12)
    actual = encoder.encode(["a b", text, "c"], [[0], [0, *starts], [0]])
    np.testing.assert_array_equal(actual.tokens, wanted.tokens)
    np.testing.assert_array_equal(actual.lengths, wanted.lengths)
    np.testing.assert_array_equal(actual.sentences, wanted.sentences)
