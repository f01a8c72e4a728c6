"""The stack of a model's layers, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pretune.batch import Layout, OutputRows
from pretune.nn.block import Block, DecoderBlock
from pretune.nn.cache import Cache, EncoderOutput


class Stack(nn.Module):
    """Runs blocks one after another, then a last norm.

    Args:
        order: which block is each layer, where layers share blocks; by default each is one.

    Attributes:
        checkpointing: keep only each block's input for the backward and compute the rest again: less memory, about a
            third more time.
        learns_from: number of the first layer that runs with a gradient; the norm goes with the last layer.
    """

    def __init__(
        self, blocks: Sequence[Block | DecoderBlock], norm: nn.Module | None = None, order: Sequence[int] | None = None
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.order = tuple(range(len(blocks)) if order is None else order)
        self.norm = norm or nn.Identity()
        self.checkpointing = False
        self.learns_from = 0

    @property
    def supports_output_rows(self) -> bool:
        """Whether the last block can give some rows of its run without the others."""
        return bool(self.order) and self.in_order[-1].attention.any_queries  # type: ignore[union-attr,return-value]

    @property
    def in_order(self) -> list[nn.Module]:
        """Lists the block of each layer."""
        return [self.blocks[number] for number in self.order]

    def gradient(self, number: int) -> AbstractContextManager[object]:
        """The context that a layer runs in: without a gradient below `learns_from`."""
        return torch.no_grad() if number < self.learns_from else nullcontext()

    def forward(
        self,
        x: Tensor,
        layout: Layout,
        cache: Cache | None = None,
        layers: list[Tensor] | None = None,
        rows: OutputRows | None = None,
        encoder_output: EncoderOutput | None = None,
        first: int = 0,
        until: int | None = None,
    ) -> Tensor:
        """Runs all blocks, then the last norm.

        Args:
            cache: keys and values of earlier tokens; it takes the new ones.
            layers: where given, the input of the stack and the output of each block are appended to it, the last one
                after the last norm.
            rows: what the last block is to give, where it `supports_output_rows` the others; without a cache.
            encoder_output: for blocks that attend to it.
            first: layer that `x` is the input of.
            until: layer whose input is wanted; None, the default, for what the whole stack gives.

        Shape:
            x: (T, width); return: (T, width), or (M, width) for M rows
        """
        last = len(self.order) - 1
        handles = [None] * len(self.order) if cache is None else cache.begin(layout)
        for number, (block, handle) in list(enumerate(zip(self.in_order, handles, strict=True)))[first:until]:
            output_rows = rows if number == last else None
            if layers is not None:
                layers.append(x)
            extra = (encoder_output,) if isinstance(block, DecoderBlock) else ()
            with self.gradient(number):
                if self.checkpointing and self.training and handle is None:
                    x = _checkpointed(block, x, layout, None, output_rows, *extra)
                else:
                    x = block(x, layout, handle, output_rows, *extra)
        if until is not None:
            return x
        with self.gradient(last):
            x = self.norm(x)
        if layers is not None:
            layers.append(x)
        return x


def _checkpointed(block: nn.Module, x: Tensor, layout: Layout, *rest: object) -> Tensor:
    """Runs a block whose inner values the backward computes again, with the same dropout.

    Shape:
        x: (T, width); return: (T, width), or (M, width) for M rows
    """
    calls = None if layout.keys is None else layout.keys.calls
    before = {} if calls is None else dict(calls)

    def run(x: Tensor) -> Tensor:
        if calls is not None:
            calls.clear()
            calls.update(before)
        out: Tensor = block(x, layout, *rest)
        return out

    out: Tensor = checkpoint(run, x, use_reentrant=False)
    return out
