"""The methods that are compared, some in several sizes, and the learning rates that each of them is given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pretune.errors import UsageError
from pretune.find import suggest

RATES = (3e-5, 1e-4, 3e-4, 1e-3, 3e-3)
"""Learning rates, the same for all; which is best is decided on a part of the training records."""


@dataclass(frozen=True)
class Method:
    """A method with its settings.

    Attributes:
        curve: methods of the same curve differ in size alone.
        tune: the table `tune` of a recipe.
    """

    curve: str
    tune: Mapping[str, Any]


def _lora(rank: int, **settings: Any) -> dict[str, Any]:
    return {"lora": {"rank": rank, "alpha": 16.0, **settings}}


_EVERYWHERE = ["attention", "feedforward"]
METHODS: Mapping[str, Method] = {
    "full": Method("full", {"full": {}}),
    "frozen": Method("frozen", {"frozen": {}}),
    "top-1": Method("top", {"top": {"layers": 1}}),
    "top-2": Method("top", {"top": {"layers": 2}}),
    "top-3": Method("top", {"top": {"layers": 3}}),
    "bitfit": Method("bitfit", {"bitfit": {}}),
    "ia3": Method("ia3", {"ia3": {}}),
    "adapter-64": Method("adapter", {"adapter": {"reduction": 64}}),
    "adapter-16": Method("adapter", {"adapter": {"reduction": 16}}),
    "adapter-4": Method("adapter", {"adapter": {"reduction": 4}}),
    "parallel-2": Method("adapter, parallel", {"adapter": {"form": "parallel", "reduction": 2}}),
    "parallel-1": Method("adapter, parallel", {"adapter": {"form": "parallel", "reduction": 1}}),
    "lora-qv-2": Method("lora, query and value", _lora(2)),
    "lora-qv-8": Method("lora, query and value", _lora(8)),
    "lora-qv-32": Method("lora, query and value", _lora(32)),
    "lora-all-2": Method("lora, everywhere", _lora(2, places=_EVERYWHERE)),
    "lora-all-8": Method("lora, everywhere", _lora(8, places=_EVERYWHERE)),
    "dora-all-8": Method("dora, everywhere", _lora(8, places=_EVERYWHERE, weight_decomposed=True)),
    "adalora-all-8": Method(
        "adalora, everywhere", {"adalora": {"places": _EVERYWHERE, "init_rank": 12, "target_rank": 8}}
    ),
    "adalora-all-2": Method(
        "adalora, everywhere", {"adalora": {"places": _EVERYWHERE, "init_rank": 3, "target_rank": 2}}
    ),
    "prefix-20": Method("prefix", {"prefix": {"length": 20}}),
    "prompt-20": Method("prompt", {"prompt": {"length": 20}}),
}
"""By the name that stands in tables. AdaLoRA ends at the budget that the LoRA of its size has."""


def find_methods(names: tuple[str, ...]) -> dict[str, Method]:
    """Those of these names; all by default.

    Raises:
        UsageError: one is not there.
    """
    for name in names:
        if name not in METHODS:
            raise UsageError(f"no method is called {name!r}; {suggest(name, list(METHODS))}")
    return {name: METHODS[name] for name in names or METHODS}
