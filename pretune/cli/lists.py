"""Renders what `pretune show tasks` and the other lists print, and one variant, without importing any."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from typing import get_args

from pretune.cli.fields import entries, render_fields
from pretune.cli.variant_files import VariantFile, read_variant
from pretune.errors import UsageError
from pretune.find import suggest, variants
from pretune.language import translate
from pretune.language.wrap import fill

_WIDTH = 100
AXES: Mapping[str, tuple[str, str]] = {
    "tasks": ("tasks", "--task {}"),
    "objectives": ("objectives", "--objective {}"),
    "families": ("models", "--model.family {}"),
    "losses": ("tasks.vector_losses", "--task.similarity.loss {}"),
    "chat_templates": ("text.chat.formats", "--task.chat.template {}"),
    "tuning": ("tune", "--tune {}"),
    "optimizers": ("optim", "--optimizer.name {}"),
}
"""The lists of variants: the folder of each, and the flag that chooses one."""
SCHEDULES = "schedules"
LISTS = (*AXES, SCHEDULES)
_FIELDS = {
    "tasks": "--task.{}.",
    "objectives": "--objective.{}.",
    "losses": "--task.similarity.loss.{}.",
    "tuning": "--tune.{}.",
    "optimizers": "--optimizer.",
}
_INSIDE = {"tasks": ("columns",), "optimizers": ("name",), "families": ("OLDER_FIELDS",)}
"""Fields that are set elsewhere."""


def render_list(name: str) -> str:
    """Renders a list: a line for each variant."""
    if name == SCHEDULES:
        from pretune.optim.schedule import DESCRIPTIONS

        return _table({str(each): text for each, text in DESCRIPTIONS.items()}, "--schedule.kind", "linear")
    axis, flag = AXES[name]
    names = variants(axis)
    return _table({each: read_variant(axis, each).summary for each in names}, flag.format("NAME"), names[-1])


def render_overview() -> str:
    """Renders the names of all lists, as what there is to show."""
    names = {name: variants(axis) for name, (axis, _) in AXES.items()}
    width = max(map(len, LISTS)) + 2
    lines = [
        fill(", ".join(each), _width(), initial_indent=f"{name:<{width}}", subsequent_indent=" " * width)
        for name, each in names.items()
    ]
    lines.append(f"{SCHEDULES:<{width}}linear, cosine, constant")
    hint = "pretune show tasks says a line on each; pretune show mlm all on one; pretune show RECIPE.toml plans a run"
    return "\n".join([*lines, "", fill(translate(hint), _width())])


def find_lists(name: str) -> list[str]:
    """The lists that hold a variant of this name."""
    from pretune.optim.schedule import ScheduleKind

    lists = [each for each, (axis, _) in AXES.items() if name in variants(axis)]
    return lists + ([SCHEDULES] if name in get_args(ScheduleKind) else [])


def render_variant(name: str) -> str:
    """Renders all that a name stands for, with fields, types, defaults and meanings."""
    return "\n\n".join(_schedule(name) if each == SCHEDULES else _variant(name, each) for each in find_lists(name))


def unknown_name(name: str) -> UsageError:
    """The error of a word that is no recipe, no list and no variant."""
    known = sorted({*LISTS, "compatibility", *(each for axis, _ in AXES.values() for each in variants(axis))})
    close = suggest(name, known)
    hint = close if close.startswith("did") else f"lists: {', '.join(LISTS)}"
    return UsageError(f"show {name}: no recipe of this name here, and nothing that can be shown; {hint}")


def _table(summaries: Mapping[str, str], flag: str, example: str) -> str:
    width = max(map(len, summaries)) + 2
    lines = [
        fill(translate(summary), _width(), initial_indent=f"{name:<{width}}", subsequent_indent=" " * width)
        for name, summary in summaries.items()
    ]
    hint = f"choose one with {flag}; its fields: pretune show {example}"
    return "\n".join([*lines, "", translate(hint)])


def _variant(name: str, title: str) -> str:
    axis, flag = AXES[title]
    variant = read_variant(axis, name)
    parts = [f"{flag.format(name)}  ({title})", _reflowed(variant.description)]
    if variant.sizes:
        parts.append(f"--model.size {'|'.join(variant.sizes)}")
    if fields := render_variant_fields(name, title):
        parts.append(fields)
    return "\n\n".join(parts)


def render_variant_fields(name: str, title: str) -> str:
    """Renders the fields of a variant of one of the lists; nothing where it has none."""
    variant = read_variant(AXES[title][0], name)
    if title == "families":
        return _family_fields(variant)
    fields = [field for field in variant.fields if field.name.partition(".")[0] not in _INSIDE.get(title, ())]
    return render_fields(fields, _FIELDS[title].format(name)) if fields else ""


def _family_fields(variant: VariantFile) -> str:
    """The fields of a family's `config.json`, in columns: their names are known from transformers."""
    cells = [f"{field.name} = {field.default}" if field.default else field.name for field in variant.fields]
    text = fill(", ".join(cells), _width(), initial_indent="  ", subsequent_indent="  ")
    return f"{translate('Fields of config.json (--model.overrides.NAME VALUE):')}\n{text}"


def _schedule(name: str) -> str:
    from pretune.optim.schedule import DESCRIPTIONS, ScheduleConfig

    text = next(text for each, text in DESCRIPTIONS.items() if each == name)
    fields = render_fields(entries(ScheduleConfig, without=("kind",)), "--schedule.")
    return "\n\n".join([f"--schedule.kind {name}  ({SCHEDULES})", translate(text), fields])


def _reflowed(description: str) -> str:
    """Paragraphs of a docstring, filled to the width of the terminal; indented ones stay as they are."""
    paragraphs: Sequence[str] = description.split("\n\n")
    return "\n\n".join(map(_paragraph, paragraphs))


def _paragraph(text: str) -> str:
    """A paragraph, or a list whose items are filled one by one; tables and code stay as they are."""
    if text.startswith((" ", "|")):
        return text
    items = (" ".join(item.split()) for item in re.split(r"^[-*] ", text, flags=re.MULTILINE) if item)
    marks = ("- ", "  ") if text.startswith(("- ", "* ")) else ("", "")
    return "\n".join(fill(translate(item), _width(), *marks) for item in items)


def _width() -> int:
    return min(_WIDTH, shutil.get_terminal_size().columns)
