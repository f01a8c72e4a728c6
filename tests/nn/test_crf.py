from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import pytest
import torch
import torchcrf
from torch import Tensor

from pretune.batch import Layout
from pretune.nn import crf as chains
from pretune.nn.cast import cast_to_bf16
from pretune.nn.crf import CRF, crf_loss, marginals
from pretune.nn.viterbi import Transitions, viterbi


@dataclass
class Case:
    """Random scores, labels and transitions, as ours and padded for pytorch-crf."""

    ours: CRF
    theirs: torchcrf.CRF
    layout: Layout
    scores: Tensor
    labels: Tensor
    padded: Tensor
    padded_labels: Tensor
    mask: Tensor

    @classmethod
    def of(cls, seed: int, dtype: torch.dtype = torch.float64, scale: float | None = None) -> Case:
        random = torch.Generator().manual_seed(seed)
        count, size, length = (int(torch.randint(low, 12, (), generator=random)) for low in (2, 1, 1))
        scale = (0.1, 1.0, 5.0, 40.0)[seed % 4] if scale is None else scale
        lengths = torch.randint(1, length + 1, (size,), generator=random).tolist()
        ours, theirs = CRF(count, gain=1.0).to(dtype), torchcrf.CRF(count, batch_first=True).to(dtype)
        pairs = ((ours.first, theirs.start_transitions), (ours.between, theirs.transitions))
        with torch.no_grad():
            for own, other in (*pairs, (ours.last, theirs.end_transitions)):
                other.copy_(torch.randn(other.shape, generator=random) * scale)
                own.copy_(other)
        scores = (torch.randn(sum(lengths), count, generator=random) * scale).to(dtype)
        labels = torch.randint(0, count, (sum(lengths),), generator=random)
        padded, padded_labels = (
            torch.nn.utils.rnn.pad_sequence(list(values.split(lengths)), batch_first=True)
            for values in (scores, labels)
        )
        mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
        layout = Layout.of(lengths)
        return cls(ours, theirs, layout, scores.requires_grad_(), labels, padded.requires_grad_(), padded_labels, mask)


def check(case: Case, rtol: float, atol: float) -> None:
    """Loss of each sequence, gradients of all that has one, and the best labels, against pytorch-crf."""
    theirs = -case.theirs(case.padded, case.padded_labels, case.mask, reduction="none")
    loss = case.ours(case.scores, case.labels, case.layout)
    torch.testing.assert_close(loss, theirs, rtol=rtol, atol=atol)
    weight = torch.linspace(0.5, 2.0, len(loss), dtype=loss.dtype)
    own = (case.scores, case.ours.first, case.ours.between, case.ours.last)
    other = (case.padded, case.theirs.start_transitions, case.theirs.transitions, case.theirs.end_transitions)
    wanted = list(torch.autograd.grad((theirs * weight).sum(), other, allow_unused=True))
    wanted[0] = wanted[0][case.mask]
    for actual, want in zip(torch.autograd.grad((loss * weight).sum(), own), wanted, strict=True):
        torch.testing.assert_close(actual, torch.zeros_like(actual) if want is None else want, rtol=rtol, atol=atol)
    tags = [tag for sequence in case.theirs.decode(case.padded, case.mask) for tag in sequence]
    assert case.ours.decode(case.scores, case.layout).tolist() == tags


@pytest.mark.parametrize(
    "seeds", [range(60), pytest.param(range(60, 1000), marks=pytest.mark.slow)], ids=["some", "1000"]
)
def test_loss_gradients_and_tags_are_those_of_pytorch_crf(seeds: range) -> None:
    for seed in seeds:
        check(Case.of(seed), rtol=1e-9, atol=1e-9)


def test_fp32_is_near() -> None:
    for seed in range(40):
        check(Case.of(seed, torch.float32, scale=1.0), rtol=1e-4, atol=3e-5)


def every_path(case: Case, transitions: Transitions) -> list[list[tuple[float, tuple[int, ...]]]]:
    """The score of every path through each sequence."""
    out, start = [], 0
    first, between, last = (part.tolist() for part in (transitions.first, transitions.between, transitions.last))
    for length in case.layout.lengths:
        scores = case.scores[start : start + length].tolist()
        start += length
        paths = []
        for path in product(range(len(first)), repeat=length):
            score = first[path[0]] + last[path[-1]] + sum(row[tag] for row, tag in zip(scores, path, strict=True))
            score += sum(between[one][next_one] for one, next_one in pairwise(path))
            paths.append((score, path))
        out.append(paths)
    return out


def small(seed: int, lengths: Sequence[int], count: int = 4) -> Case:
    """A case of which all paths can be listed."""
    torch.manual_seed(seed)
    case = Case.of(seed, scale=1.0)
    case.scores, case.layout = torch.randn(sum(lengths), count, dtype=torch.float64), Layout.of(lengths)
    return case


IOB = Transitions.allowed(
    (True, True, False, True),  # O, B, I, and a label that stands anywhere
    ((True, True, False, True), (True, True, True, True), (True, True, True, True), (True, True, False, True)),
    (True, True, True, False),
)


@pytest.mark.parametrize("seed", range(4))
def test_constraints_leave_the_best_of_the_allowed_paths(seed: int) -> None:
    case = small(seed, [3, 0, 5, 1, 4])
    lengths = [length for length in case.layout.lengths if length]
    case.layout, whole = Layout.of(lengths), case.layout
    best = [tag for paths in every_path(case, IOB) for tag in max(paths)[1]]
    assert viterbi(case.scores, whole, IOB).tolist() == best
    assert viterbi(case.scores.bfloat16(), whole, IOB).dtype == torch.int64
    free = Transitions(*(torch.zeros_like(part) for part in (IOB.first, IOB.between, IOB.last)))
    assert viterbi(case.scores, whole, free).tolist() == case.scores.argmax(dim=1).tolist() != best


@pytest.mark.parametrize("constraints", [None, IOB], ids=["free", "constrained"])
def test_marginals_are_sums_over_paths(constraints: Transitions | None) -> None:
    case = small(1, [3, 5, 1])
    brick = CRF(4, gain=1.0).double()
    with torch.no_grad():
        for parameter in brick.parameters():
            parameter.normal_()
    transitions = brick.transitions if constraints is None else brick.transitions + constraints
    expected = torch.zeros_like(case.scores)
    start = 0
    for length, paths in zip(case.layout.lengths, every_path(case, transitions), strict=True):
        for weight, (_, path) in zip(torch.tensor([score for score, _ in paths]).softmax(0), paths, strict=True):
            expected[torch.arange(start, start + length), torch.tensor(path)] += weight
        start += length
    torch.testing.assert_close(brick.marginals(case.scores, case.layout, constraints), expected, rtol=0, atol=1e-6)


def test_logarithms_and_scaled_sums_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case.of(9, scale=2.0)

    def both() -> tuple[Tensor, ...]:
        loss = case.ours(case.scores, case.labels, case.layout)
        grads = torch.autograd.grad(loss.sum(), [case.scores, *case.ours.parameters()])
        return (loss.detach(), *grads, case.ours.marginals(case.scores, case.layout))

    scaled = both()
    monkeypatch.setattr(chains, "_SAFE", 0.0)
    torch.testing.assert_close(scaled, both())


@pytest.mark.parametrize("wide", [30.0, 70.0, 80.0, 1e4])
def test_wide_scores_lose_nothing_in_fp32(wide: float) -> None:
    """Long sequences in which the path must again and again leave the label that scores best."""
    torch.manual_seed(0)
    layout = Layout.of([200, 3, 1])
    scores, labels = torch.randn(204, 5), torch.randint(0, 5, (204,))
    scores[torch.arange(0, 204, 3), 0] += wide
    transitions = Transitions(torch.zeros(5), torch.randn(5, 5), torch.randn(5))
    transitions.between[0] -= wide

    def grads(dtype: torch.dtype) -> tuple[Tensor, ...]:
        x = scores.to(dtype).requires_grad_()
        tables = [part.to(dtype).requires_grad_() for part in vars(transitions).values()]
        loss = crf_loss(x, labels, layout, Transitions(*tables))
        return (loss.detach().float(), *(part.float() for part in torch.autograd.grad(loss.sum(), [x, *tables])))

    for own, exact in zip(grads(torch.float32), grads(torch.float64), strict=True):
        assert own.isfinite().all()
        torch.testing.assert_close(own, exact, rtol=1e-4, atol=1e-3)


def test_sequences_without_rows_cost_nothing() -> None:
    brick = CRF(3)
    scores = torch.randn(4, 3, requires_grad=True)
    labels = torch.tensor([0, 2, 1, 1])
    loss = brick(scores, labels, Layout.of([0, 3, 0, 1]))
    assert loss[[0, 2]].tolist() == [0.0, 0.0]
    torch.testing.assert_close(loss[[1, 3]], brick(scores, labels, Layout.of([3, 1])))
    for lengths in ([0, 0], []):
        empty = torch.zeros(0, 3, requires_grad=True)
        layout = Layout.of(lengths)
        loss = brick(empty, labels[:0], layout)
        assert loss.tolist() == [0.0] * len(lengths)
        for grad in torch.autograd.grad(loss.sum(), (empty, brick.between)):
            assert not grad.any()
        assert brick.decode(empty, layout).tolist() == []
        assert brick.marginals(empty, layout).shape == (0, 3)


def test_a_new_one_is_a_softmax_at_each_row() -> None:
    scores, labels = torch.randn(7, 4), torch.randint(0, 4, (7,))
    layout = Layout.of([4, 3])
    brick = CRF(4)
    expected = torch.nn.functional.cross_entropy(scores, labels, reduction="sum")
    torch.testing.assert_close(brick(scores, labels, layout).sum(), expected)
    torch.testing.assert_close(brick.marginals(scores, layout), scores.softmax(dim=1))


def test_a_step_of_adam_moves_neighbours_farther_than_other_weights() -> None:
    brick = CRF(4)
    optimizer = torch.optim.AdamW(brick.parameters(), lr=1e-3, weight_decay=0.0)
    brick(torch.randn(7, 4), torch.randint(0, 4, (7,)), Layout.of([4, 3])).sum().backward()
    optimizer.step()
    between = brick.transitions.between.detach()
    torch.testing.assert_close(between.abs(), torch.full((4, 4), 30e-3), rtol=1e-3, atol=0)


def test_a_model_in_bf16_keeps_its_scores_of_neighbours() -> None:
    model = torch.nn.ModuleDict({"head": torch.nn.Linear(4, 4), "crf": CRF(4)})
    cast_to_bf16(model)
    assert {p.dtype for p in model["head"].parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model["crf"].parameters()} == {torch.float32}


def test_autocast_and_bf16_scores_are_computed_in_fp32() -> None:
    case = Case.of(6, torch.float32, scale=1.0)
    half = case.scores.detach().bfloat16().requires_grad_()
    exact = half.detach().float().requires_grad_()
    wanted = case.ours(exact, case.labels, case.layout)
    with torch.autocast("cpu", torch.bfloat16):
        loss = case.ours(half, case.labels, case.layout)
        grad = torch.autograd.grad(loss.sum(), half)[0]
        spread = case.ours.marginals(half, case.layout)
    torch.testing.assert_close(loss, wanted, rtol=0, atol=0)
    assert loss.dtype == torch.float32
    assert grad.dtype == torch.bfloat16
    torch.testing.assert_close(grad, torch.autograd.grad(wanted.sum(), exact)[0].bfloat16(), rtol=0, atol=0)
    torch.testing.assert_close(spread, marginals(exact, case.layout, case.ours.transitions), rtol=0, atol=0)


@pytest.mark.parametrize("search", [viterbi, marginals])
def test_other_sequences_change_nothing(search: Callable[[Tensor, Layout, Transitions], Tensor]) -> None:
    case = Case.of(3, torch.float32, scale=1.0)
    whole = search(case.scores, case.layout, case.ours.transitions)
    start = 0
    for length in case.layout.lengths:
        alone = search(case.scores[start : start + length], Layout.of([length]), case.ours.transitions)
        torch.testing.assert_close(alone, whole[start : start + length], rtol=1e-5, atol=1e-6)
        start += length
