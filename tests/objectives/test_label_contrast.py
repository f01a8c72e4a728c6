"""Contrast of labelled vectors: the published loss, whatever the number of micro-batches."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from pretune.objectives.label_contrast import label_contrast, step_contrast

LABELS = torch.tensor([0, 1, 0, 2, 1, 0])


def vectors() -> torch.Tensor:
    return F.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=1)


def test_is_the_published_sum() -> None:
    rows, temperature = vectors(), 0.3
    losses = label_contrast(rows, LABELS, temperature)
    for n in range(6):
        others = [m for m in range(6) if m != n]
        total = sum(math.exp(float(rows[n] @ rows[m]) / temperature) for m in others)
        alike = [m for m in others if LABELS[m] == LABELS[n]]
        logs = [math.log(math.exp(float(rows[n] @ rows[m]) / temperature) / total) for m in alike]
        expected = -sum(logs) / len(alike) if alike else 0.0
        assert math.isclose(float(losses[n]), expected, rel_tol=1e-4, abs_tol=1e-6)
    assert float(losses[3]) == 0.0, "the only one of its label"


def test_micro_batches_change_nothing() -> None:
    whole = vectors().requires_grad_()
    loss = label_contrast(whole, LABELS, 0.1).sum()
    loss.backward()
    table = torch.cat([vectors(), LABELS[:, None]], dim=1)
    values, gradients = [], []
    for start in (0, 2, 4):
        part = vectors()[start : start + 2].requires_grad_()
        own = step_contrast(part, LABELS[start : start + 2], table, start, 0.1).sum()
        own.backward()
        values.append(float(own.detach()))
        gradients.append(part.grad)
    assert math.isclose(sum(values), float(loss), rel_tol=1e-5)
    torch.testing.assert_close(torch.cat([g for g in gradients if g is not None]), whole.grad)
