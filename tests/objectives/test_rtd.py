"""Replaced-token detection against a slow reference; its sampling; both models learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fakes import make_vocabulary
from scipy import stats

from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.models import build
from pretune.objectives import mixture
from pretune.objectives.rtd import ReplacedTokenDetection
from pretune.text.samples.rows import Row

DRAW = Draw(5)
VOCABULARY = make_vocabulary()
SHAPE = {"vocab_size": 100, "max_position_embeddings": 40, "hidden_dropout_prob": 0.0}


def make(model=None, **fields):
    objective = ReplacedTokenDetection(ReplacedTokenDetection.Config(**fields), VOCABULARY)
    objective.setup(model or build("electra", "tiny", ["rtd"], SHAPE), DRAW)
    return objective


def rows(count: int, length: int = 24) -> list[Row]:
    random = np.random.default_rng(0)
    return [Row((0, n % 3, n), random.integers(5, 100, length)) for n in range(count)]


def test_a_step_is_what_the_slow_reference_makes() -> None:
    model = build("electra", "tiny", ["rtd"], SHAPE)
    objective = make(model)
    batch = objective.build_batch(rows(6), DRAW)
    index, label = batch.targets["generator"]
    assert len(index) == 6 * round(0.15 * 24)
    whole = torch.cat([torch.tensor([2, *row.tokens.tolist(), 3]) for row in rows(6)])
    assert whole[index].equal(label)
    untouched = torch.ones(len(whole), dtype=torch.bool).index_fill(0, index, False)
    assert whole[untouched].equal(batch.tokens[untouched])

    generator, discriminator = objective(model, batch)
    logits = objective.generator.heads["mlm"](
        objective.generator(replace(batch, output_rows=None)).last_hidden_state[index]
    )
    torch.testing.assert_close(generator.sum, F.cross_entropy(logits, label, reduction="sum"))
    read = whole.clone()
    for k, probability in enumerate(logits.softmax(dim=1).tolist()):
        left, token = float(batch.targets["sample"][1][k]) / 2**53, 0
        while left >= probability[token] and token < 99:
            left -= probability[token]
            token += 1
        read[index[k]] = token
    truth = (read != whole).float()
    requested = torch.tensor([n for n, token in enumerate(whole.tolist()) if token >= 5])
    answer = model.heads["rtd"](model(replace(batch, tokens=read, output_rows=None)).last_hidden_state[requested])
    want = F.binary_cross_entropy_with_logits(answer, truth[requested], reduction="sum")
    torch.testing.assert_close(discriminator.sum, want)
    assert discriminator.count == len(requested) == objective.counts(batch)["rtd"]
    assert int(discriminator.correct) == int(((answer > 0) == (truth[requested] > 0)).sum())
    assert (generator.weight, discriminator.weight) == (1.0, 50.0)


def test_samples_follow_the_generator_s_distribution() -> None:
    objective = make()
    head = objective.generator.heads["mlm"]
    row = torch.randn(1, objective.generator.width)
    drawn = torch.from_numpy(np.random.default_rng(0).random(100_000))
    with torch.no_grad():
        head.weight.mul_(20)
        expected = head(row).softmax(dim=1)[0].double().numpy()
        _, _, built = head.sampled_loss(row.expand(100_000, -1), torch.zeros(100_000, dtype=torch.long), drawn)
    actual = np.bincount(built.numpy(), minlength=100)
    common = expected > 1e-4
    counts = np.append(actual[common], actual[~common].sum())
    fractions = np.append(expected[common], expected[~common].sum())
    assert common.sum() > 5
    assert stats.chisquare(counts, fractions / fractions.sum() * 100_000).pvalue > 1e-4


def test_draws_are_of_the_sample_and_not_of_the_batch() -> None:
    objective = make()
    together, alone = objective.build_batch(rows(8), DRAW), objective.build_batch(rows(8)[5:6], DRAW)
    a, b = together.layout.bounds[5:7]
    assert together.tokens[a:b].equal(alone.tokens)
    index, drawn = together.targets["sample"]
    assert drawn[(index >= a) & (index < b)].equal(alone.targets["sample"][1])
    assert len(set(drawn.tolist())) == len(drawn)


@pytest.mark.parametrize("tied", [True, False])
def test_the_generator_is_narrower_and_may_share_embeddings(tied: bool) -> None:
    model = build("electra", "mini", ["rtd"], SHAPE)
    objective = make(model, tied=tied, generator=0.5)
    assert objective.generator.width == model.width // 2
    shared = objective.generator.embedding.word.weight is model.embedding.word.weight
    assert shared == tied
    assert objective.generator.heads["mlm"].weight is objective.generator.embedding.word.weight
    for term in objective(model, objective.build_batch(rows(4), DRAW)):
        term.sum.backward(retain_graph=True)
    assert all(p.grad is not None for p in [*model.parameters(), *objective.parameters()])


def test_no_gradient_of_the_detection_reaches_the_generator() -> None:
    model = build("electra", "tiny", ["rtd"], SHAPE)
    objective = make(model, tied=False)
    _, detection = objective(model, objective.build_batch(rows(4), DRAW))
    detection.sum.backward()
    assert all(p.grad is None for p in objective.generator.parameters())


def test_both_learn() -> None:
    model = build("electra", "tiny", ["rtd"], SHAPE)
    objective = make(model, generator=0.5)
    samples = rows(16)
    optimizer = torch.optim.AdamW([*model.parameters(), *objective.parameters()], lr=2e-3)
    last = {}
    for step in range(150):
        batch = objective.build_batch(samples, DRAW.at(step % 4))
        terms = objective(model, batch)
        loss = sum(term.weight * term.sum / term.count for term in terms)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        last = {term.name: float(term.sum.detach()) / term.count for term in terms}
    assert last["generator"] < 1.5
    assert last["rtd"] < 0.2


def test_it_is_trained_alone() -> None:
    both = mixture.build({"rtd": 1.0, "mlm": 1.0}, VOCABULARY)
    model = build("electra", "tiny", ["rtd", "mlm"], SHAPE)
    both.setup(model, DRAW)
    with pytest.raises(UsageError, match="alone"):
        both(model, both.build_batch(rows(2), DRAW))
    bert = build("bert", "tiny", ["mlm"], {"vocab_size": 100})
    with pytest.raises(UsageError, match="narrower"):
        make(bert)
