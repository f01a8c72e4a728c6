"""Families of models, one per file: sizes, what is special about each, and its Hugging Face names.

`build("bert", "mini", ["mlm", "nsp"], vocab_size=...)` gives a model with initial weights. This package imports torch
only when a model is asked for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pretune.models.model import LanguageModel, MakeHeads

SHARED_MODULES = (
    "adapters",
    "boundary",
    "encoder_decoder",
    "flops",
    "frozen",
    "fuse",
    "generation_fields",
    "head_table",
    "init",
    "metadata",
    "model",
    "native_bricks",
    "native_step",
    "positions",
    "rope",
    "size_check",
    "size_fields",
    "standard_heads",
    "text_vectors",
    "vocabulary",
    "weight_map",
)


def build(
    family: str,
    size: str,
    heads: Sequence[str] | MakeHeads = (),
    overrides: Mapping[str, Any] | None = None,
    *,
    labels: Sequence[str] | None = None,
    seed: int = 0,
    allocate: bool = True,
) -> LanguageModel:
    """A model of a named size with initial weights.

    Args:
        family: a file of this package, or a user's own `path.py` or `package.module`.
        size: a key of the family's `SIZES`.
        heads: roles of standard heads, such as `["mlm", "nsp"]`, or what makes them, such as the method `heads` of an
            objective or a task.
        overrides: fields of the family's `Config` that differ from the size's, `vocab_size` above all.
        labels: names of the classes, for the standard head `classification`.
        seed: each weight is a function of this and of its own name.
        allocate: without it, the parameters have shapes and no memory (device `meta`), to be looked at.

    Raises:
        UsageError: an unknown family, size, head or field, or a value out of range.
    """
    from pretune.models.init import initialise
    from pretune.models.model import construct, get_family
    from pretune.models.size_fields import configure

    module = get_family(family)
    model = construct(family, configure(module, size, overrides or {}), heads, labels)
    if allocate:
        initialise(model, seed)
    return model
