"""AdamW, or Muon with it, with decay on matrices only, clipping without a second pass, and the guard against NaN."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pretune.config import Config

if TYPE_CHECKING:  # the configuration is read without torch
    import torch
    from torch import Tensor, nn


class OptimizerConfig(Config):
    """How gradients become steps.

    Attributes:
        name: the update rule; `muon` takes orthogonal steps in the matrices of the layers, and is AdamW for the rest.
        lr: learning rate at the peak of the schedule; Muon's steps are as large as AdamW's at the same rate.
        betas: decay of the running mean and of the running square.
        momentum: decay of Muon's running mean.
        eps: added to the root of the running square.
        weight_decay: decoupled decay of matrices and embeddings; biases and norms have none.
        clip: largest global norm of the gradient; 0 does not clip.
    """

    name: Literal["adamw", "muon"] = "adamw"
    lr: float = Field(5e-4, gt=0, allow_inf_nan=False)
    betas: tuple[float, float] = (0.9, 0.98)
    momentum: float = Field(0.95, ge=0, lt=1)
    eps: float = Field(1e-6, gt=0)
    weight_decay: float = Field(0.01, ge=0, allow_inf_nan=False)
    clip: float = Field(1.0, ge=0, allow_inf_nan=False)


def build_optimizer(
    root: nn.Module, config: OptimizerConfig, precision: Literal["bf16", "fp32"] = "fp32"
) -> torch.optim.Optimizer:
    """The update rule over the parameters that learn.

    Args:
        precision: the number format of Muon's products.

    Source: Loshchilov and Hutter 2019 (arXiv 1711.05101); which parameters decay as in BERT and GPT-2: those of two
    dimensions and more. Muon: Jordan et al. 2024; its rate matched to AdamW's as in Liu et al. 2025 (arXiv 2502.16982).
    """
    import torch

    named = {name: p for name, p in root.named_parameters() if p.requires_grad}
    layers = [p for name, p in named.items() if p.dim() == 2 and ".stack." in f".{name}"]
    hidden = {id(p) for p in layers} if config.name == "muon" else set()
    others = [p for p in named.values() if id(p) not in hidden]
    groups = [
        {"params": [p for p in others if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(
        [group for group in groups if group["params"]] or [{"params": []}],
        lr=config.lr,
        betas=config.betas,
        eps=config.eps,
        fused=True,
    )
    if not hidden:
        return adamw
    from pretune.optim.muon import with_muon

    return with_muon(adamw, layers, config, torch.bfloat16 if precision == "bf16" else torch.float32)


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """Global norm of the gradient; not finite as soon as one element is not.

    Shape:
        return: () fp32 on the device of the gradients; no synchronization.
    """
    import torch

    grads = gradients(optimizer)
    if not grads:
        return torch.zeros(())
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    return norm


def update(optimizer: torch.optim.Optimizer, lr: float, norm: float, clip: float) -> None:
    """One optimizer step at rate `lr`, the gradient scaled down to `clip`.

    The fused kernels of CPU and CUDA divide the gradient by `grad_scale` while they read it, which spares clipping its
    own pass.

    Args:
        norm: the gradient's global norm, finite: a step with another must be skipped by the caller.
    """
    import torch

    for group in optimizer.param_groups:
        group["lr"] = lr
    device = optimizer.param_groups[0]["params"][0].device
    scale = found = None
    if 0 < clip < norm:
        if device.type in ("cpu", "cuda"):
            scale = torch.tensor(norm / clip, dtype=torch.float32, device=device)
            found = torch.zeros((), dtype=torch.float32, device=device)
        else:
            torch._foreach_mul_(gradients(optimizer), clip / norm)
    optimizer.grad_scale, optimizer.found_inf = scale, found  # type: ignore[attr-defined]
    optimizer.step()


def gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The gradients that there are."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
