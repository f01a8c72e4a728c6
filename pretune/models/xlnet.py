"""XLNet: relative positions, two streams in permutation training, memory of earlier segments.

A batch with an `order` is read in two streams: the rows that it `reads` are predicted without their content. Without
one, every row sees all others.

Source: Yang et al. 2019, arXiv 1906.08237; zihangdai/xlnet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from pretune.batch import Batch, Layout, OutputRows
from pretune.errors import UsageError
from pretune.field_table import FieldTable, handed_on, no_effect, refused
from pretune.models import model
from pretune.models.head_table import standard_classes
from pretune.models.model import LanguageModel
from pretune.models.size_fields import SizeFields
from pretune.models.weight_map import SplitHeads, Squeeze, Transpose, Weight, weight_and_bias
from pretune.nn.activation import activation
from pretune.nn.block import Norms
from pretune.nn.cache import Cache
from pretune.nn.dropout import Dropout
from pretune.nn.embedding import Embedding
from pretune.nn.feedforward import FeedForward
from pretune.nn.head_parts import HeadParts
from pretune.nn.heads import Activate, Pooler
from pretune.nn.model_protocol import ModelOutput
from pretune.nn.relative_attention import Keys, QueryStream, RelativeAttention, after
from pretune.nn.stack import Stack
from pretune.nn.tuned import Nothing, add_beside, with_layout


class Config(model.Config):
    """Fields of `config.json`. Attention dropout is that of all layers in its files; here it is 0 unless asked for."""

    vocab_size: int = Field(32000, ge=1, le=2**22)
    d_model: int = Field(1024, ge=1, le=2**16)
    n_layer: int = Field(24, ge=1, le=512)
    n_head: int = Field(16, ge=1, le=1024)
    d_head: int = Field(64, ge=1, le=4096)
    d_inner: int = Field(4096, ge=1, le=2**18)
    ff_activation: str = "gelu"
    attn_type: Literal["bi"] = "bi"
    initializer_range: float = Field(0.02, ge=0, le=10)
    layer_norm_eps: float = Field(1e-12, ge=0, le=1)
    dropout: float = Field(0.1, ge=0, lt=1)
    mem_len: int | None = Field(None, ge=0, le=2**20)
    bi_data: Literal[False] = False
    same_length: Literal[False] = False
    clamp_len: Literal[-1] = -1
    summary_type: Literal["last", "first", "mean"] = "last"
    summary_use_proj: bool = True
    summary_activation: str | None = "tanh"
    summary_last_dropout: float = Field(0.1, ge=0, lt=1)
    pad_token_id: int | None = Field(5, ge=0)
    bos_token_id: int | None = Field(1, ge=0)
    eos_token_id: int | None = Field(2, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _derived(cls, tree: Any) -> Any:
        if not isinstance(tree, Mapping) or tree.get("d_head") is not None:
            return tree
        width, heads = tree.get("d_model", 1024), tree.get("n_head", 16)
        is_known = isinstance(width, int) and isinstance(heads, int) and heads > 0
        return {**tree, "d_head": width // heads} if is_known else tree

    @model_validator(mode="after")
    def _check(self) -> Config:
        if self.d_model != self.n_head * self.d_head:
            raise ValueError(f"d_model {self.d_model} is not n_head {self.n_head} times d_head {self.d_head}")
        if self.d_model % 2:
            raise ValueError(f"d_model {self.d_model} is odd: its sinusoidal positions are pairs of sine and cosine")
        activation(self.ff_activation)
        if self.summary_activation:
            activation(self.summary_activation)
        return self


def _size(layers: int, width: int) -> dict[str, int]:
    return {"n_layer": layers, "d_model": width, "n_head": width // 64, "d_head": 64, "d_inner": 4 * width}


SIZES: Mapping[str, Mapping[str, Any]] = {
    "tiny": _size(2, 128),
    "mini": _size(4, 256),
    "base": _size(12, 768),
    "large": _size(24, 1024),
}
OTHER_NAMES: Mapping[str, str] = {
    "hidden_size": "d_model",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
    "n_token": "vocab_size",
}
_MEMORY = handed_on("memory of earlier texts, which a model in use does not keep", types=(int, bool))
_SEARCH = handed_on("read by XLNetForQuestionAnswering alone, which is not built", types=(int,))
FILE_FIELDS: FieldTable = {
    **dict.fromkeys(("reuse_len", "use_mems_eval", "use_mems_train"), _MEMORY),
    **dict.fromkeys(("start_n_top", "end_n_top"), _SEARCH),
    "untie_r": refused(
        "biases of positions that all layers share are not built", "use a model without", allowed=(None, True)
    ),
    "max_position_embeddings": no_effect("there is no limit"),
    "summary_proj_to_labels": refused("a projection to the labels is not built", "use a model without it"),
    "summary_first_dropout": handed_on("is not dropped in training here", note_unless=(None, 0, 0.0), training=True),
    "ff_dropout": no_effect("`dropout` says it"),
    "init": handed_on("initial weights"),
    "init_range": handed_on("initial weights"),
    "init_std": handed_on("initial weights"),
    "use_bfloat16": no_effect("speed"),
}
SIZE_FIELDS: Mapping[str, SizeFields] = {"stack": SizeFields("n_layer", "d_inner")}
PREFIX = "transformer."
ATTENTION_DROPOUT = "attention_dropout"
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "XLNetLMHeadModel": ("plm",),
    **standard_classes("XLNet", "classification", "token_classification", "multiple_choice"),
    "XLNetForQuestionAnsweringSimple": ("question_answering",),
    "XLNetModel": (),
}
HEAD_NAMES: Mapping[str, str] = {"classification": "logits_proj", "multiple_choice": "logits_proj"}
_ATTENTION = "transformer.layer.{}.rel_attn"
_OURS = "stack.blocks.{}.attention"
WEIGHT_MAP: Sequence[Weight] = [
    Weight("embedding.word.weight", "transformer.word_embedding.weight"),
    Weight("mask", "transformer.mask_emb", (Squeeze(2),)),
    *(
        Weight(f"{_OURS}.{ours}.weight", f"{_ATTENTION}.{theirs}", (SplitHeads("n_head"), Transpose()))
        for ours, theirs in {"query": "q", "key": "k", "value": "v", "position": "r"}.items()
    ),
    Weight(f"{_OURS}.output.weight", f"{_ATTENTION}.o", (SplitHeads("n_head"),)),
    Weight(f"{_OURS}.content_bias", f"{_ATTENTION}.r_w_bias"),
    Weight(f"{_OURS}.position_bias", f"{_ATTENTION}.r_r_bias"),
    Weight(f"{_OURS}.segment_bias", f"{_ATTENTION}.r_s_bias"),
    Weight(f"{_OURS}.segment", f"{_ATTENTION}.seg_embed"),
    *weight_and_bias("stack.blocks.{}.norms.after_attention", f"{_ATTENTION}.layer_norm"),
    *weight_and_bias("stack.blocks.{}.feedforward.up", "transformer.layer.{}.ff.layer_1"),
    *weight_and_bias("stack.blocks.{}.feedforward.down", "transformer.layer.{}.ff.layer_2"),
    *weight_and_bias("stack.blocks.{}.norms.after_feedforward", "transformer.layer.{}.ff.layer_norm"),
    Weight("heads.plm.weight", "lm_loss.weight", alias=True),
    Weight("heads.plm.bias", "lm_loss.bias"),
    *weight_and_bias("heads.classification.pooler.dense", "sequence_summary.summary"),
    *weight_and_bias("heads.multiple_choice.pooler.dense", "sequence_summary.summary"),
]


class SegmentMemory:
    """Holds the inputs of each layer for earlier segments of the texts, without gradient.

    Args:
        max_length: rows that are kept of each sequence.
    """

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length
        self.layout: Layout | None = None
        self.hidden: list[Tensor] = []

    def extend(self, inputs: Sequence[Tensor], layout: Layout) -> None:
        """Adds the inputs of all layers for the tokens of `layout`, and drops the oldest rows."""
        hidden = [run.detach() for run in inputs]
        if self.layout is not None:
            joined = [after(old, self.layout, new, layout) for old, new in zip(self.hidden, hidden, strict=True)]
            hidden, layout = [run for run, _ in joined], joined[0][1]
        kept = [min(length, self.max_length) for length in layout.lengths]
        ends = layout.bounds[1:]
        rows = torch.cat([torch.arange(end - count, end) for end, count in zip(ends, kept, strict=True)])
        self.hidden = [run.index_select(0, rows.to(run.device)) for run in hidden]
        self.layout = Layout.of(kept, layout.offsets.device, group=layout.group)


class TwoStreamBlock(nn.Module):
    """A layer that the content stream and the query stream share."""

    def __init__(self, attention: RelativeAttention, feedforward: FeedForward, norms: Norms, dropout: float) -> None:
        super().__init__()
        self.attention = attention
        self.feedforward = feedforward
        self.norms = norms
        self.dropout = Dropout(dropout)
        self.beside: nn.Module = Nothing()

    def forward(self, x: Tensor, stream: QueryStream, keys: Keys, *, include_self: bool) -> Tensor:
        """Runs one stream. Shape: (M, width) -> (M, width)."""
        layout, add, norms = stream.layout, self.dropout.add, self.norms
        x = add(self.attention(x, stream, keys, include_self=include_self), x, layout.keys)
        x = with_layout(norms.after_attention, x, layout)
        update = add_beside(self.beside, self.feedforward(x, layout), x, layout)
        return with_layout(norms.after_feedforward, add(update, x, layout.keys), layout)


_SEGMENTS = 5  # of its authors' files: two texts, the class, the separator, padding


class XLNet(LanguageModel):
    """A language model with a content stream and a query stream."""

    def __init__(self, config: Config, embedding: Embedding, stack: Stack, parts: HeadParts) -> None:
        super().__init__("xlnet", config, embedding, stack, parts, std=config.initializer_range)
        self.mask = nn.Parameter(torch.empty(config.d_model))

    @property
    def segments(self) -> int:
        """Its attention sees only whether two tokens are of one segment."""
        return _SEGMENTS

    @property
    def supports_permutation(self) -> bool:
        """Its query stream predicts rows without their content."""
        return True

    def forward(
        self, batch: Batch, *, cache: Cache | None = None, layers: bool = False, memory: SegmentMemory | None = None
    ) -> ModelOutput:
        """The content stream, or, of a batch with an order, the query stream's rows.

        Args:
            layers: also return every layer's run of the content stream.
            memory: of the texts that these go on from; it takes them in.

        Raises:
            UsageError: a cache of keys and values, which this family does not use.
        """
        if cache is not None:
            raise UsageError("xlnet keeps no keys and values of earlier tokens; give it a memory")
        past, prompt = None if memory is None else memory.layout, self.embedding.prompt
        longer = prompt.place(batch.layout, None if past is None else past.lengths)
        layout, order = longer.layout, batch.order
        segments = torch.zeros_like(batch.tokens) if batch.segments is None else batch.segments
        segments = longer.fill(segments, 0, prompt.length)
        order = None if order is None else longer.fill(order, -1, prompt.length)
        before = 0 if past is None else torch.tensor(past.lengths, device=layout.positions.device)
        position = layout.positions + (0 if past is None else before.repeat_interleave(layout.offsets.diff()))  # type: ignore[union-attr]
        content = QueryStream(layout, position, order, segments)
        queries = self._queries(content, longer.rows(batch.output_rows))
        h = self.embedding(batch.tokens, batch.layout, None, longer)
        g: Tensor | None = None
        if queries is not None:
            g = self.embedding.dropout(self.mask.expand(len(queries.position), -1), queries.layout.keys)
        kept: list[Tensor] = []
        last = len(self.stack.blocks) - 1
        for number, block in enumerate(self.stack.blocks):
            kept.append(h)
            with self.stack.gradient(number):
                keys = self._keys(block, h, content, memory, number)
                if g is not None and queries is not None:
                    g = block(g, queries, keys, include_self=False)
                if g is None or number < last or layers:
                    h = block(h, content, keys, include_self=True)
        if memory is not None:
            memory.extend(kept, layout)
        runs = [longer.cut(run) for run in (*kept, h)] if layers else None
        if g is None or batch.output_rows is None:
            h = self.embedding.dropout(h, layout.keys)
            return ModelOutput(longer.cut(h), batch.layout, None, runs)
        rows = batch.output_rows
        return ModelOutput(self.embedding.dropout(g, rows.layout.keys), rows.layout, rows.index, runs)

    def read_segment(self, batch: Batch, max_length: int) -> SegmentMemory:
        """Reads a segment and returns its memory, for the segment that follows."""
        memory = SegmentMemory(max_length)
        self(batch, memory=memory)
        return memory

    def compute_below(self, batch: Batch, layer: int) -> Tensor:
        """Gives the input of a layer, for a batch without an order. Shape: return: (T, width)"""
        return self._content(batch, self.embedding(batch.tokens, batch.layout), 0, layer)

    def compute_above(self, batch: Batch, layer: int, hidden: Tensor) -> ModelOutput:
        """Goes on from the input of a layer. Shape: hidden: (T, width)"""
        h = self._content(batch, hidden, layer, len(self.stack.blocks))
        return ModelOutput(self.embedding.dropout(h, batch.layout.keys), batch.layout)

    def _content(self, batch: Batch, h: Tensor, first: int, until: int) -> Tensor:
        """Runs some layers of the content stream. Shape: (T, width) -> (T, width)."""
        segments = torch.zeros_like(batch.tokens) if batch.segments is None else batch.segments
        content = QueryStream(batch.layout, batch.layout.positions, None, segments)
        for number, block in list(enumerate(self.stack.blocks))[first:until]:
            with self.stack.gradient(number):
                h = block(h, content, self._keys(block, h, content, None, number), include_self=True)
        return h

    def _queries(self, content: QueryStream, rows: OutputRows | None) -> QueryStream | None:
        """The query stream's rows."""
        if content.order is None or rows is None:
            return None
        index = rows.index
        return QueryStream(rows.layout, content.position[index], content.order[index], content.segments[index])

    def _keys(
        self, block: nn.Module, h: Tensor, content: QueryStream, memory: SegmentMemory | None, layer: int
    ) -> Keys:
        layout, order, segments = content.layout, content.order, content.segments
        past = None if memory is None else memory.layout
        if memory is not None and past is not None:
            rows = memory.hidden[layer]
            h, both = after(rows, past, h, layout)
            segments, _ = after(segments.new_zeros(past.total), past, segments, layout)
            order = None if order is None else after(order.new_full((past.total,), -1), past, order, layout)[0]
            layout = both
        keys: Keys = block.attention.keys(h, layout, order, segments)  # type: ignore[union-attr,operator]
        return keys


def build(config: Config) -> LanguageModel:
    """Builds an XLNet without heads."""
    width = config.d_model
    embedding = Embedding(config.vocab_size, width, dropout=config.dropout)
    blocks = [_block(config) for _ in range(config.n_layer)]
    parts = HeadParts(
        width,
        config.summary_type,
        config.tie_word_embeddings,
        vocabulary_bias=True,
        activation=activation(config.ff_activation),
        pooler=lambda: _summary(config),
        dropout=config.summary_last_dropout,
        token_dropout=0.0,
    )
    return XLNet(config, embedding, Stack(blocks), parts)  # type: ignore[arg-type]


def _summary(config: Config) -> nn.Module:
    """Builds what stands between the row of a sequence and its classes."""
    act = activation(config.summary_activation or "linear")
    return Pooler(config.d_model, act) if config.summary_use_proj else Activate(act)


def _block(config: Config) -> TwoStreamBlock:
    def norm() -> nn.LayerNorm:
        return nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)

    return TwoStreamBlock(
        RelativeAttention(config.d_model, config.n_head, config.d_head),
        FeedForward(config.d_model, config.d_inner, activation(config.ff_activation)),
        Norms(after_attention=norm(), after_feedforward=norm()),
        config.dropout,
    )
