"""Initialises weights: each is a function of the seed and of its own name alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from pretune.draw import Draw
from pretune.nn.projection import ProjectionBrick
from pretune.nn.vocabulary import VocabularyBrick


class ModuleTree(Protocol):
    """Has named modules, as any `nn.Module`."""

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]:
        """Iterates over the module itself and all below it."""


class Initialisable(ModuleTree, Protocol):
    """A model that says how large its initial weights are."""

    def std_of(self, path: str) -> float:
        """The standard deviation of the matrix at a path, such as `stack.blocks.0.attention.output`."""
        ...


def branch_ends(std: float, layers: int) -> dict[str, float]:
    """Smaller weights, by place, where a residual branch ends: the sum of all branches then keeps its size.

    Source: Radford et al. 2019, section 2.3.

    Args:
        std: of the other matrices.
        layers: of the stack, each with two branches.
    """
    return dict.fromkeys(("attention.output", "feedforward.down"), std / math.sqrt(2 * layers))


def initialise(model: Initialisable, seed: int, only: Callable[[str], bool] = lambda name: True) -> None:
    """Gives parameters memory and initial values: matrices normal, biases 0, norms 1.

    What stands at the place of a projection or a vocabulary draws its own. A head more or less changes no other weight.

    Args:
        only: which names to set; the others stay as they are.
    """
    owners = {f"{name}.": module for name, module in model.named_modules()}
    bricks = _bricks(model)

    def value(name: str, old: Tensor) -> Tensor:
        if not only(name):
            return old
        path = name.rpartition(".")[0]
        owner = owners[f"{path}."]
        if name.endswith("bias") or any(path in bricks for path in _parents(name)):
            return torch.zeros(old.shape)
        if isinstance(owner, nn.LayerNorm | nn.RMSNorm):
            return torch.ones(old.shape)
        generator = torch.Generator().manual_seed(_key(seed, name))
        return torch.empty(old.shape).normal_(0, model.std_of(path), generator=generator)

    replace_parameters(model, value)
    with torch.random.fork_rng(devices=[]):
        for path, brick in bricks.items():
            torch.default_generator.manual_seed(_key(seed, f"{path}.weight"))
            _reset(path, brick, model.std_of(path), only)


def _key(seed: int, name: str) -> int:
    return Draw(seed).at("weights", name).key & (2**63 - 1)


def _bricks(model: ModuleTree) -> dict[str, ProjectionBrick | VocabularyBrick]:
    """The outermost bricks that draw their own initial values, by path; a shared one under its first."""
    bricks: dict[str, ProjectionBrick | VocabularyBrick] = {}
    for path, module in model.named_modules():
        if isinstance(module, ProjectionBrick | VocabularyBrick) and not any(p in bricks for p in _parents(path)):
            bricks[path] = module
    return bricks


def _parents(name: str) -> Iterator[str]:
    """Paths of all modules that a name lies in."""
    while name:
        name = name.rpartition(".")[0]
        yield name


def _reset(path: str, brick: ProjectionBrick | VocabularyBrick, std: float, only: Callable[[str], bool]) -> None:
    """Lets a brick draw its parameters, of which some may be kept."""
    parameters = dict(cast(nn.Module, brick).named_parameters(path))
    if not any(map(only, parameters)):
        return
    kept = {name: parameter.detach().clone() for name, parameter in parameters.items() if not only(name)}
    brick.reset_parameters(std)
    with torch.no_grad():
        for name, old in kept.items():
            parameters[name].copy_(old)


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
