"""The tuning method that trains the last layers and the heads: no gradient runs through the body below them.

With `gradual` the heads learn alone at first, then one more layer in each part of the run, from the last one down.

Source: gradual unfreezing, Howard and Ruder 2018, arXiv 1801.06146, section 3.3.
"""

from __future__ import annotations

from typing import TypeVar

from pydantic import Field
from torch import nn

from pretune import config
from pretune.errors import UsageError
from pretune.nn.stack import Stack
from pretune.tune.surgery import refuse_rounded

M = TypeVar("M", bound=nn.Module)
SURGERY = False


class Config(config.Config):
    """How much of a model trains.

    Attributes:
        layers: number of the last layers that train; layers that share their weights are one. The layers of an encoder
            are below those of its decoder.
        gradual: train the heads alone at first, and one more layer in each further part of the run, so that all of
            `layers` train in its last part.
    """

    layers: int = Field(2, ge=1)
    gradual: bool = False


def apply(model: M, config: Config) -> M:
    """Freezes all but the last layers, the norm behind them and the heads.

    A weight that one of these shares with the body below, such as a table of tokens or of distances, stays frozen.

    Args:
        model: with its heads in `model.heads`.

    Raises:
        UsageError: the model has fewer layers, or rounded matrices in those that train.
    """
    stacks = _stacks(model)
    blocks = [block for stack in stacks for block in stack.blocks]
    if config.layers > len(blocks):
        total = sum(len(stack.order) for stack in stacks)
        shared = f", which {total} layers share" if total > len(blocks) else ""
        raise UsageError(
            f"tune.top.layers = {config.layers}: the model has {len(blocks)} layers with weights of their own{shared}; "
            f"give at most {len(blocks)}, or choose --tune full"
        )
    upper: list[nn.Module] = [model.get_submodule("heads"), *blocks[len(blocks) - config.layers :]]
    upper += [stack.norm for stack in stacks if len(stack.blocks) and stack.blocks[-1] in upper]
    refuse_rounded("top", *upper)
    inside = {id(module) for root in upper for module in root.modules()}
    below = [module for module in model.modules() if id(module) not in inside]
    shared_weights = {id(weight) for module in below for weight in module.parameters(recurse=False)}
    shared_weights |= {id(weight) for block in blocks[: -config.layers] for weight in block.parameters()}
    model.requires_grad_(False)
    for module in upper:
        for weight in module.parameters():
            weight.requires_grad_(id(weight) not in shared_weights)
    return model


def has_stages(config: Config) -> bool:
    """Whether layers wait for their part of the run."""
    return config.gradual


def before_step(model: nn.Module, config: Config, fraction: float) -> None:
    """Runs the layers whose part of the run has not come without a gradient.

    Args:
        fraction: how much of the run is done, from 0 to 1.
    """
    if not config.gradual:
        return
    heads_learn = any(weight.requires_grad for weight in model.get_submodule("heads").parameters())
    first = 0 if heads_learn else 1  # else there would be nothing to learn in the first part
    parts = config.layers + 1 - first
    closed = sum(len(stack.blocks) for stack in _stacks(model))
    closed -= first + min(int(fraction * parts), parts - 1)
    for stack in _stacks(model):
        closed_here = min(closed, len(stack.blocks))
        open_here = [number for number, block in enumerate(stack.order) if block >= closed_here]
        stack.learns_from = open_here[0] if open_here else len(stack.order)
        closed -= closed_here


def idle(model: nn.Module) -> list[str]:
    """The layers whose part of the run never came, because it ended early or has fewer steps than parts."""
    names = {stack: name for name, stack in model.named_modules() if isinstance(stack, Stack)}
    return [
        f"{names[stack]}.blocks.{number}: the run ended before this layer was unfrozen"
        for stack in _stacks(model)
        for number in dict.fromkeys(stack.order[: stack.learns_from])
        if any(weight.requires_grad for weight in stack.blocks[number].parameters())
    ]


def _stacks(model: nn.Module) -> list[Stack]:
    """Lists the stacks of a model, that of its encoder first."""
    named = [(name, module) for name, module in model.named_modules() if isinstance(module, Stack)]
    return [stack for _, stack in sorted(named, key=lambda item: item[0] == "stack")]
