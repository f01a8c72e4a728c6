"""Special tokens of a template are tokens, and their names in the text of a user are text."""

from __future__ import annotations

import re

import numpy as np
import pytest
from tinymodels import TEXTS, byte_tokenizer, word_tokenizer

from pretune.text.tokenizer.long_texts import LONG
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

TEMPLATED = "{0}the quick fox{1} jumps over{0}{1}\n 你好{1} the dog {0}"


def unigram() -> Tokenizer:
    return train_tokenizer(TEXTS * 9, TokenizerConfig(kind="unigram", vocab_size=80, sentinels=3))


@pytest.fixture(params=[byte_tokenizer, word_tokenizer, unigram], ids=["byte", "word", "unigram"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    made: Tokenizer = request.param()
    return made


def spans_of(text: str, names: list[str]) -> list[tuple[int, int]]:
    return [match.span() for match in re.finditer("|".join(map(re.escape, names)), text)]


@pytest.mark.parametrize("times", [1, LONG // 40], ids=["short", "long"])
def test_marks_of_a_template_are_as_in_any_text(tokenizer: Tokenizer, times: int) -> None:
    names = [token["content"] for token in tokenizer.layout["added_tokens"] if token["special"]]
    text = TEMPLATED.format(names[0], names[-1]) * times
    (own,) = tokenizer.encode_templated([text], [spans_of(text, names)])
    (wanted,) = tokenizer.encode_kept([text], None, allow_special=True)
    assert np.array_equal(own.tokens, wanted.tokens)
    assert np.array_equal(own.offsets, wanted.offsets)
    assert tokenizer.vocabulary.special[own.tokens].any()


def test_names_that_no_template_wrote_are_text(tokenizer: Tokenizer) -> None:
    names = [token["content"] for token in tokenizer.layout["added_tokens"] if token["special"]]
    text = TEMPLATED.format(names[-1], names[0])
    number = tokenizer.backend.token_to_id(names[-1])
    none, first = tokenizer.encode_templated([text, text], [(), spans_of(text, names)[:1]])
    assert np.array_equal(none.tokens, tokenizer.encode(text))
    assert first.tokens.tolist().count(number) == 1
    assert tuple(first.offsets[first.tokens.tolist().index(number)]) == spans_of(text, names)[0]
