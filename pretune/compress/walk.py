"""Goes through a model layer by layer with calibration data, so that each layer sees the outputs of those before it.

    batches --the model, up to a stack--> inputs of layer 0 --observe, change--> layer 0 again --> inputs of layer 1 ...

Only the inputs of one layer are in memory, for all batches. Stacks are visited in the order in which the model runs
them; a stack whose layers share blocks is visited as one layer. What no stack holds, such as heads, comes last, and is
observed by whole passes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from pretune.batch import Batch
from pretune.compress.calibration import Calibration
from pretune.compress.values.inputs import Inputs, Moments
from pretune.errors import DataError
from pretune.models.model import LanguageModel
from pretune.nn.stack import Stack
from pretune.runtime.device import inference_context
from pretune.tune.surgery import Site, projection_sites

_FORWARD = inspect.signature(Stack.forward)


class _StopForwardError(Exception):
    """Ends a forward when all that is wanted of it was seen."""


@dataclass(frozen=True)
class InputGroup:
    """Projections that read the same rows, and what is known of these.

    Attributes:
        sites: in the order in which they read.
        inputs: over all batches.
    """

    sites: tuple[Site, ...]
    inputs: Inputs


@dataclass
class _StackCall:
    """What a stack was called with for one batch; `x` is the input of the layer that is visited."""

    x: Tensor
    rest: dict[str, Any]


class Layer:
    """A layer, or what must be run together, that can be run with its inputs as often as needed.

    Args:
        sites: its projections.
        passes: a run of each batch, up to the end of the layer.
        is_once: each projection reads once in a pass, so that a pass may end early.
        inference: gives the context of a pass.
    """

    def __init__(
        self,
        sites: Sequence[Site],
        passes: Sequence[Callable[[], object]],
        is_once: bool,
        inference: Callable[[], Any],
    ) -> None:
        self.sites = tuple(sites)
        self._passes, self._is_once, self._inference = passes, is_once, inference

    def observe(self, pending: Sequence[Site]) -> InputGroup | None:
        """The inputs of those of some sites that read first, as the layer is now; None where none of them reads.

        Raises:
            DataError: inputs that are not finite.
        """
        observer = _InputObserver(self._is_once)
        bricks = [site.brick for site in pending]
        hooks = [
            brick.register_forward_pre_hook(partial(observer.observe, site))
            for site, brick in zip(pending, bricks, strict=True)
        ]
        try:
            for run in self._passes:
                observer.begin()
                with self._inference():
                    try:
                        run()
                    except _StopForwardError:
                        continue
        finally:
            for hook in hooks:
                hook.remove()
        return observer.group()


class _InputObserver:
    """Adds up the inputs of the site that reads first, and finds those that read the same rows."""

    def __init__(self, is_once: bool) -> None:
        self._is_once = is_once
        self._sites: list[Site] = []
        self._moments: Moments | None = None
        self._rows: Tensor | None = None
        self._is_first = True

    def begin(self) -> None:
        """Another batch begins."""
        self._is_first = not self._sites
        self._rows = None

    def observe(self, site: Site, brick: nn.Module, arguments: tuple[Any, ...]) -> None:
        """Takes the input of a projection."""
        x: Tensor = arguments[0]
        if not self._sites:
            self._sites.append(site)
        if site is self._sites[0]:
            if self._moments is None:
                self._moments = Moments(x.shape[-1], x.device)
            self._moments.add(x)
            self._rows = x
            if not self._is_first and self._is_once:
                raise _StopForwardError
        elif self._is_first and x is self._rows:
            if site not in self._sites:
                self._sites.append(site)
        elif self._is_first and self._rows is not None and self._is_once:
            raise _StopForwardError

    def group(self) -> InputGroup | None:
        """What was seen."""
        if self._moments is None:
            return None
        inputs = self._moments.inputs()
        if not inputs.moments.isfinite().all():
            raise DataError(
                f"{self._sites[0].path}: its inputs are not finite on the calibration data; the model's weights are "
                "damaged, or the texts are none for it: evaluate the model on them first"
            )
        return InputGroup(tuple(self._sites), inputs)


def walk(model: LanguageModel, calibration: Calibration, half: bool = False) -> Iterator[Layer]:
    """Visits all layers; whoever asks for the next one has changed the last.

    Args:
        half: matmuls of the passes are in bf16.
    """

    def inference() -> Any:
        return inference_context(model.device, half)

    sites = projection_sites(model)
    seen: set[str] = set()
    stacks = {name: module for name, module in model.named_modules() if isinstance(module, Stack) and module.order}
    batches = [replace(batch, output_rows=None) for batch in calibration.batches]
    while (captured := _capture_stack_calls(model, stacks, batches, inference)) is not None:
        name, calls = captured
        stack = stacks.pop(name)
        inside = [site for site in sites if site.path.startswith(f"{name}.")]
        seen |= {site.path for site in inside}
        is_shared = len(set(stack.order)) < len(stack.order)
        for number in range(1 if is_shared else len(stack.order)):
            until = None if is_shared else number + 1
            here = [s for s in inside if is_shared or s.path.startswith(f"{name}.blocks.{stack.order[number]}.")]
            passes = [partial(_run_blocks, stack, call, number, until) for call in calls]
            yield Layer(here, passes, not is_shared, inference)
            for call, run in zip(calls, passes, strict=True):
                with inference():
                    call.x = run()
    rest = [site for site in sites if site.path not in seen]
    if rest:
        objective = calibration.objective
        read = model if objective is None else partial(objective, model)
        yield Layer(
            rest, [partial(_read_batch, read, batch, model.device) for batch in calibration.batches], False, inference
        )


def _run_blocks(stack: Stack, call: _StackCall, number: int, until: int | None) -> Tensor:
    out: Tensor = stack(call.x, **call.rest, first=number, until=until)
    return out


def _read_batch(read: Callable[[Batch], object], batch: Batch, device: torch.device) -> object:
    return read(batch.to(device))


class _StackReachedError(Exception):
    """Ends a forward at the first of some stacks."""

    def __init__(self, name: str, call: _StackCall) -> None:
        super().__init__(name)
        self.name, self.call = name, call


def _capture_stack_calls(
    model: LanguageModel, stacks: dict[str, Stack], batches: Sequence[Batch], inference: Callable[[], Any]
) -> tuple[str, list[_StackCall]] | None:
    """The first stack that the model runs, and what it is called with for each batch; None where none is run."""

    def stop_at_stack(name: str, stack: nn.Module, arguments: tuple[Any, ...], names: dict[str, Any]) -> None:
        bound = _FORWARD.bind(stack, *arguments, **names).arguments
        rest: dict[str, Any] = {"layout": bound["layout"]}
        if "encoder_output" in bound:
            rest["encoder_output"] = bound["encoder_output"]
        raise _StackReachedError(name, _StackCall(bound["x"], rest))

    hooks = [
        stack.register_forward_pre_hook(partial(stop_at_stack, name), with_kwargs=True)
        for name, stack in stacks.items()
    ]
    calls: list[_StackCall] = []
    first = ""
    try:
        for batch in batches:
            with inference():
                try:
                    model(batch.to(model.device))
                    return None
                except _StackReachedError as reached:
                    first = reached.name
                    calls.append(reached.call)
    finally:
        for hook in hooks:
            hook.remove()
    return first, calls
