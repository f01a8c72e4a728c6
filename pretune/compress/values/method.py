"""The joint of ways to round: what a file of `values/`, or a user's own file, offers to `quantize`.

A file has a class `Config` and

- `choose(weight, format, inputs, config) -> dict[str, Tensor]`: the packed tensors of a matrix, with the levels and the
  scales that this way chooses. Shape: weight: (out, in) fp32; each tensor has a row for each row of the matrix;
- `NEEDS_INPUTS`: whether it measures inputs, so that calibration data are needed;

and where it changes other weights too

- `rescale(bricks, inputs, format, config) -> Tensor | None`: factors by which inputs are to be divided, and the columns
  of all projections that read them multiplied, before these are rounded; None to leave them. Shape: (in,). Whoever
  calls it folds the factors into what gives these inputs, where that is possible.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

from torch import Tensor

from pretune import config as configuration
from pretune.compress.values.inputs import Inputs
from pretune.errors import UsageError
from pretune.find import find_defining
from pretune.nn.formats.format import Format
from pretune.nn.formats.levels import LevelFormat


@dataclass(frozen=True)
class Values:
    """A way to round with its settings.

    Attributes:
        name: its file name, or the path to a user's own file.
        config: its settings.
        module: its file.
    """

    name: str
    config: configuration.Config
    module: ModuleType

    @property
    def needs_inputs(self) -> bool:
        """Whether it measures inputs."""
        return bool(getattr(self.module, "NEEDS_INPUTS", False))

    @property
    def rescales(self) -> bool:
        """Whether it changes the scale of inputs."""
        return hasattr(self.module, "rescale")

    def choose(self, weight: Tensor, format: Format, inputs: Inputs | None) -> dict[str, Tensor]:
        """The packed tensors of a matrix. Shape: (out, in) fp32 -> (out, ...) of each."""
        function: Callable[..., dict[str, Tensor]] = self.module.choose
        return function(weight, format, inputs, self.config)

    def rescale(self, weights: Sequence[Tensor], format: Format, inputs: Inputs) -> Tensor | None:
        """Factors by which the inputs of some matrices are to be divided. Shape: (out, in) each -> (in,)."""
        function: Callable[..., Tensor | None] = self.module.rescale
        return function(weights, format, inputs, self.config)


def find_values(name: str, settings: Mapping[str, object]) -> Values:
    """The way to round of a name or path, with validated settings.

    Raises:
        UsageError: no such way, a file without `Config` and `choose`, or a bad setting.
        MissingInputError: a path to a user's own file that does not exist.
    """
    module = find_defining("compress.values", name, ("Config", "choose"), f"values: {name!r}")
    config_class: type[configuration.Config] = module.Config
    return Values(name, configuration.validate(config_class, settings, f"values.{name}"), module)


def levels_of(format: Format, values: str) -> LevelFormat:
    """A format whose levels can be chosen.

    Raises:
        UsageError: the format has none.
    """
    if not isinstance(format, LevelFormat):
        raise UsageError(
            f"values {values!r} chooses among the levels of a format, and {format.NAME} has none; use values rtn, or "
            "a format such as q4_0"
        )
    return format


def inputs_of(inputs: Inputs | None, values: str) -> Inputs:
    """Inputs that were measured.

    Raises:
        UsageError: they were not.
    """
    if inputs is None:
        raise UsageError(f"values {values!r} needs calibration data; give --calibration, or use values rtn or hqq")
    return inputs
