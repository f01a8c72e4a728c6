"""Fuses a model for use: one matmul for query, key and value, weights laid out for oneDNN.

The original model is not changed and shares all else. What stands at a projection's place gives its own derived form: a
tuned one that is linear becomes one matmul, any other keeps its change beside the matmul of its base. Blocks of other
types than the known ones run as they are. Weights are packed when they are first multiplied by, and must not change
after the derived form is made: build it again. See `nn.packed` for what it gains.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from pretune.batch import Layout, OutputRows
from pretune.models.model import LanguageModel
from pretune.nn.activation import Activation
from pretune.nn.attention import Attention
from pretune.nn.block import Block
from pretune.nn.cache import LayerCache
from pretune.nn.feedforward import FeedForward, GatedFeedForward
from pretune.nn.grouped import GroupedBrick
from pretune.nn.grouped_attention import GroupedAttention
from pretune.nn.heads import VocabularyHead
from pretune.nn.low_rank import LowRankVocabulary
from pretune.nn.one_query import attend_once
from pretune.nn.packed import Product, packable
from pretune.nn.prefix import NoPrefix
from pretune.nn.projection import Projection, ProjectionBrick, is_packed, joined_product
from pretune.nn.rounded import RoundedBrick
from pretune.nn.spans import CacheSlots, KeyLayout
from pretune.nn.structure import Bidirectional, Causal
from pretune.nn.tuned import TunedBrick, TunedProjection, add_beside

M = TypeVar("M", bound=nn.Module)
Run = Callable[[Tensor, Layout], list[Tensor]]
"""Products of one run, each with what follows it. Shape: (T, in) -> (T, out) of each."""


@dataclass
class Products:
    """Derived forms of weights, which models that share the weights share too.

    Attributes:
        merges: a tuned projection that is linear becomes one matmul; else its base is shared, and its change apart.
        kept: by the weights, with these, which stay alive.
        used: by the model that is fused.
    """

    merges: bool = True
    kept: dict[tuple[object, ...], tuple[object, Product]] = field(default_factory=dict)
    used: list[Product] = field(default_factory=list)

    def joined(self, bricks: Sequence[ProjectionBrick], activation: Activation | None = None) -> Product | None:
        """As `joined_product`, made once for the same weights."""
        if not all(type(brick) is Projection for brick in bricks):
            return self._use(joined_product(bricks, activation))
        weights = [cast(Projection, brick).dense() for brick in bricks]
        return self._once(
            (activation, *(id(w) for pair in weights for w in pair)),
            weights,
            lambda: joined_product(bricks, activation),
        )

    def scores(self, head: VocabularyHead) -> Product:
        """A head's product, made once for the same weights."""
        vocabulary = head.vocabulary
        weights = (vocabulary if is_packed(vocabulary) else vocabulary.dense(), head.bias)
        product = self._once((id(weights[0]), id(weights[1])), weights, lambda: vocabulary.product(head.bias))
        return cast(Product, product)

    def _once(self, key: tuple[object, ...], weights: object, make: Callable[[], Product | None]) -> Product | None:
        if key not in self.kept:
            product = make()
            if product is None:
                return None
            self.kept[key] = (weights, product)
        return self._use(self.kept[key][1])

    def _use(self, product: Product | None) -> Product | None:
        if product is not None and not any(product is each for each in self.used):
            self.used.append(product)
        return product


@torch.no_grad()
def fuse(model: LanguageModel, products: Products | None = None) -> LanguageModel:
    """Gives the fused form of a model in evaluation mode.

    Costs memory for a second copy of the weights where they are packed, of the attention's inputs where not.

    Args:
        products: of other models, to share what is derived of common weights.
    """
    shared = Products() if products is None else replace(products, used=[])
    blocks = [FusedBlock.of(block, shared) or block for block in model.stack.blocks]
    heads = {role: _head(head, shared) for role, head in model.heads.items()}
    stack = _with(model.stack, blocks=nn.ModuleList(blocks))
    out = _with(model, stack=stack, heads=nn.ModuleDict(heads)).eval()
    out.products = tuple(shared.used)
    return out


class FusedBlock(nn.Module):
    """A block that makes four matmuls.

    Args:
        block: pre- or post-norm, of the known bricks.
        runs: the matmuls into attention and out of it, into the feed-forward (with its activation) and out of it.
    """

    def __init__(self, block: Block, runs: Sequence[Run]) -> None:
        super().__init__()
        self.block = block
        self._inputs, self._output, self._up, self._down = runs
        norms = block.norms
        self._norms = [
            _norm(n)
            for n in (norms.before_attention, norms.after_attention, norms.before_feedforward, norms.after_feedforward)
        ]
        self._tuned = block.feedforward if isinstance(block.feedforward, TunedBrick) else None
        self._dtype = _dtype(_core(cast(nn.Module, block.attention.query)))
        self._sees_all_before = _sees_all_before(block.attention)

    @classmethod
    def of(cls, block: nn.Module, products: Products) -> FusedBlock | None:
        """The fused form of a block; None for one of other bricks, or with one that has no derived form."""
        if not (isinstance(block, Block) and _known(block)):
            return None
        attention, feedforward = block.attention, cast(FeedForward | GatedFeedForward, _core(block.feedforward))
        runs = (
            _run([attention.query, attention.key, attention.value], products),
            _run([attention.output], products),
            _up(feedforward, products),
            _run([feedforward.down], products),
        )
        return None if None in runs else cls(block, cast(Sequence[Run], runs))

    @property
    def attention(self) -> Attention:
        """The attention of the block."""
        return self.block.attention

    def forward(
        self, x: Tensor, layout: Layout, cache: LayerCache | None = None, rows: OutputRows | None = None
    ) -> Tensor:
        """Computes what the block does, which is called itself for some rows alone. Shape: (T, width) -> (T, width)."""
        if rows is not None:
            return self.block(x, layout, cache, rows)  # type: ignore[no-any-return]
        attention = self.block.attention
        before_attention, after_attention, before_feedforward, after_feedforward = self._norms
        inputs = self._inputs(before_attention(x, layout).to(self._dtype), layout)
        query, key, value = (run.view(len(x), -1, attention.head_width) for run in inputs)
        if attention.rotary is not None:
            places = attention.behind(layout)
            query, key = attention.rotary(query, places), attention.rotary(key, places)
        mixed = self._attend(query, key, value, layout, cache)
        x = after_attention(x + self._output(mixed, layout)[0], layout)
        read = before_feedforward(x, layout).to(self._dtype)
        read = read if self._tuned is None else self._tuned.read(read, layout)
        answer = self._down(self._up(read, layout)[0], layout)[0]
        answer = answer if self._tuned is None else self._tuned.change(read, answer, layout)
        return after_feedforward(x + add_beside(self.block.beside, answer, x, layout), layout)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, layout: Layout, cache: LayerCache | None) -> Tensor:
        """Attention behind what the cache holds.

        Shape:
            query: (T, H, D); key, value: (T, Hk, D); return: (T, H * D)
        """
        attention = self.block.attention
        where: KeyLayout = layout
        if cache is not None:
            key, value, where = cache.append(key, value, layout)
        one_each = layout.max_length == 1 and len(query) == layout.count and query.device.type == "cpu"
        if one_each and isinstance(where, CacheSlots) and self._sees_all_before and not attention.preferred:
            return attend_once(query, key, value, where, attention.scale).flatten(1)
        return attention.attend(query, key, value, layout, where).flatten(1)


class FusedHead(VocabularyHead):
    """A vocabulary head with packed weights."""

    def __init__(self, head: VocabularyHead, dtype: torch.dtype, scores: Product) -> None:
        super().__init__(head.vocabulary, head.transform, head.bias, predicts=head.predicts)
        self._scores = scores
        self._dtype = dtype

    def forward(self, rows: Tensor) -> Tensor:
        """Shape: (K, width) -> (K, V)."""
        return self._scores(self.transform(rows).to(self._dtype))


def _known(block: Block) -> bool:
    """Whether a block is made of the known bricks, so that its fused form gives the same."""
    return (
        type(block) is Block
        and type(block.attention) in (Attention, GroupedAttention)
        and block.attention.query_norm is block.attention.relative is None
        and type(_core(block.feedforward)) in (FeedForward, GatedFeedForward)
        and all(type(_core(norm)) in (nn.LayerNorm, nn.RMSNorm, nn.Identity) for norm in block.norms.children())
    )


def _sees_all_before(attention: Attention) -> bool:
    """Whether a query that is the last of its sequence attends to all keys, and to nothing else."""
    plain = type(attention) is Attention and type(attention.prefix) is NoPrefix
    return plain and type(attention.structure) in (Causal, Bidirectional) and attention.relative is None


def _core(brick: nn.Module) -> nn.Module:
    """What a method put a brick on, or the brick itself."""
    return cast(nn.Module, brick.base) if isinstance(brick, TunedBrick) else brick


def _run(bricks: Sequence[ProjectionBrick], products: Products, activation: Activation | None = None) -> Run | None:
    """One matmul for bricks that read the same run, and what tuning methods change of each answer."""
    if not all(isinstance(brick, ProjectionBrick) for brick in bricks):
        return None
    tuned = [_kept_apart(brick, products) for brick in bricks]
    plain = [brick if own is None else own.projection for brick, own in zip(bricks, tuned, strict=True)]
    if len(bricks) > 1 and any(own is not None and _reads(own) for own in tuned):
        singles = [_run([brick], products, activation) for brick in bricks]
        runs = [run for run in singles if run is not None]
        return (lambda x, layout: [run(x, layout)[0] for run in runs]) if len(runs) == len(singles) else None
    if not any(own is not None for own in tuned):
        product = products.joined(plain, activation)
        return None if product is None else _split(product, [brick.out_features for brick in bricks])
    product = products.joined(plain)
    if product is None:
        return None
    whole = _split(product, [brick.out_features for brick in bricks])
    changes = [None if own is None else own.constant_change() for own in tuned]
    reader = tuned[0] if len(tuned) == 1 else None

    def run(x: Tensor, layout: Layout) -> list[Tensor]:
        x = x if reader is None else reader.read(x, layout)
        parts = whole(x, layout)
        changed = [y if change is None else change(x, y, layout) for change, y in zip(changes, parts, strict=True)]
        return changed if activation is None else [activation(y) for y in changed]

    return run


def _kept_apart(brick: ProjectionBrick, products: Products) -> TunedProjection | None:
    """A tuned projection that keeps its change beside the matmul of its base; None for any other brick."""
    if not isinstance(brick, TunedProjection) or not (type(brick.base) is Projection or is_packed(brick.base)):
        return None
    return brick if not products.merges or brick.product() is None else None


def _reads(brick: TunedProjection) -> bool:
    """Whether it changes what its base reads."""
    return brick.reads if isinstance(brick, GroupedBrick) else type(brick).read is not TunedBrick.read


def _split(product: Product, widths: Sequence[int]) -> Run:
    if len(widths) == 1:
        return lambda x, layout: [product(x)]
    return lambda x, layout: list(torch.split(product(x), list(widths), -1))


def _up(feedforward: FeedForward | GatedFeedForward, products: Products) -> Run | None:
    """What the projection down reads. Shape: (T, width) -> (T, inner)."""
    if isinstance(feedforward, FeedForward):
        return _run([feedforward.up], products, feedforward.activation)
    both, activation = _run([feedforward.gate, feedforward.value], products), feedforward.activation
    if both is None:
        return None

    def gated(x: Tensor, layout: Layout) -> list[Tensor]:
        gate, value = both(x, layout)
        return [activation(gate) * value]

    return gated


def _head(head: nn.Module, products: Products) -> nn.Module:
    if type(head) is not VocabularyHead:
        return head
    vocabulary = head.vocabulary
    if is_packed(vocabulary):
        return FusedHead(head, _dtype(vocabulary), products.scores(head))
    weight = vocabulary.dense()
    return FusedHead(head, weight.dtype, products.scores(head)) if packable(weight) else head


def _dtype(brick: object) -> torch.dtype:
    """In which a brick reads rows: that of its matrix, or to which a packed one was cast."""
    while isinstance(brick, TunedBrick | LowRankVocabulary):
        brick = brick.base
    if isinstance(brick, RoundedBrick):
        return brick.dtype
    assert isinstance(brick, ProjectionBrick)
    return brick.dense()[0].dtype


def _norm(norm: nn.Module) -> Callable[[Tensor, Layout], Tensor]:
    if isinstance(norm, TunedBrick):
        return norm
    if isinstance(norm, nn.RMSNorm):
        return lambda x, layout: norm(x)
    if not isinstance(norm, nn.LayerNorm):
        return lambda x, layout: x
    shape, weight, bias, eps = norm.normalized_shape, norm.weight, norm.bias, norm.eps
    return lambda x, layout: torch.layer_norm(x, shape, weight, bias, eps)


def _with(module: M, **children: nn.Module) -> M:
    """Copies a module, sharing all but the named children."""
    out = copy.copy(module)
    out._modules = {**module._modules, **children}
    return out
