from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import CLS, SEP, FakeModel, FakeOutput, MemorySplit, make_decoder_vocabulary, make_vocabulary, sequences_of
from scipy import stats

from pretune.batch import Batch
from pretune.draw import Draw, bounded, unit
from pretune.errors import DataError
from pretune.objectives.nsp import NextSentencePrediction
from pretune.objectives.sentence_pair import substitute
from pretune.text.samples.rows import Row
from pretune.text.samples.views.pairs import PairsView

DRAW = Draw(5)
VOCABULARY = make_vocabulary()
WIDTH = 40


def make(**fields: float) -> NextSentencePrediction:
    return NextSentencePrediction(NextSentencePrediction.Config(**fields), VOCABULARY)


def make_split(documents: int = 300, seed: int = 0) -> MemorySplit:
    """Documents of 1 to 12 sentences of 1 to 20 tokens."""
    random = np.random.default_rng(seed)
    return MemorySplit([random.integers(1, 21, random.integers(1, 13)).tolist() for _ in range(documents)])


def read_rows(documents: int = 300, epoch: int = 0) -> list[Row]:
    view = PairsView(make_split(documents), WIDTH)
    return view.read(np.arange(len(view)), 0, epoch, DRAW)


def pair_slowly(row: Row, draw: Draw) -> tuple[list[int], list[int], int | None, int]:
    """One sample as BERT's paper has it: tokens, segments, label, displaced tokens."""
    assert row.sentences is not None
    assert row.other is not None
    assert row.stops is not None
    tokens, other = row.tokens.tolist(), row.other.tolist()
    if len(row.sentences) == 1:
        return [CLS, *tokens, SEP], [0] * (len(tokens) + 2), None, 0
    sample = np.array([row.sample])
    cuts = row.sentences.tolist()[1:]
    cut = cuts[int(bounded(draw.at("nsp", "split").keys(sample)[0], len(cuts)))]
    first, second = tokens[:cut], tokens[cut:]
    label = int(unit(draw.at("nsp", "other").keys(sample))[0] < 0.5)
    displaced = 0
    if label:
        displaced = len(second)
        fitting = [stop for stop in row.stops.tolist() if cut + stop <= WIDTH]
        best = min(fitting, key=lambda stop: abs(stop - displaced)) if fitting else displaced
        second = other[:best]
    segments = [0] * (len(first) + 2) + [1] * (len(second) + 1)
    return [CLS, *first, SEP, *second, SEP], segments, label, displaced


def test_a_batch_is_what_the_slow_reference_makes() -> None:
    rows, objective = read_rows(), make()
    batch = objective.prepare(rows, DRAW)
    expected = [pair_slowly(row, DRAW) for row in rows]
    assert batch.tokens.tolist() == [token for tokens, _, _, _ in expected for token in tokens]
    assert batch.segments is not None
    assert batch.segments.tolist() == [segment for _, segments, _, _ in expected for segment in segments]
    index, label = batch.targets["nsp"]
    assert list(zip(index.tolist(), label.tolist(), strict=True)) == [
        (n, label) for n, (_, _, label, _) in enumerate(expected) if label is not None
    ]
    assert batch.data_stats["displaced"] == sum(displaced for _, _, _, displaced in expected) > 0
    assert batch.data_stats["unpaired"] == sum(label is None for _, _, label, _ in expected) > 0
    kept = sum(len(row.tokens) for row in rows) - batch.data_stats["displaced"] + batch.data_stats["borrowed"]
    assert batch.layout.total == kept + 3 * len(index) + 2 * batch.data_stats["unpaired"]
    assert objective.counts(batch) == {"nsp": len(index)}
    assert [row.sample for row in rows] == [tuple(sample) for sample in batch.samples.tolist()]


def test_no_sequence_is_longer_than_the_length() -> None:
    batch = make().prepare(read_rows(), DRAW)
    assert max(batch.layout.lengths) <= WIDTH + make().overhead
    assert make().overhead == 3


def test_pairs_do_not_depend_on_the_batch() -> None:
    rows, objective = read_rows()[:20], make()
    together = objective.prepare(rows, DRAW)
    for order in ([3], [17, 5, 11]):
        alone = objective.prepare([rows[n] for n in order], DRAW)
        own = range(len(order))
        assert sequences_of(alone, alone.tokens, own) == sequences_of(together, together.tokens, order)
        assert sequences_of(alone, alone.segments, own) == sequences_of(together, together.segments, order)


@pytest.fixture(scope="module")
def many() -> tuple[Row, Batch]:
    """One window of six sentences under 100,000 keys."""
    row = Row(
        (0, 0, 0),
        tokens=np.arange(10, 22),
        sentences=np.arange(0, 12, 2),
        other=np.arange(50, 62),
        stops=np.arange(2, 13, 2),
    )
    return row, make().prepare([replace(row, sample=(0, n % 7, n)) for n in range(100_000)], DRAW)


def test_half_of_the_pairs_are_from_another_document(many: tuple[Row, Batch]) -> None:
    label = many[1].targets["nsp"][1].numpy()
    assert stats.binomtest(int(label.sum()), 100_000, 0.5).pvalue > 1e-4
    assert stats.binomtest(int((label[1:] == label[:-1]).sum()), 99_999, 0.5).pvalue > 1e-4


def test_every_boundary_is_equally_likely_whatever_the_label(many: tuple[Row, Batch]) -> None:
    _, batch = many
    assert batch.segments is not None
    second = np.add.reduceat(batch.segments.numpy(), batch.layout.bounds[:-1]) - 1
    label = batch.targets["nsp"][1].numpy()
    for value in (0, 1):
        counts = np.bincount(second[label == value], minlength=11)
        assert counts[[0, 1, 3, 5, 7, 9]].sum() == 0
        assert stats.chisquare(counts[[2, 4, 6, 8, 10]]).pvalue > 1e-4


def test_the_label_shows_in_the_second_text_alone(many: tuple[Row, Batch]) -> None:
    _, batch = many
    sizes = np.array(batch.layout.lengths)
    assert set(sizes.tolist()) == {15}
    last = batch.tokens.numpy()[np.array(batch.layout.bounds[1:]) - 2]
    assert np.array_equal(last >= 50, batch.targets["nsp"][1].numpy() == 1)


def test_lengths_do_not_tell_the_label() -> None:
    lengths: dict[int, list[int]] = {0: [], 1: []}
    for epoch in range(4):
        batch = make().prepare(read_rows(400, epoch), DRAW)
        for n, label in zip(*(part.tolist() for part in batch.targets["nsp"]), strict=True):
            lengths[label].append(batch.layout.lengths[n])
    own, other = np.array(lengths[0]), np.array(lengths[1])
    assert len(other) > 1000
    assert abs(own.mean() - other.mean()) < 1.0
    above = (other[:, None] > own).mean() + (other[:, None] == own).mean() / 2
    assert abs(above - 0.5) < 0.05, "a classifier that sees only the length would win by this"


def test_a_second_text_ends_with_a_sentence() -> None:
    other = np.arange(50, 70)
    row = Row((0, 0, 0), np.arange(10), other=other, stops=np.array([3, 8, 20]), spare=4)
    for size, expected in [(1, 3), (5, 3), (6, 8), (9, 8), (15, 8), (16, 20), (30, 20)]:
        assert len(substitute(row, size)) == expected
    tight = replace(row, stops=np.array([8, 20]))
    assert substitute(tight, 3).tokens.tolist() == other[:3].tolist()
    assert len(substitute(replace(row, stops=np.zeros(0, np.int64)), 6)) == 6


def test_rows_of_another_view_are_refused() -> None:
    row = Row((0, 0, 0), np.arange(4), sentences=np.array([0, 2]))
    with pytest.raises(ValueError, match="view 'pairs'"):
        make(random=1.0).prepare([row], DRAW)


@pytest.mark.parametrize(("random", "label"), [(0.0, 0), (1.0, 1)])
def test_the_share_can_be_set(random: float, label: int) -> None:
    assert set(make(random=random).prepare(read_rows(30), DRAW).targets["nsp"][1].tolist()) == {label}


def test_the_loss_is_summed_over_the_pairs() -> None:
    model, objective = FakeModel(2000 + 300 * 140), make(weight=0.5)
    batch = objective.prepare(read_rows(60), DRAW)
    (term,) = objective(model, batch)
    index, label = batch.targets["nsp"]
    logits = model.heads["nsp"](model.embedding(batch.tokens), batch.layout)[index]
    torch.testing.assert_close(term.sum, F.cross_entropy(logits, label, reduction="sum"))
    assert (term.name, term.count, term.weight) == ("nsp", len(label), 0.5)
    assert term.correct is not None
    assert int(term.correct) == int((logits.argmax(1) == label).sum())


def test_a_batch_without_pairs_gives_zero_and_gradients() -> None:
    model, objective = FakeModel(), make()
    batch = objective.prepare([Row((0, 0, 0), np.array([9, 8]), sentences=np.array([0]))], DRAW)
    (term,) = objective.loss(model, FakeOutput(model.embedding(batch.tokens), batch.layout), batch)
    term.sum.backward()
    assert (float(term.sum.detach()), term.count, batch.data_stats["unpaired"]) == (0.0, 0, 1)
    assert all(p.grad is not None and not p.grad.any() for p in model.heads["nsp"].parameters())
    assert objective.counts(objective.prepare([], DRAW)) == {"nsp": 0}


def test_a_tokenizer_without_a_separator_is_refused() -> None:
    with pytest.raises(DataError, match="separator"):
        NextSentencePrediction(NextSentencePrediction.Config(), make_decoder_vocabulary())
