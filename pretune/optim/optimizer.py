"""What all optimizers share: finding one by name, the groups of its parameters, and a step with schedule and clipping.

An optimizer is a file with two things. `Config`, a subclass of `OptimizerConfig`, holds its settings: the recipe's
table `[optimizer]` is read into it. `build(parameters, config, dtype)` gives a `torch.optim.Optimizer`. Each of its
groups may have a learning rate of its own, which the schedule multiplies; groups are split where places of the model
have rates of their own (see `rates`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Protocol, TypeVar, cast

from pydantic import BeforeValidator, Field, SerializeAsAny

from pretune import config as configuration
from pretune.errors import UsageError
from pretune.find import find
from pretune.optim.rates import rate_factors

if TYPE_CHECKING:  # the configuration is read without torch
    import torch
    from torch import Tensor, nn

DEFAULT = "adamw"
Purpose = Literal["objective", "task", "heads", "parts"]
"""What a run trains: a pretraining objective, a task, a task's heads alone, or parts that surgery adds."""


def _join_names(value: object) -> object:
    """A table of rates whose names hold dots, as a command line or a table in a table gives them."""
    return configuration.flatten(value) if isinstance(value, Mapping) else value


_Factor = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class OptimizerConfig(configuration.Config):
    """How gradients become steps; each optimizer adds fields of its own.

    Attributes:
        name: a file of `optim/`, or a user's own file by its path.
        lr: learning rate at the peak of the schedule.
        clip: maximal global norm of the gradient; 0 does not clip.
        rates: factors of the learning rate by place, such as `{"heads" = 10, "layers[0:2]" = 0.1}`.
        layer_decay: factor of the learning rate from each layer to the one below it; 1 for the same rate everywhere.
        usual_lr: range of learning rates of published runs, by what is trained; outside it a run warns.
    """

    usual_lr: ClassVar[Mapping[Purpose, tuple[float, float]]] = {}

    name: str = DEFAULT
    lr: float = Field(5e-4, gt=0, allow_inf_nan=False)
    clip: float = Field(1.0, ge=0, allow_inf_nan=False)
    rates: Annotated[dict[str, _Factor], BeforeValidator(_join_names)] = Field(default_factory=dict)
    layer_decay: float = Field(1.0, gt=0, le=1)


ConfigT = TypeVar("ConfigT", bound=OptimizerConfig)


class LearnedParameters(dict[str, "nn.Parameter"]):
    """The parameters that learn, by name.

    Attributes:
        added: names of those that a tuning method put beside a brick, such as low-rank factors: small matrices that are
            no layer's weights.
    """

    def __init__(self, root: nn.Module) -> None:
        super().__init__((name, p) for name, p in root.named_parameters() if p.requires_grad)
        tuned = [f"{name}." for name, module in root.named_modules() if "base" in dict(module.named_children())]
        self.added = frozenset(
            name
            for name in self
            if ".prefix." in name or any(name.startswith(p) and not name.startswith(f"{p}base.") for p in tuned)
        )


class OptimizerFile(Protocol[ConfigT]):
    """What a file of `optim/`, or a user's own, offers."""

    Config: type[ConfigT]

    def build(
        self, parameters: Mapping[str, nn.Parameter], config: ConfigT, dtype: torch.dtype
    ) -> torch.optim.Optimizer:
        """The optimizer of the parameters that learn.

        Args:
            parameters: by name; `LearnedParameters`, in a run.
            config: an instance of the file's `Config`.
            dtype: of the matmuls that the optimizer makes, if it makes any: fp32 or bf16.
        """


def find_optimizer(name: str) -> OptimizerFile[OptimizerConfig]:
    """The file of an optimizer.

    Raises:
        UsageError: no such file (the nearest name is given), or one without `Config` or `build`.
        MissingInputError: a path to a user's own file that does not exist.
    """
    module = find("optim", name)
    config = getattr(module, "Config", None)
    if not (isinstance(config, type) and issubclass(config, OptimizerConfig)) or not hasattr(module, "build"):
        raise UsageError(
            f"optimizer.name = {name!r}: the file must define Config (a subclass of "
            "pretune.optim.optimizer.OptimizerConfig) and build(parameters, config, dtype)"
        )
    return cast(OptimizerFile[OptimizerConfig], module)


def _read_table(value: object) -> object:
    """The table `[optimizer]` of a recipe as the `Config` of the optimizer that it names."""
    if not isinstance(value, Mapping):
        return value
    name = value.get("name", DEFAULT)
    if not isinstance(name, str):
        return value  # refused as a field of the wrong type
    return configuration.validate_variant(find_optimizer(name).Config, {**value, "name": name})


OptimizerTable = Annotated[SerializeAsAny[OptimizerConfig], BeforeValidator(_read_table)]
"""The table `[optimizer]` of a recipe."""


def build_optimizer(
    root: nn.Module, config: OptimizerConfig, precision: Literal["bf16", "fp32"] = "fp32"
) -> torch.optim.Optimizer:
    """The optimizer over the parameters of a module that learn.

    Args:
        precision: dtype of the optimizer's own matmuls.

    Raises:
        UsageError: a parameter that learns is in no group, a group has no learning rate, or a rate is for a place that
            there is not.
    """
    import torch

    parameters = LearnedParameters(root)
    factors = place_factors(root, config)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    try:
        optimizer = find_optimizer(config.name).build(parameters, config, dtype)
    except ValueError as error:  # as optimizers of torch refuse their settings
        raise UsageError(f"optimizer.name = {config.name!r}: {error}; correct its settings") from error
    covered = {id(p) for group in optimizer.param_groups for p in group["params"]}
    missing = [name for name, p in parameters.items() if id(p) not in covered]
    if missing:
        raise UsageError(
            f"optimizer.name = {config.name!r}: {missing[0]!r} and {len(missing) - 1} more parameters are in none of "
            "its groups and would not learn; put every parameter that build() is given into a group"
        )
    _split_groups(optimizer, {id(p): factors[name] for name, p in parameters.items()})
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
    return optimizer


def place_factors(root: nn.Module, config: OptimizerConfig) -> dict[str, float]:
    """By what the learning rate of each parameter that learns is multiplied, by name.

    Raises:
        UsageError: a rate is for a place that there is not.
    """
    names = {name: p.requires_grad for name, p in root.named_parameters()}
    learning = [name for name, learns in names.items() if learns]
    return rate_factors(names, learning, config.rates, config.layer_decay)


def _split_groups(optimizer: torch.optim.Optimizer, factors: Mapping[int, float]) -> None:
    """Divides groups by the factors of their parameters' learning rates, by the parameters' `id`."""
    groups = [
        {**group, "params": members, "lr": group["lr"] * factor}
        for group in optimizer.param_groups
        for factor in dict.fromkeys(factors.get(id(p), 1.0) for p in group["params"])
        if (members := [p for p in group["params"] if factors.get(id(p), 1.0) == factor])
    ]
    optimizer.param_groups[:] = groups or optimizer.param_groups


def decay_groups(parameters: Sequence[nn.Parameter], weight_decay: float) -> list[dict[str, object]]:
    """Two groups: matrices and embeddings, which decay, and biases and norms, which do not; empty ones left out.

    Source: which parameters decay as in BERT and GPT-2, those of two dimensions and more.
    """
    groups: list[dict[str, object]] = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]] or [{"params": []}]


def gradient_norm(optimizer: torch.optim.Optimizer) -> Tensor:
    """Global norm of the gradient; not finite as soon as one element is not.

    Shape:
        return: () fp32 on the device of the gradients; no synchronization.
    """
    import torch

    grads = gradients(optimizer)
    return _norm(grads) if grads else torch.zeros(())


def update(
    optimizer: torch.optim.Optimizer,
    factor: float,
    norm: float,
    clip: float,
    clip_groups: Sequence[Sequence[nn.Parameter]] = (),
) -> None:
    """One optimizer step with every group's learning rate multiplied by `factor`, the gradient scaled down to `clip`.

    The fused kernels of CPU and CUDA divide the gradient by `grad_scale` while they read it, which spares clipping its
    own pass.

    Args:
        factor: of the schedule.
        norm: the gradient's global norm, finite: a step with another must be skipped by the caller.
        clip_groups: parameters that are clipped by a norm of their own; by default all are by the global one.
    """
    import torch

    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    scale = found_inf = None
    for parameters in clip_groups:
        _clip([p.grad for p in parameters if p.grad is not None], clip)
    if not clip_groups and 0 < clip < norm:
        grads = gradients(optimizer)
        device = grads[0].device
        if getattr(optimizer, "_step_supports_amp_scaling", False) and device.type in ("cpu", "cuda"):
            scale = torch.tensor(norm / clip, dtype=torch.float32, device=device)
            found_inf = torch.zeros((), dtype=torch.float32, device=device)
        else:
            torch._foreach_mul_(grads, clip / norm)
    optimizer.grad_scale, optimizer.found_inf = scale, found_inf  # type: ignore[attr-defined]
    optimizer.step()


def _clip(grads: list[Tensor], clip: float) -> None:
    """Scales gradients so that their norm is `clip` at most; 0 does not."""
    import torch

    norm = float(_norm(grads)) if clip and grads else 0.0
    if norm > clip:
        torch._foreach_mul_(grads, clip / norm)


def _norm(grads: list[Tensor]) -> Tensor:
    """Shape: return: () fp32."""
    import torch

    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(grads)))
    return norm


def gradients(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """The gradients that there are."""
    return [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
