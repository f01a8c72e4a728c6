"""A head that scores pairs of tokens: spans by their first and last token, or links by a token of each end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pretune.batch import Layout
from pretune.nn.projection import Projection
from pretune.nn.rotary import Rotary
from pretune.nn.tuned import with_keys

_PRIOR = -4.0  # score of a pair of which nothing is known: nearly all pairs of a text are false
_GROUP = 1 << 21  # scores that are computed at once
_KEPT = 1 << 18  # scores of a group that are kept for the backward pass; more are computed again there


class TokenPairHead(nn.Module):
    """Scores every pair of tokens of a sequence for each label, above 0 for yes; labels do not exclude each other.

    Each label has a query and a key of its own for each token, and a pair's score is their product, which depends on
    how far the two are apart. It is not divided by the root of the size: scores then part in less than half the steps.

    Args:
        labels: names of the labels, in the order of the scores.
        size: of a query, even.
        theta: base of the wavelengths of positions.

    Source: Su et al. 2022, GlobalPointer (arXiv 2208.03054), section 2.2; Su 2022, GPLinker
    (https://kexue.fm/archives/8888), for links.
    """

    def __init__(self, width: int, labels: Sequence[str], size: int = 64, theta: float = 10_000.0) -> None:
        super().__init__()
        self.labels, self.size = list(labels), size
        self.queries = Projection(width, len(self.labels) * size)
        self.keys = Projection(width, len(self.labels) * size)
        self.rotary = Rotary(size, theta)
        self.bias = nn.Parameter(torch.zeros(len(self.labels)))

    def forward(self, rows: Tensor, layout: Layout) -> list[Tensor]:
        """Scores the pairs of each sequence.

        Args:
            rows: the tokens between which pairs are looked for.
            layout: theirs.

        Shape:
            rows: (T, width); return: N times (labels, n, n), first token by second
        """
        queries, keys = self._project(rows, layout)
        return [
            self._scores(query.transpose(0, 1), key.transpose(0, 1))
            for query, key in zip(*(torch.split(run, list(layout.lengths)) for run in (queries, keys)), strict=True)
        ]

    def loss(self, rows: Tensor, layout: Layout, true: Tensor, *, is_ordered: bool) -> Tensor:
        """Sums the loss of `pair_loss` over sequences, as means over labels.

        Args:
            true: sequence, label, first and second token of each true pair.
            is_ordered: the second token is never before the first.

        Shape:
            rows: (T, width); true: (k, 4); return: ()
        """
        queries, keys = self._project(rows, layout)
        total = queries.float().sum() * 0.0 + self.bias.float().sum() * 0.0
        if not self.labels:
            return total
        for numbers in _groups(layout.lengths, len(self.labels)):
            index, real = _padded(layout, numbers)
            number = torch.full((layout.count,), -1, device=rows.device)
            number[numbers] = torch.arange(len(numbers), device=rows.device)
            owner = number[true[:, 0]]
            pairs = torch.cat([owner[:, None], true[:, 1:]], dim=1)[owner >= 0]
            values = len(numbers) * len(self.labels) * index.shape[1] ** 2
            arguments = (queries[index], keys[index], real, pairs, is_ordered)
            is_large = values > _KEPT and rows.requires_grad
            total = total + (
                checkpoint(self._loss, *arguments, use_reentrant=False) if is_large else self._loss(*arguments)
            )
        return total / len(self.labels)

    def _project(self, rows: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Shape: (T, width) -> (T, labels, size), twice."""
        shape = (len(rows), len(self.labels), self.size)
        queries, keys = (with_keys(brick, rows, layout.keys).view(shape) for brick in (self.queries, self.keys))
        return self.rotary(queries, layout), self.rotary(keys, layout)

    def _scores(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Shape: (..., labels, n, size) twice -> (..., labels, n, n) fp32."""
        bias = (self.bias.float() + _PRIOR)[:, None, None]
        return torch.matmul(queries, keys.transpose(-1, -2)) + bias  # bf16 and fp32 make fp32

    def _loss(self, queries: Tensor, keys: Tensor, real: Tensor, pairs: Tensor, is_ordered: bool) -> Tensor:
        """Shape: queries, keys: (B, L, labels, size); real: (B, L); pairs: (k, 4); return: ()"""
        scores = self._scores(queries.transpose(1, 2), keys.transpose(1, 2))
        counted = real[:, :, None] & real[:, None, :]
        counted = counted.triu() if is_ordered else counted
        return pair_loss(scores.masked_fill_(~counted[:, None], -torch.inf), pairs)


def _groups(lengths: Sequence[int], labels: int) -> Iterator[list[int]]:
    """Sequences of similar length, so many at once that their scores take some megabytes."""
    group: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        if group and (len(group) + 1) * labels * lengths[group[0]] ** 2 > _GROUP:
            yield group
            group = []
        group.append(number)
    if group:
        yield group


def _padded(layout: Layout, numbers: Sequence[int]) -> tuple[Tensor, Tensor]:
    """The rows of some sequences as a table, and which of its cells are some. Shape: return: (B, L), (B, L)"""
    device = layout.offsets.device
    chosen = torch.tensor(numbers, device=device)
    first, size = layout.first[chosen], layout.offsets.diff().long()[chosen]
    column = torch.arange(max(layout.lengths[n] for n in numbers), device=device)
    real = column < size[:, None]
    return torch.where(real, first[:, None] + column, 0), real


def pair_loss(scores: Tensor, true: Tensor) -> Tensor:
    """Sums over labels how far the scores of true pairs are from being above 0, and those of the others from below 0.

    log(1 + sum of e^score over the others) + log(1 + sum of e^-score over the true pairs): whatever their numbers,
    which differ by the square of a text's length, the two sides weigh alike.

    Args:
        scores: minus infinity where there is no pair; overwritten.
        true: text, label, first and second token of each true pair, each once.

    Source: Su et al. 2022, "ZLPR: a novel loss for multi-label classification" (arXiv 2208.02955).

    Shape:
        scores: (texts, labels, n, n) fp32; true: (k, 4); return: ()
    """
    text, label, first, second = true.T
    values = -scores[text, label, first, second]
    scores.index_put_((text, label, first, second), values.new_tensor(-torch.inf))
    others = scores.flatten(2).logsumexp(dim=2)
    owner, count = text * scores.shape[1] + label, others.numel()
    highest = values.detach().new_zeros(count).scatter_reduce(0, owner, values.detach(), "amax")
    missing = (-highest).exp().index_add(0, owner, (values - highest[owner]).exp()).log() + highest
    return F.softplus(others).sum() + missing.sum()


def best_pairs(scores: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The pairs of tokens with scores above 0, the first `most` by score: label, both tokens, probability.

    Shape:
        scores: (labels, n, n) on the host; return: (k,) each
    """
    label, first, second = (scores > 0).nonzero(as_tuple=True)
    values = scores[label, first, second]
    if len(values) > most:
        index = values.topk(most).indices.sort().values
        label, first, second, values = label[index], first[index], second[index], values[index]
    return label, first, second, values.sigmoid()
