"""Finds the sets of a comparison: each module `sets_*.py` of its package lists some as `SETS`."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from types import ModuleType
from typing import Any, Protocol, TypeVar

from pretune.errors import UsageError
from pretune.find import suggest


class Named(Protocol):
    """A set."""

    @property
    def name(self) -> str:
        """What it is called on the command line."""


SetT = TypeVar("SetT", bound=Named)


def sets_of(package: ModuleType, kind: type[SetT]) -> dict[str, SetT]:
    """Every set of a package, by its name.

    Args:
        kind: the class of its sets.
    """
    sets: dict[str, SetT] = {}
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.startswith("sets_"):
            listed: Any = importlib.import_module(f"{package.__name__}.{module.name}").SETS
            sets |= {each.name: each for each in listed if isinstance(each, kind)}
    return sets


def choose_set(name: str, sets: Mapping[str, SetT]) -> SetT:
    """The set of a name.

    Raises:
        UsageError: there is none.
    """
    if name not in sets:
        raise UsageError(f"no set is called {name!r}; {suggest(name, list(sets))}")
    return sets[name]
