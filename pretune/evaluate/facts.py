"""What a model is and what it can do, for people."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from pretune.interop.head_labels import labels_of
from pretune.models.model import LanguageModel
from pretune.nn.rounded import count_rounded, formats_of
from pretune.runtime.device import is_bf16
from pretune.table import Table
from pretune.wording import counted

_LISTED = 8  # labels that are named


def describe_model(network: LanguageModel, folder: Path, abilities: Collection[str], length: int) -> Table:
    """The facts of a model, one a row.

    Args:
        folder: where it was read.
        abilities: as `Model.abilities`.
        length: tokens that a text may have.
    """
    weights = {weight.data_ptr(): weight.numel() for weight in network.parameters()}
    formats = formats_of(network)
    facts: list[tuple[str, object]] = [
        ("family", network.family),
        ("parameters", f"{sum(weights.values()) + count_rounded(network):,}"),
        ("length", length),
        ("can", " ".join(sorted({*abilities, "embed"}))),
    ]
    if formats:
        each = ", ".join(f"{counted(count, 'matrix', 'matrices')} to {name}" for name, count in formats.items())
        facts.insert(2, ("rounded", each))
    if (labels := labels_of(network)) is not None:
        others = f" and {len(labels) - _LISTED} more" if len(labels) > _LISTED else ""
        facts.append(("labels", ", ".join(labels[:_LISTED]) + others))
    recorded, named = network.metadata.task, network.metadata.tasks
    facts += [] if recorded is None else [("task", ", ".join(named or (recorded.name,)))]
    facts += [("device", str(network.device)), ("precision", "bf16" if is_bf16(network) else "fp32")]
    return Table(["", ""], [*facts, ("folder", str(folder))])
