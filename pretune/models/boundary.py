"""Where in a model learning begins: what is computed below it is the same each time that a text is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from pretune.batch import Batch
from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.model import LanguageModel
from pretune.nn.cache import EncoderOutput
from pretune.nn.model_protocol import ModelOutput
from pretune.nn.stack import Stack

Place = Literal["body", "stack", "encoder"]
_IN_BODY = re.compile(r"(?P<encoder>encoder\.)?(?:stack\.(?:blocks\.(?P<block>\d+)|(?P<norm>norm))|embedding)\.")


@dataclass(frozen=True)
class Boundary:
    """The first layer that learns.

    Attributes:
        place: `body` where only heads learn; else the stack that the layer is in, the model's own or the encoder's.
        layer: number of the layer in its stack; as many as there are layers for its last norm.
    """

    place: Place
    layer: int = 0

    def describe(self) -> str:
        """What is below it, for people."""
        if self.place == "body":
            return "all layers below the heads"
        layers = {0: "no layer", 1: "the first layer"}.get(self.layer, f"the first {self.layer} layers")
        if self.place == "encoder":
            return f"{layers} of the encoder"
        return layers


@dataclass(frozen=True)
class FixedStates:
    """What is computed below the boundary.

    Attributes:
        hidden: what the heads read, where only they learn; else the input of the first layer that learns.
        encoder: what the encoder gives, for a decoder that learns; None where there is none.

    Shape:
        hidden: (T, width) of the stack's run, or (M, width) of what the heads read; encoder: (S, width)
    """

    hidden: Tensor
    encoder: Tensor | None = None


@runtime_checkable
class BeginsAtLayer(Protocol):
    """A family with a forward of its own, which can begin at a layer all the same."""

    def compute_below(self, batch: Batch, layer: int) -> Tensor:
        """Gives the input of a layer. Shape: return: (T, width)"""

    def compute_above(self, batch: Batch, layer: int, hidden: Tensor) -> ModelOutput:
        """Goes on from the input of a layer. Shape: hidden: (T, width)"""


def find_boundary(model: LanguageModel) -> Boundary | None:
    """Finds the first layer that learns; None where the embedding or the first layer does, or nothing says where."""
    has_encoder = isinstance(model, EncoderDecoder)
    stacks = {"encoder": model.encoder.stack} if isinstance(model, EncoderDecoder) else {}
    stacks["stack"] = model.stack
    lowest: tuple[int, int] | None = None  # stack in the order of computation, layer
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if parameter.requires_grad and not name.startswith("heads."):
            layer = _place(name, stacks, has_encoder=has_encoder)
            if layer is None:
                return None
            lowest = layer if lowest is None else min(lowest, layer)
    if lowest is None:
        return Boundary("body")
    if not _is_plain(model) or lowest == (0, 0):
        return None
    if has_encoder and lowest[0] == 0:
        return Boundary("encoder", lowest[1])
    return Boundary("stack", lowest[1])


def _place(name: str, stacks: dict[str, Stack], *, has_encoder: bool) -> tuple[int, int] | None:
    """Where a parameter acts first; None where its name does not say so."""
    match = _IN_BODY.match(name)
    if match is None:
        return None
    stack = stacks["encoder" if match["encoder"] else "stack"]
    number = 0 if match["encoder"] or not has_encoder else 1
    if match["norm"]:
        return number, len(stack.order)
    return number, 0 if match["block"] is None else stack.order.index(int(match["block"]))


def _is_plain(model: LanguageModel) -> bool:
    """Whether its forward is one that can begin at a layer."""
    embeddings = [model.embedding, *([model.encoder.embedding] if isinstance(model, EncoderDecoder) else [])]
    if any(embedding.prompt.length for embedding in embeddings):  # one that does not learn, behind a run that had it
        return False
    if isinstance(model, BeginsAtLayer):
        return True
    own = "forward" in vars(model)
    return not own and type(model).forward in (LanguageModel.forward, EncoderDecoder.forward)


@torch.no_grad()
def compute_below(model: LanguageModel, batch: Batch, boundary: Boundary) -> FixedStates:
    """Computes what is below a boundary in a stack; below the heads it is what the model gives."""
    model.places.check(batch.layout)
    if isinstance(model, BeginsAtLayer):
        return FixedStates(model.compute_below(batch, boundary.layer))
    if not isinstance(model, EncoderDecoder):
        hidden = model.embedding(batch.tokens, batch.layout, batch.segments)
        return FixedStates(model.stack(hidden, batch.layout, until=boundary.layer))
    batch, source = model.both_sides(batch)
    model.check_source(source)
    if boundary.place == "encoder":
        hidden = model.encoder.embedding(source.tokens, source.layout, source.segments)
        return FixedStates(model.encoder.stack(hidden, source.layout, until=boundary.layer))
    memory = model.encoder(source)
    hidden = model.embedding(batch.tokens, batch.layout, batch.segments)
    hidden = model.stack(hidden, batch.layout, encoder_output=memory, until=boundary.layer)
    return FixedStates(hidden, memory.hidden)


def compute_above(model: LanguageModel, batch: Batch, boundary: Boundary, states: FixedStates) -> ModelOutput:
    """Goes on from a boundary in a stack to what the heads read."""
    if isinstance(model, BeginsAtLayer):
        return model.compute_above(batch, boundary.layer, states.hidden)
    if isinstance(model, EncoderDecoder):
        return _decode(model, batch, boundary, states)
    some = batch.output_rows is not None and model.supports_output_rows
    rows, hidden = batch.output_rows if some else None, states.hidden
    if rows is not None and boundary.layer == len(model.stack.order):  # no layer is left to leave rows out
        hidden = hidden.index_select(0, rows.index)
    hidden = model.stack(hidden, batch.layout, rows=rows, first=boundary.layer)
    return ModelOutput(hidden, batch.layout) if rows is None else ModelOutput(hidden, rows.layout, rows.index)


def _decode(model: EncoderDecoder, batch: Batch, boundary: Boundary, states: FixedStates) -> ModelOutput:
    batch, source = model.both_sides(batch)
    if boundary.place == "stack":
        assert states.encoder is not None
        hidden, memory, first = states.hidden, EncoderOutput(states.encoder, source.layout), boundary.layer
    else:
        memory = EncoderOutput(model.encoder.stack(states.hidden, source.layout, first=boundary.layer), source.layout)
        if model.is_encoder_alone:
            return ModelOutput(memory.hidden, memory.layout)
        hidden, first = model.embedding(batch.tokens, batch.layout, batch.segments), 0
    return ModelOutput(model.stack(hidden, batch.layout, encoder_output=memory, first=first), batch.layout)
