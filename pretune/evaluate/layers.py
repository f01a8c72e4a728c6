"""Which layers' rows vectors are made of, and how several become one.

layer 0: the embedding; 1 .. n: each block's output, the last one after the last norm; -1 is n, as in `transformers`
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from pretune.batch import Batch
from pretune.errors import UsageError
from pretune.models.encoder_decoder import EncoderDecoder
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import ModelOutput

Combine = Literal["mean", "concat", "list"]
"""What becomes of several layers: their mean, one long vector, or one vector each."""


@dataclass(frozen=True)
class LayerChoice:
    """Some layers of a model.

    Attributes:
        numbers: of the layers, from 0, in the order asked for.
        combine: what becomes of several.
    """

    numbers: tuple[int, ...]
    combine: Combine = "mean"

    @classmethod
    def of(cls, network: LanguageModel, layers: Sequence[int], combine: Combine = "mean") -> LayerChoice:
        """The layers of a model, of which negative ones are counted from the end.

        Raises:
            UsageError: none, one that the model does not have, one twice, or an unknown way to combine them.
        """
        if combine not in get_args(Combine):
            raise UsageError(f"combine {combine!r}: expected {', '.join(get_args(Combine))}")
        count = len(_stack_order(network))
        numbers: list[int] = []
        for layer in layers:
            if isinstance(layer, bool) or not isinstance(layer, int) or not -count - 1 <= layer <= count:
                raise UsageError(
                    f"layers: {layer!r} is none of this model's; it has 0 (the embedding) to {count}, or {-count - 1} "
                    "to -1 from the end"
                )
            numbers.append(layer % (count + 1))
        if not numbers or len(set(numbers)) < len(numbers):
            raise UsageError(f"layers {list(layers)}: name at least one layer, and each once")
        return cls(tuple(numbers), combine)

    @property
    def parts(self) -> int:
        """Vectors that each row has side by side: of `list`, and of `concat`, one a layer."""
        return 1 if self.combine == "mean" else len(self.numbers)

    def rows(self, network: LanguageModel, batch: Batch) -> Tensor:
        """The rows of all tokens by these layers. Shape: return: (T, parts * width)"""
        runs = layer_runs(network, batch)
        chosen = [runs[number].float() for number in self.numbers]
        return torch.stack(chosen).mean(dim=0) if self.combine == "mean" else torch.cat(chosen, dim=1)

    def output(self, network: LanguageModel, batch: Batch) -> ModelOutput:
        """The rows in place of the last layer's."""
        return ModelOutput(self.rows(network, batch), batch.layout)


def layer_runs(network: LanguageModel, batch: Batch) -> list[Tensor]:
    """What each layer gives for all tokens; of an encoder-decoder the encoder's. Shape: return: (T, width) each"""
    if isinstance(network, EncoderDecoder):
        return network.encoder.runs(batch)
    runs = network(batch, layers=True).layers
    assert runs is not None  # they were asked for
    return list(runs)


def _stack_order(network: LanguageModel) -> tuple[int, ...]:
    stack = network.encoder.stack if isinstance(network, EncoderDecoder) else network.stack
    return stack.order
