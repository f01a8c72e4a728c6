"""Schemes of tags: each writes spans and reads them back, is recognized, and forbids what it should."""

from __future__ import annotations

import random

import pytest

from pretune.text.schemes import (
    Chunk,
    Scheme,
    allows,
    detect_scheme,
    find_break,
    labels_of,
    read_chunks,
    split_tag,
    strict_chunks,
    tags_of,
    write_tags,
)

CHUNKS = [Chunk(1, 2, "A"), Chunk(2, 5, "A"), Chunk(6, 8, "B")]
WRITTEN: dict[Scheme, str] = {
    "IOB1": "O I-A B-A I-A I-A O I-B I-B",
    "IOB2": "O B-A B-A I-A I-A O B-B I-B",
    "IOBES": "O S-A B-A I-A E-A O B-B E-B",
    "BMES": "O S-A B-A M-A E-A O B-B E-B",
    "IO": "O I-A I-A I-A I-A O I-B I-B",
}


@pytest.mark.parametrize("scheme", [name for name in WRITTEN if name != "IO"])
def test_spans_are_written_and_read(scheme: Scheme) -> None:
    tags = write_tags(CHUNKS, 8, scheme)
    assert tags == WRITTEN[scheme].split()
    assert read_chunks(tags, scheme) == strict_chunks(tags, scheme) == CHUNKS
    assert find_break(tags, scheme) is None
    assert detect_scheme([tags]) == scheme
    assert set(tags) <= set(tags_of(["A", "B"], scheme))
    assert labels_of(tags_of(["B", "A"], scheme), scheme) == ["B", "A"]


def test_random_spans_come_back_in_every_scheme_that_tells_them_apart() -> None:
    rng = random.Random(0)
    for _ in range(300):
        chunks, start = [], 0
        while (start := start + rng.randrange(3)) < 12:
            stop = start + rng.randrange(1, 4)
            chunks.append(Chunk(start, stop, rng.choice("AB")))
            start = stop
        for scheme in ("IOB1", "IOB2", "IOBES", "BMES"):
            tags = write_tags(chunks, 16, scheme)  # type: ignore[arg-type]
            assert read_chunks(tags, scheme) == chunks  # type: ignore[arg-type]
            assert strict_chunks(tags, scheme) == chunks  # type: ignore[arg-type]
            assert find_break(tags, scheme) is None  # type: ignore[arg-type]


def test_io_joins_spans_that_meet() -> None:
    assert write_tags(CHUNKS, 8, "IO") == WRITTEN["IO"].split()
    assert read_chunks(WRITTEN["IO"].split(), "IO") == [Chunk(1, 5, "A"), Chunk(6, 8, "B")]


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ("NNP VBZ NNP", "plain"),
        ("O PER O", "plain"),
        ("B I X", "plain"),
        ("NN-TL B-1 VB", "plain"),
        ("B-A I-A O X-A", "IOB2"),
        ("B-A E-A S-A O person", "BMES"),
        ("B E S B M E", "BMES"),
        ("B-A E-A S-A", "BMES"),
        ("B-A L-A U-B O", "IOBES"),
        ("B-A I-A E-A O", "IOBES"),
        ("I-A I-A O", "IO"),
        ("B-A O B-B", "IOB2"),
        ("I-A B-A O", "IOB1"),
        ("B-A I-A O I-B", "IOB2"),
        ("O O", "plain"),
    ],
)
def test_schemes_are_recognized(tags: str, scheme: Scheme) -> None:
    assert detect_scheme([tags.split()]) == scheme


@pytest.mark.parametrize(
    ("tags", "scheme", "number"),
    [
        ("O I-A", "IOB2", 1),
        ("B-A I-B", "IOB2", 1),
        ("O B-A", "IOB1", 1),
        ("B-A I-A", "IOBES", 1),
        ("B-A O", "IOBES", 0),
        ("S-A E-A", "IOBES", 1),
        ("B M", "BMES", 1),
        ("I-A I-B", "IO", None),
        ("A O B", "plain", None),
        ("B-A X-A", "IOB2", 1),
        ("B-A E-A", "IOB2", 1),
        ("O S-A", "IOB1", 1),
        ("B-A b-A", "IOB2", 1),
        ("B- I-", "IOB2", 0),
        ("B-A O-A", "IOB2", 1),
        ("B M E", "IOBES", 1),
        ("B I E", "BMES", 1),
        ("I-A B-A", "IO", 1),
        ("B-A L-A U-A", "IOBES", None),
    ],
)
def test_what_a_scheme_forbids_is_found(tags: str, scheme: Scheme, number: int | None) -> None:
    assert find_break(tags.split(), scheme) == number


def test_bare_tags_are_those_of_words_and_bilou_is_iobes() -> None:
    assert read_chunks(["B", "E", "S"], "BMES") == [Chunk(0, 2, "word"), Chunk(2, 3, "word")]
    assert write_tags([Chunk(0, 2, "word"), Chunk(2, 3, "word")], 3, "BMES") == ["B", "E", "S"]
    assert tags_of(["word"], "BMES") == ["B", "M", "E", "S"]
    assert read_chunks(["B-A", "I-A", "L-A", "U-B"], "IOBES") == [Chunk(0, 3, "A"), Chunk(3, 4, "B")]
    assert split_tag("B-per-son") == ("B", "per-son")


def test_plain_tags_are_spans_of_a_word_each() -> None:
    assert read_chunks(["N", "O", "N"], "plain") == [Chunk(0, 1, "N"), Chunk(2, 3, "N")]
    assert write_tags([Chunk(0, 1, "N"), Chunk(2, 3, "N")], 3, "plain") == ["N", "O", "N"]
    assert allows("plain", ("N", ""), ("V", ""))
