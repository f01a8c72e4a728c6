"""Surgery that makes a model smaller: whole layers, inner width of the feed-forward, and heads are taken out.

    keep_layers(stack, [0, 2, 4])               the others are gone
    keep_inner(feedforward, index)              columns of `down`, rows of `up`, or of `gate` and `value`
    keep_heads(attention, [0, 1, 5])            columns of `output`, rows of `query`, `key` and `value`

What stays computes as before: a model whose other parts are masked gives the same. Sizes that a configuration says are
not changed here; `selection` and `pretune.compress.prune` do that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import cast

import torch
from torch import Tensor, nn

from pretune.errors import UsageError
from pretune.models.model import LanguageModel
from pretune.models.size_check import stacks
from pretune.nn.attention import Attention
from pretune.nn.feedforward import FeedForward, GatedFeedForward
from pretune.nn.prefix import NoPrefix
from pretune.nn.projection import Projection, ProjectionBrick
from pretune.nn.relative import RelativeBias
from pretune.nn.relative_attention import RelativeAttention
from pretune.nn.stack import Stack

AnyAttention = Attention | RelativeAttention
AnyFeedForward = FeedForward | GatedFeedForward
_ATTENTIONS = ("attention", "cross")


def attentions(model: LanguageModel) -> dict[str, AnyAttention]:
    """Every attention of a model, by its path; those of layers that share their weights once."""
    return {
        f"{path}.blocks.{number}.{name}": attention
        for path, stack in stacks(model).items()
        for number, block in enumerate(stack.blocks)
        for name in _ATTENTIONS
        if isinstance(attention := getattr(block, name, None), Attention | RelativeAttention)
    }


def feedforwards(model: LanguageModel) -> dict[str, AnyFeedForward]:
    """Every feed-forward of a model, by its path; those of layers that share their weights once."""
    return {
        f"{path}.blocks.{number}.feedforward": cast(AnyFeedForward, block.feedforward)
        for path, stack in stacks(model).items()
        for number, block in enumerate(stack.blocks)
        if isinstance(getattr(block, "feedforward", None), FeedForward | GatedFeedForward)
    }


def keep_layers(stack: Stack, layers: Sequence[int]) -> None:
    """Removes the other layers of a stack.

    Args:
        layers: numbers of those that stay, ascending.

    Raises:
        UsageError: none would be left, a number is no layer, or layers share their weights.
    """
    if not layers:
        raise UsageError("prune: layers: no layer would be left; keep one at least")
    if sorted(set(layers)) != list(layers) or not set(layers) <= set(range(len(stack.order))):
        raise UsageError(f"prune: layers {list(layers)}: expected ascending numbers below {len(stack.order)}")
    if list(stack.order) != list(range(len(stack.blocks))):
        raise UsageError("prune: layers: they share their weights, and none goes alone; prune inner width")
    stack.blocks = nn.ModuleList([stack.blocks[number] for number in layers])
    stack.order = tuple(range(len(layers)))


def keep_inner(feedforward: AnyFeedForward, index: Tensor) -> None:
    """Removes the other inner values of a feed-forward.

    Args:
        index: of those that stay, ascending.

    Shape:
        index: (K,) int64
    """
    for name in ("up", "gate", "value"):
        if (brick := getattr(feedforward, name, None)) is not None:
            setattr(feedforward, name, sliced(brick, rows=index))
    feedforward.down = sliced(feedforward.down, columns=index)


def keep_heads(attention: AnyAttention, heads: Sequence[int], *, keeps_bias: bool = False) -> None:
    """Removes the other heads of an attention.

    Args:
        heads: numbers of those that stay, ascending. Of grouped heads, each key head must be left with as many heads
            of queries as any other, or with none.
        keeps_bias: its relative bias, which layers share, has lost those heads already.

    Raises:
        UsageError: no head would be left, or the groups of the others would differ in size.
    """
    check_heads(attention, heads)
    group = attention.heads // attention.key_heads
    key_heads = sorted({head // group for head in heads})
    width = attention.head_width
    rows, key_rows = (_rows(numbers, width, attention.query) for numbers in (heads, key_heads))
    attention.query = sliced(attention.query, rows=rows)
    attention.key = sliced(attention.key, rows=key_rows)
    attention.value = sliced(attention.value, rows=key_rows)
    attention.output = sliced(attention.output, columns=rows)
    if isinstance(attention, RelativeAttention):
        attention.position = sliced(attention.position, rows=rows)
        for name in ("content_bias", "position_bias", "segment_bias", "segment"):
            setattr(attention, name, _parameter(getattr(attention, name), heads, -2))
    else:
        attention.key_heads = len(key_heads)
        if attention.relative is not None and not keeps_bias:
            keep_bias(attention.relative, heads)
    attention.heads = len(heads)


def keep_bias(relative: RelativeBias, heads: Sequence[int]) -> None:
    """Removes the other heads' biases of distances."""
    weight = _parameter(relative.table.weight, heads, 1)
    with torch.device("meta"):
        relative.table = nn.Embedding(weight.shape[0], weight.shape[1])
    relative.table.weight = weight


def check_heads(attention: AnyAttention, heads: Sequence[int]) -> None:
    """Refuses heads that an attention cannot be left with; errors as of `keep_heads`."""
    if not heads:
        raise UsageError("prune: heads: no head would be left; keep one at least")
    if sorted(set(heads)) != list(heads) or not set(heads) <= set(range(attention.heads)):
        raise UsageError(f"prune: heads {list(heads)}: expected ascending numbers below {attention.heads}")
    group = attention.heads // attention.key_heads
    sizes = {len(list(members)) for _, members in groupby(heads, key=lambda head: head // group)}
    if len(sizes) > 1:
        raise UsageError(
            f"prune: heads {list(heads)}: {group} heads of queries share a head of keys, and these would leave groups "
            f"of {' and '.join(map(str, sorted(sizes)))}; remove whole groups, or as many heads of each"
        )
    if isinstance(attention, Attention) and not isinstance(attention.prefix, NoPrefix):
        raise UsageError("prune: heads: a tuning method has put a prefix before the keys; prune first, then tune")


def prune_heads(model: LanguageModel, heads: Mapping[int | str, Sequence[int]]) -> LanguageModel:
    """Removes heads from a model in memory, other ones in each layer if so wished, as for an explanation.

        prune_heads(model, {0: [3, 5], 11: [0]})

    The model predicts, evaluates and explains, and answers as one whose heads are masked. Saving it is refused: no
    field of a `config.json` says how many heads each layer has, so that no other software could open the files.
    `pretune compress prune` removes as many heads from every layer, of families that can say that.

    Args:
        model: such as `pretune.load(path).network`, before it is first used: forms of its weights that were derived
            for use do not follow.
        heads: numbers of the heads to remove, by the number of the layer, or by the path of the attention, such as
            `encoder.stack.blocks.0.attention` or `stack.blocks.0.cross`.

    Returns:
        The model itself.

    Raises:
        UsageError: a layer or a head that is not there, or one that cannot be removed; nothing was changed.
    """
    known = attentions(model)
    kept: dict[str, list[int]] = {}
    for name, removed in heads.items():
        path = f"stack.blocks.{name}.attention" if isinstance(name, int) else name
        if path not in known:
            raise UsageError(f"prune: no attention {path!r} in this {model.family}; it has {', '.join(known)}")
        outside = sorted(set(removed) - set(range(known[path].heads)))
        if outside:
            raise UsageError(f"prune: {path} has heads 0 to {known[path].heads - 1}, and none numbered {outside[0]}")
        kept[path] = [head for head in range(known[path].heads) if head not in set(removed)]
        try:
            check_heads(known[path], kept[path])
            check_bricks(known[path], path)
        except UsageError as error:
            raise UsageError(f"{path}: {error}") from None
    biases = _shared_biases(model, known, kept)
    for relative, stay in biases:
        keep_bias(relative, stay)
    for path, stay in kept.items():
        keep_heads(known[path], stay, keeps_bias=True)
    return model


def _shared_biases(
    model: LanguageModel, known: Mapping[str, AnyAttention], kept: Mapping[str, list[int]]
) -> list[tuple[RelativeBias, list[int]]]:
    """The relative biases of pruned attentions, each with the heads that stay: those of all that share it.

    Raises:
        UsageError: attentions that share one would keep other heads.
    """
    serves: dict[RelativeBias, list[str]] = {}
    for path, attention in known.items():
        if isinstance(attention, Attention) and attention.relative is not None:
            serves.setdefault(attention.relative, []).append(path)
    chosen = []
    for relative, paths in serves.items():
        wanted = [kept.get(path) for path in paths]
        if any(each is not None for each in wanted):
            if any(each != wanted[0] for each in wanted):
                raise UsageError(
                    f"prune: the layers of this {model.family} share a bias for each head, by its number; remove the "
                    f"same heads from all of {', '.join(paths)}"
                )
            chosen.append((relative, cast(list[int], wanted[0])))
    return chosen


def check_bricks(module: nn.Module, path: str) -> None:
    """Refuses an attention or a feed-forward whose projections are not plain; errors as of `check_plain`."""
    for name, brick in module.named_children():
        if isinstance(brick, ProjectionBrick):
            check_plain(f"{path}.{name}", brick)


def check_plain(path: str, brick: object) -> None:
    """Refuses what a method has put at a projection's place.

    Raises:
        UsageError: it is no plain projection.
    """
    if type(brick) is not Projection:
        raise UsageError(
            f"prune: {path} is a {type(brick).__name__}, no plain projection: prune first, then quantize; merge an "
            "adapter before (pretune merge)"
        )


def sliced(brick: object, rows: Tensor | None = None, columns: Tensor | None = None) -> Projection:
    """Some rows, or some columns, of a projection. Shape: rows, columns: (K,) int64."""
    assert isinstance(brick, Projection)
    weight, bias = brick.weight.detach(), None if brick.bias is None else brick.bias.detach()
    if rows is not None:
        weight, bias = weight[rows], None if bias is None else bias[rows]
    if columns is not None:
        weight = weight[:, columns]
    smaller = Projection.of(weight.contiguous(), None if bias is None else bias.clone())
    smaller.weight.requires_grad_(brick.weight.requires_grad)
    if smaller.bias is not None:
        smaller.bias.requires_grad_(brick.bias.requires_grad)
    return smaller.train(brick.training)


def _rows(heads: Sequence[int], width: int, brick: object) -> Tensor:
    """The rows of some heads in a projection. Shape: return: (len(heads) * width,) int64."""
    assert isinstance(brick, Projection)
    starts = torch.tensor(heads, device=brick.weight.device) * width
    return (starts[:, None] + torch.arange(width, device=brick.weight.device)).flatten()


def _parameter(parameter: Tensor, heads: Sequence[int], dim: int) -> nn.Parameter:
    """Some heads of a parameter."""
    index = torch.tensor(heads, device=parameter.device)
    return nn.Parameter(parameter.detach().index_select(dim, index), requires_grad=parameter.requires_grad)
