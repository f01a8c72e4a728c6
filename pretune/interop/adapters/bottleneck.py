"""Bottleneck adapters in the files of `adapters`: the forms of Houlsby, of Pfeiffer, and beside a feed-forward.

A form is a choice of fields there: `original_ln_before` reads behind the branch's norm, as Pfeiffer's does, and
`is_parallel` reads what the branch does.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import Tensor

from pretune.errors import DataError
from pretune.find import suggest
from pretune.interop.adapter_files import CONFIG
from pretune.interop.adapters.contents import NAME, Contents, Found
from pretune.interop.adapters.places import BRANCH_FIELDS, Branch, branches_of
from pretune.interop.peft.modules import ModuleTable
from pretune.models.model import LanguageModel
from pretune.nn.activation import ACTIVATIONS, Activation
from pretune.nn.bottleneck import Bottleneck
from pretune.tune.adapter import Form, found, put

PLACE = "adapters"
_DOWN, _UP = "adapter_down.0", "adapter_up"
_PARTS: Mapping[str, str] = {f"{_DOWN}.": "down.", f"{_UP}.": "up."}
_OTHER_NAMES: Mapping[str, str] = {"leakyrelu": "leaky_relu"}
_OLD_ACTIVATIONS: Mapping[str, str] = {"gelu": "gelu_new", "gelu_orig": "gelu"}
"""What names meant in files without a version, as `adapters` 1.3.0 reads them."""
_UNKNOWN_THERE = ("sqrtsoftplus",)
_USUAL_NAMES: Mapping[str, str] = {"silu": "swish"}
_LEAST_REDUCTION = 0.25


@torch.no_grad()
def read(model: LanguageModel, contents: Contents, by_module: Found) -> None:
    """Puts the adapters of a folder on their branches."""
    table, form = ModuleTable(model), _form(contents)
    function = _activation(contents)
    named = {table.plain(module): tensors for module, tensors in by_module.items()}
    for branch in branches_of(model, table, contents.where):
        if not contents.flag(BRANCH_FIELDS[branch.site.role]) or branch.layer in contents.left_out():
            continue
        tensors = named.pop(table.plain(branch.module), None)
        if tensors is None:
            raise contents.damaged(f"{branch.module!r} has no adapter in the file, {CONFIG} says it has")
        bottleneck = _bottleneck(branch, tensors, function, model.width, contents)
        if form == "parallel" and branch.site.role != "feedforward":
            field = BRANCH_FIELDS[branch.site.role]
            raise DataError(
                f"{contents.where}/{CONFIG}: field {field!r} = true with 'is_parallel': pretune has adapters beside "
                "feed-forwards alone; use this adapter in the library adapters"
            )
        put(model, branch.site, form, bottleneck)
    if named:
        raise contents.damaged(f"an adapter of {next(iter(named))!r}, where {CONFIG} says there is none")


def _form(contents: Contents) -> Form:
    if contents.flag("is_parallel"):
        return "parallel"
    return "pfeiffer" if contents.flag("original_ln_before") else "houlsby"


def _activation(contents: Contents) -> Activation:
    """The activation that a configuration names, in the meaning of its release."""
    name = str(contents.fields.get("non_linearity")).lower()
    if not contents.outer.get("version"):
        name = _OLD_ACTIVATIONS.get(name, name)
    name = _OTHER_NAMES.get(name, name)
    if name not in ACTIVATIONS:
        raise DataError(
            f"{contents.where}/{CONFIG}: field 'non_linearity' = {name[:80]!r}: pretune has no such activation; "
            f"{suggest(name, sorted(ACTIVATIONS))}"
        )
    return ACTIVATIONS[name]


def _inner(branch: Branch, width: int, contents: Contents) -> int:
    """The width between the projections that the configuration says of a layer."""
    factor = contents.fields.get("reduction_factor")
    if isinstance(factor, Mapping):
        factor = factor.get(str(branch.layer), factor.get("default"))
    if isinstance(factor, bool) or not isinstance(factor, int | float) or factor < _LEAST_REDUCTION:
        raise DataError(
            f"{contents.where}/{CONFIG}: field 'reduction_factor' = {str(factor)[:80]} in layer {branch.layer}: "
            f"expected a number from {_LEAST_REDUCTION} on; correct the field"
        )
    return max(1, int(width // factor))


def _bottleneck(
    branch: Branch, tensors: Mapping[str, Tensor], function: Activation, width: int, contents: Contents
) -> Bottleneck:
    """An adapter with the tensors of a module."""
    inner = _inner(branch, width, contents)
    expected = {f"{_DOWN}.weight": (inner, width), f"{_DOWN}.bias": (inner,)}
    expected |= {f"{_UP}.weight": (width, inner), f"{_UP}.bias": (width,)}
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if shapes != expected:
        wrong = next(name for name in {**expected, **shapes} if expected.get(name) != shapes.get(name))
        raise contents.damaged(
            f"{branch.module!r}: {wrong} has shape {list(shapes.get(wrong, ()))}, the base and {CONFIG} ask for "
            f"{list(expected.get(wrong, ()))}"
        )
    scale, dropout = contents.number("scaling", default=1), contents.number("dropout", default=0)
    brick = Bottleneck(width, inner, function, scale, dropout)
    brick.load_state_dict({_own_name(name): tensor for name, tensor in tensors.items()})
    return brick


def _own_name(name: str) -> str:
    for theirs, ours in _PARTS.items():
        name = name.replace(theirs, ours)
    return name


@torch.no_grad()
def write(model: LanguageModel, table: ModuleTable) -> Contents | None:
    """What the files say of a model's adapters; None where it has none.

    Args:
        table: of the model without them.

    Raises:
        DataError: adapters that no one configuration of the library means.
    """
    if not any(isinstance(module, Bottleneck) for module in model.modules()):
        return None
    known = branches_of(model, table, "format adapters")
    pairs = [(branch, *each) for branch in known for each in found(model, branch.site)]
    if len(pairs) < sum(isinstance(module, Bottleneck) for module in model.modules()):
        raise DataError(
            "format adapters: some branch has several adapters, or one that the library has none for; keep the run's "
            "own folder"
        )
    form = _one({form for _, form, _ in pairs}, "forms")
    settings = _one({(b.activation, b.scale, b.dropout.p) for _, _, b in pairs}, "activations, scales or dropout rates")
    contents = Contents(model.family, _fields(form, *settings) | _places(known, pairs, model.width))
    for branch, _, brick in pairs:
        for name, tensor in brick.state_dict().items():
            part, parameter = name.split(".")
            theirs = f"{_DOWN if part == 'down' else _UP}.{parameter}"
            contents.tensors[f"{branch.module}.{PLACE}.{NAME}.{theirs}"] = tensor
    return contents


def _one(values: set[Any], what: str) -> Any:
    if len(values) > 1:
        raise DataError(f"format adapters: this model has adapters of several {what}; keep the run's own folder")
    return next(iter(values))


def _places(known: Sequence[Branch], pairs: Sequence[tuple[Branch, Form, Bottleneck]], width: int) -> dict[str, object]:
    """The fields that say where adapters stand, and how wide they are."""
    roles = {branch.site.role for branch, _, _ in pairs}
    widths: dict[int, int] = {}
    for branch, _, brick in pairs:
        inner = brick.down.out_features
        if widths.setdefault(branch.layer, inner) != inner:
            raise DataError(
                f"format adapters: adapters of layer {branch.layer} have several widths, and the library has one for a "
                "layer; keep the run's own folder"
            )
    placed = {branch.site.path for branch, _, _ in pairs}
    for branch in known:
        if branch.site.path not in placed and branch.site.role in roles and branch.layer in widths:
            raise DataError(
                f"format adapters: {branch.site.path} has no adapter, and other branches of its layer have one: the "
                "library names branches for all layers; keep the run's own folder"
            )
    factors = {layer: _factor(width, inner) for layer, inner in widths.items()}
    common = max(factors.values(), key=[*factors.values()].count)
    others = {str(layer): factor for layer, factor in factors.items() if factor != common}
    return {
        **{field: role in roles for role, field in BRANCH_FIELDS.items()},
        "leave_out": sorted({branch.layer for branch in known} - set(widths)),
        "reduction_factor": {**others, "default": common} if others else common,
    }


def _factor(width: int, inner: int) -> float:
    """The factor by which the library finds a width again: `width // factor`."""
    whole = width // inner
    if whole and width // whole == inner:
        return whole
    return math.nextafter(width / inner, 0)


def _name_of(function: Activation) -> str:
    names = [name for name, each in ACTIVATIONS.items() if each is function and name not in _UNKNOWN_THERE]
    if not names:
        raise DataError(
            "format adapters: the library has no activation like this model's; tune with another, such as "
            "--tune.adapter.activation relu"
        )
    return _USUAL_NAMES.get(names[0], names[0])


def _fields(form: Form, function: Activation, scale: float, dropout: float) -> dict[str, object]:
    """The fields that say what an adapter computes, those that ask for nothing included."""
    assert form in get_args(Form)
    return {
        "non_linearity": _name_of(function),
        "original_ln_before": form == "pfeiffer",
        "original_ln_after": True,
        "residual_before_ln": True,
        "adapter_residual_before_ln": False,
        "ln_before": False,
        "ln_after": False,
        "is_parallel": form == "parallel",
        "scaling": float(scale),
        "dropout": float(dropout),
        "init_weights": "mam_adapter" if form == "parallel" else "bert",
        "init_weights_seed": None,
        "use_gating": False,
        "inv_adapter": None,
        "inv_adapter_reduction_factor": None,
        "phm_layer": False,
        "phm_dim": 4,
        "factorized_phm_W": True,
        "shared_W_phm": False,
        "shared_phm_rule": True,
        "factorized_phm_rule": False,
        "phm_c_init": "normal",
        "phm_init_range": 0.0001,
        "learn_phm": True,
        "hypercomplex_nonlinearity": "glorot-uniform",
        "phm_rank": 1,
        "phm_bias": True,
        "stochastic_depth": 0.0,
    }
