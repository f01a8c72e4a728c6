"""A linear-chain conditional random field over ragged sequences: its loss, with its own gradient, and marginals."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pretune.batch import Layout
from pretune.nn.viterbi import ByPosition, Transitions, in_fp32, viterbi

_SAFE = 75.0  # a step of so wide a range of scores, in nats, loses no path that matters; beyond it logarithms are used
GAIN = 30.0
"""Scores of neighbours by parameter; files hold the parameters. How it was chosen: `benchmarks/LOG.md`, 2026-11-29."""


class CRF(nn.Module):
    """Scores whole sequences of labels: the score of each label at its row, and those of labels that follow each other.

    At the learning rate of a pretrained encoder, scores of neighbours would hardly leave 0. They are `gain` times the
    parameters, so that a step of Adam moves them `gain` times as far: with 1 a tagger gains nothing over a softmax.

    Args:
        labels: number of labels, L.
        gain: scores of neighbours by parameter.

    Source: Lafferty et al. 2001, "Conditional random fields"; Lample et al. 2016 (arXiv 1603.01360), section 2.2; Su
    2020, "Is the learning rate of your CRF layer large enough?" (kexue.fm/archives/7196, in Chinese), for the gain.
    """

    def __init__(self, labels: int, gain: float = GAIN) -> None:
        super().__init__()
        self.gain = gain
        self.first = nn.Parameter(torch.empty(labels))
        self.between = nn.Parameter(torch.empty(labels, labels))
        self.last = nn.Parameter(torch.empty(labels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Begins where every label may follow every other: a softmax at each row."""
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    @property
    def transitions(self) -> Transitions:
        """The scores of neighbours."""
        return Transitions(self.first * self.gain, self.between * self.gain, self.last * self.gain)

    def forward(self, scores: Tensor, labels: Tensor, layout: Layout) -> Tensor:
        """Gives the negative log-likelihood of the labels of each sequence; 0 for one without rows.

        Shape:
            scores: (T, L); labels: (T,) int64; return: (N,) fp32, or fp64 where the scores are.
        """
        return crf_loss(scores, labels, layout, self.transitions)

    def decode(self, scores: Tensor, layout: Layout, constraints: Transitions | None = None) -> Tensor:
        """Gives the best labels of each sequence. Shape: (T, L) -> (T,) int64."""
        return viterbi(scores, layout, self.transitions if constraints is None else self.transitions + constraints)

    def marginals(self, scores: Tensor, layout: Layout, constraints: Transitions | None = None) -> Tensor:
        """Gives the probability of each label at each row. Shape: (T, L) -> (T, L), in sum 1 for each row."""
        return marginals(scores, layout, self.transitions if constraints is None else self.transitions + constraints)


def crf_loss(scores: Tensor, labels: Tensor, layout: Layout, transitions: Transitions) -> Tensor:
    """Gives the negative log-likelihood of the labels of each sequence; 0 for one without rows.

    Its gradient is the probability of each label and of each pair minus what is there. Probabilities are carried as
    numbers that matrix products add up, and scaled before they leave the range of fp32; where a single step could leave
    it, as with scores of -10,000 that forbid, they are carried as logarithms.

    Shape:
        scores: (T, L); labels: (T,) int64; return: (N,) fp32, or fp64 where the scores are.

    Source: Rabiner 1989, "A tutorial on hidden Markov models", section V.A (scaling).
    """
    out: Tensor = _Loss.apply(  # type: ignore[no-untyped-call]
        scores, transitions.first, transitions.between, transitions.last, labels, layout
    )
    return out


def marginals(scores: Tensor, layout: Layout, transitions: Transitions) -> Tensor:
    """Gives the probability of each label at each row.

    Shape:
        scores: (T, L); return: (T, L) fp32, or fp64 where the scores are.
    """
    with torch.no_grad(), torch.autocast(scores.device.type, enabled=False):
        rows, x = ByPosition.of(layout), in_fp32(scores)
        if not layout.total:
            return x
        chain = _chain_of(x[rows.index], transitions.to(x), rows)
        return torch.empty_like(x).index_copy_(0, rows.index, chain.marginals())


class _Chain(ABC):
    """Sums over all paths to and from each place, scaled at each place by what keeps them in range.

    Args:
        x: (T, L) scores, position by position.
        transitions: of the same dtype, without gradients.

    Attributes:
        log_scales: (T,) logarithms of what the sums were divided by at each place, which in sum are those of all paths.
    """

    log_scales: Tensor

    def __init__(self, x: Tensor, transitions: Transitions, rows: ByPosition) -> None:
        self.rows, self.transitions = rows, transitions
        self.top = x.amax(dim=1, keepdim=True)
        self.x = x - self.top

    @abstractmethod
    def marginals(self) -> Tensor:
        """The probability of each label at each place. Shape: return: (T, L)."""

    @abstractmethod
    def pairs(self, weight: Tensor) -> Tensor:
        """The expected number of times that each label follows each other. Shape: weight: (T,); return: (L, L)."""


class _ScaledChain(_Chain):
    """Sums as plain numbers.

    Args:
        every: positions after which the sums are scaled.
    """

    def __init__(self, x: Tensor, transitions: Transitions, rows: ByPosition, every: int) -> None:
        super().__init__(x, transitions, rows)
        self.every = every
        self.x.exp_()
        first, between, last = (
            part - part.max() for part in (transitions.first, transitions.between, transitions.last)
        )
        self.last, self.between = last.exp(), between.exp()
        self.scales = torch.ones_like(self.top)
        self.forward_sums = self.x.clone()
        parts, scales = rows.split(self.forward_sums), rows.split(self.scales)
        parts[0].mul_(first.exp())
        for n, (before, now) in enumerate(pairwise(parts), 1):
            now.mul_(before[: len(now)] @ self.between)
            if n % every == 0:
                now.div_(torch.sum(now, dim=1, keepdim=True, out=scales[n]))
        self.log_scales = (self.scales.log() + self.top)[:, 0]
        self.log_scales[: rows.sizes[0]] += transitions.first.max()
        self.log_scales[rows.sizes[0] :] += transitions.between.max()
        self.log_scales[rows.ends] += (self.forward_sums[rows.ends] @ self.last).log() + transitions.last.max()

    @cached_property
    def backward_sums(self) -> Tensor:
        """Sums over the paths from each place to the end of its sequence. Shape: return: (T, L)."""
        sums = self.last.repeat(len(self.x), 1)
        parts, x = self.rows.split(sums), self.rows.split(self.x)
        for n in range(len(parts) - 1, 0, -1):
            now = parts[n - 1][: len(parts[n])]
            torch.mm(x[n] * parts[n], self.between.t(), out=now)
            if n % self.every == 0:
                now.div_(now.sum(dim=1, keepdim=True))
        return sums

    def marginals(self) -> Tensor:
        """Shape: return: (T, L)."""
        both = self.forward_sums * self.backward_sums
        return both.div_(both.sum(dim=1, keepdim=True))

    def pairs(self, weight: Tensor) -> Tensor:
        """Shape: weight: (T,); return: (L, L)."""
        later = slice(self.rows.sizes[0], None)
        after = self.backward_sums[later]
        paths = (self.forward_sums[later] * after).sum(dim=1, keepdim=True).mul_(self.scales[later])
        reached = (self.x[later] * after).mul_(weight[later, None] / paths)
        return (self.forward_sums[self.rows.previous].t() @ reached).mul_(self.between)


class _LogChain(_Chain):
    """Sums as logarithms, which no range of scores overflows."""

    def __init__(self, x: Tensor, transitions: Transitions, rows: ByPosition) -> None:
        super().__init__(x, transitions, rows)
        self.log_scales = self.top[:, 0].clone()
        self.forward_sums = self.x.clone()
        parts, scales = rows.split(self.forward_sums), rows.split(self.log_scales)
        parts[0].add_(transitions.first)
        for n, now in enumerate(parts):
            if n:
                now.add_((parts[n - 1][: len(now), :, None] + transitions.between).logsumexp(dim=1))
            best = now.amax(dim=1)
            now.sub_(best[:, None])
            scales[n].add_(best)
        self.log_scales[rows.ends] += (self.forward_sums[rows.ends] + transitions.last).logsumexp(dim=1)

    @cached_property
    def backward_sums(self) -> Tensor:
        """Sums over the paths from each place to the end of its sequence. Shape: return: (T, L)."""
        sums = self.transitions.last.repeat(len(self.x), 1)
        parts, x = self.rows.split(sums), self.rows.split(self.x)
        for n in range(len(parts) - 1, 0, -1):
            reached = (x[n] + parts[n])[:, None] + self.transitions.between
            total = reached.logsumexp(dim=2)
            parts[n - 1][: len(total)] = total - total.amax(dim=1, keepdim=True)
        return sums

    def marginals(self) -> Tensor:
        """Shape: return: (T, L)."""
        return (self.forward_sums + self.backward_sums).softmax(dim=1)

    def pairs(self, weight: Tensor) -> Tensor:
        """Shape: weight: (T,); return: (L, L)."""
        out = torch.zeros_like(self.transitions.between)
        sums, weights = self.rows.split(self.forward_sums), self.rows.split(weight)
        reached = self.rows.split(self.x + self.backward_sums)
        for before, after, factor in zip(sums, reached[1:], weights[1:], strict=False):
            paths = before[: len(after), :, None] + self.transitions.between + after[:, None]
            out += (factor @ paths.flatten(1).softmax(dim=1)).view_as(out)
        return out


def _chain_of(x: Tensor, transitions: Transitions, rows: ByPosition) -> _Chain:
    """Plain numbers where they are safe, scaled as seldom as that allows; else logarithms.

    Shape:
        x: (T, L)
    """
    tables = (transitions.first, transitions.between, transitions.last)
    reach = float(torch.stack([part.max() - part.min() for part in tables]).amax() + (x.amax(1) - x.amin(1)).amax())
    if not reach <= _SAFE:
        return _LogChain(x, transitions, rows)
    return _ScaledChain(x, transitions, rows, max(1, int(_SAFE / 2 / (reach + math.log(x.shape[1])))))


class _Loss(torch.autograd.Function):
    """The loss of `crf_loss`, whose gradient takes no step through the loop over positions."""

    @staticmethod
    def forward(
        ctx: Any, scores: Tensor, first: Tensor, between: Tensor, last: Tensor, labels: Tensor, layout: Layout
    ) -> Tensor:
        with torch.autocast(scores.device.type, enabled=False):
            rows, x = ByPosition.of(layout), in_fp32(scores)
            out = x.new_zeros(layout.count)
            ctx.scores, ctx.layout, ctx.tables = scores.detach(), layout, (first, between, last)
            if not layout.total:
                return out
            x, labels = x[rows.index], labels[rows.index]
            tables = Transitions(first, between, last).to(x)
            chain = _chain_of(x, tables, rows)
            ctx.chain, ctx.labels = chain, labels
            places = chain.log_scales - x.gather(1, labels[:, None])[:, 0]
            places[: rows.sizes[0]] -= tables.first[labels[: rows.sizes[0]]]
            places[rows.sizes[0] :] -= tables.between[labels[rows.previous], labels[rows.sizes[0] :]]
            places[rows.ends] -= tables.last[labels[rows.ends]]
            return out.index_add_(0, rows.owner, places)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        scores, layout = ctx.scores, ctx.layout
        if not layout.total:
            return torch.zeros_like(scores), *(torch.zeros_like(part) for part in ctx.tables), None, None
        rows, chain, labels = ByPosition.of(layout), ctx.chain, ctx.labels
        with torch.autocast(scores.device.type, enabled=False):
            weight = grad[rows.owner]
            surplus = chain.marginals().scatter_add_(1, labels[:, None], -torch.ones_like(weight)[:, None])
            surplus.mul_(weight[:, None])
            later = labels[rows.sizes[0] :]
            pairs = chain.pairs(weight).view(-1)
            pairs.index_add_(0, labels[rows.previous] * surplus.shape[1] + later, -weight[rows.sizes[0] :])
            first, last = surplus[: rows.sizes[0]].sum(dim=0), surplus[rows.ends].sum(dim=0)
            spread = torch.empty_like(surplus).index_copy_(0, rows.index, surplus).to(scores.dtype)
        tables = zip((first, pairs.view(surplus.shape[1], -1), last), ctx.tables, strict=True)
        return spread, *(part.to(table.dtype) for part, table in tables), None, None
