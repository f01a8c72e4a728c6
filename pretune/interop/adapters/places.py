"""Says what the library `adapters` calls the places of adapters in each family, in the order of its layers.

Its layers are counted through an encoder-decoder: those of the decoder follow those of the encoder.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from pretune.errors import DataError
from pretune.interop.adapters.contents import Contents
from pretune.interop.description import model_type
from pretune.interop.peft.modules import FileModule, ModuleTable
from pretune.models.model import LanguageModel
from pretune.tune.adapter import branches
from pretune.tune.surgery import Site, projection_sites

BRANCH_FIELDS: Mapping[str, str] = {
    "attention": "mh_adapter",
    "cross": "cross_adapter",
    "feedforward": "output_adapter",
}
"""The field that gives a branch adapters, by its role."""
MATRIX_KEYS = ("q", "k", "v", "intermediate_lora", "output_lora")
"""What a low-rank product or factors may stand at: matrices of attention, and the two of a feed-forward."""


@dataclass(frozen=True)
class FamilyPlaces:
    """Where the library puts things in the class of a family.

    Attributes:
        stem: what the names of the library's classes begin with.
        levels: how many parts of a projection's name are left out for the module that adapters stand in.
        branch_modules: what stands behind that name, by the branch's role.
        roles: the projections of each of `MATRIX_KEYS`.
    """

    stem: str
    levels: int
    branch_modules: Mapping[str, str]
    roles: Mapping[str, Sequence[str]]


def _roles(up: Sequence[str], down: Sequence[str], *attentions: str) -> dict[str, Sequence[str]]:
    names = zip(MATRIX_KEYS, ("query", "key", "value"), strict=False)
    matrices = {key: [f"{each}.{name}" for each in attentions] for key, name in names}
    return {**matrices, "intermediate_lora": up, "output_lora": down}


_IN_BLOCK = {"attention": ".attention_adapters", "feedforward": ".output_adapters"}
_UP, _DOWN = ("feedforward.up",), ("feedforward.down",)
_IN_PLACE = {"attention": "", "feedforward": ""}
_BERT = _roles(_UP, _DOWN, "attention")
_T5 = _roles((*_UP, "feedforward.value"), _DOWN, "attention", "cross")
FAMILIES: Mapping[str, FamilyPlaces] = {
    "bert": FamilyPlaces("Bert", 1, _IN_PLACE, _BERT),
    "electra": FamilyPlaces("Electra", 1, _IN_PLACE, _BERT),
    "roberta": FamilyPlaces("Roberta", 1, _IN_PLACE, _BERT),
    "gpt2": FamilyPlaces("GPT2", 2, _IN_BLOCK, _BERT),
    # the library has the two matrices of Llama's feed-forward the other way round
    "llama": FamilyPlaces("Llama", 2, _IN_BLOCK, _roles(_DOWN, ("feedforward.value",), "attention")),
    "t5": FamilyPlaces("T5", 2, {**_IN_PLACE, "cross": ""}, _T5),
}


@dataclass(frozen=True)
class Branch:
    """A branch of a layer that may have an adapter.

    Attributes:
        site: of the projection that ends it.
        module: what the library calls the module that the adapter stands in.
        layer: its number, in the library's order.
    """

    site: Site
    module: str
    layer: int


@dataclass(frozen=True)
class Target:
    """A module whose matrices may have a low-rank product or factors.

    Attributes:
        module: with all its parts.
        keys: of `MATRIX_KEYS`, one for each part.
        layer: its number, in the library's order.
    """

    module: FileModule
    keys: tuple[str, ...]
    layer: int


def places_of(model: LanguageModel, where: str) -> FamilyPlaces:
    """What the library calls the places of a family.

    Raises:
        DataError: a family whose places are not known here.
    """
    places = FAMILIES.get(model.family)
    if places is None:
        raise DataError(
            f"{where}: field 'model_type' = {model_type(model.family)!r}: pretune knows the modules of adapters in "
            f"{', '.join(FAMILIES)}; keep the run's own folder, or use --format peft for LoRA and the like"
        )
    return places


def branches_of(model: LanguageModel, table: ModuleTable, where: str) -> list[Branch]:
    """All branches of a model that the library gives adapters.

    Args:
        table: of the model without surgery.
        where: the folder or the format, for messages.
    """
    places = places_of(model, where)
    out: list[Branch] = []
    for site in branches(model):
        module = table.at(site.path)
        if module is not None and site.role in places.branch_modules:
            stem = module.name.rsplit(".", places.levels)[0]
            out.append(Branch(site, stem + places.branch_modules[site.role], _layer(model, site)))
    return out


def targets_of(model: LanguageModel, table: ModuleTable, where: str) -> list[Target]:
    """All modules of a model that the library gives products or factors, as of `branches_of`."""
    keys = {role: key for key, roles in places_of(model, where).roles.items() for role in roles}
    sites = {site.path: site for site in projection_sites(model) if site.role in keys}
    modules = {module.name: module for path in sites if (module := table.at(path)) is not None}
    return [
        Target(
            module,
            tuple(keys[sites[part.path].role] for part in module.parts),
            _layer(model, sites[module.parts[0].path]),
        )
        for module in modules.values()
    ]


def chosen_keys(contents: Contents) -> set[str]:
    """Which of `MATRIX_KEYS` a configuration names.

    Raises:
        DataError: matrices of attention that the library has nothing for.
    """
    keys = {key for key in MATRIX_KEYS[3:] if contents.flag(key)}
    matrices = contents.fields.get("attn_matrices", ["q", "v"])
    if not all(each in MATRIX_KEYS[:3] for each in matrices):
        raise DataError(
            f"{contents.where}/adapter_config.json: field 'attn_matrices' = {str(matrices)[:80]}: expected some of q, "
            "k, v; adapters has nothing for others, leave them out"
        )
    return keys | (set(matrices) if contents.flag("selfattn_lora", default=True) else set())


def coverage(model: LanguageModel, targets: Sequence[Target], paths: Collection[str]) -> dict[str, object]:
    """The fields that say which matrices have a product or factors.

    Args:
        targets: all that there may be.
        paths: of the projections that have one.

    Raises:
        DataError: no configuration of the library means these projections and no others.
    """
    places = [(part.path, key, t.layer) for t in targets for part, key in zip(t.module.parts, t.keys, strict=True)]
    if odd := sorted(set(paths) - {path for path, _, _ in places}):
        raise DataError(
            f"format adapters: {odd[0]}: the library has no adapter of this matrix in {model.family}; export the "
            "merged model, or use --format peft"
        )
    keys = {key for path, key, _ in places if path in paths}
    layers = {layer for path, _, layer in places if path in paths}
    for path, key, layer in places:
        if path not in paths and key in keys and layer in layers:
            raise DataError(
                f"format adapters: {path} has none, and others like it have one: the library names matrices for whole "
                "layers; export the merged model, or use --format peft"
            )
    return {
        "attn_matrices": [key for key in MATRIX_KEYS[:3] if key in keys],
        "selfattn_lora": bool(keys & set(MATRIX_KEYS[:3])),
        "intermediate_lora": "intermediate_lora" in keys,
        "output_lora": "output_lora" in keys,
        "leave_out": sorted({layer for _, _, layer in places} - layers),
    }


def _layer(model: LanguageModel, site: Site) -> int:
    """The number of a site's layer, in the library's order."""
    assert site.layer is not None
    encoder = getattr(model, "encoder", None)
    is_decoder = model.has_encoder and not site.stack.startswith("encoder")
    return site.layer + (len(encoder.stack.blocks) if is_decoder and encoder is not None else 0)
