"""Low-rank products of vocabularies in PEFT's files, where an embedding and the head that is tied to it have one each.

An embedding's product is the other way round: `lora_embedding_A` has a column for each token.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from pretune.errors import DataError
from pretune.interop.peft.contents import Contents
from pretune.interop.peft.modules import ModuleTable
from pretune.interop.peft.saved import untie
from pretune.models.model import LanguageModel
from pretune.nn.heads import VocabularyHead
from pretune.nn.low_rank import LowRankVocabulary
from pretune.nn.vocabulary import VocabularyBrick
from pretune.tune.surgery import vocabulary_sites

EMBEDDING_A, EMBEDDING_B = PARTS = ("lora_embedding_A", "lora_embedding_B")


@dataclass(frozen=True)
class Product:
    """A low-rank product as a module of the files has it.

    Shape:
        a: (rank, width); b: (V, rank)
    """

    a: Tensor
    b: Tensor
    scale: float

    def equals(self, other: Product) -> bool:
        """Whether both change a vocabulary alike."""
        return torch.equal(self.a, other.a) and torch.equal(self.b, other.b) and self.scale == other.scale


def factors(name: str, tensors: Mapping[str, Tensor], contents: Contents) -> tuple[Tensor, Tensor]:
    """The factors of a vocabulary's product. Shape: (rank, width), (V, rank)."""
    if tensors.keys() == set(PARTS):
        return tensors[EMBEDDING_B].t(), tensors[EMBEDDING_A].t()
    if tensors.keys() == {"lora_A", "lora_B"}:
        return tensors["lora_A"], tensors["lora_B"]
    if "lora_magnitude_vector" in tensors:
        raise DataError(
            f"{contents.where}: {name!r} is a weight-decomposed vocabulary (use_dora), which pretune does not read; "
            "merge the adapter in peft, and use the merged model"
        )
    raise contents.damaged(f"{name!r} has {', '.join(tensors)} and no more")


@torch.no_grad()
def read(model: LanguageModel, table: ModuleTable, products: Mapping[str, Product], contents: Contents) -> None:
    """Puts products on the vocabularies of a model: one for all that it serves, or for each what the files have."""
    for site in vocabulary_sites(model):
        places = _places(model, site.brick)
        own = {served: p for name, p in products.items() if (served := table.vocabulary(name)) in places}
        if not own:
            continue
        base = site.brick
        assert isinstance(base, VocabularyBrick)
        first = next(iter(own.values()))
        if len(own) == len(places) and all(product.equals(first) for product in own.values()):
            site.replace(_brick(base, first, contents))
            continue
        for served, product in own.items():
            places[served](_brick(base, product, contents))
        untie(model)


def _brick(base: VocabularyBrick, product: Product, contents: Contents) -> LowRankVocabulary:
    if product.a.shape[1] != base.width or len(product.b) != base.size:
        raise contents.damaged(
            f"a product of {len(product.b)} x {product.a.shape[1]}, the vocabulary is {base.size} x {base.width}"
        )
    brick = LowRankVocabulary(base, len(product.a), product.scale)
    brick.a.copy_(product.a)
    brick.b.copy_(product.b)
    return brick


def _places(model: LanguageModel, vocabulary: nn.Module) -> dict[str, Callable[[nn.Module], None]]:
    """What a vocabulary serves, and how to give it another."""
    encoder = getattr(model, "encoder", None)
    embeddings = {"embedding.word": model.embedding}
    if model.has_encoder and encoder is not None:
        embeddings["encoder.embedding.word"] = encoder.embedding
    places: dict[str, Callable[[nn.Module], None]] = {
        path: partial(setattr, each, "word")
        for path, each in embeddings.items()
        if cast(object, each.word) is vocabulary
    }
    for role, head in model.heads.items():
        if isinstance(head, VocabularyHead) and isinstance(vocabulary, VocabularyBrick) and head.is_tied(vocabulary):
            places[f"heads.{role}"] = cast(Callable[[nn.Module], None], head.tie)
    return places


def bricks_of(model: LanguageModel) -> dict[str, LowRankVocabulary]:
    """The products of a model's vocabularies, by what they serve.

    Raises:
        DataError: a weight-decomposed one.
    """
    by_path: dict[str, LowRankVocabulary] = {}
    for site in vocabulary_sites(model):
        if type(site.brick) is LowRankVocabulary:
            by_path |= dict.fromkeys(_places(model, site.brick), site.brick)
        elif isinstance(site.brick, LowRankVocabulary) and hasattr(site.brick, "magnitude"):
            raise DataError(
                f"format peft: {site.path} is a weight-decomposed vocabulary, which pretune does not write; export the "
                "merged model"
            )
    return by_path


def named(table: ModuleTable, bricks: Mapping[str, LowRankVocabulary]) -> dict[str, LowRankVocabulary]:
    """The same by the names of modules."""
    return {name: brick for path, brick in bricks.items() for name in table.vocabulary_names(path)}


def tensors_of(prefix: str, name: str, table: ModuleTable, brick: LowRankVocabulary) -> dict[str, Tensor]:
    """The tensors of a product in the files.

    Args:
        prefix: what their names begin with.
        name: of the module.
    """
    a, b = brick.a.detach(), brick.b.detach()
    if (table.vocabulary(name) or "").startswith("heads."):
        return {f"{prefix}.lora_A.weight": a, f"{prefix}.lora_B.weight": b}
    return {f"{prefix}.{EMBEDDING_A}": b.t(), f"{prefix}.{EMBEDDING_B}": a.t()}
