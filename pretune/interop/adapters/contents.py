"""Holds what a folder of `adapters` holds: its configuration, and tensors by the module that they were added to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from pretune.errors import DataError
from pretune.interop.adapter_files import CONFIG
from pretune.interop.peft import contents as plain

Found = plain.Found
WEIGHTS, BIN = "adapter.safetensors", "pytorch_adapter.bin"
HEAD_CONFIG = "head_config.json"
HEAD_WEIGHTS, HEAD_BIN = "model_head.safetensors", "pytorch_model_head.bin"
NAME = "pretune"
"""What an adapter is called in the files that are written."""
_OLD_NAMES: Mapping[str, str] = {
    "attention_text_task_adapters": "adapters",
    "attention_text_lang_adapters": "adapters",
    "layer_text_task_adapters": "adapters",
    "layer_text_lang_adapters": "adapters",
}
"""What the first releases called the modules of adapters, as `adapters` 1.3.0 reads them."""


@dataclass
class Contents(plain.Contents):
    """What was read, or is to be written.

    Attributes:
        fields: those of the method, which stand under `config` in `adapter_config.json`.
        tensors: of the adapter, by their names in the file; a reader removes those that it has read.
        outer: the other fields of `adapter_config.json`.
        head: fields of `head_config.json`; None where there is no head.
        head_tensors: those of the head.
    """

    outer: dict[str, Any] = field(default_factory=dict)
    head: dict[str, Any] | None = None
    head_tensors: dict[str, Tensor] = field(default_factory=dict)

    def take_added(self, container: str) -> Found:
        """Removes the tensors that were added to modules.

        Args:
            container: what `adapters` calls the place: `adapters` or `loras`.

        Raises:
            DataError: a tensor of another adapter, or of something else.
        """
        name = re.escape(str(self.outer["name"]))
        pattern = re.compile(rf"(.+)\.{container}\.{name}\.(.+)")
        by_module: Found = {}
        for full in [*self.tensors]:
            match = pattern.fullmatch(_current(full))
            if match is None:
                raise self.damaged(f"tensor {full[:200]!r} is none of the adapter {self.outer['name']!r}")
            by_module.setdefault(match[1], {})[match[2]] = self.tensors.pop(full)
        if not by_module:
            raise self.damaged("no tensor of the adapter in the file")
        return by_module

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A field that is true or false."""
        value = self.fields.get(name)
        return default if value is None else bool(value)

    def left_out(self) -> set[int]:
        """The layers that have no adapter.

        Raises:
            DataError: no list of numbers.
        """
        value = self.fields.get("leave_out") or []
        if not all(type(each) is int for each in value):
            raise DataError(
                f"{self.where}/{CONFIG}: field 'leave_out' = {str(value)[:80]}: expected a list of layers; correct it"
            )
        return set(value)


def _current(name: str) -> str:
    for old, new in _OLD_NAMES.items():
        name = name.replace(f".{old}.", f".{new}.")
    return name
