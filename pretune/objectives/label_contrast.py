"""Contrast of labelled vectors: those of one label come close to each other, and apart from all others.

Source: Khosla et al. 2020, "Supervised contrastive learning" (arXiv 2004.11362), equation 2; Tunstall et al. 2022,
SetFit (arXiv 2209.11055), for contrast before a linear head on few labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def label_contrast(vectors: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The loss of each vector: how improbable the others of its label are among all others, on average.

    Args:
        vectors: of length 1.
        temperature: what cosines are divided by.

    Returns:
        0 for a vector that is the only one of its label.

    Shape:
        vectors: (N, width); labels: (N,) int64; return: (N,)
    """
    itself = torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    scores = (vectors @ vectors.T / temperature).masked_fill(itself, -1e4)
    positive = (labels[:, None] == labels) & ~itself
    logs = F.log_softmax(scores, dim=1)
    return -(logs * positive).sum(dim=1) / positive.sum(dim=1).clamp(min=1)


def step_contrast(vectors: Tensor, labels: Tensor, others: Tensor, start: int, temperature: float) -> Tensor:
    """The loss of a micro-batch's vectors among those of the whole step, with the gradient that the whole step gives.

    Args:
        others: vectors of the step, each with its label behind it, without gradient.
        start: the first row of this micro-batch's.

    Shape:
        vectors: (n, width); labels: (n,); others: (N, width + 1); return: (n,)
    """
    stop, width = start + len(vectors), vectors.shape[1]
    every = torch.cat([others[:start, :width], vectors, others[stop:, :width]])
    marks = others[:, width].round().long()
    losses = label_contrast(every, marks, temperature)
    own = losses[start:stop]
    # The value is that of these vectors; the gradient that of all, as all have these among their others.
    return own.detach() + (losses.sum() - losses.sum().detach()) / max(len(own), 1)
