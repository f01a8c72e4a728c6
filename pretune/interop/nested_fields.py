"""Configurations within `config.json` that are those of other families, as of two joined models.

A family names them in `NESTED`, with the family whose fields each has; its `Config` has a field for each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, cast

from pretune.errors import DataError
from pretune.field_table import check_fields, handed_on_fields, shown_value, training_notes
from pretune.interop.file_fields import config_table
from pretune.models.model import Config, Family, LanguageModel, get_family


@dataclass
class NestedFields:
    """Holds what the nested configurations of a file say.

    Attributes:
        known: fields of the families, by the name of the nested configuration.
        handed_on: fields that are not used and are written again, likewise.
        notes: sentences for the log.
        training_notes: sentences for the log of training alone.
    """

    known: dict[str, dict[str, Any]] = field(default_factory=dict)
    handed_on: dict[str, dict[str, Any]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    training_notes: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path, module: Family, config_fields: Mapping[str, Any]) -> Self:
        """Reads the nested configurations that a family's `NESTED` names; none of most families.

        Raises:
            DataError: one is missing, is no table, or is of another family.
        """
        out = cls()
        for name, family in getattr(module, "NESTED", {}).items():
            tree, where = config_fields.get(name), f"{path}: field {name!r}"
            if not isinstance(tree, dict):
                raise DataError(f"{where} = {shown_value(tree)}: expected the configuration of a {family}")
            if tree.get("model_type") != family:
                raise DataError(
                    f"{where}: its 'model_type' is {shown_value(tree.get('model_type'))}; models of this kind are read "
                    f"where it is {family!r}"
                )
            side, schema = get_family(family), cast(type[Config], module.Config.model_fields[name].annotation)
            table = config_table(side, schema)
            out.notes += check_fields(where, tree, table)
            out.training_notes += training_notes(where, tree, table)
            out.known[name] = {each: value for each, value in tree.items() if each in schema.model_fields}
            out.handed_on[name] = handed_on_fields(tree, table)
            rate = getattr(side, "ATTENTION_DROPOUT", "")
            if (dropout := out.known[name].pop(rate, 0.0)) != 0:
                out.training_notes.append(
                    f"attention dropout {dropout} of {name} in config.json is off, which is faster"
                )
        return out


def nested_config(model: LanguageModel) -> dict[str, dict[str, Any]]:
    """The nested configurations of a model for `config.json`, with the fields that are handed on."""
    config = model.config.model_dump(mode="json")
    names = getattr(get_family(model.family), "NESTED", {})
    return {name: {**model.extras.get(name, {}), **config[name]} for name in names}
