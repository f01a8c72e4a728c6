"""A cast of a tensor that is kept for as long as the tensor does not change."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class ConstantCast:
    """Casts a frozen tensor once, and again where it was changed in place or got other memory.

    Autocast would cast it in every step. A copy of this object is empty, so that a model's copy shares nothing with it.
    """

    def __init__(self) -> None:
        self._source: Tensor | None = None  # shares memory and version with the tensor, whose address stays taken
        self._version = -1
        self._cast: Tensor | None = None

    def __call__(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """The tensor in a dtype, without a gradient."""
        if tensor.is_inference():  # has no version, so that a change could not be seen
            return tensor.to(dtype)
        source, cast = self._source, self._cast
        if (
            source is None
            or cast is None
            or source.data_ptr() != tensor.data_ptr()
            or self._version != tensor._version
            or cast.dtype != dtype
            or cast.device != tensor.device
        ):
            with torch.inference_mode(False), torch.no_grad():
                self._source, self._version = tensor.detach(), tensor._version
                self._cast = cast = self._source.to(dtype)
        return cast

    def __deepcopy__(self, memo: dict[int, Any]) -> ConstantCast:
        return ConstantCast()

    def __reduce__(self) -> tuple[type[ConstantCast], tuple[()]]:
        return ConstantCast, ()
