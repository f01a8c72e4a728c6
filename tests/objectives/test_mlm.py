import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import CLS, MASK, ORDINARY, SEP, FakeModel, FakeOutput, make_decoder_vocabulary, make_vocabulary
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from pretune.batch import Batch
from pretune.config import validate
from pretune.draw import Draw, combine
from pretune.errors import DataError, UsageError
from pretune.objectives import mlm
from pretune.objectives.mlm import MaskedLanguageModelling
from pretune.text.samples.rows import Row

DRAW = Draw(3)
VOCABULARY = make_vocabulary(size=200, continuing=60)


def make(**fields: object) -> MaskedLanguageModelling:
    kind = MaskedLanguageModelling
    return kind(validate(kind.Config, fields, "objective.mlm"), VOCABULARY)


def make_rows(lengths: list[int], seed: int = 0, first: int = ORDINARY) -> list[Row]:
    random = np.random.default_rng(seed)
    return [Row((seed, 2, n), random.integers(first, VOCABULARY.size, size)) for n, size in enumerate(lengths)]


def build(objective: MaskedLanguageModelling, rows: list[Row], draw: Draw = DRAW) -> tuple[Batch, Batch]:
    clean = objective.prepare(rows, draw)
    return clean, objective.corrupt(clean, draw)


def mask_slowly(tokens: list[int], sample: NDArray[np.int64], config: MaskedLanguageModelling.Config) -> dict[int, int]:
    """What Devlin et al. describe, for one sequence, token by token: position -> what stands there."""
    special, continuation = VOCABULARY.special, VOCABULARY.continuation
    words: list[list[int]] = []
    for place, token in enumerate(tokens):
        if special[token]:
            continue
        follows = place > 0 and not special[tokens[place - 1]]
        if config.units != "token" and continuation[token] and follows:
            words[-1].append(place)
        else:
            words.append([place])
    if not words:
        return {}
    key = int(DRAW.at("mlm", "choice").keys(sample[None])[0])
    hashed = [int(combine(np.uint64(key), place)) for place in range(len(tokens))]
    lead = {word[0]: run[0][0] for run in divide(words, key, config) for word in run}
    count = max(1, math.floor(config.rate * len(words) + 0.5))
    chosen = sorted(words, key=lambda word: (hashed[lead[word[0]]] >> 40, word[0]))[:count]
    ordinary = [token for token in range(VOCABULARY.size) if not special[token]]
    out = {}
    for word in chosen:
        for place in word:
            own = (hashed[place] & (1 << 40) - 1) / 2.0**40  # the bits that did not choose
            how = (hashed[lead[word[0]]] & (1 << 40) - 1) / 2.0**40 if config.units == "span" else own
            if how < config.mask:
                out[place] = MASK
            elif how >= config.mask + config.random:
                out[place] = tokens[place]
            elif config.units == "span":
                out[place] = ordinary[int(own * len(ordinary))]
            else:
                out[place] = ordinary[int((own - config.mask) * (len(ordinary) / config.random))]
    return out


def law(config: MaskedLanguageModelling.Config) -> list[float]:
    """The odds of runs of 1, 2, 3 ... words, as Joshi et al. and Lan et al. state them."""
    if config.units == "span":
        return [config.p * (1 - config.p) ** (n - 1) for n in range(1, (config.max_span or 10) + 1)]
    if config.units == "ngram":
        return [1 / n for n in range(1, (config.max_span or 3) + 1)]
    return [1.0]


def divide(words: list[list[int]], key: int, config: MaskedLanguageModelling.Config) -> list[list[list[int]]]:
    """Words in runs, one after the other."""
    odds, of_runs = law(config), int(combine(np.uint64(key), -1))
    out: list[list[list[int]]] = []
    while words:
        drawn = (int(combine(np.uint64(of_runs), len(out))) >> 11) / 2.0**53
        if not out:  # a text begins anywhere in a run: of n words n are left, or n - 1, or ... 1
            odds = [sum(odds[n:]) for n in range(len(odds))]
        size = 1
        while size < len(odds) and drawn >= sum(odds[:size]) / sum(odds):
            size += 1
        odds = law(config)
        out.append(words[:size])
        words = words[size:]
    return out


@given(
    st.lists(st.integers(0, 40), max_size=8),
    st.sampled_from([0.01, 0.15, 0.3, 0.5, 1.0]),
    st.sampled_from(
        [
            {"units": "token"},
            {"units": "word"},
            {"units": "ngram"},
            {"units": "span"},
            {"units": "span", "max_span": 4, "p": 0.5, "random": 0.2},
            {"units": "ngram", "max_span": 1, "mask": 0.5},
        ]
    ),
    st.integers(0, 9),
    st.sampled_from([0, ORDINARY, 140]),
)
@settings(max_examples=160, deadline=None)
def test_a_batch_is_what_the_slow_reference_makes(
    lengths: list[int], rate: float, how: dict[str, object], seed: int, first: int
) -> None:
    objective = make(rate=rate, **how)
    clean, batch = build(objective, make_rows(lengths, seed, first))
    index, label = batch.targets["mlm"]
    expected = clean.tokens.tolist()
    places = []
    for n in range(len(lengths)):
        begin, end = clean.layout.bounds[n : n + 2]
        changed = mask_slowly(clean.tokens[begin:end].tolist(), clean.samples[n], objective.config)
        for place, token in sorted(changed.items()):
            expected[begin + place] = token
            places.append(begin + place)
    assert batch.tokens.tolist() == expected
    assert index.tolist() == places
    assert label.tolist() == clean.tokens[index].tolist()
    assert objective.counts(batch) == {"mlm": len(places)}
    assert clean.targets == {}


def test_a_prepared_sequence_is_wrapped() -> None:
    batch = make().prepare([Row((0, 0, 4), np.array([7, 8])), Row((0, 0, 2), np.array([9]))], DRAW)
    assert batch.tokens.tolist() == [CLS, 7, 8, SEP, CLS, 9, SEP]
    assert batch.layout.lengths == (4, 3)
    assert batch.samples.tolist() == [[0, 0, 4], [0, 0, 2]]
    assert make().overhead == 2


@pytest.mark.parametrize("units", ["token", "word", "ngram", "span"])
def test_masks_do_not_depend_on_the_batch(units: str) -> None:
    objective = make(units=units)
    rows = make_rows([5, 30, 17, 1, 64, 9])
    _, together = build(objective, rows)
    for order in ([4, 2], [3], [5, 4, 3, 2, 1, 0]):
        _, batch = build(objective, [rows[n] for n in order])
        for place, n in enumerate(order):
            here, there = (b.layout.bounds for b in (batch, together))
            assert (
                batch.tokens[here[place] : here[place + 1]].tolist()
                == together.tokens[there[n] : there[n + 1]].tolist()
            )


def test_epochs_and_samples_and_seeds_differ() -> None:
    objective = make()
    tokens = np.arange(ORDINARY, ORDINARY + 100)
    actual = [
        build(objective, [Row(sample, tokens)], draw)[1].targets["mlm"][0].tolist()
        for sample, draw in [((0, 0, 0), DRAW), ((0, 1, 0), DRAW), ((1, 0, 0), DRAW), ((0, 0, 0), Draw(4))]
    ]
    assert len({tuple(places) for places in actual}) == 4


@pytest.fixture(scope="module")
def masked() -> tuple[Batch, Batch]:
    """About 150,000 chosen tokens of a million."""
    return build(make(), make_rows([100] * 10_000))


def test_the_share_is_exact(masked: tuple[Batch, Batch]) -> None:
    index = masked[1].targets["mlm"][0].numpy()
    assert set(np.bincount(index // 102).tolist()) == {15}


def test_every_place_is_chosen_equally_often(masked: tuple[Batch, Batch]) -> None:
    index = masked[1].targets["mlm"][0].numpy()
    counts = np.bincount(index % 102, minlength=102)
    assert counts[0] == counts[101] == 0
    # Drawing 15 of 100 without replacement: the statistic is chi-square times 1 - 15/100.
    statistic = ((counts[1:101] - 1500.0) ** 2 / 1500.0).sum() / 0.85
    assert stats.chi2.sf(statistic, 99) > 1e-4
    gaps = np.diff(index.reshape(-1, 15), axis=1)
    expected = 10_000 * 99 * (15 / 100) * (14 / 99)  # pairs of neighbors that are both chosen
    assert abs((gaps == 1).sum() - expected) < 5 * math.sqrt(expected)


def test_corruption_rates(masked: tuple[Batch, Batch]) -> None:
    clean, batch = masked
    index, label = batch.targets["mlm"]
    now, before = batch.tokens[index].numpy(), label.numpy()
    n = len(now)
    assert n == 150_000
    ordinary = VOCABULARY.size - ORDINARY
    rates = {
        "mask": (int((now == MASK).sum()), 0.8),
        "random": (int(((now != MASK) & (now != before)).sum()), 0.1 * (1 - 1 / ordinary)),
        "same": (int((now == before).sum()), 0.1 + 0.1 / ordinary),
    }
    for name, (count, rate) in rates.items():
        assert stats.binomtest(count, n, rate).pvalue > 1e-4, name
    random = now[(now != MASK) & (now != before)]
    assert random.min() >= ORDINARY
    assert stats.chisquare(np.bincount(random, minlength=VOCABULARY.size)[ORDINARY:]).pvalue > 1e-4
    untouched = np.ones(len(batch.tokens), np.bool_)
    untouched[index.numpy()] = False
    assert np.array_equal(batch.tokens.numpy()[untouched], clean.tokens.numpy()[untouched])


def test_what_replaces_a_token_is_independent_of_its_choice(masked: tuple[Batch, Batch]) -> None:
    index, label = masked[1].targets["mlm"]
    kept = (masked[1].tokens[index] == label).numpy()
    by_place = np.bincount(index.numpy() % 102, weights=kept, minlength=102)[1:101]
    assert stats.chisquare(by_place, np.full(100, by_place.mean())).pvalue > 1e-4


def test_words_are_hidden_whole_and_each_of_their_tokens_by_its_own_draw() -> None:
    clean, batch = build(make(units="word"), make_rows([60] * 300))
    chosen = np.zeros(len(clean.tokens), np.bool_)
    chosen[batch.targets["mlm"][0].numpy()] = True
    tokens = clean.tokens.numpy()
    joined = VOCABULARY.continuation[tokens[1:]] & ~VOCABULARY.special[tokens[:-1]]
    assert joined.any()
    assert np.array_equal(chosen[1:][joined], chosen[:-1][joined])
    assert not np.array_equal(chosen[1:][~joined], chosen[:-1][~joined])
    masked = batch.tokens.numpy() == MASK
    both = joined & chosen[1:]
    assert (masked[1:][both] != masked[:-1][both]).any()


def test_other_rates() -> None:
    clean, batch = build(make(rate=0.4, mask=0.0, random=1.0), make_rows([50] * 20))
    assert len(batch.targets["mlm"][0]) == 20 * 20
    assert not (batch.tokens == MASK).any()
    clean, batch = build(make(rate=1.0, mask=1.0, random=0.0), make_rows([50] * 2))
    assert (batch.tokens == MASK).sum() == 100
    assert torch.equal(batch.targets["mlm"][1], clean.tokens[clean.tokens >= ORDINARY])


@pytest.mark.parametrize("rows", [[], [Row((0, 0, 0), np.array([SEP, SEP]))], [Row((0, 0, 0), np.zeros(0, np.int64))]])
def test_nothing_to_hide_gives_an_empty_target(rows: list[Row]) -> None:
    objective = make()
    clean, batch = build(objective, rows)
    assert objective.counts(batch) == {"mlm": 0}
    assert torch.equal(clean.tokens, batch.tokens)


def test_one_token_is_always_hidden() -> None:
    _, batch = build(make(rate=0.01), make_rows([1, 2, 3]))
    owners = np.searchsorted(batch.layout.bounds, batch.targets["mlm"][0].numpy(), side="right") - 1
    assert owners.tolist() == [0, 1, 2]


def test_the_loss_is_summed_over_the_hidden_tokens_alone() -> None:
    model, objective = FakeModel(VOCABULARY.size), make(weight=2.0)
    _, batch = build(objective, make_rows([20, 30]))
    (term,) = objective(model, batch)
    index, label = batch.targets["mlm"]
    logits = model.heads["mlm"].linear(model.embedding(batch.tokens[index]))
    torch.testing.assert_close(term.sum, F.cross_entropy(logits, label, reduction="sum"))
    assert (term.name, term.count, term.weight) == ("mlm", 8, 2.0)
    assert term.correct is not None
    assert int(term.correct) == int((logits.argmax(1) == label).sum())


def test_an_empty_target_gives_zero_and_a_gradient_to_its_head() -> None:
    model, objective = FakeModel(VOCABULARY.size), make()
    _, batch = build(objective, [Row((0, 0, 0), np.array([SEP]))])
    (term,) = objective.loss(model, FakeOutput(model.embedding(batch.tokens)), batch)
    term.sum.backward()
    assert (float(term.sum.detach()), term.count) == (0.0, 0)
    for parameter in [*model.heads["mlm"].parameters(), *model.embedding.parameters()]:
        assert parameter.grad is not None
        assert not parameter.grad.any()


@pytest.mark.parametrize(("units", "fields"), [("ngram", {}), ("span", {}), ("span", {"max_span": 5, "p": 0.4})])
def test_runs_have_their_law_and_hide_every_word_equally_often(units: str, fields: dict[str, float]) -> None:
    objective = make(units=units, **fields)
    counts, keys = np.full(4000, 60), DRAW.at("runs").keys(np.arange(4000)[:, None])
    first = mlm.runs(counts, keys, objective._runs)
    sizes = np.bincount(first, minlength=240_000)
    starts = np.flatnonzero(sizes)
    inner = sizes[starts[(starts % 60 > 0) & (starts % 60 < 50)]]  # the first and the last of a text are cut
    odds = np.array(law(objective.config))
    assert len(inner) > 50_000
    assert stats.chisquare(np.bincount(inner)[1:], odds / odds.sum() * len(inner)).pvalue > 1e-4
    rows = [Row((0, 0, n), np.full(60, ORDINARY)) for n in range(12_000)]  # no token continues a word
    index = build(objective, rows)[1].targets["mlm"][0].numpy()
    assert len(index) == 108_000
    places = np.bincount(index % 62, minlength=62)[1:61]
    assert abs(places[3:] / 12_000 / 0.15 - 1).max() < 0.1  # 4.5 deviations
    assert places[:3].max() / 12_000 / 0.15 < 1.2  # cut off less


def test_a_span_becomes_one_thing() -> None:
    _, batch = build(make(units="span", p=0.01, mask=0.5, random=0.3), make_rows([60] * 2000))
    index, label = batch.targets["mlm"]
    now = batch.tokens[index]
    kind = np.where(now == MASK, 0, np.where(now == label, 2, 1))
    next_to = np.diff(index.numpy()) == 1
    alike = (kind[1:] == kind[:-1])[next_to].mean()
    assert alike > 0.85  # but where two spans meet, and where a random token is the old one
    fractions = np.bincount(kind, minlength=3) / len(kind)
    assert fractions == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
    random = now[kind == 1].numpy()
    assert len(set(random.tolist())) > 150


def test_a_share_that_falls_over_the_run() -> None:
    objective = make(rate=0.15, rate_start=0.45, rate_steps=100)
    rows = make_rows([100] * 4)
    actual = {
        step: objective.counts(objective.build_batch(rows, DRAW, step))["mlm"] for step in (None, 0, 50, 99, 100, 500)
    }
    assert actual == {None: 60, 0: 180, 50: 120, 99: 60, 100: 60, 500: 60}
    assert objective.build_batch(rows, DRAW, 3).step == 3


def test_masks_that_come_again() -> None:
    tokens = np.arange(ORDINARY, ORDINARY + 100)

    def masks(patterns: int) -> list[tuple[int, ...]]:
        objective = make(patterns=patterns)
        rows = [[Row((0, epoch, 7), tokens)] for epoch in range(6)]
        return [tuple(build(objective, one)[1].targets["mlm"][0].tolist()) for one in rows]

    assert len(set(masks(0))) == 6
    assert len(set(masks(1))) == 1
    three = masks(3)
    assert len(set(three)) == 3
    assert three[:3] == three[3:]


@pytest.mark.parametrize(
    "fields",
    [
        {"rate": 0.0}, {"rate": 1.1}, {"mask": 0.9, "random": 0.2}, {"weight": 0.0}, {"rates": 0.1},
        {"rate_start": 0.3}, {"rate_steps": 9}, {"units": "words"}, {"units": "word", "max_span": 3}, {"p": 1.0},
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(fields: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=r"objective\.mlm"):
        make(**fields)


def test_a_tokenizer_without_a_mask_token_is_refused() -> None:
    with pytest.raises(DataError, match="mask token"):
        MaskedLanguageModelling(MaskedLanguageModelling.Config(), make_decoder_vocabulary())
