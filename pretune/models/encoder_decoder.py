"""The base of all encoder-decoders: an encoder reads a source, a decoder writes a target and attends to the source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from pretune.batch import Batch, Layout
from pretune.errors import UsageError
from pretune.models.model import Config, LanguageModel
from pretune.models.positions import Positions
from pretune.nn.cache import Cache, EncoderOutput
from pretune.nn.embedding import Embedding
from pretune.nn.head_parts import HeadParts
from pretune.nn.heads import RowHead
from pretune.nn.model_protocol import GenerationConstraints, ModelOutput
from pretune.nn.stack import Stack


class Encoder(nn.Module):
    """The embedding and the stack of the encoder."""

    def __init__(self, embedding: Embedding, stack: Stack) -> None:
        super().__init__()
        self.embedding = embedding
        self.stack = stack

    def forward(self, batch: Batch) -> EncoderOutput:
        """Gives the last hidden states of a batch, (T, width), and their layout; those of a prompt are among them."""
        longer = self.embedding.prompt.place(batch.layout)
        hidden = self.embedding(batch.tokens, batch.layout, batch.segments, longer)
        return EncoderOutput(self.stack(hidden, longer.layout), longer.layout)

    def runs(self, batch: Batch) -> list[Tensor]:
        """Gives the stack's input and every block's output, each (T, width), without the rows of a prompt."""
        longer = self.embedding.prompt.place(batch.layout)
        kept: list[Tensor] = []
        self.stack(self.embedding(batch.tokens, batch.layout, batch.segments, longer), longer.layout, None, kept)
        return [longer.cut(run) for run in kept]


class EncoderDecoder(LanguageModel):
    """A language model whose batches have a source.

    A batch without one is a text that both sides read, as BART's classifier does: the decoder sees it shifted right.

    Args:
        family, config, embedding, stack, parts: as of every model; embedding and stack are the decoder's.
        encoder: the other side.
        start: token with which the decoder's run begins.
        constraints: on what it generates.
        std, place_stds, positions: as of every model.
    """

    def __init__(
        self,
        family: str,
        config: Config,
        encoder: Encoder,
        embedding: Embedding,
        stack: Stack,
        parts: HeadParts,
        *,
        start: int,
        constraints: GenerationConstraints | None = None,
        std: float = 0.02,
        place_stds: Mapping[str, float] | None = None,
        positions: int | None = None,
    ) -> None:
        super().__init__(family, config, embedding, stack, parts, std=std, place_stds=place_stds, positions=positions)
        self.encoder = encoder
        self.start = start
        self.constraints = constraints or GenerationConstraints()

    @property
    def has_encoder(self) -> bool:
        """Always."""
        return True

    @property
    def places(self) -> Positions:
        """Those of the side that leaves fewer to a text; the source has the prompt."""
        prefix = max(self.embedding.behind.length, self.encoder.embedding.behind.length)
        return Positions(self.positions, prefix, self.encoder.embedding.prompt.length)

    @property
    def is_encoder_alone(self) -> bool:
        """Whether the decoder was dropped, as all heads read the encoder: it then gives the encoder's hidden states."""
        return not self.stack.order

    def drop_decoder(self) -> None:
        """Keeps the encoder alone."""
        self.stack = Stack([])
        if "is_encoder_decoder" in type(self.config).model_fields:
            self.config = self.config.model_copy(update={"is_encoder_decoder": False})

    def add_heads(self, heads: Mapping[str, nn.Module], seed: int | None = None) -> None:
        """Adds heads, by role; the decoder is dropped where none of them reads it.

        Raises:
            UsageError: the model has a head of that role already, or one reads the decoder that was dropped.
        """
        reads_encoder = [isinstance(head, RowHead) and head.reads_encoder for head in heads.values()]
        if self.is_encoder_alone and not all(reads_encoder):
            raise UsageError(f"this {self.family} has an encoder alone, and its heads read a decoder; load it anew")
        super().add_heads(heads, seed)
        if heads and all(isinstance(head, RowHead) and head.reads_encoder for head in self.heads.values()):
            self.drop_decoder()

    @property
    def decoder_start(self) -> int:
        """The token with which the decoder begins."""
        return self.start

    def forward(self, batch: Batch, *, cache: Cache | None = None, layers: bool = False) -> ModelOutput:
        """Gives the decoder's last hidden states; the encoder's where the decoder was dropped.

        Args:
            cache: earlier tokens of the same targets; once it has keys and values of their sources, batches need none.
            layers: also return every layer's run of the decoder.

        Raises:
            DataError: a sequence is longer than the model's positions.
        """
        if self.is_encoder_alone:
            self.check_source(batch)
            hidden = self.encoder.embedding.prompt.place(batch.layout).cut(self.encoder(batch).hidden)
            return ModelOutput(hidden, batch.layout)
        memory = None
        if cache is None or not cache.has_cross_kv:
            batch, source = self.both_sides(batch)
            self.check_source(source)
            memory = self.encoder(source)
        replace(self.places, prompt=0).check(batch.layout, cache)
        kept: list[Tensor] | None = [] if layers else None
        hidden = self.embedding(batch.tokens, batch.layout, batch.segments)
        hidden = self.stack(hidden, batch.layout, cache, kept, None, memory)
        return ModelOutput(hidden, batch.layout, None, kept, cache)

    def both_sides(self, batch: Batch) -> tuple[Batch, Batch]:
        """What the decoder reads, and what the encoder does."""
        if self.is_encoder_alone:
            return batch, batch
        if batch.source is None:
            batch = replace(batch, tokens=self.shifted(batch.tokens, batch.layout), source=batch, output_rows=None)
        assert batch.source is not None
        return batch, batch.source

    def check_source(self, batch: Batch) -> None:
        """Checks what the encoder is to read.

        Raises:
            DataError: a sequence is longer than the model's positions.
        """
        self.places.check(self.encoder.embedding.prompt.place(batch.layout).layout)

    def shifted(self, tokens: Tensor, layout: Layout) -> Tensor:
        """Shifts each sequence right: the start token first, the last token dropped. Shape: (T,) -> (T,)."""
        later = torch.roll(tokens, 1)
        later[layout.first[torch.tensor(layout.lengths) > 0]] = self.start
        return later
