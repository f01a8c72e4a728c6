"""The terms of distillation against their formulas, a sequence at a time over padded tensors, and against torch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.compress.distillation import terms
from pretune.compress.distillation.config import DistilConfig
from pretune.compress.distillation.layer_match import default_pairs, relation_heads
from pretune.compress.distillation.layers import spread_layers
from pretune.errors import UsageError
from pretune.nn.attention import Attention
from pretune.nn.call import AttentionCall
from pretune.nn.structure import BIDIRECTIONAL, CAUSAL, SlidingWindow, Structure

LENGTHS = (5, 5, 1, 7, 3)
TOTAL = sum(LENGTHS)
LAYOUT = Layout.of(LENGTHS)


def padded(run: Tensor) -> Tensor:
    """A run as (sequences, longest, ...), zeros behind each."""
    rows = [F.pad(part, (0, 0) * (part.dim() - 1) + (0, max(LENGTHS) - len(part))) for part in run.split(LENGTHS)]
    return torch.stack(rows)


def seen(structure: Structure) -> Tensor:
    """Which pairs count, of padded sequences. Shape: (N, n, n)."""
    longest = max(LENGTHS)
    out = torch.zeros(len(LENGTHS), longest, longest, dtype=torch.bool)
    for n, length in enumerate(LENGTHS):
        mask = structure.visible(length, length)
        out[n, :length, :length] = True if mask is None else mask
    return out


def run(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float32).requires_grad_()


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_soft_targets_are_the_divergence_of_torch(temperature: float) -> None:
    student, teacher = run(9, 6), run(9, 6, seed=1).detach()
    ours = terms.soft_targets(student, teacher, temperature)
    (gradient,) = torch.autograd.grad(ours, student)
    softened = nn.KLDivLoss(reduction="sum")((student / temperature).log_softmax(1), (teacher / temperature).softmax(1))
    (expected,) = torch.autograd.grad(softened * temperature**2, student)
    torch.testing.assert_close(ours, softened * temperature**2)
    torch.testing.assert_close(gradient, expected)


def test_at_a_high_temperature_they_are_half_the_squared_distance_of_centred_scores() -> None:
    """Hinton et al., eq. 4: the gradient is (z - v) / N for scores with zero mean."""
    student, teacher = run(4, 5).double(), run(4, 5, seed=1).detach().double()
    centred = [(side - side.mean(1, keepdim=True)) for side in (student, teacher)]
    expected = (centred[0] - centred[1]).square().sum() / (2 * 5)
    assert math.isclose(_exact(student, teacher, 1e4).item(), expected.item(), rel_tol=1e-3)


def _exact(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """In double precision, as fp32 has no digits left at such temperatures."""
    return terms.divergence(student / temperature, teacher / temperature).sum() * temperature**2


def test_the_same_answers_cost_nothing_and_have_no_gradient() -> None:
    student = run(4, 5)
    for output in ("softmax", "sigmoid", "value"):
        total = terms.soft_targets(student, student.detach(), 2.0, output)  # type: ignore[arg-type]
        (gradient,) = torch.autograd.grad(total, student)
        torch.testing.assert_close(total, torch.zeros(()), atol=1e-5, rtol=0)
        torch.testing.assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)


def test_independent_classes_have_a_divergence_each() -> None:
    student, teacher = run(7, 3), run(7, 3, seed=1).detach()
    two = [torch.stack([side, torch.zeros_like(side)], dim=2).reshape(-1, 2) for side in (student, teacher)]
    expected = terms.soft_targets(two[0], two[1], 3.0) / 3
    torch.testing.assert_close(terms.soft_targets(student, teacher, 3.0, "sigmoid"), expected)


def test_values_are_compared_as_they_are() -> None:
    student, teacher = run(7, 2), run(7, 2, seed=1).detach()
    torch.testing.assert_close(terms.soft_targets(student, teacher, 9.0, "value"), F.mse_loss(student, teacher) * 7)


def test_where_there_is_no_choice_nothing_is_compared() -> None:
    student, teacher = run(2, 4, 2), run(2, 4, 2, seed=1).detach()
    hidden = torch.zeros(2, 4, 2, dtype=torch.bool)
    hidden[0, 3] = True
    total = terms.soft_targets(student.masked_fill(hidden, -torch.inf), teacher.masked_fill(hidden, -torch.inf), 1.0)
    first = terms.soft_targets(student[:1, :3], teacher[:1, :3], 1.0)
    torch.testing.assert_close(total, first + terms.soft_targets(student[1:], teacher[1:], 1.0))
    (gradient,) = torch.autograd.grad(total, student)
    assert bool(gradient.isfinite().all())
    assert bool((gradient[hidden] == 0).all())


@pytest.mark.parametrize("chunk", [1, 8 * 11, 1 << 22])
def test_a_vocabulary_in_parts_gives_the_same_value_and_gradients(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "_CHUNK", chunk)
    student, teacher = nn.Linear(4, 11), nn.Linear(6, 11)
    rows, expected = run(20, 4), run(20, 6, seed=1).detach()
    total = terms.vocabulary_targets(student, rows, teacher, expected, 2.0) * 3.0
    whole = terms.soft_targets(student(rows), teacher(expected).detach(), 2.0) * 3.0
    torch.testing.assert_close(total, whole)
    learns = [rows, *student.parameters()]
    for ours, theirs in zip(torch.autograd.grad(total, learns), torch.autograd.grad(whole, learns), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_a_vocabulary_under_autocast_has_gradients_for_its_weights() -> None:
    """Also where autocast has made a copy of them before, without gradients."""
    student, teacher = nn.Linear(4, 11), nn.Linear(4, 11)
    rows, expected = run(20, 4), run(20, 4, seed=1).detach()
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            student(rows)
        total = terms.vocabulary_targets(student, rows, teacher, expected, 2.0)
    total.backward()
    assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in student.parameters())


def test_no_rows_of_a_vocabulary_cost_nothing() -> None:
    head = nn.Linear(4, 11)
    total = terms.vocabulary_targets(head, run(0, 4), head, run(0, 4), 2.0)
    assert float(total) == 0.0


def test_hidden_states_are_compared_row_by_row() -> None:
    student, teacher = run(TOTAL, 8), run(TOTAL, 8, seed=1).detach()
    torch.testing.assert_close(terms.hidden_distance(student, teacher), F.mse_loss(student, teacher) * TOTAL)


def test_vectors_are_compared_by_their_cosine() -> None:
    student, teacher = run(5, 8), run(5, 8, seed=1).detach()
    expected = F.cosine_embedding_loss(student, teacher, torch.ones(5), reduction="sum")
    torch.testing.assert_close(terms.vector_distance(student, teacher), expected)


@pytest.mark.parametrize("structure", [BIDIRECTIONAL, CAUSAL, SlidingWindow(1, 1)], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("heads", [1, 4, 12])
def test_relations_are_those_of_minilm(structure: Structure, heads: int) -> None:
    """MiniLMv2, eq. 3 to 6, on padded sequences; the teacher is wider."""
    student = [run(TOTAL, 3, 8, seed=n) for n in range(3)]
    teacher = [run(TOTAL, 4, 12, seed=n + 3).detach() for n in range(3)]
    ours = terms.relation_divergence(student, teacher, heads, LAYOUT, structure)
    mask = seen(structure)[:, None]
    expected = torch.zeros(())
    for sides in zip(student, teacher, strict=True):
        relations = []
        for side in sides:
            parted = padded(side.reshape(TOTAL, heads, -1)).transpose(1, 2)  # (N, heads, n, d)
            scores = parted @ parted.transpose(2, 3) / math.sqrt(parted.shape[-1])
            relations.append(scores.masked_fill(~mask, -1e9).log_softmax(-1))
        each = (relations[1].exp() * (relations[1] - relations[0])).sum(-1)  # (N, heads, n)
        expected = expected + (each * mask.any(-1)).sum() / heads
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    for a, b in zip(torch.autograd.grad(ours, student), torch.autograd.grad(expected, student), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def call(query: Tensor, key: Tensor, structure: Structure) -> AttentionCall:
    return AttentionCall(query, key, key, LAYOUT, LAYOUT, structure, 0.0, query.shape[2] ** -0.5)


@pytest.mark.parametrize("structure", [BIDIRECTIONAL, CAUSAL], ids=lambda s: type(s).__name__)
def test_attention_scores_are_those_of_tinybert(structure: Structure) -> None:
    """TinyBERT, eq. 7: the scores before the softmax; a key head of the teacher serves two heads of queries."""
    student = [run(TOTAL, 4, 8, seed=n) for n in range(2)]
    query, key = run(TOTAL, 4, 16, seed=5).detach(), run(TOTAL, 2, 16, seed=6).detach()
    ours = terms.attention_distance(call(student[0], student[1], structure), call(query, key, structure), LAYOUT)
    mask = seen(structure)
    sides = []
    for q, k in (student, (query, key.repeat_interleave(2, dim=1))):
        q, k = padded(q).transpose(1, 2), padded(k).transpose(1, 2)
        sides.append(q @ k.transpose(2, 3) / math.sqrt(q.shape[-1]))
    each = ((sides[0] - sides[1]).square().mean(1) * mask).sum(-1) / mask.sum(-1).clamp(min=1)
    torch.testing.assert_close(ours, each.sum(), rtol=1e-4, atol=1e-4)
    for a, b in zip(torch.autograd.grad(ours, student), torch.autograd.grad(each.sum(), student), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_sequences_that_do_not_count_change_nothing() -> None:
    """Dummies come last in the runs, and the layout leaves them out."""
    real = Layout.of(LENGTHS[:3])
    sides = [[run(TOTAL, 2, 4, seed=n + m).detach() for n in range(3)] for m in (0, 3)]
    total = terms.relation_divergence(sides[0], sides[1], 2, real, BIDIRECTIONAL)
    for side in sides:
        for each in side:
            each[real.total :] = 1e3
    torch.testing.assert_close(terms.relation_divergence(sides[0], sides[1], 2, real, BIDIRECTIONAL), total)


@pytest.mark.parametrize(
    ("count", "layers", "expected"),
    [(6, 12, (0, 2, 4, 7, 9, 11)), (3, 6, (0, 2, 5)), (2, 2, (0, 1)), (1, 4, (0,)), (4, 24, (0, 8, 15, 23))],
)
def test_layers_are_spread_from_the_first_to_the_last(count: int, layers: int, expected: tuple[int, ...]) -> None:
    assert spread_layers(count, layers) == expected


def test_more_layers_than_there_are_are_refused() -> None:
    with pytest.raises(UsageError, match=r"distil.student.layers = 7: the model has 6 layers"):
        spread_layers(7, 6)


def test_layers_are_compared_with_those_they_were_made_of() -> None:
    assert default_pairs(3, 6, (0, 2, 5)) == ((1, 1), (2, 3), (3, 6))
    assert default_pairs(3, 6) == ((1, 2), (2, 4), (3, 6))
    assert default_pairs(6, 3) == ((1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3))


def test_relation_heads_divide_both() -> None:
    student, teacher = Attention(24, 2, BIDIRECTIONAL), Attention(32, 4, BIDIRECTIONAL)
    assert relation_heads([student, teacher], DistilConfig()) == 4
    with pytest.raises(UsageError, match=r"relation_heads = 16.*24, 32 wide.*divisor of 8"):
        relation_heads([student, teacher], DistilConfig(relation_heads=16))
