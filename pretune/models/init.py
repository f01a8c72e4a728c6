"""Initial weights: each is a function of the seed and of its own name alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from pretune.draw import Draw


class ModuleTree(Protocol):
    """Modules by their names, as of any `nn.Module`."""

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """The module itself and all below it."""


class Initialisable(ModuleTree, Protocol):
    """A model that says how large its initial weights are.

    Attributes:
        std: standard deviation of matrices.
        residual_std: of projections that end a residual branch.
    """

    std: float
    residual_std: float


def initialise(model: Initialisable, seed: int, only: Callable[[str], bool] = lambda name: True) -> None:
    """Gives parameters memory and initial values: matrices normal, biases 0, norms 1.

    A head more or less changes no other weight.

    Args:
        only: which names to set; the others stay as they are.
    """
    owners = {f"{name}.": module for name, module in model.named_modules()}

    def value(name: str, old: Tensor) -> Tensor:
        if not only(name):
            return old
        owner = owners[name.rpartition(".")[0] + "."]
        if name.endswith("bias"):
            return torch.zeros(old.shape)
        if isinstance(owner, nn.LayerNorm | nn.RMSNorm):
            return torch.ones(old.shape)
        ends_branch = name.startswith("stack.") and name.endswith(
            ("attention.output.weight", "feedforward.down.weight")
        )
        generator = torch.Generator().manual_seed(Draw(seed).at("weights", name).key & (2**63 - 1))
        return torch.empty(old.shape).normal_(0, model.residual_std if ends_branch else model.std, generator=generator)

    replace_parameters(model, value)


def replace_parameters(model: ModuleTree, value: Callable[[str, Tensor], Tensor]) -> None:
    """Sets every parameter to a new tensor; a parameter that several modules share stays shared.

    Args:
        value: new tensor of a parameter, from its first name and its old value.
    """
    replaced: dict[int, tuple[Tensor, Tensor]] = {}  # keeps the old ones alive, so that their ids stay theirs
    for prefix, module in model.named_modules():
        for key, old in list(module._parameters.items()):
            if old is None:
                continue
            if id(old) not in replaced:
                new = value(f"{prefix}.{key}" if prefix else key, old)
                parameter = old if new is old else nn.Parameter(new, requires_grad=old.requires_grad)
                replaced[id(old)] = (old, parameter)
            module._parameters[key] = replaced[id(old)][1]  # type: ignore[assignment]
