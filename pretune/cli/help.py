"""Prints the fields that a verb takes, at the end of its `--help`."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from itertools import takewhile

from pydantic import BaseModel

from pretune.cli.fields import describe, render_fields
from pretune.cli.variant_files import read_variant
from pretune.find import variants

# The configuration classes whose fields a verb takes as `--field value`, by module and name.
_FIELDS = {
    "tokenizer train": ("pretune.text.tokenizer.train:TokenizerConfig", "pretune.text.readers.corpus:CorpusConfig"),
    "tokenizer extend": ("pretune.text.tokenizer.extend:ExtendConfig", "pretune.text.readers.corpus:CorpusConfig"),
    "prepare": ("pretune.text.store.prepare:PrepareConfig",),
    "augment": ("pretune.augment.files:AugmentConfig",),
    "pretrain": ("pretune.train.recipe:Recipe",),
    "finetune": ("pretune.train.recipe:Recipe",),
    "show": ("pretune.train.recipe:Recipe",),
}
_AXES = ("models", "objectives", "tasks", "tune", "optim")


def show_fields(args: Sequence[str]) -> None:
    """Prints the fields that a verb takes, at the end of its `--help`.

    Args:
        args: the command line.
    """
    verb = " ".join(takewhile(lambda arg: not arg.startswith("-"), args))
    for number, target in enumerate(_FIELDS.get(verb, ())):
        module, _, name = target.partition(":")
        schema: type[BaseModel] = getattr(importlib.import_module(module), name)
        print(f"\nFields ({target.replace(':', '.')}):\n" if not number else "")
        print(describe(schema, "--corpus." if number else "--"))
    if _FIELDS.get(verb) == _FIELDS["pretrain"]:
        print(_optimizer_fields())
        print("\nVariants, each a file: " + "; ".join(f"{axis}: {', '.join(variants(axis))}" for axis in _AXES))


def _optimizer_fields() -> str:
    """Renders the fields that each optimizer adds to the common ones, a paragraph each."""
    from pretune.optim.optimizer import OptimizerConfig

    shared = set(OptimizerConfig.model_fields)
    pages: list[str] = []
    for name in variants("optim"):
        own = [field for field in read_variant("optim", name).fields if field.name not in shared]
        shared |= {field.name for field in own}
        pages += [f"\n  with --optimizer.name {name}:", render_fields(own, "--optimizer.")] if own else []
    return "\n".join(pages)
