"""Says which heads, inner values and layers of a model matter, by the gradient of its loss with respect to gates.

A gate is a factor of 1: before the projection that reads a head or an inner value, or before what a layer adds to its
input. To take the part out is to turn the gate to 0, which changes the loss by minus the gradient, to first order. Each
sequence has gates of its own, so that gradients of opposite signs do not cancel: the importance of a part is the mean
of their absolute values.

    batch --forward, backward--> {path: (sequences, parts)} --absolute, summed--> {path: (parts,)}

For a whole layer the first order is coarse; `loss_without_layers` measures the loss itself, a pass over the data for
each layer.

Source: Molchanov et al. 2017 (arXiv 1611.06440, section 2.2) and 2019 (arXiv 1906.10771); heads: Michel et al. 2019
(arXiv 1905.10650, section 4.1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, cast

import torch
from torch import Tensor, nn

from pretune.batch import Batch, Layout, OutputRows
from pretune.compress.pruning.structure import attentions, feedforwards
from pretune.errors import DataError
from pretune.models.model import LanguageModel
from pretune.models.size_check import stacks
from pretune.nn.stack import Stack

LossOf = Callable[[LanguageModel, Batch], Tensor]
"""The mean loss of a batch. Shape: return: ()."""

Gated = Literal["heads", "inner", "layers"]
Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class Gate:
    """Where gates are.

    Attributes:
        path: of the attention, the feed-forward or the layer.
        module: that a hook sits on: the projection that reads the parts, or the layer.
        parts: heads or inner values; 1 for a layer.
        width: columns of each.
    """

    path: str
    module: nn.Module
    parts: int
    width: int

    @property
    def is_layer(self) -> bool:
        """Whether the gate is before what a layer adds."""
        return self.width == 0


def gates_of(model: LanguageModel, gated: Gated) -> list[Gate]:
    """All gates of one kind of parts."""
    if gated == "heads":
        return [
            Gate(path, cast(nn.Module, each.output), each.heads, each.head_width)
            for path, each in attentions(model).items()
        ]
    if gated == "inner":
        return [Gate(path, each.down, each.down.in_features, 1) for path, each in feedforwards(model).items()]
    return [
        Gate(f"{path}.blocks.{number}", block, 1, 0)
        for path, stack in stacks(model).items()
        for number, block in enumerate(stack.blocks)
    ]


def importance(
    model: LanguageModel, batches: Sequence[Batch], loss: LossOf, gated: Gated, progress: Progress | None = None
) -> dict[str, Tensor]:
    """The importance of every part, by the paths of attentions, feed-forwards or layers.

    Args:
        loss: mean loss of a batch, of the model's own objective or task.

    Shape:
        return: (parts,) each, on the CPU.

    Raises:
        DataError: the loss of a batch is not a finite number.
    """
    gates = gates_of(model, gated)
    sums = {gate.path: torch.zeros(gate.parts, dtype=torch.float64) for gate in gates}
    sequences = 0
    for number, batch in enumerate(batches):
        gradients = gate_gradients(model, batch, loss, gates, number)
        sequences += len(batch.layout.lengths)
        for path, gradient in gradients.items():
            sums[path] += gradient.abs().sum(0).double().cpu() * len(batch.layout.lengths)
        if progress is not None:
            progress(number + 1, len(batches), f"batches ({gated})")
    return {path: total / max(1, sequences) for path, total in sums.items()}


def gate_gradients(
    model: LanguageModel, batch: Batch, loss: LossOf, gates: Sequence[Gate], number: int = 0
) -> dict[str, Tensor]:
    """The gradient of a batch's mean loss with respect to the gates of each sequence.

    Args:
        number: of the batch, for messages.

    Shape:
        return: (sequences, parts) each

    Raises:
        DataError: the loss is not a finite number.
    """
    values: dict[tuple[str, int], Tensor] = {}

    def gate_values(gate: Gate, sequences: int, like: Tensor) -> Tensor:
        key = gate.path, sequences  # of layers that share their weights, and of passes with as many sequences, one
        if key not in values:
            values[key] = torch.ones(sequences, gate.parts, device=like.device, requires_grad=True)
        return values[key]

    with _without_gradients(model), _hooks(gates, gate_values), torch.enable_grad():
        mean = loss(model, batch)
        check_finite(float(mean.detach()), number)
        inputs = list(values.values())
        gradients = torch.autograd.grad(mean, inputs, allow_unused=True) if inputs and mean.requires_grad else ()
    out: dict[str, list[Tensor]] = {}
    for (path, _), gradient in zip(values, gradients, strict=False):
        if gradient is not None:
            out.setdefault(path, []).append(gradient.detach())
    return {path: torch.cat(each) for path, each in out.items()}


def check_finite(loss: float, number: int) -> None:
    """Refuses a loss by which nothing can be judged.

    Raises:
        DataError: it is NaN or an infinity.
    """
    if not math.isfinite(loss):
        raise DataError(
            f"prune: the loss of calibration batch {number} is {loss}: importance cannot be judged by it; the weights "
            "are damaged, or its training diverged (pretune evaluate shows which): use an earlier checkpoint"
        )


@torch.no_grad()
def loss_without_layers(
    model: LanguageModel, batches: Sequence[Batch], loss: LossOf, progress: Progress | None = None
) -> tuple[float, dict[str, float]]:
    """The mean loss of the model, and of the model without each of its layers, by the path of the layer.

    Raises:
        DataError: the loss of the model is not a finite number.
    """
    whole = _mean_loss(model, batches, loss)
    check_finite(whole, 0)
    out: dict[str, float] = {}
    total = sum(len(stack.order) for stack in stacks(model).values())
    for path, stack in stacks(model).items():
        for number in range(len(stack.blocks)):
            with _without_layer(stack, number):
                out[f"{path}.blocks.{number}"] = _mean_loss(model, batches, loss)
            if progress is not None:
                progress(len(out), total, "layers")
    return whole, out


def _mean_loss(model: LanguageModel, batches: Sequence[Batch], loss: LossOf) -> float:
    sizes = [len(batch.layout.lengths) for batch in batches]
    losses = [float(loss(model, batch)) for batch in batches]
    return sum(each * size for each, size in zip(losses, sizes, strict=True)) / max(1, sum(sizes))


@contextmanager
def _without_layer(stack: Stack, number: int) -> Iterator[None]:
    blocks, order = stack.blocks, stack.order
    stack.blocks = nn.ModuleList([block for n, block in enumerate(blocks) if n != number])
    stack.order = tuple(range(len(stack.blocks)))
    try:
        yield
    finally:
        stack.blocks, stack.order = blocks, order


@contextmanager
def _without_gradients(model: nn.Module) -> Iterator[None]:
    """Computes no gradients of the weights, in evaluation mode."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    training = model.training
    model.eval()
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        model.train(training)
        for parameter in learning:
            parameter.requires_grad_(True)


@contextmanager
def _hooks(gates: Sequence[Gate], gate_values: Callable[[Gate, int, Tensor], Tensor]) -> Iterator[None]:
    def gate_inputs(gate: Gate) -> Callable[..., tuple[object, ...]]:
        def hook(module: nn.Module, inputs: tuple[Tensor, Layout]) -> tuple[object, ...]:
            x, layout = inputs
            factor = gate_values(gate, len(layout.lengths), x)[_sequence_of_rows(layout)]
            return (x.view(len(x), gate.parts, gate.width) * factor[..., None]).flatten(1).to(x.dtype), layout

        return hook

    def gate_outputs(gate: Gate) -> Callable[..., Tensor]:
        def hook(module: nn.Module, inputs: tuple[object, ...], output: Tensor) -> Tensor:
            x, layout = inputs[0], getattr(inputs[1], "layout", inputs[1])
            rows = next((each for each in inputs if isinstance(each, OutputRows)), None)
            assert isinstance(x, Tensor)
            if rows is not None:
                x, layout = x.index_select(0, rows.index), rows.layout
            assert isinstance(layout, Layout)
            factor = gate_values(gate, len(layout.lengths), output)[_sequence_of_rows(layout)]
            return x + factor * (output - x)

        return hook

    handles = [
        gate.module.register_forward_hook(gate_outputs(gate))
        if gate.is_layer
        else gate.module.register_forward_pre_hook(gate_inputs(gate))
        for gate in gates
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _sequence_of_rows(layout: Layout) -> Tensor:
    """Which sequence each row is of. Shape: return: (T,) int64."""
    lengths = torch.tensor(layout.lengths, device=layout.offsets.device)
    return torch.arange(len(layout.lengths), device=lengths.device).repeat_interleave(lengths)
