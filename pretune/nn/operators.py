"""Makes a function an operator of torch, which its compiler and its autograd take as one: `operator`.

`torch.library.custom_op` does the same, imports torch's compiler when its operator is first called (800 modules, 1.2 s
of each process that trains or predicts) and goes through it in every call.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, cast

import torch

_T = TypeVar("_T")


def operator(
    name: str,
    shapes: Callable[..., object],
    backward: Callable[..., object] | None = None,
    save: Callable[..., None] | None = None,
) -> Callable[[Callable[..., _T]], Callable[..., _T]]:
    """Registers a function of tensors and numbers that changes none of its arguments.

    Args:
        name: of the operator, such as `pretune::ragged_matmul`.
        shapes: what gives empty results of the right shape, for tensors without memory.
        backward: gives the gradients of all arguments, from a context and the gradients of the results. Without one,
            a backward through the operator is an error.
        save: puts into the context what `backward` needs, from the arguments and the results.
    """

    def register(function: Callable[..., _T]) -> Callable[..., _T]:
        schema = torch.library.infer_schema(function, mutates_args=())
        torch.library.define(name, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(name, "CompositeExplicitAutograd", function)
        torch.library.register_fake(name, shapes)
        torch.library.register_autograd(name, backward or _refuse(name), setup_context=save)
        namespace, _, own = name.partition("::")
        return cast(Callable[..., _T], getattr(getattr(torch.ops, namespace), own).default)

    return register


def _refuse(name: str) -> Callable[..., NoReturn]:
    """A backward that is an error."""

    def refuse(ctx: Any, *grads: Any) -> NoReturn:
        raise NotImplementedError(f"{name} has no backward: gradients of its gradients are not supported")

    return refuse
