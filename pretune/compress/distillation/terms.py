"""The terms of distillation, each a sum over rows of a ragged run; nothing is padded.

| term | compares | source |
|---|---|---|
| soft | answers, softened | Hinton et al. 2015 (arXiv 1503.02531), section 2 |
| hidden | hidden states of two layers | Romero et al. 2014 (arXiv 1412.6550); TinyBERT (arXiv 1909.10351), eq. 8 |
| attention | attention scores of two layers | TinyBERT, eq. 7 |
| relations | which rows are alike by queries, keys, values | MiniLMv2 (arXiv 2012.15828), eq. 3 to 6 |
| vectors | vectors of texts | |
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.call import AttentionCall
from pretune.nn.heads import ScoreOutput
from pretune.nn.spans import groups_of, heads_of
from pretune.nn.structure import Structure

_CHUNK = 1 << 22  # scores of a vocabulary that are there at once


def divergence(student: Tensor, teacher: Tensor, dim: int = -1) -> Tensor:
    """Gives the Kullback-Leibler divergence of the student from the teacher; scores of -inf are no choices.

    Shape:
        student, teacher: the same, scores; return: the same without `dim`
    """
    expected, actual = teacher.log_softmax(dim), student.log_softmax(dim)
    p = expected.exp()
    return (p * (expected.where(p > 0, 0.0) - actual.where(p > 0, 0.0))).sum(dim)


def soft_targets(student: Tensor, teacher: Tensor, temperature: float, output: ScoreOutput = "softmax") -> Tensor:
    """Gives how far answers are from the teacher's, in units of the squared temperature, summed over rows.

    Of classes that exclude each other it is the divergence; of independent ones the mean of each one's; of values,
    which no temperature softens, the mean squared difference.

    Shape:
        student, teacher: (K, classes), or (K, choices, ends) whose mean over the ends is taken; return: ()
    """
    student, teacher = student.float(), teacher.float()
    if output == "value":
        return (student - teacher).square().mean(dim=1).sum()
    student, teacher = student / temperature, teacher / temperature
    if output == "sigmoid":
        p = teacher.sigmoid()
        entropy = F.binary_cross_entropy_with_logits(teacher, p, reduction="none")
        each = F.binary_cross_entropy_with_logits(student, p, reduction="none") - entropy
        return each.mean(dim=1).sum() * temperature**2
    each = divergence(student, teacher, dim=1)
    return (each if each.dim() == 1 else each.mean(dim=1)).sum() * temperature**2


class _Summed(torch.autograd.Function):
    """A sum whose gradients are computed with it, part by part, so that scores of a vocabulary are never all there."""

    @staticmethod
    def forward(ctx: Any, part: Callable[[Tensor, slice], Tensor], size: int, rows: Tensor, *weights: Tensor) -> Tensor:
        wanted = [rows.requires_grad, *(weight.requires_grad for weight in weights)]
        gradients: list[Tensor | None] = [torch.zeros_like(rows), *(torch.zeros_like(w) for w in weights)]
        total = rows.new_zeros((), dtype=torch.float32)
        for start in range(0, len(rows), size):
            chosen = slice(start, start + size)
            with torch.enable_grad():
                some = rows[chosen].detach().requires_grad_(rows.requires_grad)
                value = part(some, chosen)
            total += value.detach()
            learns = [t for t, is_wanted in zip((some, *weights), wanted, strict=True) if is_wanted]
            if not learns or not value.requires_grad:
                continue
            own = iter(torch.autograd.grad(value, learns, allow_unused=True))
            for n, is_wanted in enumerate(wanted):
                if is_wanted and (gradient := next(own)) is not None:
                    into = gradients[n]
                    assert into is not None
                    (into[chosen] if n == 0 else into).add_(gradient)
        ctx.save_for_backward(*(g if w else None for g, w in zip(gradients, wanted, strict=True)))
        return total

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Any, ...]:
        return (None, None, *(None if g is None else g * upstream.to(g.dtype) for g in ctx.saved_tensors))


def vocabulary_targets(
    student: nn.Module, rows: Tensor, teacher: nn.Module, expected: Tensor, temperature: float
) -> Tensor:
    """Does as `soft_targets` for two heads over the same vocabulary, some rows at a time.

    Args:
        student, teacher: heads that score rows.
        rows: of the student.
        expected: of the teacher.

    Shape:
        rows: (K, width); expected: (K, the teacher's width); return: ()
    """
    if not len(rows):
        return rows.float().sum() * 0.0
    sizes = [len(parameter) for parameter in student.parameters() if parameter.dim() == 2]
    size = max(1, _CHUNK // max(sizes, default=1))

    def part(some: Tensor, chosen: slice) -> Tensor:
        with torch.no_grad():
            target = teacher(expected[chosen])
        return soft_targets(student(some), target, temperature)

    total: Tensor = _Summed.apply(part, size, rows, *(p for p in student.parameters() if p.requires_grad))  # type: ignore[no-untyped-call]
    return total


def hidden_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Gives the squared distance of hidden states, the mean over their values, summed over rows.

    Shape:
        student, teacher: (T, width); return: ()
    """
    return (student.float() - teacher.float()).square().mean(dim=1).sum()


def attention_distance(student: AttentionCall, teacher: AttentionCall, layout: Layout) -> Tensor:
    """Gives the squared distance of attention scores, the mean over heads and the keys seen, summed over rows.

    Args:
        layout: of the sequences that count, which come first in both runs.

    Shape:
        return: ()
    """
    total = student.query.new_zeros((), dtype=torch.float32)
    for group in groups_of(layout, layout):
        sides = [_scores(call, group.query_start, group.query_length, group.sequences) for call in (student, teacher)]
        distance = (sides[0] - sides[1]).square().mean(dim=1)  # (S, n, n)
        visible = teacher.structure.visible(group.query_length, group.key_length, distance.device)
        if visible is None:
            total = total + distance.mean(dim=2).sum()
        else:
            total = total + (distance.masked_fill(~visible, 0.0).sum(dim=2) / visible.sum(dim=1)).sum()
    return total


def _scores(call: AttentionCall, start: int, length: int, count: int) -> Tensor:
    """The scores of some sequences of one length, before what is not seen is hidden. Shape: return: (S, H, n, n)."""
    query, key = (heads_of(run.float(), start, length, count) for run in (call.query, call.key))
    key = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = query @ key.transpose(2, 3) * call.scale
    added = call.structure.added(length, length)
    return scores if added is None else scores + added.float()


def relation_divergence(
    student: Sequence[Tensor], teacher: Sequence[Tensor], heads: int, layout: Layout, structure: Structure
) -> Tensor:
    """Gives the divergence of relations, the mean over heads, summed over their sorts and over rows.

    The vectors of each sort are parted anew into `heads`; a relation of a row is the softmax of its scaled products
    with all rows of its sequence that it sees.

    Args:
        student, teacher: queries, keys and values, or any other vectors of the same rows.
        layout: of the sequences that count, which come first in both runs.
        structure: says which rows are seen.

    Shape:
        student, teacher: (T, H, D) each; return: ()
    """
    total = student[0].new_zeros((), dtype=torch.float32)
    for ours, theirs in zip(student, teacher, strict=True):
        runs = [run.reshape(len(run), heads, -1).float() for run in (ours, theirs)]
        for group in groups_of(layout, layout):
            visible = structure.visible(group.query_length, group.key_length, ours.device)
            products = []
            for run in runs:
                own = heads_of(run, group.query_start, group.query_length, group.sequences)
                product = own @ own.transpose(2, 3) * own.shape[3] ** -0.5
                products.append(product if visible is None else product.masked_fill(~visible, -torch.inf))
            total = total + divergence(*products).mean(dim=1).sum()
    return total


def vector_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Gives one minus the cosine of vectors, summed over texts. Shape: (N, width) each -> ()."""
    return (1.0 - F.cosine_similarity(student.float(), teacher.float(), dim=1)).sum()
