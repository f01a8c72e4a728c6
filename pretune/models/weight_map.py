"""Says which tensor of a Hugging Face file is which parameter of ours, and how one becomes the other.

A map is data and is used both ways. A family, in the tree or a user's own, lists its parameters:

    PER_HEAD = Interleave("num_attention_heads", 3)
    WEIGHT_MAP = [
        Weight("embedding.word.weight", "gpt_neox.embed_in.weight"),
        *weight_and_bias("stack.blocks.{}.attention.query", QUERY_KEY_VALUE, PER_HEAD, Slice(0, 3)),
        *weight_and_bias("stack.blocks.{}.attention.key", QUERY_KEY_VALUE, PER_HEAD, Slice(1, 3)),
        ...
    ]

Transforms are listed in the order in which a file is read, and compose; writing goes through them backwards.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn

from pretune import config as configuration
from pretune.errors import DataError


class WeightTransform(ABC):
    """Defines one step between a tensor of a file and a parameter of ours."""

    @abstractmethod
    def read(self, tensor: Tensor, config: configuration.Config) -> Tensor:
        """Goes one step from the file's tensor to ours."""

    @abstractmethod
    def write(self, parts: Sequence[Tensor], config: configuration.Config) -> Tensor:
        """Goes one step from ours to the file's tensor.

        Args:
            parts: every part of the tensor in order: one, but for a `Slice`.
        """

    @property
    def part(self) -> int:
        """Which part of the file's tensor this step reads."""
        return 0

    @property
    def parts(self) -> int:
        """How many parameters share the file's tensor at this step."""
        return 1


class WholeTransform(WeightTransform):
    """Defines a step that one parameter alone goes through."""

    def write(self, parts: Sequence[Tensor], config: configuration.Config) -> Tensor:
        """Goes one step from ours to the file's tensor."""
        (tensor,) = parts
        return self.restore(tensor, config)

    @abstractmethod
    def restore(self, tensor: Tensor, config: configuration.Config) -> Tensor:
        """Undoes `read`."""


@dataclass(frozen=True)
class Transpose(WholeTransform):
    """Transposes a matrix that is (in, out) in the file, as that of `Conv1D`; a bias stays as it is."""

    def read(self, tensor: Tensor, config: configuration.Config) -> Tensor:
        """Shape: (in, out) -> (out, in)."""
        return tensor.t()

    def restore(self, tensor: Tensor, config: configuration.Config) -> Tensor:
        """Shape: (out, in) -> (in, out)."""
        return tensor.t()


@dataclass(frozen=True)
class Slice(WeightTransform):
    """Takes one of several parameters that the file holds one after another along the first dimension.

    Attributes:
        index: which of them this is, from 0.
        count: how many there are.
    """

    index: int
    count: int

    @property
    def part(self) -> int:
        """Which part of the file's tensor this step reads."""
        return self.index

    @property
    def parts(self) -> int:
        """How many parameters share the file's tensor at this step."""
        return self.count

    def read(self, tensor: Tensor, config: configuration.Config) -> Tensor:
        """Shape: (count * out, ...) -> (out, ...)."""
        return tensor.chunk(self.count)[self.index]

    def write(self, parts: Sequence[Tensor], config: configuration.Config) -> Tensor:
        """Shape: (out, ...), `count` times -> (count * out, ...)."""
        return torch.cat(list(parts))


@dataclass(frozen=True)
class Squeeze(WholeTransform):
    """Drops the leading dimensions of size 1 of the file's tensor.

    Attributes:
        dimensions: how many.
    """

    dimensions: int

    def read(self, tensor: Tensor, config: configuration.Config) -> Tensor:
        """Shape: (1, ..., n, ...) -> (n, ...)."""
        return tensor.flatten(0, self.dimensions)

    def restore(self, tensor: Tensor, config: configuration.Config) -> Tensor:
        """Shape: (n, ...) -> (1, ..., n, ...)."""
        return tensor.reshape((1,) * self.dimensions + tensor.shape)


@dataclass(frozen=True)
class SplitHeads(WholeTransform):
    """Joins the last two dimensions of the file's tensor, heads and their width.

    Attributes:
        heads: the field of the configuration that says how many.
    """

    heads: str

    def read(self, tensor: Tensor, config: configuration.Config) -> Tensor:
        """Shape: (..., heads, head width) -> (..., heads * head width)."""
        return tensor.flatten(-2)

    def restore(self, tensor: Tensor, config: configuration.Config) -> Tensor:
        """Shape: (..., heads * head width) -> (..., heads, head width)."""
        return tensor.reshape(*tensor.shape[:-1], getattr(config, self.heads), -1)


@dataclass(frozen=True)
class Interleave(WholeTransform):
    """Reorders rows that go head by head in the file, and within a head part by part (GPT-NeoX: query, key, value).

    Afterwards they go part by part; a `Slice` of as many parts follows, which takes one of them.

    Attributes:
        heads: the field of the configuration that says how many heads.
        count: parts of a head.
    """

    heads: str
    count: int

    def read(self, tensor: Tensor, config: configuration.Config) -> Tensor:
        """Shape: (heads * parts * head width, ...) -> (parts * heads * head width, ...)."""
        by_head = tensor.reshape(getattr(config, self.heads), self.count, -1, *tensor.shape[1:])
        return by_head.transpose(0, 1).flatten(0, 2)

    def restore(self, tensor: Tensor, config: configuration.Config) -> Tensor:
        """Shape: (parts * heads * head width, ...) -> (heads * parts * head width, ...)."""
        by_part = tensor.reshape(self.count, getattr(config, self.heads), -1, *tensor.shape[1:])
        return by_part.transpose(0, 1).flatten(0, 2)


@dataclass(frozen=True)
class Weight:
    """Holds one parameter's two names, and the transforms between them. `{}` stands for the number of a layer.

    Attributes:
        ours: name in our `state_dict`.
        theirs: name in a Hugging Face file, with the family's prefix.
        transforms: in the order in which a file is read.
        alias: their tensor repeats another (a tied weight, a shared pooler), and may be absent from a file.
        optional: zero where a file does not have it.
    """

    ours: str
    theirs: str
    transforms: tuple[WeightTransform, ...] = ()
    alias: bool = False
    optional: bool = False

    def read(self, tensor: Tensor, config: configuration.Config) -> Tensor:
        """Reads the parameter from a file's tensor; a view of it where possible."""
        for transform in self.transforms:
            tensor = transform.read(tensor, config)
        return tensor

    def file_shape(self, parameter: Tensor, config: configuration.Config) -> tuple[int, ...]:
        """Returns the shape of the file's tensor, if the parameters that share it are all as large as this one."""
        tensor = torch.empty(parameter.shape, device="meta")
        for transform in reversed(self.transforms):
            tensor = transform.write([tensor] * transform.parts, config)
        return tuple(tensor.shape)


def weight_and_bias(ours: str, theirs: str, *transforms: WeightTransform) -> list[Weight]:
    """Lists the weight and, where there is one, the bias of one module."""
    return [Weight(f"{ours}.{part}", f"{theirs}.{part}", transforms) for part in ("weight", "bias")]


def expand(weights: Sequence[Weight], model: nn.Module) -> list[tuple[str, str, Weight]]:
    """Lists (ours, theirs, weight) for every layer of the list of blocks that a name is in."""
    out: list[tuple[str, str, Weight]] = []
    for weight in weights:
        blocks, of_layers, _ = weight.ours.partition(".{}")
        if of_layers:
            layers = range(len(cast(nn.ModuleList, model.get_submodule(blocks))))
            out += [(weight.ours.format(n), weight.theirs.format(n), weight) for n in layers]
        else:
            out.append((weight.ours, weight.theirs, weight))
    return out


def join(name: str, parameters: Sequence[tuple[Weight, Tensor]], config: configuration.Config) -> Tensor:
    """Joins all the parameters that a file's tensor holds.

    Args:
        name: of the tensor, for the error.

    Raises:
        DataError: a part of the tensor is missing, or two parameters claim the same one.
    """
    return _join(name, [(weight.transforms, tensor) for weight, tensor in parameters], config).contiguous()


def _join(
    name: str, parameters: Sequence[tuple[tuple[WeightTransform, ...], Tensor]], config: configuration.Config
) -> Tensor:
    """Undoes the first transform that the parameters share, after all that follow it."""
    transform = next((transforms[0] for transforms, _ in parameters if transforms), None)
    if transform is None:
        if len(parameters) != 1:
            raise DataError(f"weight {name!r}: {len(parameters)} parameters have this name; one of them would be lost")
        return parameters[0][1]
    rest = sorted(((transforms[0].part, transforms[1:], tensor) for transforms, tensor in parameters), key=_part)
    parts = {part: _join(name, [item[1:] for item in group], config) for part, group in groupby(rest, key=_part)}
    if sorted(parts) != list(range(transform.parts)):
        missing = sorted(set(range(transform.parts)) - set(parts))
        raise DataError(f"weight {name!r} has {transform.parts} parts, and the model lacks {missing}")
    return transform.write(list(parts.values()), config)


def _part(item: tuple[int, tuple[WeightTransform, ...], Tensor]) -> int:
    return item[0]
