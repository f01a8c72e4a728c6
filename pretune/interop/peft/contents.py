"""Holds what a PEFT folder holds: the fields of `adapter_config.json`, and tensors by their names in the file."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pretune.errors import DataError
from pretune.interop.adapter_files import CONFIG

Found = dict[str, dict[str, Tensor]]
"""For each module, by its full name in the files, the tensors of its adapter by their parts."""
WEIGHTS = "adapter_model.safetensors"
BIN = "adapter_model.bin"
ROOT = "base_model.model."
"""What the names of modules begin with in the file; where no module is changed, as by a prefix, `base_model.` alone."""


@dataclass
class Contents:
    """What was read, or is to be written.

    Attributes:
        where: the folder, for messages.
        fields: of the configuration.
        tensors: by their names in the file; a reader removes those that it has read.
        root: what the names of the base's modules begin with.
    """

    where: str
    fields: dict[str, Any]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    root: str = ROOT

    def take(self, *parts: str) -> Found:
        """Removes the tensors whose names end with one of these parts.

        Args:
            parts: such as `lora_A`; a name of the file may have an adapter's name and `weight` behind it.
        """
        pattern = re.compile(rf"(?:(.+)\.)?({'|'.join(parts)})(?:\.default)?(?:\.weight)?")
        by_module: Found = {}
        for name in [*self.tensors]:
            match = pattern.fullmatch(name)
            if match is not None:
                module = (match[1] or "").removeprefix(ROOT)
                by_module.setdefault(module, {})[match[2]] = self.tensors.pop(name)
        return by_module

    def number(self, name: str, *, least: float = 0, default: float | None = None) -> float:
        """A number of the configuration.

        Raises:
            DataError: it is missing, no number, or too small.
        """
        value = self.fields.get(name)
        value = default if value is None else value
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < 2**40:
            raise DataError(
                f"{self.where}/{CONFIG}: field {name!r} = {str(value)[:80]}: expected a number from {least} on; "
                "correct the field, or save the adapter again"
            )
        return value

    def damaged(self, reason: str) -> DataError:
        """The error for a file that cannot be what it says."""
        return DataError(f"{self.where}: {reason}; the files are damaged, or not of this base")
