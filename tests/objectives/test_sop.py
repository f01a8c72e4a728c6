from dataclasses import replace

import numpy as np
import pytest
from fakes import CLS, SEP, MemorySplit, make_decoder_vocabulary, make_vocabulary, sequences_of
from scipy import stats

from pretune.draw import Draw, bounded, unit
from pretune.errors import DataError
from pretune.objectives.mixture import build
from pretune.objectives.sop import SentenceOrderPrediction
from pretune.text.samples.rows import Row
from pretune.text.samples.views.sentences import SentencesView

DRAW = Draw(5)
VOCABULARY = make_vocabulary()
WIDTH = 40


def make(**fields: float) -> SentenceOrderPrediction:
    return SentenceOrderPrediction(SentenceOrderPrediction.Config(**fields), VOCABULARY)


def read_rows(documents: int = 300, epoch: int = 0) -> list[Row]:
    random = np.random.default_rng(0)
    split = MemorySplit([random.integers(1, 21, random.integers(1, 13)).tolist() for _ in range(documents)])
    view = SentencesView(split, WIDTH)
    return view.read(np.arange(len(view)), 0, epoch, DRAW)


def order_slowly(row: Row, draw: Draw) -> tuple[list[int], list[int], int | None]:
    """One sample as the paper has it: tokens, segments, label."""
    assert row.sentences is not None
    tokens, sample = row.tokens.tolist(), np.array([row.sample])
    cuts = row.sentences.tolist()[1:]
    if not cuts:
        return [CLS, *tokens, SEP], [0] * (len(tokens) + 2), None
    cut = cuts[int(bounded(draw.at("sop", "split").keys(sample)[0], len(cuts)))]
    first, second = tokens[:cut], tokens[cut:]
    label = int(unit(draw.at("sop", "swap").keys(sample))[0] < 0.5)
    if label:
        first, second = second, first
    return [CLS, *first, SEP, *second, SEP], [0] * (len(first) + 2) + [1] * (len(second) + 1), label


def test_a_batch_is_what_the_slow_reference_makes() -> None:
    rows, objective = read_rows(), make()
    batch = objective.prepare(rows, DRAW)
    expected = [order_slowly(row, DRAW) for row in rows]
    assert batch.tokens.tolist() == [token for tokens, _, _ in expected for token in tokens]
    assert batch.segments is not None
    assert batch.segments.tolist() == [segment for _, segments, _ in expected for segment in segments]
    index, label = (part.tolist() for part in batch.targets["sop"])
    wanted = [(n, label) for n, (_, _, label) in enumerate(expected) if label is not None]
    assert list(zip(index, label, strict=True)) == wanted
    assert batch.data_stats == {"unpaired": len(rows) - len(wanted)}
    assert 0 < batch.data_stats["unpaired"] < len(rows)
    assert objective.counts(batch) == {"sop": len(wanted)}
    assert max(batch.layout.lengths) <= WIDTH + objective.overhead


def test_every_token_is_there_once_whatever_the_order() -> None:
    rows = read_rows()
    batch = make(swapped=1.0).prepare(rows, DRAW)
    for n, row in enumerate(rows):
        a, b = batch.layout.bounds[n : n + 2]
        kept = [t for t in batch.tokens[a:b].tolist() if t not in (CLS, SEP)]
        assert sorted(kept) == sorted(row.tokens.tolist())
    assert set(batch.targets["sop"][1].tolist()) == {1}


def test_one_sentence_is_never_a_pair() -> None:
    row = Row((0, 0, 0), np.arange(10, 20), sentences=np.array([0]))
    batch = make().prepare([replace(row, sample=(0, 0, n)) for n in range(50)], DRAW)
    assert batch.data_stats == {"unpaired": 50}
    assert batch.targets["sop"][0].numel() == 0
    assert set(batch.layout.lengths) == {12}


def test_half_of_the_pairs_are_exchanged_and_every_boundary_is_equally_likely() -> None:
    row = Row((0, 0, 0), np.arange(10, 22), sentences=np.arange(0, 12, 2))
    batch = make().prepare([replace(row, sample=(0, n % 7, n)) for n in range(100_000)], DRAW)
    label = batch.targets["sop"][1].numpy()
    assert stats.binomtest(int(label.sum()), 100_000, 0.5).pvalue > 1e-4
    assert stats.binomtest(int((label[1:] == label[:-1]).sum()), 99_999, 0.5).pvalue > 1e-4
    assert batch.segments is not None
    second = np.add.reduceat(batch.segments.numpy(), batch.layout.bounds[:-1]) - 1
    cut = np.where(label == 1, second, 12 - second)
    assert stats.chisquare(np.bincount(cut, minlength=11)[[2, 4, 6, 8, 10]]).pvalue > 1e-4


def test_samples_do_not_depend_on_the_batch() -> None:
    rows, objective = read_rows()[:20], make()
    together = objective.prepare(rows, DRAW)
    alone = objective.prepare([rows[n] for n in (17, 5, 11)], DRAW)
    assert sequences_of(alone, alone.tokens, range(3)) == sequences_of(together, together.tokens, [17, 5, 11])


def test_masks_ride_along() -> None:
    mixture = build({"mlm": 1.0, "sop": 1.0}, VOCABULARY)
    assert len(mixture.alternatives) == 1
    assert mixture.view == "sentences"
    known = [replace(row, tokens=row.tokens % 90 + 5) for row in read_rows()[:16]]
    batch = mixture.build_batch(known, DRAW)
    counts = mixture.counts(batch)
    assert counts["mlm"] > 16 > counts["sop"] > 0


def test_a_decoder_s_tokenizer_is_refused() -> None:
    with pytest.raises(DataError, match="separator"):
        SentenceOrderPrediction(SentenceOrderPrediction.Config(), make_decoder_vocabulary())
