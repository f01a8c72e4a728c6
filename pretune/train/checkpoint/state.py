"""Saves and restores a checkpoint's content: weights, optimizer, and the few numbers that determine all else."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pretune.errors import DataError, UsageError
from pretune.interop.run_names import MODEL, OPTIMIZER, STATE
from pretune.optim.optimizer import OptimizerConfig
from pretune.train.spike import History

Number = float | int | None


@dataclass
class MetricWindow:
    """Sums since the last line of metrics.

    Attributes:
        sums, counts, correct: of each term, over all ranks.
        weights: of each term in the total loss.
        tokens, flops: over all ranks; flops are those of matmuls that really ran.
        seconds, data_wait: in training steps, and of them spent waiting for data.
        norm, lr: gradient norm and learning rate of the last step.
    """

    sums: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    correct: dict[str, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)
    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    data_wait: float = 0.0
    norm: float = 0.0
    lr: float = 0.0

    def metrics(self, peak: float) -> dict[str, float]:
        """Means of the window: loss, accuracy, speed."""
        out = means(self.sums, self.counts, self.correct, self.weights)
        out |= {"lr": self.lr, "grad_norm": self.norm}
        if self.seconds > 0:
            out["tokens_per_second"] = self.tokens / self.seconds
            out["data_wait"] = self.data_wait / self.seconds
            if peak > 0 and self.flops > 0:
                out["gemm_utilization"] = self.flops / self.seconds / peak
        return out


def means(
    sums: Mapping[str, float], counts: Mapping[str, int], correct: Mapping[str, float], weights: Mapping[str, float]
) -> dict[str, float]:
    """`loss`, `loss/<term>` and `accuracy/<term>` from sums and counts; terms without predictions are left out."""
    seen = [name for name in sums if counts.get(name)]
    out = {"loss": sum(weights[name] * sums[name] / counts[name] for name in seen)}
    out |= {f"loss/{name}": sums[name] / counts[name] for name in seen}
    return out | {f"accuracy/{name}": correct[name] / counts[name] for name in seen if name in correct}


@dataclass
class State:
    """Where a run stands.

    Attributes:
        step: steps done, skipped ones included.
        tokens, samples: through the model, over all ranks.
        seconds: time in the loop, over all restarts.
        epoch: passes over the data.
        fraction: part of the budget used at the end of the last step.
        fraction_before: part used at its beginning.
        cursors: samples consumed of each store, for each part of the objective.
        evaluated: step of the last evaluation.
        evaluations: steps of the last evaluations, where their weights are averaged.
        best, best_step: best value of the metric and its step.
        best_adapters: of each adapter where tasks have their own, the best value of its metric, and its step.
        stale_evaluations: evaluations since then.
        has_finite_evaluation: the loss of the last evaluation is a finite number, or there was none.
        skipped: steps that the optimizer did not see: not finite, or spikes.
        consecutive_skips: steps in a row that were not finite, up to now.
        spikes, consecutive_spikes: steps whose loss or gradient was far above those before, in all and in a row.
        rollbacks: [step that was given up, step that the run went back to], in their order.
        losses: of the last steps, which tell a spike; see `train/spike.py`.
        window: the metrics that are still being added up.
        data_stats: what was cut, displaced or left out while batches were built.
        metrics_bytes: size of the metrics file.
        fingerprint: what must be equal for bit-exact results.
        optimizer: name of the optimizer whose state is saved.
        optimizer_numbers: what it keeps beside tensors; see `optimizer_numbers`.
    """

    step: int = 0
    tokens: int = 0
    samples: int = 0
    seconds: float = 0.0
    epoch: float = 0.0
    fraction: float = 0.0
    fraction_before: float = 0.0
    cursors: list[list[int]] = field(default_factory=list)
    evaluated: int = 0
    evaluations: list[int] = field(default_factory=list)
    best: float | None = None
    best_step: int | None = None
    best_adapters: dict[str, list[float]] = field(default_factory=dict)
    stale_evaluations: int = 0
    has_finite_evaluation: bool = True
    skipped: int = 0
    consecutive_skips: int = 0
    spikes: int = 0
    consecutive_spikes: int = 0
    rollbacks: list[list[int]] = field(default_factory=list)
    losses: History = field(default_factory=dict)
    window: MetricWindow = field(default_factory=MetricWindow)
    data_stats: dict[str, int] = field(default_factory=dict)
    metrics_bytes: int = 0
    fingerprint: dict[str, str | int] = field(default_factory=dict)
    optimizer: str = ""
    optimizer_numbers: dict[str, Number] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """As JSON, in the order of the run's own tables: sums over them are in the same order after a resume."""
        path.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> State:
        """The state of a verified checkpoint.

        Raises:
            DataError: the file has other fields than this version writes.
        """
        try:
            tree: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return cls(**{**tree, "window": MetricWindow(**tree["window"])})
        except (TypeError, KeyError, ValueError, RecursionError) as error:
            raise DataError(f"{path}: not a state of this version of pretune ({error}); begin a new run") from None


def save(directory: Path, root: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
    """Fill a checkpoint directory.

    Raises:
        UsageError: the optimizer keeps something that is neither a tensor nor a number.
    """
    metadata = {"format": "pt"}
    save_file(learned_tensors(root), directory / MODEL, metadata)
    save_file(optimizer_tensors(root, optimizer), directory / OPTIMIZER, metadata)
    state.optimizer_numbers = optimizer_numbers(root, optimizer)
    state.write(directory / STATE)


def restore(
    directory: Path,
    root: nn.Module,
    optimizer: torch.optim.Optimizer | None,
    config: OptimizerConfig | None = None,
) -> State:
    """Put a verified checkpoint into a root module and its optimizer.

    Args:
        optimizer: None to restore the weights alone.
        config: of the optimizer; its fields stay as the recipe says. The state of an optimizer of another name is left
            out.

    Raises:
        DataError: the tensors are not those of this model.
    """
    state = State.read(directory / STATE)
    _fill(learned_tensors(root), load_file(directory / MODEL), directory / MODEL)
    if optimizer is not None and config is not None and config.name == state.optimizer:
        _restore_optimizer(root, optimizer, load_file(directory / OPTIMIZER))
        fixed = {*type(config).model_fields, "initial_lr"}
        _restore_numbers(root, optimizer, state.optimizer_numbers, fixed)
    return state


def learned_tensors(root: nn.Module) -> dict[str, Tensor]:
    """What a checkpoint holds of a root module: all but weights that no step changes, which the run began with.

    A tuning method says which weights it changes beside those that learn (`changes`).
    """
    tensors, method, model = root_tensors(root), getattr(root, "method", None), getattr(root, "model", None)
    if model is None:
        return tensors
    changes: set[str] = set() if method is None else method.changes(model)
    frozen = (name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad)
    fixed = {f"model.{name}" for name in frozen if name not in changes}
    return {name: tensor for name, tensor in tensors.items() if name not in fixed}


def root_tensors(root: nn.Module) -> dict[str, Tensor]:
    """Parameters and persistent buffers by name; a tied weight once, under its first name."""
    seen: set[int] = set()
    out: dict[str, Tensor] = {}
    for name, tensor in root.state_dict().items():
        if tensor.data_ptr() not in seen or not tensor.numel():
            seen.add(tensor.data_ptr())
            out[name] = tensor.detach()
    return out


def optimizer_tensors(root: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """State of each parameter that has one, as `<parameter>/<slot>`."""
    return {
        f"{name}/{slot}": value
        for name, parameter in root.named_parameters()
        for slot, value in optimizer.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def optimizer_numbers(root: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Number]:
    """What an optimizer keeps beside tensors: `<parameter>/<slot>`, and `<number of a group>/<field>` of its groups.

    Raises:
        UsageError: it keeps something that is neither a tensor nor a number in the state of a parameter.
    """
    out: dict[str, Number] = {}
    for name, parameter in root.named_parameters():
        for slot, value in optimizer.state.get(parameter, {}).items():
            if not isinstance(value, Tensor | int | float | None):
                raise UsageError(
                    f"the optimizer keeps {type(value).__name__} as {slot!r} of {name!r}, which a checkpoint cannot "
                    "hold; keep tensors and numbers only"
                )
            if not isinstance(value, Tensor):
                out[f"{name}/{slot}"] = value
    for n, group in enumerate(optimizer.param_groups):
        out |= {f"{n}/{field}": value for field, value in group.items() if isinstance(value, int | float)}
    return out


def _restore_numbers(
    root: nn.Module, optimizer: torch.optim.Optimizer, numbers: Mapping[str, Number], fixed: Collection[str]
) -> None:
    parameters = dict(root.named_parameters())
    for key, value in numbers.items():
        name, _, field_ = key.rpartition("/")
        if name in parameters:
            optimizer.state[parameters[name]][field_] = value
        elif name.isdigit() and int(name) < len(optimizer.param_groups) and field_ not in fixed:
            optimizer.param_groups[int(name)][field_] = value


def _restore_optimizer(root: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    parameters = dict(root.named_parameters())
    optimizer.state.clear()
    for key, value in tensors.items():
        name, _, slot = key.rpartition("/")
        if name not in parameters:
            raise DataError(f"{OPTIMIZER}: state of {name!r}, which this model does not have")
        parameter = parameters[name]
        optimizer.state[parameter][slot] = value.to(parameter.device)


def _fill(into: dict[str, Tensor], tensors: dict[str, Tensor], path: Path) -> None:
    if set(into) != set(tensors):
        odd = sorted(set(into) ^ set(tensors))
        raise DataError(f"{path}: not the tensors of this model; {odd[0]!r} and {len(odd) - 1} more differ")
    for name, tensor in into.items():
        if tensor.shape != tensors[name].shape:
            raise DataError(f"{path}: {name!r} is {tuple(tensors[name].shape)}, the model has {tuple(tensor.shape)}")
        with torch.no_grad():
            tensor.copy_(tensors[name])
