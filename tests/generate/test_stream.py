"""Text as it grows: whole characters, stop texts over token borders."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tinymodels import byte_tokenizer, word_tokenizer

from pretune.generate.stream import TextStream

BYTES = byte_tokenizer(257)  # a token a byte
WORDS = word_tokenizer()


def run(text: str, stop: tuple[str, ...] = ()) -> tuple[list[str], TextStream]:
    stream = TextStream(BYTES, stop)
    pieces = [stream.push(int(token)) for token in BYTES.encode(text)]
    return [*pieces, stream.finish()], stream


def test_a_character_is_never_split() -> None:
    pieces, _ = run("é模型🙂x")
    assert pieces == ["", "é", "", "", "模", "", "", "型", "", "", "", "🙂", "x", ""]


def test_an_unfinished_character_comes_at_the_end() -> None:
    stream = TextStream(BYTES)
    pieces = [stream.push(int(token)) for token in BYTES.encode("a模")[:-1]]
    assert pieces == ["a", "", ""]
    assert stream.finish() == BYTES.decode(BYTES.encode("a模")[:-1])[1:] != ""


def test_a_stop_text_over_token_borders_is_held_back() -> None:
    pieces, stream = run("ab</s>cd", ("</s>", "zz"))
    assert pieces == ["a", "b", "", "", "", "", "", "", ""]
    assert (stream.text, stream.stopped) == ("ab", True)
    pieces, stream = run("a</sb", ("</s>",))
    assert pieces == ["a", "", "", "", "</sb", ""]
    assert run("a</s", ("</s>",))[0][-1] == "</s"


def test_the_first_of_several_stop_texts_counts() -> None:
    assert run("one two three", ("three", "two"))[1].text == "one "
    assert run("aab", ("ab", "aab"))[1].text == ""
    assert run("aba", ("b", "aba"))[1].text == "a"


@settings(max_examples=150, deadline=None)
@given(
    st.text(alphabet="ab模é🙂�", max_size=12), st.lists(st.text(alphabet="ab模", min_size=1, max_size=3), max_size=2)
)
def test_pieces_join_to_the_text_before_the_stop(text: str, stop: list[str]) -> None:
    pieces, stream = run(text, tuple(stop))
    ends = [(text.find(s) + len(s), text.find(s)) for s in stop if s in text]
    assert "".join(pieces) == stream.text == (text[: min(ends)[1]] if ends else text)


@pytest.mark.parametrize("seed", range(20))
def test_random_bytes_decode_as_a_whole(seed: int) -> None:
    tokens = np.random.default_rng(seed).integers(1, BYTES.vocabulary.size, size=30)
    stream = TextStream(BYTES)
    joined = "".join([stream.push(int(token)) for token in tokens]) + stream.finish()
    assert joined == stream.text == BYTES.decode(tokens)


def test_pieces_of_words_are_joined() -> None:
    tokens = WORDS.encode("the quick foxes jumped")
    stream = TextStream(WORDS)
    assert "".join([stream.push(int(token)) for token in tokens]) + stream.finish() == WORDS.decode(tokens)
