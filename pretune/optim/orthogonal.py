"""The update rule of Muon: each matrix's momentum is made orthogonal before it is a step.

Five Newton-Schulz iterations do that: products of the matrix with itself, which cost as much as some hundred tokens of
forward and backward. `torch.optim.Muon` walks through the matrices one by one, some forty small operations each, and
always in bf16, in which a processor without it is slow (benchmarks/LOG.md); here all matrices of one shape, transposed
or not, are one batch, in the dtype of the run's other matmuls.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"; the size of a step as in Liu et
al. 2025 (arXiv 2502.16982), so that AdamW's learning rate and decay fit both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # steepest at zero; singular values end in 0.7 .. 1.2
_ITERATIONS = 5
_TINY = 1e-7
_RMS = 0.2  # of an AdamW step, in units of the learning rate


class MuonWithAdamW(torch.optim.Optimizer):
    """The matrices' rule, and an AdamW that shares its groups and its state with this optimizer.

    Args:
        matrices: of two dimensions each.
        dtype: of the matmuls of the iterations.

    Attributes:
        grad_scale: gradients are divided by it, where set; see `optimizer.update`.
    """

    _step_supports_amp_scaling = True
    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(
        self,
        matrices: Iterable[Tensor],
        adamw: torch.optim.AdamW,
        *,
        lr: float,
        weight_decay: float,
        momentum: float,
        dtype: torch.dtype,
    ) -> None:
        group = {"params": list(matrices), "lr": lr, "weight_decay": weight_decay, "momentum": momentum}
        super().__init__([group, *adamw.param_groups], {})
        self._adamw, self._dtype = adamw, dtype
        adamw.state = self.state

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Both updates."""
        own = [group for group in self.param_groups if "momentum" in group]
        matrices = [(p, group) for group in own for p in group["params"] if p.grad is not None]
        if matrices:
            self._step(matrices)
        self._adamw.param_groups = [group for group in self.param_groups if "momentum" not in group]
        self._adamw.grad_scale, self._adamw.found_inf = self.grad_scale, self.found_inf  # type: ignore[attr-defined]
        self._adamw.step()

    def _step(self, members: Sequence[tuple[Tensor, dict[str, Any]]]) -> None:
        """Steps in matrices, each with its group; all of one shape are one batch, whatever their groups."""
        matrices, groups = [p for p, _ in members], [group for _, group in members]
        grads = [p.grad for p in matrices if p.grad is not None]
        momentum = groups[0]["momentum"]
        for p in matrices:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        if self.grad_scale is not None:
            torch._foreach_div_(grads, self.grad_scale)
        mean = [self.state[p]["momentum_buffer"] for p in matrices]
        torch._foreach_lerp_(mean, grads, 1 - momentum)
        ahead = torch._foreach_lerp(grads, mean, momentum)
        torch._foreach_mul_(matrices, [1 - group["lr"] * group["weight_decay"] for group in groups])
        for (p, group), step in zip(members, orthogonal(list(ahead), self._dtype), strict=True):
            p.add_(step, alpha=-group["lr"] * _RMS * math.sqrt(max(p.shape)))


def orthogonal(matrices: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Nearly the orthogonal factor of each matrix: its singular values become about 1.

    Shape:
        matrices: (a, b) each; return: the same, of type `dtype`.
    """
    batches: dict[tuple[int, int], list[int]] = {}
    for n, matrix in enumerate(matrices):
        batches.setdefault((min(matrix.shape), max(matrix.shape)), []).append(n)
    out: list[Tensor] = [*matrices]
    for members in batches.values():
        wide = [matrices[n] if matrices[n].shape[0] <= matrices[n].shape[1] else matrices[n].T for n in members]
        for n, factor in zip(members, _iterate(torch.stack(wide), dtype).unbind(), strict=True):
            out[n] = factor if matrices[n].shape[0] <= matrices[n].shape[1] else factor.T
    return out


def _iterate(x: Tensor, dtype: torch.dtype) -> Tensor:
    """Shape: (n, a, b), a <= b -> the same, of type `dtype`."""
    a, b, c = _COEFFICIENTS
    x = (x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=_TINY)).to(dtype)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x
