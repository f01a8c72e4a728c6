"""LoRA, whole, in one file outside of pretune: low-rank updates beside frozen matrices, of the vocabulary too.

Source: Hu et al. 2021, arXiv 2106.09685.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pretune import config
from pretune.batch import Layout
from pretune.loss import Term
from pretune.models.model import LanguageModel
from pretune.nn.cross_entropy import linear_cross_entropy, sampled_cross_entropy
from pretune.nn.packed import Product, constant_product
from pretune.nn.projection import Projection, ProjectionBrick
from pretune.nn.vocabulary import VocabularyBrick
from pretune.tune.surgery import find_sites, merge_bricks


class Config(config.Config):
    """Where the updates stand, and how large they are.

    Attributes:
        places: roles, as `find_sites` takes them.
        rank: of the updates.
        alpha: they are multiplied by alpha / rank.
        decay: weight of the squared updates in the loss.
    """

    places: tuple[str, ...] = ("attention.query", "attention.value")
    rank: int = Field(4, ge=1)
    alpha: float = Field(8.0, gt=0)
    decay: float = Field(0.0, ge=0)


class Update(nn.Module):
    """A product of two thin matrices, 0 at the start."""

    def __init__(self, rows: int, columns: int, config: Config) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.empty(config.rank, columns))
        self.up = nn.Parameter(torch.empty(rows, config.rank))
        self.scale, self.config = config.alpha / config.rank, config
        self.progress: Tensor
        self.register_buffer("progress", torch.zeros(()))
        self.reset_parameters(0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Shape: (T, columns) -> (T, rows)."""
        return F.linear(F.linear(x, self.down), self.up) * self.scale

    def dense(self) -> Tensor:
        """Shape: (rows, columns)."""
        return self.up @ self.down * self.scale

    @torch.no_grad()
    def reset_parameters(self, std: float) -> None:
        """One factor is 0, so that nothing changes at the start."""
        self.down.normal_(0, std)
        self.up.zero_()


class LowRank(nn.Module):
    """What stands at a projection's place."""

    product = Projection.product  # multiplies by the dense matrix: fused like any other

    def __init__(self, base: ProjectionBrick, config: Config) -> None:
        super().__init__()
        self.base = base
        self.in_features, self.out_features = base.in_features, base.out_features
        self.update = Update(base.out_features, base.in_features, config)

    def forward(self, x: Tensor, layout: Layout | None = None) -> Tensor:
        """Shape: (T, in) -> (T, out)."""
        return self.base(x, layout) + self.update(x)

    def dense(self) -> tuple[Tensor, Tensor | None]:
        """Shape: (out, in), (out,)."""
        weight, bias = self.base.dense()
        return weight + self.update.dense(), bias

    def flops(self, rows: float) -> float:
        """Of the matrix and of both factors."""
        return self.base.flops(rows) + 2.0 * self.update.down.numel() * rows + 2.0 * self.update.up.numel() * rows

    def reset_parameters(self, std: float) -> None:
        """Of both."""
        self.base.reset_parameters(std)
        self.update.reset_parameters(std)


class LowRankVocabulary(nn.Module):
    """What stands at a vocabulary's place."""

    def __init__(self, base: VocabularyBrick, config: Config) -> None:
        super().__init__()
        self.base = base
        self.update = Update(base.size, base.width, config)

    @property
    def size(self) -> int:
        return self.base.size

    @property
    def width(self) -> int:
        return self.base.width

    def lookup(self, tokens: Tensor) -> Tensor:
        return self.base.lookup(tokens) + F.embedding(tokens, self.update.up) @ self.update.down * self.update.scale

    def scores(self, rows: Tensor, bias: Tensor | None = None) -> Tensor:
        return self.base.scores(rows, bias) + self.update(rows)

    def loss(self, rows: Tensor, labels: Tensor, bias: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return linear_cross_entropy(rows, self.dense(), bias, labels)

    def sampled_loss(
        self, rows: Tensor, labels: Tensor, uniform: Tensor, bias: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        return sampled_cross_entropy(rows, self.dense(), bias, labels, uniform)

    def row(self, ids: Tensor) -> Tensor:
        return self.lookup(ids)

    def dense(self) -> Tensor:
        return self.base.dense() + self.update.dense()

    def product(self, bias: Tensor | None = None) -> Product:
        return constant_product(self.dense(), bias)

    def flops(self, rows: float) -> float:
        return self.base.flops(rows)

    def reset_parameters(self, std: float) -> None:
        self.base.reset_parameters(std)
        self.update.reset_parameters(std)


def apply(model: LanguageModel, config: Config) -> LanguageModel:
    """Freeze the model but for new heads, and put updates at the chosen places."""
    fresh = set(model.loaded.initialised) if model.loaded else set()
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in fresh and name.startswith("heads."))
    for site in find_sites(model, config.places):
        brick = site.brick
        kind = LowRank if isinstance(brick, ProjectionBrick) else LowRankVocabulary
        site.replace(kind(brick, config))
    return model


def updates(model: nn.Module) -> dict[str, Update]:
    """All updates, each once."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Update)}


def terms(model: nn.Module) -> list[Term]:
    """The updates' mean square."""
    actual = [update for update in updates(model).values() if update.config.decay]
    if not actual:
        return []
    total = torch.stack([update.up.square().sum() + update.down.square().sum() for update in actual]).sum()
    return [Term("size", total, sum(u.up.numel() + u.down.numel() for u in actual), actual[0].config.decay)]


def after_step(model: nn.Module, fraction: float) -> None:
    """Keep how much of the run is done, as a method would that changes with it."""
    for update in updates(model).values():
        update.progress.fill_(fraction)


def merge(model: LanguageModel) -> LanguageModel:
    """Add every update to its matrix."""
    merge_bricks(model)
    return model


def acted(model: nn.Module) -> list[str]:
    """The places whose update is no longer 0."""
    return [name.removesuffix(".update") for name, update in updates(model).items() if bool(update.up.any())]
