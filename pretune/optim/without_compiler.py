"""Optimizers of torch that do not import its compiler: `without_compiler`.

`torch.optim` wraps a step, and what adds parameters, for `torch.compile`; each wrapper imports the compiler, 800
modules that take 1.2 s of each process that trains, and goes through it in every call.
"""

from __future__ import annotations

import inspect
from typing import Any, TypeVar, cast

import torch

OptimizerT = TypeVar("OptimizerT", bound=torch.optim.Optimizer)
_WRAPPED = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
_plain: dict[type[torch.optim.Optimizer], type[torch.optim.Optimizer]] = {}


def without_compiler(kind: type[OptimizerT]) -> type[OptimizerT]:
    """The same optimizer, whose methods are those that torch wraps; its steps are not to be differentiated."""
    if kind not in _plain:
        methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in _WRAPPED}
        methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
        _plain[kind] = type(kind.__name__, (kind,), {**methods, "__module__": __name__, "__doc__": kind.__doc__})
    return cast(type[OptimizerT], _plain[kind])
