"""The tuning method with bottleneck adapters: the body is frozen, and two narrow projections are learned in each layer.

Source: Houlsby et al. 2019, arXiv 1902.00751; Pfeiffer et al. 2020, arXiv 2005.00247; He et al. 2021, arXiv 2110.04366;
the names `double_seq_bn`, `seq_bn` and `par_bn` of the library `adapters`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal, TypeVar

from pydantic import Field, field_validator
from torch import nn

from pretune import config
from pretune.errors import UsageError
from pretune.nn.activation import activation
from pretune.nn.bottleneck import Bottleneck, NormAdapter, ParallelAdapter, SerialAdapter
from pretune.nn.projection import ProjectionBrick, device_of
from pretune.nn.tuned import Nothing
from pretune.tune.surgery import Site, freeze_body, projection_sites, select_sites

M = TypeVar("M", bound=nn.Module)
RATE = 1e-3  # Houlsby et al., section 3.1: 3e-5 to 3e-3 on GLUE
Form = Literal["houlsby", "pfeiffer", "parallel"]
_BRANCHES = {"attention.output": "attention", "cross.output": "cross", "feedforward.down": "feedforward"}
_USUAL: dict[Form, tuple[str, ...]] = {
    "houlsby": ("attention", "feedforward"),
    "pfeiffer": ("feedforward",),
    "parallel": ("feedforward",),
}
_ACTIVATION: dict[Form, str] = {"houlsby": "silu", "pfeiffer": "relu", "parallel": "relu"}
_REDUCTION: dict[Form, float] = {"houlsby": 16, "pfeiffer": 16, "parallel": 2}
_SCALE: dict[Form, float] = {"houlsby": 1, "pfeiffer": 1, "parallel": 4}


class Config(config.Config):
    """Where adapters stand, and how wide they are.

    Attributes:
        form: `pfeiffer` adds one behind each feed-forward and its norm, `houlsby` one at the end of attention and one
            of the feed-forward, before their norms, `parallel` one beside each feed-forward.
        places: branches, such as attention, cross, feedforward or layers[-2:]; by default attention and feedforward
            with `houlsby`, feedforward with the others.
        reduction: the model's width divided by an adapter's; by default 16, and 2 with `parallel`.
        activation: between the projections; by default relu, and silu with `houlsby`.
        scale: factor of what an adapter adds; by default 1, and 4 with `parallel`.
        dropout: rate at which that is dropped while training.
    """

    form: Form = "pfeiffer"
    places: tuple[str, ...] = ()
    reduction: float | None = Field(None, ge=0.25, allow_inf_nan=False)
    activation: str | None = None
    scale: float | None = Field(None, gt=0, allow_inf_nan=False)
    dropout: float = Field(0.0, ge=0, lt=1)

    @field_validator("activation")
    @classmethod
    def _is_known(cls, name: str | None) -> str | None:
        if name is not None:
            activation(name)
        return name


def apply(model: M, config: Config) -> M:
    """Freezes all but the heads, and puts adapters at the branches.

    Raises:
        UsageError: a place that names no branch, or one beside which no adapter stands.
    """
    known = branches(model)
    sites = select_sites(known, config.places) if config.places else _usual(known, config.form)
    freeze_body(model)
    for site in sites:
        assert isinstance(site.brick, ProjectionBrick)
        put(model, site, config.form, _bottleneck(site.brick, config))
    return model


def acted(model: nn.Module) -> list[str]:
    """The places of the adapters that change what they read."""
    return [name for name, brick in _bottlenecks(model) if not _is_zero(brick)]


def idle(model: nn.Module) -> list[str]:
    """The places of the adapters that still add nothing."""
    return [f"{name}: up is still 0" for name, brick in _bottlenecks(model) if _is_zero(brick)]


def _bottlenecks(model: nn.Module) -> list[tuple[str, Bottleneck]]:
    return [(name, brick) for name, brick in model.named_modules() if isinstance(brick, Bottleneck)]


def _is_zero(bottleneck: Bottleneck) -> bool:
    return not any(bool(weight.any()) for weight in bottleneck.up.parameters())


def branches(model: nn.Module) -> list[Site]:
    """Finds the branches of every layer: each as the site of the projection that ends it, with a branch's role.

    Raises:
        UsageError: the model has none.
    """
    ends = projection_sites(model)
    sites = [replace(site, role=_BRANCHES[site.role]) for site in ends if site.role in _BRANCHES]
    if not sites:
        roles = ", ".join(sorted({site.role for site in ends}))
        raise UsageError(f"tune.adapter: this model has no branch that ends in {', '.join(_BRANCHES)}; it has {roles}")
    return sites


def _usual(known: list[Site], form: Form) -> list[Site]:
    return [site for site in known if site.role in _USUAL[form]]


def put(model: nn.Module, site: Site, form: Form, bottleneck: Bottleneck) -> None:
    """Puts an adapter at a branch.

    Args:
        site: as `branches` gives it.

    Raises:
        UsageError: a parallel one beside something else than a feed-forward, or beside what stands there already.
    """
    block = _block(model, site)
    if form == "houlsby":
        assert isinstance(site.brick, ProjectionBrick)
        site.replace(SerialAdapter(site.brick, bottleneck))
        return
    norms = block.get_submodule("norms")
    if form == "pfeiffer":
        name = f"after_{site.role}"
        setattr(norms, name, NormAdapter(norms.get_submodule(name), bottleneck))
        return
    if site.role != "feedforward":
        raise UsageError(
            f"tune.adapter.places: a parallel adapter stands beside a feed-forward, and not beside {site.role}; name "
            "feedforward, or choose --tune.adapter.form houlsby"
        )
    beside = getattr(block, "beside", None)
    if not isinstance(beside, Nothing):
        raise UsageError(f"tune.adapter: {site.path} has no place for what stands beside it, or something is there")
    block.beside = ParallelAdapter(beside, bottleneck)


def found(model: nn.Module, site: Site) -> list[tuple[Form, Bottleneck]]:
    """The adapters that stand at a branch, of each form the outermost one."""
    block = _block(model, site)
    after = getattr(block.get_submodule("norms"), f"after_{site.role}", None)
    beside = getattr(block, "beside", None) if site.role == "feedforward" else None
    out: list[tuple[Form, Bottleneck]] = []
    if isinstance(site.brick, SerialAdapter):
        out.append(("houlsby", site.brick.bottleneck))
    if isinstance(after, NormAdapter):
        out.append(("pfeiffer", after.bottleneck))
    if isinstance(beside, ParallelAdapter):
        out.append(("parallel", beside.bottleneck))
    return out


def _block(model: nn.Module, site: Site) -> nn.Module:
    """The layer that a branch is in."""
    return model.get_submodule(site.path.rsplit(".", 2)[0])


def _bottleneck(end: ProjectionBrick, config: Config) -> Bottleneck:
    """A new bottleneck behind a projection, of its width."""
    form, width = config.form, end.out_features
    reduction = _REDUCTION[form] if config.reduction is None else config.reduction
    return Bottleneck(
        width,
        max(1, int(width // reduction)),
        activation(config.activation or _ACTIVATION[form]),
        _SCALE[form] if config.scale is None else config.scale,
        config.dropout,
        device_of(end),
    )
