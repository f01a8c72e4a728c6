"""Renders the fields of a configuration as help: names, types, defaults and meanings, read from its classes."""

from __future__ import annotations

import importlib
import inspect
import re
import textwrap
import types
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

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
_WIDTH = 100
_ENTRY = re.compile(r"^    (\w+(?:, \w+)*): (.*(?:\n {8,}.*)*)", re.MULTILINE)


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


def describe(schema: type[BaseModel], prefix: str = "--", without: Sequence[str] = ()) -> str:
    """Renders a paragraph for each field: `--a.b TYPE = default`, then its meaning.

    Args:
        without: fields to leave out.
    """
    names = [name for name in schema.model_fields if name not in without]
    return "\n".join(_paragraphs(schema, prefix, names))


def _optimizer_fields() -> str:
    """Renders the fields that each optimizer adds to the common ones, a paragraph each."""
    from pretune.optim.optimizer import OptimizerConfig, find_optimizer

    shared = set(OptimizerConfig.model_fields)
    pages: list[str] = []
    for name in variants("optim"):
        config = find_optimizer(name).Config
        own = [field for field in config.model_fields if field not in shared]
        shared |= set(own)
        pages += [f"\n  with --optimizer.name {name}:", *_paragraphs(config, "--optimizer.", own)] if own else []
    return "\n".join(pages)


def _paragraphs(schema: type[BaseModel], prefix: str, names: Sequence[str] | None = None) -> Iterator[str]:
    meaning = _meanings(schema)
    inner: list[tuple[str, type[BaseModel]]] = []
    fields = schema.model_fields
    for name, field in fields.items() if names is None else [(name, fields[name]) for name in names]:
        below = _configuration(field.annotation)
        if below is not None:
            inner.append((name, below))
            continue
        yield f"  {prefix}{name} {_type(field.annotation)}{_default(field.get_default(call_default_factory=True))}"
        if meaning.get(name):
            yield textwrap.fill(meaning[name], _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
    for name, below in inner:
        yield ""
        yield from _paragraphs(below, f"{prefix}{name}.")


def _meanings(schema: type[BaseModel]) -> dict[str, str]:
    """Returns what the `Attributes:` sections of a class and of its bases say about each field."""
    out: dict[str, str] = {}
    for base in reversed(schema.__mro__):
        section = inspect.cleandoc(vars(base).get("__doc__") or "").partition("Attributes:")[2]
        for group, text in _ENTRY.findall(section):
            out |= dict.fromkeys(group.split(", "), " ".join(text.split()))
    return out


def _configuration(annotation: Any) -> type[BaseModel] | None:
    options = get_args(annotation) or (annotation,)
    return next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)


def _type(annotation: Any) -> str:
    """Renders a type for help: `a|b` for choices, NUMBER for floats."""
    if get_origin(annotation) is Literal:
        return "|".join(str(value) for value in get_args(annotation))
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join(_type(a) for a in get_args(annotation) if a is not type(None))
    plain = get_origin(annotation) or annotation
    if plain in (tuple, list):
        return "LIST"
    return {int: "INTEGER", float: "NUMBER", bool: "BOOLEAN", str: "TEXT", dict: "TABLE"}.get(plain, "VALUE")


def _default(value: Any) -> str:
    if value is PydanticUndefined or value is None or value in ((), {}, ""):
        return ""
    return f" = {str(value).lower() if isinstance(value, bool) else value}"
