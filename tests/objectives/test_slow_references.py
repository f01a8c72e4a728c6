"""Corruptions against slow references, written from the papers a token at a time from the same keyed numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from fakes import CLS, MASK, SEP, make_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pretune.draw import Draw
from pretune.models import build
from pretune.objectives.denoise import Denoising
from pretune.objectives.plm import PermutationLanguageModelling
from pretune.objectives.prefix import PrefixLanguageModelling
from pretune.objectives.rtd import ReplacedTokenDetection
from pretune.objectives.sop import SentenceOrderPrediction
from pretune.objectives.span import SpanCorruption
from pretune.text.samples.rows import Row

DRAW = Draw(11)
SENTINELS = tuple(range(70, 98))
VOCABULARY = replace(make_vocabulary(), sentinels=SENTINELS)
MANY = 100_000

lengths = st.integers(0, 60)
seeds = st.integers(0, 1 << 30)


def first_by_hash(draw: Draw, candidates: int, wanted: int) -> list[int]:
    """The `wanted` of so many candidates whose hashes are smallest, ascending."""
    return sorted(sorted(range(candidates), key=lambda n: (int(draw.bits(n)), n))[:wanted])


def rounded(number: float) -> int:
    return math.floor(number + 0.5)


def row(length: int, seed: int, sentences: list[int] | None = None) -> Row:
    tokens = np.random.default_rng(seed).integers(5, 70, length)
    return Row((0, 1, seed), tokens, sentences=None if sentences is None else np.array(sentences))


def key_of(name: str, sample: Row) -> Draw:
    return Draw(int(DRAW.at(name).keys(np.array([sample.sample]))[0]))


def make(kind, **fields):
    objective = kind(kind.Config(**fields), VOCABULARY)
    if kind is not PermutationLanguageModelling:
        objective.setup(SimpleNamespace(decoder_start=0, has_encoder=True), DRAW)
    return objective


def runs(total: int, parts: int, draw: Draw) -> list[int]:
    """`random_segmentation` of google-research/t5: which of the gaps between items begin a new run."""
    begins = first_by_hash(draw, total - 1, parts - 1)
    out = [1]
    for gap in range(total - 1):
        if gap in begins:
            out.append(1)
        else:
            out[-1] += 1
    return out


def corrupt_spans(tokens: list[int], rate: float, mean: float, draw: Draw) -> tuple[list[int], list[int]]:
    """Source and target of T5: kept and hidden runs in turn."""
    if len(tokens) < 2:
        return tokens, []
    hidden = min(max(round(len(tokens) * rate), 1), len(tokens) - 1)
    count = min(max(round(hidden / mean), 1), len(tokens) - hidden)
    kept_runs = runs(len(tokens) - hidden, count, draw.at("kept"))
    hidden_runs = runs(hidden, count, draw.at("hidden"))
    source, target, place = [], [], 0
    for number, (kept, gone) in enumerate(zip(kept_runs, hidden_runs, strict=True)):
        source += [*tokens[place : place + kept], SENTINELS[number]]
        target += [SENTINELS[number], *tokens[place + kept : place + kept + gone]]
        place += kept + gone
    return source, target


@given(lengths, seeds, st.sampled_from([0.05, 0.15, 0.4]), st.sampled_from([1.5, 3.0, 8.0]))
@settings(max_examples=60, deadline=None)
def test_span_corruption(length: int, seed: int, rate: float, mean: float) -> None:
    sample = row(length, seed)
    ((source, target),) = make(SpanCorruption, rate=rate, mean_span=mean).pairs([sample], DRAW)
    actual = corrupt_spans(sample.tokens.tolist(), rate, mean, key_of("span", sample))
    assert ([CLS, *actual[0], SEP], [CLS, *actual[1], SEP]) == (source.tolist(), target.tolist())


@given(st.integers(2, 60), seeds, st.sampled_from([(0.0, 1.0), (0.3, 0.6), (0.5, 0.5), (1.0, 1.0)]))
@settings(max_examples=60, deadline=None)
def test_prefixes(length: int, seed: int, bounds: tuple[float, float]) -> None:
    sample = row(length, seed)
    ((source, target),) = make(PrefixLanguageModelling, min_fraction=bounds[0], max_fraction=bounds[1]).pairs(
        [sample], DRAW
    )
    places = [n for n in range(1, length) if math.floor(bounds[0] * length) <= n <= math.ceil(bounds[1] * length)]
    places = places or [1 if bounds[1] < 0.5 else length - 1]
    drawn = (key_of("prefix", sample).key >> 11) / 2**53
    edge = places[int(drawn * len(places))]
    tokens = sample.tokens.tolist()
    assert source.tolist() == [CLS, *tokens[:edge], SEP]
    assert target.tolist() == [CLS, *tokens[edge:], SEP]


def damage(sample: Row, config: Denoising.Config, draw: Draw) -> list[int]:
    """What section 2.2 of BART describes, transformation by transformation."""
    tokens = sample.tokens.tolist()
    assert sample.sentences is not None
    if draw.at("permute").uniform(0) < config.permute:
        ends = [*sample.sentences.tolist()[1:], len(tokens)]
        parts = [tokens[a:b] for a, b in zip(sample.sentences.tolist(), ends, strict=True)]
        order = sorted(range(len(parts)), key=lambda n: (int(draw.at("order").bits(n)), n))
        tokens = [token for n in order for token in parts[n]]
    hidden = rounded(config.infill * len(tokens))
    spans: list[int] = []
    while hidden and sum(spans) < hidden:
        left, size = float(draw.at("infill", "lengths").uniform(len(spans))), 0
        while left >= stats.poisson.cdf(size, config.mean_span):
            size += 1
        spans.append(min(size, hidden - sum(spans)))
    slots = first_by_hash(draw.at("infill", "places"), len(tokens) - hidden + len(spans), len(spans))
    damaged, place = [], 0
    for slot in range(len(tokens) - hidden + len(spans)):
        if slot in slots:
            place += spans[slots.index(slot)]
            damaged.append(MASK)
        else:
            damaged.append(tokens[place])
            place += 1
    single = []
    for n, token in enumerate(damaged):
        drawn = draw.at("single").uniform(n)
        if token != MASK and config.mask <= drawn < config.mask + config.delete:
            continue
        single.append(MASK if drawn < config.mask else token)
    if len(single) > 1 and draw.at("rotate").uniform(0) < config.rotate:
        first = int(draw.at("first").uniform(0) * len(single))
        single = single[first:] + single[:first]
    return single


@given(
    st.integers(1, 50), seeds,
    st.sampled_from([
        {}, {"infill": 0.0}, {"infill": 1.0}, {"mean_span": 1.0}, {"permute": 0.5, "rotate": 0.5},
        {"mask": 0.2, "delete": 0.3, "rotate": 1.0}, {"mask": 0.5, "infill": 0.1, "permute": 0.0},
    ]),
)  # fmt: skip
@settings(max_examples=80, deadline=None)
def test_denoising(length: int, seed: int, fields: dict[str, float]) -> None:
    starts = np.random.default_rng(seed).choice(np.arange(1, length + 1), min(3, length - 1), replace=False)
    sample = row(length, seed, sorted({0, *(int(n) for n in starts if n < length)}))
    objective = make(Denoising, **fields)
    ((source, target),) = objective.pairs([sample], DRAW)
    assert source.tolist() == [CLS, *damage(sample, objective.config, key_of("denoise", sample)), SEP]
    assert target.tolist() == [CLS, *sample.tokens.tolist(), SEP]


def permute(length: int, rate: float, max_span: int, draw: Draw) -> dict[int, int]:
    """Place -> rank in the factorization order, for the tokens that are predicted."""
    wanted = max(1, round(rate * length))
    odds = [1 / n for n in range(1, max_span + 1)]
    chosen: list[int] = []
    begin = step = 0
    while begin < length:
        left, size = float(draw.at("size").uniform(step)) * sum(odds), 1
        while left >= sum(odds[:size]):
            size += 1
        context = max(size, round(size / rate))
        first = begin + int(draw.at("place").uniform(step) * (context - size + 1))
        chosen += [place for place in range(first, first + size) if place < length]
        begin, step = begin + context, step + 1
    chosen = chosen[:wanted]  # what is too much is dropped from the end of the text
    rest = [place for place in range(length) if place not in chosen]
    chosen += [rest[n] for n in first_by_hash(draw.at("rest"), len(rest), wanted - len(chosen))]
    ranks = sorted(range(wanted), key=lambda n: (int(draw.at("order").bits(n)), n))
    return {place: ranks.index(n) for n, place in enumerate(sorted(chosen))}


@given(st.integers(1, 80), seeds, st.sampled_from([0.1, 1 / 6, 0.5, 1.0]), st.sampled_from([1, 3, 5]))
@settings(max_examples=80, deadline=None)
def test_permutation_language_modelling(length: int, seed: int, rate: float, max_span: int) -> None:
    sample = row(length, seed)
    batch = make(PermutationLanguageModelling, rate=rate, max_span=max_span).build_batch([sample], DRAW)
    expected = permute(length, rate, max_span, key_of("plm", sample))
    order = [-1, *(expected.get(place, -1) for place in range(length)), -1]
    assert batch.order is not None
    assert batch.order.tolist() == order
    index, label = batch.targets["plm"]
    assert index.tolist() == [place for place, rank in enumerate(order) if rank >= 0]
    assert label.tolist() == [int(sample.tokens[place - 1]) for place in index.tolist()]


def uniform(found: list[int] | np.ndarray) -> None:
    counts = np.unique(found, return_counts=True)[1]
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.slow
def test_rotations_and_orders_of_sentences_are_uniform() -> None:
    text = Row((0, 0, 0), np.array([10, 11, 12, 13, 14]), sentences=np.array([0, 1, 3]))
    rotate, order = make(Denoising, infill=0.0, permute=0.0, rotate=1.0), make(Denoising, infill=0.0)
    firsts = [int(rotate.damage(text, Draw(n))[0]) for n in range(MANY)]
    assert set(firsts) == {10, 11, 12, 13, 14}
    uniform(firsts)
    codes = [int(np.dot(order.damage(text, Draw(n)), [10**8, 10**6, 10**4, 100, 1])) for n in range(MANY)]
    assert len(set(codes)) == 6
    uniform(codes)


@pytest.mark.parametrize("many", [20_000, pytest.param(MANY, marks=pytest.mark.slow)])
def test_parts_are_split_and_swapped_uniformly(many: int) -> None:
    sop = SentenceOrderPrediction(SentenceOrderPrediction.Config(), VOCABULARY)
    tokens, sentences = np.arange(10, 18), np.array([0, 2, 4, 6])
    batch = sop.prepare([Row((0, 0, n), tokens, sentences=sentences) for n in range(many)], DRAW)
    table = batch.tokens.view(many, -1).numpy()
    edges = np.where(table[:, 1] == 10, (table == SEP).argmax(axis=1), 9 - (table == SEP).argmax(axis=1)) - 1
    swapped = batch.targets["sop"][1].numpy()
    assert ((table[:, 1] != 10) == (swapped == 1)).all()
    uniform(swapped)
    uniform(edges)


@pytest.mark.slow
def test_orders_of_prediction_are_uniform() -> None:
    """Those of 10,000 texts are in test_plm.py."""
    plm = make(PermutationLanguageModelling, rate=0.5)
    batch = plm.build_batch([Row((0, 0, n), np.arange(10, 16)) for n in range(MANY)], DRAW)
    assert batch.order is not None
    ranks = batch.order[batch.order >= 0].view(MANY, 3).numpy() @ [9, 3, 1]
    assert len(set(ranks.tolist())) == 6
    uniform(ranks)


def test_the_generator_is_asked_for_85_of_100_masks() -> None:
    shape = {"vocab_size": 100, "max_position_embeddings": 800}
    rtd = ReplacedTokenDetection(ReplacedTokenDetection.Config(), VOCABULARY)
    rtd.setup(build("electra", "tiny", ["rtd"], shape), DRAW)
    batch = rtd.build_batch([row(700, n) for n in range(1000)], DRAW)
    index, label = batch.targets["generator"]
    masked = batch.tokens[index] == MASK
    assert len(index) == 105_000
    assert batch.tokens[index][~masked].equal(label[~masked])
    assert stats.binomtest(int(masked.sum()), len(index), 0.85).pvalue > 1e-4


@pytest.mark.parametrize("length", [30, 31, 60])
def test_what_permutation_chose_too_much_is_dropped_from_the_end(length: int) -> None:
    """Where the walk chose more than the rate, none but its last tokens are missing."""
    plm, dropped = make(PermutationLanguageModelling), 0
    for seed in range(200):
        sample = row(length, seed)
        draw = key_of("plm", sample)
        actual = sorted(permute(length, 1 / 6, 5, draw))
        batch = plm.build_batch([sample], DRAW)
        assert [n - 1 for n in batch.targets["plm"][0].tolist()] == actual
        walked = sorted(permute(length, 1 / 6, 5, draw) | _walk(length, draw))
        dropped += len(walked) > len(actual)
        assert not [place for place in walked if place not in actual and place < actual[-1]]
    assert dropped > 20


def _walk(length: int, draw: Draw) -> dict[int, int]:
    """All that the walk through the text chooses, before its end is dropped."""
    odds = np.cumsum(1 / np.arange(1, 6))
    chosen: dict[int, int] = {}
    begin = step = 0
    while begin < length:
        size = 1 + int((odds <= float(draw.at("size").uniform(step)) * odds[-1]).sum())
        context = max(size, round(size * 6))
        first = begin + int(draw.at("place").uniform(step) * (context - size + 1))
        chosen |= dict.fromkeys(range(first, min(first + size, length)), 0)
        begin, step = begin + context, step + 1
    return chosen
