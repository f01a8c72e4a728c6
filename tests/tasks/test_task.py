"""Truncation, and what is counted of it."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import tokenizers
from tinymodels import byte_tokenizer, word_tokenizer

from pretune.errors import DataError, UsageError
from pretune.tasks.classification import Classification, ClassificationExample
from pretune.tasks.task import truncate_pair, truncate_run
from pretune.text.readers.records import Origin
from pretune.text.samples.rows import data_stats

RUN = np.arange(10)


def example(text: str, label: str | None = "a", second: str | None = None, line: int = 1) -> ClassificationExample:
    return ClassificationExample(text, label, second=second, origin=Origin("some.csv", line))


@pytest.mark.parametrize(
    ("truncate", "kept"),
    [("head", [0, 1, 2, 3, 4]), ("tail", [5, 6, 7, 8, 9]), ("head+tail", [0, 6, 7, 8, 9])],
)
def test_truncate_run(truncate: str, kept: list[int]) -> None:
    assert truncate_run(RUN, 5, truncate).tolist() == kept  # type: ignore[arg-type]
    assert truncate_run(RUN, 10, truncate).tolist() == RUN.tolist()  # type: ignore[arg-type]


def test_a_task_without_windows_refuses_them() -> None:
    assert truncate_run(RUN, 10, "windows").tolist() == RUN.tolist()
    with pytest.raises(UsageError, match="this task reads one part of a text; use head, tail or head"):
        truncate_run(RUN, 5, "windows")


@pytest.mark.parametrize(
    ("first", "second", "max_tokens", "sizes"),
    [
        (3, 4, 7, (3, 4)),
        (10, 2, 8, (6, 2)),
        (2, 10, 8, (2, 6)),
        (10, 10, 9, (4, 5)),
        (10, 4, 9, (5, 4)),
        (9, 1, 2, (1, 1)),
    ],
)
def test_the_longer_of_a_pair_is_cut_first(first: int, second: int, max_tokens: int, sizes: tuple[int, int]) -> None:
    a, b = truncate_pair(np.arange(first), np.arange(second), max_tokens, "head", example("x"))
    assert b is not None
    assert (len(a), len(b)) == sizes


def test_no_room_is_an_error() -> None:
    with pytest.raises(DataError, match="too short"):
        truncate_pair(RUN, None, 0, "head", example("x"))
    with pytest.raises(DataError, match="too short"):
        truncate_pair(RUN, RUN, 1, "head", example("x"))


@pytest.mark.parametrize("tokenizer", [word_tokenizer(), byte_tokenizer()], ids=["bert", "gpt2"])
@pytest.mark.parametrize("truncate", ["head", "tail", "head+tail"])
def test_the_statistics_count_every_token(tokenizer, truncate: str) -> None:
    config = Classification.Config(labels=("a", "b"), truncate=truncate)
    task = Classification(config, tokenizer.vocabulary)
    examples = [example("the cat"), example("the quick brown fox " * 5), example("the dog " * 9, "b", "a hat " * 9)]
    rows = task.encode(examples, tokenizer, 12)
    stats, sizes = data_stats(rows), [row.size for row in rows]
    kept = sum(sizes)
    assert stats["examples"] == 3
    assert stats["examples_cut"] == 2
    assert stats["tokens"] == stats["tokens_cut"] + kept
    assert stats["tokens"] == sum(len(t) for e in examples for t in tokenizer.encode_batch([e.text, e.second or ""]))
    assert sizes[1] + tokenizer.vocabulary.overhead(False) == 12
    assert sizes[2] + tokenizer.vocabulary.overhead(True) == 12
    whole = tokenizer.encode(examples[1].text)
    kept_tokens = rows[1].tokens
    assert (kept_tokens[0] == whole[0]) or truncate == "tail"
    assert (kept_tokens[-3:] == whole[-3:]).all() or truncate == "head"


def test_too_long_can_be_an_error() -> None:
    tokenizer = word_tokenizer()
    task = Classification(Classification.Config(labels=("a", "b"), truncate="error"), tokenizer.vocabulary)
    with pytest.raises(DataError, match=r"some\.csv:7: more than the 10 tokens that fit"):
        task.encode([example("the cat " * 10, line=7)], tokenizer, 12)


@pytest.mark.parametrize(("text", "second"), [("", None), (" \n", None), ("\x00\x01", None), ("cat", " ")])
def test_text_without_tokens_names_its_line(text: str, second: str | None) -> None:
    tokenizer = word_tokenizer()
    task = Classification(Classification.Config(labels=("a", "b")), tokenizer.vocabulary)
    with pytest.raises(DataError, match=r"some\.csv:3: "):
        task.encode([example("the cat"), example(text, "a", second, 3)], tokenizer, 12)


def test_pairs_are_truncated_as_by_the_library() -> None:
    """`longest_first` of tokenizers on all small sizes."""
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    for room in range(2, 9):
        backend.enable_truncation(room, strategy="longest_first")
        for first, second in product(range(1, 10), range(1, 10)):
            types = backend.encode("a " * first, "a " * second).type_ids
            kept = truncate_pair(np.arange(first), np.arange(second), room, "head", example("a"))
            assert [len(part) for part in kept if part is not None] == [types.count(0), types.count(1)]
