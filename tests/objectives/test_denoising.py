"""Denoising, span corruption and prefixes: batches against the papers, statistics of 100,000 draws, overfitting."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fakes import CLS, MASK, SEP, make_vocabulary
from scipy import stats

from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.models import build
from pretune.objectives import denoise, span
from pretune.objectives.clm import CausalLanguageModelling
from pretune.objectives.denoise import Denoising
from pretune.objectives.prefix import PrefixLanguageModelling
from pretune.objectives.span import SpanCorruption
from pretune.text.samples.rows import Row

DRAW = Draw(5)
START = 7
SENTINELS = (99, 98, 97, 96)
VOCABULARY = replace(make_vocabulary(), sentinels=SENTINELS)
TEXT = np.arange(10, 34)
SENTENCES = np.array([0, 5, 6, 15])


def make(kind, vocabulary=VOCABULARY, **fields):
    objective = kind(kind.Config(**fields), vocabulary)
    objective.setup(SimpleNamespace(decoder_start=START, has_encoder=True), DRAW)
    return objective


def rows(count: int, tokens: np.ndarray = TEXT) -> list[Row]:
    return [Row((0, n % 7, n), tokens, sentences=SENTENCES) for n in range(count)]


def source_of(batch, n: int) -> list[int]:
    a, b = batch.source.layout.bounds[n : n + 2]
    return batch.source.tokens[a:b].tolist()


def label_of(batch, n: int) -> list[int]:
    a, b = batch.layout.bounds[n : n + 2]
    (_, label), *_ = batch.targets.values()
    return label[a:b].tolist()


@pytest.mark.parametrize("kind", [Denoising, SpanCorruption, PrefixLanguageModelling])
def test_the_decoder_reads_its_target_a_place_later(kind) -> None:
    objective = make(kind)
    batch = objective.build_batch(rows(20), DRAW)
    index, label = batch.targets[objective.name]
    assert index.tolist() == list(range(batch.layout.total))
    assert objective.counts(batch) == {objective.name: batch.layout.total}
    for n in range(20):
        a, b = batch.layout.bounds[n : n + 2]
        assert batch.tokens[a:b].tolist() == [START, *label[a : b - 1].tolist()]
    alone = objective.build_batch(rows(20)[13:14], DRAW)
    assert source_of(alone, 0) == source_of(batch, 13)
    assert label_of(alone, 0) == label_of(batch, 13)


def test_denoising_writes_the_whole_text() -> None:
    batch = make(Denoising).build_batch(rows(50), DRAW)
    for n in range(50):
        assert label_of(batch, n) == [CLS, *TEXT.tolist(), SEP]
        actual = source_of(batch, n)
        assert actual[0] == CLS
        assert actual[-1] == SEP
        inner = actual[1:-1]
        left = [t for t in inner if t != MASK]
        assert len(left) == len(set(left)) == len(TEXT) - round(0.3 * len(TEXT))
        assert set(left) <= set(TEXT.tolist())


def test_sentences_change_places_whole() -> None:
    batch = make(Denoising, infill=0.0).build_batch(rows(200), DRAW)
    whole = [part.tolist() for part in np.split(TEXT, SENTENCES[1:])]
    orders = set()
    for n in range(200):
        inner, order = source_of(batch, n)[1:-1], []
        while inner:
            place = next(k for k, part in enumerate(whole) if part == inner[: len(part)])
            order.append(place)
            inner = inner[len(whole[place]) :]
        assert sorted(order) == [0, 1, 2, 3]
        orders.add(tuple(order))
    assert len(orders) == 24


@pytest.mark.parametrize("count", [5_000, pytest.param(20_000, marks=pytest.mark.slow)])
def test_infilled_texts_keep_their_order_and_hide_exactly_the_share(count: int) -> None:
    counts, lengths, places = [], [], np.zeros(len(TEXT))
    for n in range(count):
        actual = denoise.infill(TEXT, Draw(n), 0.3, 3.0)
        left = actual[actual != -1]
        assert (np.diff(left) > 0).all()
        assert len(left) == len(TEXT) - 7
        counts.append(len(actual) - len(left))
        places += ~np.isin(TEXT, left)
        lengths.append(denoise._spans(Draw(n).at("lengths"), 7, 3.0)[0])
    assert places.sum() == count * 7
    assert abs(places / count - 0.3)[2:-2].max() < 0.06
    assert (places[[0, -1]] < places[2:-2].min()).all()  # edges are hidden less: a span must lie inside
    assert 2.5 < np.mean(counts) < 4.5  # 7 tokens in spans of 3, those of 0 and the last, cut one counted too
    free = np.array(lengths)[np.array(lengths) < 7]
    expected = stats.poisson.pmf(np.arange(7), 3.0)
    observed = np.bincount(free, minlength=7)
    assert stats.chisquare(observed, expected / expected.sum() * len(free)).pvalue > 1e-4


def test_single_tokens_are_masked_deleted_and_texts_rotated() -> None:
    batch = make(Denoising, infill=0.0, permute=0.0, mask=0.2, delete=0.3).build_batch(rows(4000), DRAW)
    inner = [source_of(batch, n)[1:-1] for n in range(4000)]
    kept = sum(t != MASK for part in inner for t in part) / (4000 * len(TEXT))
    masked = sum(t == MASK for part in inner for t in part) / (4000 * len(TEXT))
    assert (kept, masked) == (pytest.approx(0.5, abs=0.01), pytest.approx(0.2, abs=0.01))
    batch = make(Denoising, infill=0.0, permute=0.0, rotate=1.0).build_batch(rows(4000), DRAW)
    first = [source_of(batch, n)[1] for n in range(4000)]
    for n in range(20):
        inner = source_of(batch, n)[1:-1]
        assert np.roll(TEXT, -TEXT.tolist().index(inner[0])).tolist() == inner
    assert stats.chisquare(np.bincount(np.array(first) - 10, minlength=len(TEXT))).pvalue > 1e-4


def test_span_corruption_is_undone_by_its_target() -> None:
    batch = make(SpanCorruption).build_batch(rows(200), DRAW)
    for n in range(200):
        source, filling = source_of(batch, n), label_of(batch, n)
        assert source[-1] == filling[-1] == SEP
        assert source.pop(0) == filling.pop(0) == CLS
        gaps: dict[int, list[int]] = {}
        for token in filling[:-1]:
            if token in SENTINELS:
                gaps[token] = []
            else:
                gaps[list(gaps)[-1]].append(token)
        assert list(gaps) == list(SENTINELS[: len(gaps)])
        assert [t for t in source if t in SENTINELS] == list(gaps)
        whole = [t for token in source[:-1] for t in gaps.get(token, [token])]
        assert whole == TEXT.tolist()
        assert sum(map(len, gaps.values())) == round(0.15 * len(TEXT))
        assert all(gaps.values())


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_partitions_are_uniform(count: int) -> None:
    actual = [tuple(span._partition(5, 3, Draw(n)).tolist()) for n in range(count)]
    counts = {parts: actual.count(parts) for parts in set(actual)}
    assert len(counts) == 6  # 1 1 3, 1 3 1, 3 1 1, 1 2 2, 2 1 2, 2 2 1
    assert stats.chisquare(list(counts.values())).pvalue > 1e-4
    for length in (0, 1):
        assert not len(span.spans(length, DRAW, 0.15, 3.0))
    for length in range(2, 40):
        parts = span.spans(length, DRAW.at(length), 0.5, 3.0)
        assert parts.sum() == length
        assert (parts > 0).all()


def test_too_many_gaps_and_missing_sentinels_are_named() -> None:
    with pytest.raises(UsageError, match="5 gaps, the tokenizer 4"):
        make(SpanCorruption, mean_span=1.0, rate=0.2).build_batch(rows(1), DRAW)
    with pytest.raises(DataError, match="sentinels"):
        make(SpanCorruption, make_vocabulary())


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_prefixes_are_cut_uniformly_with_a_token_on_each_side(count: int) -> None:
    batch = make(PrefixLanguageModelling).build_batch(rows(count), DRAW)
    sizes = np.array(batch.source.layout.lengths) - 2
    assert stats.chisquare(np.bincount(sizes, minlength=24)[1:]).pvalue > 1e-4
    assert (sizes + np.array(batch.layout.lengths) - 2 == len(TEXT)).all()
    for n in range(20):
        assert source_of(batch, n)[1:-1] + label_of(batch, n)[1:-1] == TEXT.tolist()
    one = make(PrefixLanguageModelling).build_batch(rows(3, TEXT[:1]), DRAW)
    assert source_of(one, 0) == [CLS, 10, SEP]
    assert label_of(one, 0) == [CLS, SEP]


@pytest.mark.parametrize(
    "kind", [Denoising, *(pytest.param(k, marks=pytest.mark.slow) for k in (SpanCorruption, PrefixLanguageModelling))]
)
def test_overfits(kind) -> None:
    """Sixteen texts that only the source tells apart."""
    random = np.random.default_rng(0)
    texts = [Row((0, 0, n), random.integers(10, 90, 24), sentences=SENTENCES) for n in range(16)]
    shape = {"vocab_size": 100, "dropout": 0.0, "pad_token_id": 0, "decoder_start_token_id": 0, "d_model": 64}
    for side in ("encoder", "decoder"):
        shape |= {f"{side}_attention_heads": 2, f"{side}_ffn_dim": 128}
    model = build("bart", "tiny", ["clm"], shape)
    objective = kind(kind.Config(), VOCABULARY)
    objective.setup(model, DRAW)
    batch = objective.build_batch(texts, DRAW)
    optimizer = torch.optim.AdamW(model.parameters(), lr=6e-3)
    first = last = None
    for _ in range(60):
        (term,) = objective(model, batch)
        loss = term.sum / term.count
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        first, last = first or float(loss), float(loss)
    assert first > 4.0
    assert last < 0.3


@pytest.mark.parametrize("kind", [Denoising, SpanCorruption, PrefixLanguageModelling])
def test_a_decoder_alone_is_refused_and_an_encoder_s_answers_are_not_shown(kind) -> None:
    shape = {"vocab_size": 100, "pad_token_id": 0}
    with pytest.raises(UsageError, match="gpt2 is none"):
        kind(kind.Config(), VOCABULARY).setup(build("gpt2", "tiny", ["clm"], shape), DRAW)
    causal, bart = (
        CausalLanguageModelling(CausalLanguageModelling.Config(), VOCABULARY),
        build("bart", "tiny", [], shape),
    )
    with pytest.raises(UsageError, match="would read"):
        causal.setup(bart, DRAW)
