"""Makes a student of some layers of a model: a plain model of the same family with fewer layers."""

from __future__ import annotations

from collections.abc import Sequence

from pretune.compress.pruning.selection import drop_layers
from pretune.errors import UsageError
from pretune.models.model import LanguageModel
from pretune.models.size_check import stacks

COUNT, NUMBERS = "distil.student.layers", "distil.student.keep"


def spread_layers(count: int, layers: int) -> tuple[int, ...]:
    """Chooses layers evenly, the first and the last among them, as DistilBERT did: 6 of 12 are 0, 2, 4, 7, 9, 11.

    Args:
        count: how many are wanted.
        layers: how many there are.

    Raises:
        UsageError: more are wanted than there are.

    Source: Sanh et al. 2019 (arXiv 1910.01108), section 3, and the script of its weights.
    """
    if count > layers:
        raise UsageError(f"{COUNT} = {count}: the model has {layers} layers; name {layers} or fewer")
    if count == 1:
        return (0,)
    return tuple(round(n * (layers - 1) / (count - 1)) for n in range(count))


def keep_student(model: LanguageModel, layers: int | Sequence[int]) -> tuple[int, ...]:
    """Drops all layers of a model but some, in place, so that its plain configuration describes it.

    Of an encoder-decoder both sides keep the same ones.

    Args:
        layers: how many, evenly spread, or which ones, from 0.

    Returns:
        The numbers of those that were kept.

    Raises:
        UsageError: layers that are not there, that share weights, or that would see something else in their new places.
    """
    own = stacks(model)
    total = min(len(stack.order) for stack in own.values())
    chosen = spread_layers(layers, total) if isinstance(layers, int) else tuple(layers)
    try:
        drop_layers(model, dict.fromkeys(own, chosen))
    except UsageError as error:
        reason = str(error).removeprefix("prune: layers: ")
        field = f"{COUNT} = {layers}" if isinstance(layers, int) else f"{NUMBERS} = {list(layers)}"
        raise UsageError(f"{field}: {reason}") from None
    return chosen
