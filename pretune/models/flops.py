"""Counts a model's parameters, and the floating-point operations that it really executes.

Nothing is counted for padding, of which there is none, or for rows that a head never sees. A multiply-add is two
operations.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import lru_cache, partial

from torch import nn

from pretune.batch import Batch
from pretune.models.boundary import find_boundary
from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.model import LanguageModel
from pretune.nn.attention import Attention
from pretune.nn.heads import VocabularyHead
from pretune.nn.model_protocol import TrainableModel
from pretune.nn.projection import ProjectionBrick, named_bricks
from pretune.nn.relative_attention import RelativeAttention
from pretune.nn.rounded import count_rounded
from pretune.nn.stack import Stack

Passes = Callable[[LanguageModel, Batch], Sequence[tuple[TrainableModel, Batch]]]
"""Which models a step calls on which batches, from the model and the micro-batch."""
Bricks = list[tuple[str, nn.Module]]
"""What of a layer counts operations, by name."""


def count_parameters(model: nn.Module) -> int:
    """Counts the weights, shared ones once, rounded ones too."""
    return sum(p.numel() for p in model.parameters()) + count_rounded(model)


def flops_per_token(model: LanguageModel, length: int) -> float:
    """Counts the floating-point operations of the stack's forward for one token in sequences of `length` tokens.

    A multiply-add is two; attention counts the pairs that its structure lets through. A training step costs three
    times this, and three times `head_flops` for each row that a head sees.

    Source: Kaplan et al. 2020 (arXiv 2001.08361), section 2.1, with attention counted.
    """
    return stack_flops(model.stack, length) / length


def stack_flops(stack: Stack, length: int, source: int = 0) -> float:
    """Counts the operations of a stack's forward for a sequence of `length` tokens, and `source` of an encoder."""
    return sum(block_flops(block, length, length, source) for block in stack.in_order) if length else 0.0


def _weighted_flops(layers: Sequence[tuple[Bricks, int]], length: int, source: int = 0) -> float:
    """Counts the operations of a stack's layers, each as often as it says."""
    return sum(count * bricks_flops(bricks, length, length, source) for bricks, count in layers) if length else 0.0


def _layers(stack: Stack, times: Sequence[int]) -> list[tuple[Bricks, int]]:
    """Lists the bricks of the layers that count, and how often each does."""
    return [(counted_bricks(block), count) for block, count in zip(stack.in_order, times, strict=True) if count]


def encoder_flops(model: LanguageModel, length: int) -> float:
    """Counts the operations of the encoder's forward for a source of `length` tokens; 0 where there is none."""
    return stack_flops(model.encoder.stack, length) if isinstance(model, EncoderDecoder) else 0.0


def block_flops(block: nn.Module, queries: int, keys: int, source: int = 0) -> float:
    """Counts the operations of one layer's forward for a sequence of `keys` tokens of which it gives `queries`.

    Args:
        source: tokens of the encoder's sequence that a decoder's layer looks at.
    """
    return bricks_flops(counted_bricks(block), queries, keys, source)


def counted_bricks(block: nn.Module) -> Bricks:
    """Lists the attentions of a layer, which count their own projections, and the linear maps outside of them."""
    out: Bricks = []
    inside = ""
    for name, module in named_bricks(block):
        if inside and name.startswith(inside):
            continue
        if isinstance(module, Attention | RelativeAttention):
            inside = f"{name}."
        elif not isinstance(module, ProjectionBrick | nn.Linear):
            continue
        out.append((name, module))
    return out


def bricks_flops(bricks: Bricks, queries: int, keys: int, source: int = 0) -> float:
    """Counts the operations of the bricks of one layer; see `block_flops`."""
    total = 0.0
    for name, module in bricks:
        if isinstance(module, Attention) and name == "cross":
            total += module.flops(queries, source, cross=True)
        elif isinstance(module, Attention | RelativeAttention):
            total += module.flops(queries, keys)
        else:
            total += _flops(module, queries)
    return total


def _flops(module: nn.Module, rows: float) -> float:
    """Counts the floating-point operations of a linear map; 0 for another module."""
    if isinstance(module, ProjectionBrick):
        return module.flops(rows)
    return 2.0 * module.in_features * module.out_features * rows if isinstance(module, nn.Linear) else 0.0


def head_flops(model: LanguageModel, role: str) -> float:
    """Counts the floating-point operations of a head's forward for one row: a predicted token, or a sequence."""
    head = model.heads[role]
    dense = sum(_flops(module, 1) for _, module in named_bricks(head))
    return dense + (head.vocabulary.flops(1) if isinstance(head, VocabularyHead) else 0.0)


class Flops:
    """Counts the matrix products of the forwards and backwards of a step.

    The backward costs twice the forward; recomputing activations repeats the forward of the stack.

    Args:
        model: one that is not a `LanguageModel` counts as 0.
        passes: which passes a step makes; one over the batch by default.
        features: what is below the first layer that learns is read; else it is computed forward alone.
    """

    def __init__(self, model: LanguageModel, passes: Passes | None = None, *, features: bool = False) -> None:
        self._model, self._passes, self._features = model, passes, features
        self._counts: dict[int, _Pass] = {}

    def __call__(self, batch: Batch) -> float:
        """Counts one micro-batch."""
        single: list[tuple[TrainableModel, Batch]] = [(self._model, batch)]
        passes = single if self._passes is None else self._passes(self._model, batch)
        total = 0.0
        for model, part in passes:
            if isinstance(model, LanguageModel):
                if id(model) not in self._counts:
                    self._counts[id(model)] = _Pass(model, features=self._features and model is self._model)
                total += self._counts[id(model)](part)
        return total


class _Pass:
    """Counts a model's forward and backward over a batch."""

    def __init__(self, model: LanguageModel, *, features: bool) -> None:
        self._model = model
        boundary = find_boundary(model)
        above, below = 4 if model.stack.checkpointing else 3, 0 if features else 1
        self._heads = {role: head_flops(model, role) for role in model.heads}
        own = [above] * len(model.stack.order)  # how often each layer's forward counts
        encoder = [above] * (len(model.encoder.stack.order) if isinstance(model, EncoderDecoder) else 0)
        if boundary is not None and boundary.place == "encoder":
            encoder[: boundary.layer] = [below] * boundary.layer
        elif boundary is not None:
            fixed = len(own) if boundary.place == "body" else boundary.layer
            own[:fixed], encoder = [below] * fixed, [below] * len(encoder)
        self._stack = lru_cache(maxsize=65536)(partial(_weighted_flops, _layers(model.stack, own)))
        last = model.stack.in_order[-1] if model.stack.order else nn.Identity()
        self._last = lru_cache(maxsize=65536)(partial(bricks_flops, counted_bricks(last)))
        self._times = own[-1] if own else 0
        self._encoder = None
        if isinstance(model, EncoderDecoder):
            self._encoder = lru_cache(maxsize=65536)(partial(_weighted_flops, _layers(model.encoder.stack, encoder)))

    def __call__(self, batch: Batch) -> float:
        """Counts one micro-batch."""
        model = self._model
        lengths = model.embedding.prompt.place(batch.layout).layout.lengths
        sources = lengths
        if isinstance(model, EncoderDecoder):
            source = batch if batch.source is None else batch.source
            sources = model.encoder.embedding.prompt.place(source.layout).layout.lengths
        if self._encoder is None:
            body = sum(number * self._stack(length) for length, number in Counter(lengths).items())
        else:
            body = sum(number * self._encoder(length) for length, number in Counter(sources).items())
            pairs = Counter(zip(lengths, sources, strict=False))
            body += sum(number * self._stack(length, source) for (length, source), number in pairs.items())
        rows = {name: len(index) for name, (index, _) in batch.targets.items()}
        heads = sum(self._heads.get(name, 0.0) * count for name, count in rows.items())
        return body - self._times * self._left_out(batch, lengths) + 3 * heads

    def _left_out(self, batch: Batch, lengths: Sequence[int]) -> float:
        """Counts what the last layer saves by computing only the output rows."""
        if batch.output_rows is None or not self._model.supports_output_rows:
            return 0.0
        pairs = Counter(zip(batch.output_rows.layout.lengths, lengths, strict=True))
        return sum(number * (self._last(keys, keys) - self._last(read, keys)) for (read, keys), number in pairs.items())
