from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from fakes import BEGINNINGS, MemorySplit
from hypothesis import given, settings
from hypothesis import strategies as st

from pretune.draw import Draw
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.find import variants
from pretune.text.samples.examples import ExampleView
from pretune.text.samples.rows import Encoded, Row
from pretune.text.samples.views import windows
from pretune.text.samples.views.document import DocumentView
from pretune.text.samples.views.pairs import PairsView
from pretune.text.samples.views.stream import StreamView
from pretune.text.samples.views.view import AXIS, View, build_view
from pretune.text.store.prepare import PrepareConfig, prepare
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

DRAW = Draw(7)
documents = st.lists(st.lists(st.integers(1, 12), max_size=6), min_size=1, max_size=8)


def read_all(view: View, store: int = 0, epoch: int = 0) -> Sequence[Row]:
    return view.read(np.arange(len(view)), store, epoch, DRAW)


def check_stats(view: View, split: MemorySplit, used: set[int]) -> None:
    """Every token is used, the end of a document, or cut; the used ones are those that rows hold."""
    stats = view.data_stats()
    assert stats["tokens"] == split.token_count
    assert stats["tokens"] == stats["used"] + stats["cut"] + stats.get("end", 0)
    assert stats["used"] == len(used)
    assert stats["samples"] == len(view)


@given(documents, st.integers(1, 20), st.integers(0, 1))
@settings(max_examples=200, deadline=None)
def test_a_stream_is_cut_into_windows_that_share_only_the_look_ahead(
    layout: list[list[int]], width: int, lookahead: int
) -> None:
    split = MemorySplit(layout)
    view = StreamView(split, width, lookahead)
    expected = []
    for start in range(0, split.token_count, width):
        window = split.tokens[start : start + width + lookahead].tolist()
        if len(window) >= (2 if width + lookahead > 1 else 1):
            expected.append(window)
    rows = read_all(view)
    assert [row.tokens.tolist() for row in rows] == expected
    assert view.lengths(np.arange(len(view))).tolist() == [len(window) - lookahead for window in expected]
    starts = [n * width for n in range(len(expected))]
    check_stats(view, split, {t for s, w in zip(starts, expected, strict=True) for t in range(s, s + len(w))})


@given(documents, st.integers(1, 20), st.integers(0, 1))
@settings(max_examples=200, deadline=None)
def test_document_windows_never_cross_a_document(layout: list[list[int]], width: int, lookahead: int) -> None:
    split = MemorySplit(layout)
    view = DocumentView(split, width, lookahead)
    expected, used = [], set()
    for begin, end in zip(split.document_offsets[:-1].tolist(), split.document_offsets[1:].tolist(), strict=True):
        end -= 1 - lookahead
        for start in range(begin, end, width):
            stop = min(start + width + lookahead, end)
            if stop - start >= (2 if width + lookahead > 1 else 1):
                expected.append(split.tokens[start:stop].tolist())
                used |= set(range(start, stop))
    assert [row.tokens.tolist() for row in read_all(view)] == expected
    assert view.lengths(np.arange(len(view))).tolist() == [len(window) - lookahead for window in expected]
    check_stats(view, split, used)


def pack_slowly(split: MemorySplit, width: int) -> list[tuple[int, int]]:
    """Greedy packing, sentence by sentence."""
    windows = []
    for begin, end in zip(split.document_offsets[:-1].tolist(), (split.document_offsets[1:] - 1).tolist(), strict=True):
        starts = [s for s in split.sentence_offsets.tolist() if begin <= s < end]
        pieces = []
        for start, stop in pairwise([*starts, end]):
            pieces += [(s, min(s + width, stop)) for s in range(start, stop, width)]
        current: tuple[int, int] | None = None
        for start, stop in pieces:
            if current and stop - current[0] <= width:
                current = (current[0], stop)
            else:
                windows += [current] if current else []
                current = (start, stop)
        windows += [current] if current else []
    return [(a, b) for a, b in windows if b - a >= min(2, width)]


@given(documents, st.integers(1, 25), st.integers(1, 4))
@settings(max_examples=300, deadline=None)
def test_pairs_pack_whole_sentences_greedily(layout: list[list[int]], width: int, chunk: int) -> None:
    split = MemorySplit([*layout, [3, 4], [5]])
    keep, windows.CHUNK = windows.CHUNK, chunk
    try:
        view = PairsView(split, width)
    finally:
        windows.CHUNK = keep
    expected = pack_slowly(split, width)
    rows = read_all(view)
    assert [row.tokens.tolist() for row in rows] == [split.tokens[a:b].tolist() for a, b in expected]
    assert view.lengths(np.arange(len(view))).tolist() == [b - a for a, b in expected]
    check_stats(view, split, {t for a, b in expected for t in range(a, b)})
    sentences = set(split.sentence_offsets.tolist())
    for row, (a, b) in zip(rows, expected, strict=True):
        assert row.sentences is not None
        assert row.sentences.tolist() == [0, *(s - a for s in range(a + 1, b) if s in sentences)]
        assert row.spare == width - (b - a)


@given(documents, st.integers(1, 25))
@settings(max_examples=200, deadline=None)
def test_the_other_text_begins_a_sentence_of_another_document(layout: list[list[int]], width: int) -> None:
    split = MemorySplit([*layout, [3, 4], [5]])
    sentences, ends = split.sentence_offsets.tolist(), (split.document_offsets[1:] - 1).tolist()
    for row in read_all(PairsView(split, width)):
        assert row.other is not None
        assert row.stops is not None
        start, own = int(row.other[0]) - 1000, int(row.tokens[0]) - 1000
        document = int(np.searchsorted(split.document_offsets, start, side="right")) - 1
        stop = min(start + width, ends[document])
        assert start in sentences
        assert document != int(np.searchsorted(split.document_offsets, own, side="right")) - 1
        assert row.other.tolist() == split.tokens[start:stop].tolist()
        whole = [s for s in [*sentences, ends[document]] if start < s <= stop]
        assert row.stops.tolist() == [s - start for s in sorted(set(whole))]


def test_the_other_text_is_drawn_from_all_documents_by_key() -> None:
    split = MemorySplit([[4, 4, 4]] * 50)
    view = PairsView(split, 12)
    actual = [int(row.other[0]) for epoch in range(60) for row in read_all(view, epoch=epoch) if row.other is not None]
    assert len(set(actual)) > 45
    again = view.read(np.array([7, 3]), 0, 5, DRAW)
    whole = read_all(view, epoch=5)
    assert [r.other.tolist() for r in again if r.other is not None] == [
        whole[n].other.tolist() for n in (7, 3) if whole[n].other is not None
    ]
    assert [r.sample for r in again] == [(0, 5, 7), (0, 5, 3)]
    changed = [a.other.tolist() != b.other.tolist() for a, b in zip(whole, read_all(view, epoch=6), strict=True)]
    assert sum(changed) > 35


def test_a_long_sentence_is_split_and_counted_but_not_lost() -> None:
    view = PairsView(MemorySplit([[2, 25, 3], [4]]), 10)
    assert [len(row.tokens) for row in read_all(view)] == [2, 10, 10, 8, 4]
    stats = view.data_stats()
    assert (stats["cut"], stats["split"], stats["end"]) == (0, 15, 2)


def test_a_document_of_one_token_is_cut_and_counted() -> None:
    view = PairsView(MemorySplit([[1], [5, 5], [4]]), 8)
    assert view.data_stats()["cut"] == 1
    assert len(view) == 3


@pytest.mark.parametrize("layout", [[[5, 5]], [[], [5]], []])
def test_pairs_need_two_documents(layout: list[list[int]]) -> None:
    with pytest.raises(DataError, match="another document"):
        PairsView(MemorySplit(layout), 8)


@pytest.mark.parametrize("layout", [[], [[]], [[1]]])
def test_too_little_text_gives_no_sample(layout: list[list[int]]) -> None:
    split = MemorySplit(layout)
    assert len(DocumentView(split, 8, 0)) == 0
    assert len(StreamView(split, 8, 1)) == (1 if layout == [[1]] else 0)
    assert DocumentView(split, 8, 0).data_stats()["cut"] == sum(map(sum, layout))


def test_examples_are_rows() -> None:
    first, second = np.array([5, 6]), np.array([7])
    targets, spans = np.array([0.5, 1.5], np.float32), (np.array([[0, 2], [3, 5]]),)
    view = ExampleView([Encoded(first, targets=targets, example=4, offsets=spans), Encoded(first, second)])
    rows = read_all(view, store=2, epoch=3)
    assert [row.sample for row in rows] == [(2, 3, 0), (2, 3, 1)]
    assert [row.targets for row in rows] == [targets, None]
    assert (rows[0].example, rows[0].offsets) == (4, spans)
    assert [row.size for row in rows] == [2, 3] == view.lengths(np.arange(2)).tolist()
    assert rows[1].second is second


def test_views_by_name() -> None:
    split = MemorySplit([[4, 4], [4]])
    assert isinstance(build_view(split, "stream", 8, 1), StreamView)
    assert isinstance(build_view(split, "stream", 8, pack="document"), DocumentView)
    assert isinstance(build_view(split, "pairs", 8, pack="document"), PairsView)
    assert variants(AXIS) == ["document", "pairs", "sentence", "sentences", "stream"]
    for view, pack in (("examples", "stream"), ("stream", "documents"), ("windows", "stream")):
        with pytest.raises(UsageError, match=r"known|did you mean"):
            build_view(split, view, 8, pack=pack)
    for width in (0, -2):
        with pytest.raises(UsageError, match="length"):
            build_view(split, "pairs", width)


def test_a_view_of_one_s_own_is_found_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "heads.py").write_text(BEGINNINGS)
    split = MemorySplit([[4, 4], [2], [9]])
    view = build_view(split, str(tmp_path / "heads.py"), 3)
    assert [row.tokens.tolist() for row in read_all(view)] == [[1000, 1001, 1002], [1009, 1010], [1012, 1013, 1014]]
    with pytest.raises(MissingInputError, match="no such file"):
        build_view(split, str(tmp_path / "tails.py"), 3)
    (tmp_path / "none.py").write_text("")
    with pytest.raises(UsageError, match="one StoreView"):
        build_view(split, str(tmp_path / "none.py"), 3)


def test_views_of_a_prepared_store(tmp_path: Path) -> None:
    """Text to rows and back: sentences of a real store, cut as they were written."""
    sentences = [f"Number {n} is followed by a word. " + "It is the next one! " * (n % 3) for n in range(60)]
    text = "\n\n".join("".join(sentences[n : n + 4]).strip() for n in range(0, 60, 4))
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    tokenizer = train_tokenizer([text], TokenizerConfig(vocab_size=300))
    config = PrepareConfig(validation=0.0, processes=1)
    split = prepare(tmp_path / "text.txt", tokenizer, tmp_path / "store", config).split("train")
    view = PairsView(split, 40)
    rows = read_all(view)
    for row in rows:
        assert row.sentences is not None
        assert row.other is not None
        assert row.stops is not None
        for start in row.sentences.tolist():
            assert tokenizer.decode(row.tokens[start:]).startswith(("number", "it is"))
        for stop in row.stops.tolist():
            assert tokenizer.decode(row.other[:stop])[-1] in ".!"
    whole = " ".join(tokenizer.decode(row.tokens) for row in rows)
    assert whole == tokenizer.decode(split.read(0, split.token_count), skip_special=True)
    documents = DocumentView(split, 10_000)
    assert len(documents) == split.document_count == 15
    assert sum(len(row.tokens) for row in read_all(documents)) == view.data_stats()["used"]
