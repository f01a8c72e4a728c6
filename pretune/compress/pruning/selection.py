"""Chooses what stays of a model, evenly over its layers, and makes its configuration say so.

    scores of layers ----best_layers----> drop_layers(model, {"stack": [0, 2, 3]})
    scores of heads -----best_heads-----> narrow_heads(model, {"stack.blocks.0.attention": [0, 3], ...})
    scores of inner values -best_inner--> narrow_inner(model, {"stack.blocks.0.feedforward": index, ...})

Each step changes the modules and the configuration, and then compares the two: what the configuration would not build
is refused before anything is written.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pretune import config as configuration
from pretune.compress.pruning.structure import (
    AnyAttention,
    AnyFeedForward,
    attentions,
    check_bricks,
    check_heads,
    feedforwards,
    keep_bias,
    keep_heads,
    keep_inner,
    keep_layers,
)
from pretune.errors import PretuneError, UsageError
from pretune.find import suggest
from pretune.models.model import Config, LanguageModel
from pretune.models.size_check import signature, size_fields, stacks, stacks_of, undescribed
from pretune.models.size_fields import Part, SizeFields
from pretune.nn.attention import Attention
from pretune.nn.rounded import rounded_bricks
from pretune.nn.stack import Stack

_REMEDIES: Mapping[Part, str] = {
    "layers": "prune inner width or heads",
    "heads": "prune layers or inner width; in memory alone, prune_heads removes heads of any family",
    "inner": "prune layers or heads",
}
_FLAT = 1e-12


def check_part(model: LanguageModel, part: Part) -> Mapping[str, SizeFields]:
    """The fields that say a size of each stack.

    Raises:
        UsageError: the family's configuration cannot say it.
    """
    fields = size_fields(model.family)
    own = stacks(model)
    if not set(own) <= set(fields):
        raise UsageError(
            f"prune: {part}: the family {model.family!r} does not say which fields of its configuration hold its "
            "sizes; add SIZE_FIELDS to its file, as pretune/models/bert.py has"
        )
    for path in own:
        reason = fields[path].reason(part)
        if reason is not None:
            raise UsageError(
                f"prune: {part}: the config.json of a {model.family} cannot say it ({reason}), so that no other "
                f"software could open the result; {_REMEDIES[part]}"
            )
        for number, block in enumerate(own[path].blocks):
            _check_known(f"{path}.blocks.{number}", block, part)
    return {path: fields[path] for path in own}


def _check_known(path: str, block: nn.Module, part: Part) -> None:
    """Refuses a layer whose parts are not known, such as one with experts.

    Raises:
        UsageError: it is one.
    """
    feedforward, attention = getattr(block, "feedforward", None), getattr(block, "attention", None)
    if part == "inner" and not isinstance(feedforward, AnyFeedForward):
        what, name = feedforward, "feedforward"
    elif part == "heads" and not isinstance(attention, AnyAttention):
        what, name = attention, "attention"
    else:
        return
    raise UsageError(
        f"prune: {part}: {path}.{name} is a {type(what).__name__}, of which it is not known how it is made smaller; "
        "prune layers"
    )


def remaining(count: int, rate: float, multiple: int = 1) -> int:
    """How many of some parts stay, at least one, where a fraction is removed.

    Args:
        multiple: that the number is one of, where the number before is; else the largest that divides both.
    """
    step = math.gcd(count, multiple)
    return min(count, max(step, round(count * (1.0 - rate) / step) * step))


def best_layers(model: LanguageModel, scores: Mapping[str, float], rate: float) -> dict[str, list[int]]:
    """The layers of each stack that stay: those with the largest sum of scores that fit the places of fewer layers.

    In some families a layer's place decides what it sees, and then not every layer may move to every place.

    Args:
        scores: by the paths of layers.

    Raises:
        UsageError: the family cannot say fewer layers, or no choice fits.
    """
    check_part(model, "layers")
    out = {}
    for path, stack in stacks(model).items():
        count = remaining(len(stack.order), rate)
        values = [scores[f"{path}.blocks.{number}"] for number in range(len(stack.order))]
        ranked = sorted(range(len(values)), key=lambda number: -values[number])
        wanted = sorted(ranked[:count])
        expected = _layer_signatures(model, path, wanted)
        signatures = [signature(block) for block in stack.in_order]
        chosen = _match_layers(expected, signatures, values)
        if chosen is None:
            raise UsageError(
                f"prune: layers: no {count} of the {len(values)} layers of {path} fit the places that a {model.family} "
                "of fewer layers has, where a layer's place decides what it sees; remove another number, or prune "
                "inner width"
            )
        out[path] = chosen
    return out


def _layer_signatures(model: LanguageModel, path: str, layers: Sequence[int]) -> list[object]:
    """The signatures of the layers that a configuration of some layers alone builds."""
    config = _with_layers(model, {path: layers})
    return [signature(block) for block in stacks_of(model.family, config)[path].in_order]


def _match_layers(expected: Sequence[object], layers: Sequence[object], values: Sequence[float]) -> list[int] | None:
    """The ascending layers with the largest sum of values that have the expected signatures; None without any."""
    best: list[list[tuple[float, list[int]] | None]] = [[(0.0, []) for _ in range(len(layers) + 1)]]
    for slot in expected:
        row: list[tuple[float, list[int]] | None] = [None]
        for number, layer in enumerate(layers):
            before, without = best[-1][number], row[-1]
            here = None
            if before is not None and layer == slot:
                here = (before[0] + values[number], [*before[1], number])
            row.append(max((each for each in (without, here) if each is not None), key=lambda e: e[0], default=None))
        best.append(row)
    last = best[-1][-1]
    return None if last is None else last[1]


def drop_layers(model: LanguageModel, layers: Mapping[str, Sequence[int]]) -> LanguageModel:
    """Removes all other layers, and says so in the configuration.

    Args:
        layers: numbers of those that stay, ascending, by the path of the stack: `stack`, `encoder.stack`.

    Returns:
        The model itself.

    Raises:
        UsageError: the family cannot say fewer layers, a stack or a layer is not there, or the layers would see
            something else at their new places; nothing was changed.
    """
    own = stacks(model)
    check_part(model, "layers")
    for path, numbers in layers.items():
        if path not in own:
            raise UsageError(f"prune: layers: no stack {path!r}; {suggest(path, list(own))}")
        if not numbers or sorted(set(numbers)) != list(numbers) or not set(numbers) <= set(range(len(own[path].order))):
            raise UsageError(
                f"prune: layers: {path} has layers 0 to {len(own[path].order) - 1}; name those that stay, ascending "
                f"and one at least, instead of {list(numbers)}"
            )
        blocks = own[path].in_order
        _refuse_rounded(path, own[path])
        expected = _layer_signatures(model, path, numbers)
        for position, (number, wanted) in enumerate(zip(numbers, expected, strict=True)):
            if signature(blocks[number]) != wanted:
                raise UsageError(
                    f"prune: layers: layer {number} of {path} would be layer {position}, whose place in a "
                    f"{model.family} sees or norms otherwise; keep the pattern of its layers, or let `--layers` choose"
                )
    config = _with_layers(model, layers)
    for path, numbers in layers.items():
        keep_layers(own[path], numbers)
    return _with_config(model, config)


def _refuse_rounded(path: str, stack: Stack) -> None:
    """Refuses layers whose matrices are rounded, which could not be trained on."""
    for name, brick in rounded_bricks(stack):
        raise UsageError(
            f"prune: layers: {path}.{name} is rounded to {brick.format.NAME}, and what is rounded does not learn; take "
            "layers of the model that it was made of, then quantize"
        )


def _with_layers(model: LanguageModel, layers: Mapping[str, Sequence[int]]) -> Config:
    """The configuration of a model with some of its layers alone."""
    fields = size_fields(model.family)
    changes: dict[str, Any] = {}
    for path, numbers in layers.items():
        name, by_layer = fields[path].layers, fields[path].by_layer
        assert name is not None
        changes[name] = len(numbers)
        changes |= {} if by_layer is None else by_layer(model.config, numbers)
    return resized_config(model, changes)


def best_heads(model: LanguageModel, scores: Mapping[str, Tensor], rate: float) -> dict[str, list[int]]:
    """The heads of each attention that stay: of each as many, whole groups where heads share keys.

    Attentions that share a bias for each head keep the same ones.

    Args:
        scores: (heads,) each, by the paths of attentions.

    Raises:
        UsageError: the family cannot say fewer heads.
    """
    check_part(model, "heads")
    out: dict[str, list[int]] = {}
    known = attentions(model)
    shared: dict[int, list[str]] = {}
    for path, attention in known.items():
        relative = getattr(attention, "relative", None)
        shared.setdefault(id(attention if relative is None else relative), []).append(path)
    for paths in shared.values():
        attention = known[paths[0]]
        group = attention.heads // attention.key_heads
        each = torch.stack([scores[path] / scores[path].sum().clamp(min=_FLAT) for path in paths]).sum(0)
        by_group = each.view(-1, group).sum(1)
        kept = by_group.topk(remaining(len(by_group), rate)).indices.sort().values.tolist()
        heads = [number * group + n for number in kept for n in range(group)]
        out |= dict.fromkeys(paths, heads)
    return out


def narrow_heads(model: LanguageModel, heads: Mapping[str, Sequence[int]]) -> LanguageModel:
    """Removes all other heads, and says so in the configuration.

    Args:
        heads: numbers of those that stay, of all attentions, as many each.

    Returns:
        The model itself.

    Raises:
        UsageError: the family cannot say it, or the attentions would differ; nothing was changed.
    """
    fields = check_part(model, "heads")
    known = attentions(model)
    counts = {len(kept) for kept in heads.values()}
    if set(heads) != set(known) or len(counts) > 1:
        raise UsageError(
            f"prune: heads: config.json says one number of heads for all layers of a {model.family}; keep as many in "
            "each of them"
        )
    for path, kept in heads.items():
        check_bricks(known[path], path)
        check_heads(known[path], kept)
    biases: dict[int, tuple[Attention, Sequence[int]]] = {}
    changes: dict[str, Any] = {}
    for path, kept in heads.items():
        attention = known[path]
        names = next(each for stack, each in fields.items() if path.startswith(f"{stack}.blocks."))
        assert names.heads is not None
        changes[names.heads] = len(kept)
        if names.key_heads is not None:
            changes[names.key_heads] = len(kept) * attention.key_heads // attention.heads
        if isinstance(attention, Attention) and attention.relative is not None:
            biases[id(attention.relative)] = attention, kept
    config = resized_config(model, changes)
    for path, kept in heads.items():
        keep_heads(known[path], kept, keeps_bias=True)
    for attention, kept in biases.values():
        assert attention.relative is not None
        keep_bias(attention.relative, kept)
    return _with_config(model, config)


def best_inner(scores: Mapping[str, Tensor], rate: float, multiple: int) -> dict[str, Tensor]:
    """The inner values of each feed-forward that stay, of each as many.

    Args:
        scores: (inner,) each, by the paths of feed-forwards.
        multiple: that their number is one of, as products and formats of weights want it.

    Shape:
        return: (K,) int64 each
    """
    return {
        path: each.topk(remaining(len(each), rate, multiple)).indices.sort().values for path, each in scores.items()
    }


def narrow_inner(model: LanguageModel, index: Mapping[str, Tensor]) -> LanguageModel:
    """Removes all other inner values, and says so in the configuration.

    Args:
        index: of those that stay, ascending, of all feed-forwards of a stack as many.

    Returns:
        The model itself.

    Raises:
        UsageError: the family cannot say it; nothing was changed.
    """
    fields = check_part(model, "inner")
    known = feedforwards(model)
    changes: dict[str, Any] = {}
    if set(index) != set(known):
        raise UsageError(f"prune: inner: config.json says one width for all layers of a {model.family}; prune all")
    for path, kept in index.items():
        check_bricks(known[path], path)
        names = next(each for stack, each in fields.items() if path.startswith(f"{stack}.blocks."))
        assert names.inner is not None
        if changes.setdefault(names.inner, len(kept)) != len(kept):
            raise UsageError(f"prune: inner: config.json says one width for all layers of a {model.family}")
    config = resized_config(model, changes)
    for path, kept in index.items():
        keep_inner(known[path], kept.to(model.device))
    return _with_config(model, config)


def resized_config(model: LanguageModel, changes: Mapping[str, Any]) -> Config:
    """The model's configuration with other sizes, checked."""
    fields = {**model.config.model_dump(), **changes}
    return configuration.validate(type(model.config), fields, "prune")


def _with_config(model: LanguageModel, config: Config) -> LanguageModel:
    """Gives a changed model its configuration, which must build the same.

    Raises:
        PretuneError: it does not, which is a fault of the family's `SIZE_FIELDS`.
    """
    model.config = config
    differences = undescribed(model)
    if differences:
        raise PretuneError(
            f"prune: the configuration of the pruned {model.family} does not describe it: {differences[0]}; correct "
            "SIZE_FIELDS in the family's file"
        )
    return model
