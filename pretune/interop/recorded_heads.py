"""Records and finds who makes each head of a saved model: the table of standard heads, its task or its objectives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from pretune.errors import DataError, UsageError
from pretune.models.metadata import HeadSource
from pretune.models.model import LanguageModel, MakeHeads
from pretune.models.standard_heads import STANDARD_HEADS, HeadRequest, standard_heads
from pretune.nn.rounded import matrix_name, rounded_bricks

HeadMakers = Mapping[HeadSource, MakeHeads]
"""The method `heads` of the recorded task, and of the recorded objectives, where a model's heads need them."""


def head_sources(model: LanguageModel) -> dict[str, HeadSource]:
    """Returns, for each head of a model, who will make it when the model is read again."""
    metadata = model.metadata
    other: HeadSource = "task" if metadata.task else "objectives" if metadata.objectives else "unknown"
    return {role: "standard" if _is_standard(model, role) else other for role in model.heads}


def _is_standard(model: LanguageModel, role: str) -> bool:
    """Tells whether the table of standard heads makes the same head."""
    head = model.heads[role]
    if role not in STANDARD_HEADS:
        return False
    try:
        with torch.device("meta"):
            standard = standard_heads([role], getattr(head, "labels", None))(model)[role]
    except UsageError:
        return False
    return type(head) is type(standard) and _shapes(head) == _shapes(standard)


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    plain = {name: parameter.shape for name, parameter in module.named_parameters()}
    return plain | {matrix_name(path): torch.Size(brick.packed.shape) for path, brick in rounded_bricks(module)}


def recorded_heads(
    where: str,
    roles: Sequence[str],
    sources: Mapping[str, HeadSource],
    request: HeadRequest,
    makers: HeadMakers,
) -> MakeHeads:
    """Returns what makes the heads that files carry, each by who made it first.

    Args:
        where: the folder, for messages.
        roles: heads that the files carry under names that others know.
        sources: who made each head, as the files record.
        request: what the standard heads are for.
        makers: those of other sources; the first that makes a head is asked for it.

    Raises:
        DataError: a head that nobody here makes.
    """
    standard = [role for role in roles if sources.get(role, "standard") == "standard"]
    standard += [role for role, source in sources.items() if source == "standard" and role not in standard]
    others = {role: source for role, source in sources.items() if source != "standard"}
    for role, source in others.items():
        if source not in makers:
            raise DataError(f"{where}: head {role!r} {_remedy(source)}")

    def make_heads(model: LanguageModel) -> dict[str, nn.Module]:
        with torch.device("meta"):
            heads = dict(standard_heads(standard, request.labels, request.problem_type)(model))
        recorded: dict[str, nn.Module] = {}
        for maker in makers.values() if others else ():
            recorded = {**maker(model), **recorded}
        for role, source in others.items():
            if role not in recorded:
                raise DataError(
                    f"{where}: config.json says that the head {role!r} is made by the recorded {source}, which makes "
                    f"{', '.join(recorded) or 'none'}; the files are damaged, or the {source} has changed"
                )
            heads[role] = recorded[role]
        return heads

    return make_heads


def _remedy(source: HeadSource) -> str:
    if source == "unknown":
        return "is of code that the files do not name; pass what builds it: load_model(path, heads=...)"
    return (
        f"is made by the {source} that config.json records; read the folder with pretune.load(path), which asks for "
        "it, or pass what builds it: load_model(path, heads=...)"
    )
