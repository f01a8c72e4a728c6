"""Muon for the matrices of the layers, AdamW for everything else, as one optimizer.

Muon makes each matrix's momentum orthogonal before it is a step, by five Newton-Schulz iterations: products of the
matrix with itself, which cost as much as some hundred tokens of forward and backward. It pays where a step has
thousands of tokens.

Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pretune.train.optimizer import OptimizerConfig


class MuonWithAdamW(torch.optim.Optimizer):
    """Two optimizers that share their groups' list and their state with this one, so that both are seen as one.

    Attributes:
        grad_scale: gradients are divided by it, where set; see `optimizer.update`.
    """

    grad_scale: Tensor | None = None
    found_inf: Tensor | None = None

    def __init__(self, muon: torch.optim.Muon, adamw: torch.optim.AdamW) -> None:
        super().__init__([*muon.param_groups, *adamw.param_groups], {})
        self._muon, self._adamw = muon, adamw
        for part, groups in (
            (muon, self.param_groups[: len(muon.param_groups)]),
            (adamw, self.param_groups[len(muon.param_groups) :]),
        ):
            part.param_groups, part.state = groups, self.state

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Both updates; the gradients of the layers' matrices are scaled in place."""
        if self.grad_scale is not None:
            matrices = [p.grad for group in self._muon.param_groups for p in group["params"] if p.grad is not None]
            torch._foreach_div_(matrices, self.grad_scale)
        self._muon.step()  # type: ignore[no-untyped-call]
        self._adamw.grad_scale, self._adamw.found_inf = self.grad_scale, self.found_inf  # type: ignore[attr-defined]
        self._adamw.step()


def with_muon(adamw: torch.optim.AdamW, matrices: Sequence[Tensor], config: OptimizerConfig) -> MuonWithAdamW:
    """Muon for the matrices beside an AdamW for the rest."""
    muon = torch.optim.Muon(
        list(matrices),
        lr=config.lr,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    return MuonWithAdamW(muon, adamw)
