"""Embeddings: the sum of word, position and segment vectors of each token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pretune.batch import Layout
from pretune.nn.dropout import Dropout
from pretune.nn.prefix import Behind
from pretune.nn.prompt import NO_PROMPT, LongerRun, Prompt
from pretune.nn.tuned import with_layout
from pretune.nn.vocabulary import Vocabulary, VocabularyBrick


class LearnedTable(nn.Embedding):
    """`nn.Embedding` that draws nothing where it has no memory (on the meta device), which took most of a build."""

    def reset_parameters(self) -> None:
        """Draws a normal table."""
        if not self.weight.is_meta:
            super().reset_parameters()


class Learned(LearnedTable):
    """Learned vectors of positions.

    Args:
        max_length: tokens of the longest sequence.
        offset: rows of the table before that of the first position: RoBERTa and BART keep two that stand for padding.
    """

    def __init__(self, max_length: int, width: int, offset: int = 0) -> None:
        super().__init__(max_length + offset, width)
        self.max_length = max_length
        self.offset = offset

    def forward(self, positions: Tensor) -> Tensor:
        """Shape: (T,) int64 -> (T, width)."""
        return super().forward(positions + self.offset if self.offset else positions)


class Sinusoidal(nn.Module):
    """Sinusoids of falling frequency: sines in the first half of the vector, cosines in the second.

    With a limit they are a table that is computed in fp64, as the tables in files were: in fp32 it would be 3e-5 off at
    position 500. Without one they are computed where they are needed, in fp32, as XLNet's authors do.

    Source: Vaswani et al. 2017, arXiv 1706.03762, section 3.5, in the order of its authors' code.

    Args:
        max_length: tokens of the longest sequence that the model was built for; None for no limit.
        width: even.
    """

    def __init__(self, max_length: int | None, width: int) -> None:
        super().__init__()
        self.max_length = max_length
        self.width = width
        self._table: Tensor | None = None  # no buffer: it is no weight, and stays fp32 whatever the model is cast to

    def forward(self, positions: Tensor) -> Tensor:
        """Shape: (T,) int64 -> (T, width) fp32."""
        if self.max_length is None:
            return self._sines(positions.float())
        if self._table is None or self._table.device != positions.device:
            table = self._sines(torch.arange(self.max_length, dtype=torch.float64, device="cpu"))
            self._table = table.float().to(positions.device)
        return self._table[positions]

    def _sines(self, positions: Tensor) -> Tensor:
        """Shape: (T,) -> (T, width), in the dtype of the positions."""
        exponent = torch.arange(0, self.width, 2, dtype=positions.dtype, device=positions.device) / self.width
        angle = positions[:, None] / 10000.0**exponent
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class Embedding(nn.Module):
    """Sum of embeddings, then norm, then dropout, then a projection.

    Args:
        vocabulary: number of tokens.
        width: of the vectors that are added.
        position: vectors of positions, or None.
        segments: number of segments that texts of a pair are told apart by; 0 for none.
        scale: factor of the word vectors.
        norm: applied to the sum, or None.
        dropout: rate at which values of the result are dropped while training.
        project: to the width of the stack, where that is another.
        word: the vocabulary of another embedding, to share it.

    Attributes:
        behind: where positions begin; at 0, until a tuning method sets a prefix of keys.
        prompt: vectors in front of every sequence; none, until a tuning method sets them.
    """

    prompt: Prompt

    def __init__(
        self,
        vocabulary: int,
        width: int,
        *,
        position: Learned | Sinusoidal | None = None,
        segments: int = 0,
        scale: float = 1.0,
        norm: nn.Module | None = None,
        dropout: float = 0.0,
        project: nn.Linear | None = None,
        word: VocabularyBrick | None = None,
    ) -> None:
        super().__init__()
        self.word: VocabularyBrick = word or Vocabulary(vocabulary, width)
        self.position = position
        self.segment = LearnedTable(segments, width) if segments else None
        self.norm = norm or nn.Identity()
        self.dropout = Dropout(dropout)
        self.project = project
        self.scale = scale
        self.behind = Behind()
        self.prompt = NO_PROMPT

    @property
    def width(self) -> int:
        """Width of the result."""
        return self.word.width if self.project is None else self.project.out_features

    def forward(
        self, tokens: Tensor, layout: Layout, segments: Tensor | None = None, longer: LongerRun | None = None
    ) -> Tensor:
        """Look up and add; a missing `segments` is segment 0 throughout.

        Args:
            longer: where the rows stand behind the prompt, as `prompt.place` has it; by default nothing is put in
                front.

        Shape:
            tokens, segments: (T,) int64; return: (T, width), or (T', width) behind the prompt
        """
        x = self.word.lookup(tokens)
        if x.dtype == torch.bfloat16 and torch.is_autocast_enabled(x.device.type):
            x = x.float()  # the vocabulary was cast for its head's matmuls; the residual stream is fp32
        if self.scale != 1.0:
            x = x * self.scale
        if longer is not None:
            x, layout = self.prompt.extend(x, longer), longer.layout
            segments = None if segments is None else longer.fill(segments, 0, self.prompt.length)
        if self.position is not None:
            x = x + self.position(self.behind(layout).positions)
        if self.segment is not None:
            x = x + (self.segment.weight[0] if segments is None else self.segment(segments))
        x = self.dropout(self.norm(x), layout.keys)
        return x if self.project is None else with_layout(self.project, x, layout)
