"""Renders `docs/compatibility.md`: the files that others write beside weights, and what becomes of each field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from pretune.language import translate

if TYPE_CHECKING:
    from pretune.field_table import FieldTable, Treatment

_INTRODUCTION = """
What pretune does with each field of the files that others write beside weights. *Done*: pretune does what the field
says. *Handed on*: it changes nothing here and stands unchanged in what pretune writes. *Refused*: a model with this
field is not read unless its value asks for nothing, and the message names file, field, value and remedy. *No effect*:
no result hangs on it. A field that stands in no table is named when the model is read, and is handed on. The page is
made from the tables that the readers use.
"""


def compatibility() -> str:
    """Renders the tables of all files, and of `config.json` what is particular to each family."""
    from pretune.find import variants
    from pretune.interop.file_fields import TABLES, own_fields
    from pretune.models.model import get_family

    parts = [_file(name, table) for name, table in TABLES.items()]
    families = [(name, own_fields(get_family(name))) for name in variants("models")]
    parts[1:1] = [f"{translate(f'## config.json of {name}')}\n\n{_short(table)}" for name, table in families]
    note = "<!-- made by `pretune show compatibility` -->"
    return "\n\n".join(["# Compatibility", note, translate(" ".join(_INTRODUCTION.split())), *parts]) + "\n"


def _file(name: str, table: FieldTable) -> str:
    return f"## {name}\n\n{_table(table)}"


def _table(table: FieldTable) -> str:
    """One row a group of fields with the same treatment."""
    groups: dict[str, list[str]] = {}
    for name, treatment in table.items():
        groups.setdefault(f"{translate(treatment.name)} | {_reason(treatment)}", []).append(name)
    rows = [f"| {_names(names)} | {treatment} |" for treatment, names in groups.items()]
    return "\n".join([translate("| field | | |"), "|---|---|---|", *rows])


def _short(table: FieldTable) -> str:
    """The fields that are done in one line, the others in a table."""
    plain = [name for name, treatment in table.items() if treatment.name == "done" and not treatment.reason]
    others = {name: treatment for name, treatment in table.items() if name not in plain}
    return "\n\n".join(_lines(plain, others))


def _lines(plain: list[str], others: Mapping[str, Treatment]) -> Iterator[str]:
    yield translate(f"Done: {_names(plain)}.")
    if others:
        yield _table(others)


def _names(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _reason(treatment: Treatment) -> str:
    if treatment.name != "refused":
        return translate(treatment.reason).replace("|", "\\|")
    values = "" if treatment.refuses else f"unless {' or '.join(_json(value) for value in treatment.allowed)}: "
    return translate(f"{values}{treatment.reason}; {treatment.remedy}").replace("|", "\\|")


def _json(value: object) -> str:
    from pretune.field_table import shown_value

    return f"`{shown_value(value)}`"
