"""The layers of a stack: attention and feed-forward, each on a residual branch."""

from __future__ import annotations

from torch import Tensor, nn

from pretune.batch import Layout, OutputRows
from pretune.nn.attention import Attention
from pretune.nn.cache import EncoderOutput, LayerCache
from pretune.nn.dropout import Dropout
from pretune.nn.tuned import Nothing, add_beside, with_layout


class Norms(nn.Module):
    """Says where in a block norms stand: GPT-2 sets those `before`, BERT those `after`.

    Attributes:
        before_attention, before_cross, before_feedforward: on a branch's input.
        after_attention, after_cross, after_feedforward: on the sum of branch and residual.
    """

    def __init__(
        self,
        *,
        before_attention: nn.Module | None = None,
        after_attention: nn.Module | None = None,
        before_feedforward: nn.Module | None = None,
        after_feedforward: nn.Module | None = None,
        before_cross: nn.Module | None = None,
        after_cross: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.before_attention = before_attention or nn.Identity()
        self.after_attention = after_attention or nn.Identity()
        self.before_feedforward = before_feedforward or nn.Identity()
        self.after_feedforward = after_feedforward or nn.Identity()
        self.before_cross = before_cross or nn.Identity()
        self.after_cross = after_cross or nn.Identity()


class Block(nn.Module):
    """A layer of the stack; pre-norm or post-norm is which norm is set.

    Args:
        feedforward: called with the run and its layout.
        dropout: of each branch, before it is added to the residual stream.

    Attributes:
        beside: what a tuning method adds to the feed-forward's answer; it reads the residual stream.
    """

    def __init__(self, attention: Attention, feedforward: nn.Module, norms: Norms, dropout: float = 0.0) -> None:
        super().__init__()
        self.attention = attention
        self.feedforward = feedforward
        self.norms = norms
        self.dropout = Dropout(dropout)
        self.beside: nn.Module = Nothing()

    def forward(
        self, x: Tensor, layout: Layout, cache: LayerCache | None = None, rows: OutputRows | None = None
    ) -> Tensor:
        """Computes both branches; of all rows, or only of those asked for.

        Shape:
            x: (T, width); return: (T, width), or (M, width) for M rows
        """
        norms, add = self.norms, self.dropout.add
        mixed, x, layout = self._attend(x, layout, cache, rows)
        x = with_layout(norms.after_attention, add(mixed, x, layout.keys), layout)
        update = add_beside(self.beside, self.feedforward(norms.before_feedforward(x), layout), x, layout)
        return with_layout(norms.after_feedforward, add(update, x, layout.keys), layout)

    def _attend(
        self, x: Tensor, layout: Layout, cache: LayerCache | None, rows: OutputRows | None
    ) -> tuple[Tensor, Tensor, Layout]:
        """Attention of the rows asked for, the residual stream of these rows, and their layout."""
        normed = self.norms.before_attention(x)
        if rows is None:
            return self.attention(normed, layout, cache), x, layout
        x = x.index_select(0, rows.index)
        return self.attention(self.norms.before_attention(x), rows.layout, source=(normed, layout)), x, rows.layout


class ParallelBlock(Block):
    """A layer whose branches both read its input, as in GPT-J and GPT-NeoX: neither waits for the other.

    Args:
        norms: those before the branches; the two may be one module.

    Source: Wang and Komatsuzaki 2021, GPT-J-6B; Black et al. 2022, arXiv 2204.06745, section 2.1.
    """

    def __init__(self, attention: Attention, feedforward: nn.Module, norms: Norms, dropout: float = 0.0) -> None:
        super().__init__(attention, feedforward, norms, dropout)
        if not isinstance(norms.after_attention, nn.Identity) or not isinstance(norms.after_feedforward, nn.Identity):
            raise ValueError("a parallel block has norms before its branches alone")

    def forward(
        self, x: Tensor, layout: Layout, cache: LayerCache | None = None, rows: OutputRows | None = None
    ) -> Tensor:
        """Computes both branches of the same input; of all rows, or only of those asked for.

        Shape:
            x: (T, width); return: (T, width), or (M, width) for M rows
        """
        norms, add = self.norms, self.dropout.add
        mixed, x, layout = self._attend(x, layout, cache, rows)
        update = add_beside(self.beside, self.feedforward(norms.before_feedforward(x), layout), x, layout)
        out = add(update, add(mixed, x, layout.keys), layout.keys)
        return with_layout(norms.after_feedforward, out, layout)


class DecoderBlock(nn.Module):
    """A layer that also attends to an encoder's output.

    Args:
        cross: attention to the encoder's output.
        feedforward: called with the run and its layout.
        dropout: of each branch, before it is added to the residual stream.

    Attributes:
        beside: what a tuning method adds to the feed-forward's answer; it reads the residual stream.
    """

    def __init__(
        self, attention: Attention, cross: Attention, feedforward: nn.Module, norms: Norms, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.attention = attention
        self.cross = cross
        self.feedforward = feedforward
        self.norms = norms
        self.dropout = Dropout(dropout)
        self.beside: nn.Module = Nothing()

    def forward(
        self, x: Tensor, layout: Layout, cache: LayerCache | None, rows: None, encoder_output: EncoderOutput | None
    ) -> Tensor:
        """Computes all three branches.

        Args:
            encoder_output: None where the cache already holds its keys and values.

        Shape:
            x: (T, width); return: (T, width)
        """
        norms, add, keys = self.norms, self.dropout.add, layout.keys
        x = add(self.attention(norms.before_attention(x), layout, cache), x, keys)
        x = with_layout(norms.after_attention, x, layout)
        x = add(self.cross.cross(norms.before_cross(x), layout, encoder_output, cache), x, keys)
        x = with_layout(norms.after_cross, x, layout)
        update = add_beside(self.beside, self.feedforward(norms.before_feedforward(x), layout), x, layout)
        return with_layout(norms.after_feedforward, add(update, x, keys), layout)
