"""The tuning method BitFit: the biases train, with the heads; all else of the body is frozen.

Source: Ben Zaken et al. 2021, arXiv 2106.10199.
"""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from pretune import config
from pretune.errors import UsageError
from pretune.places import Place
from pretune.tune.surgery import Site, freeze_body, select_sites

M = TypeVar("M", bound=nn.Module)
RATE = 5e-4  # Ben Zaken et al., section 3: 1e-4 to 1e-3
DIFFERENCE = True


class Config(config.Config):
    """Which biases train.

    Attributes:
        places: roles such as attention.query, feedforward.up, norms or layers[-2:]; by default every bias below the
            heads.
    """

    places: tuple[str, ...] = ()


def apply(model: M, config: Config) -> M:
    """Freezes all but the biases and the heads.

    Raises:
        UsageError: a model without biases, or a place that has none.
    """
    known = _bias_sites(model)
    if not known:
        raise UsageError(
            "tune.bitfit: this model has no biases below its heads; choose --tune ia3, which learns as few numbers"
        )
    parameters = dict(model.named_parameters())
    biases = [parameters[site.path] for site in (select_sites(known, config.places) if config.places else known)]
    freeze_body(model)
    for bias in biases:
        bias.requires_grad_(True)
    return model


def merge(model: M) -> M:
    """Leaves the model as it is: the biases stand in their places."""
    return model


def _bias_sites(model: nn.Module) -> list[Site]:
    """Finds the biases of the body, those of XLNet's scores included."""
    sites = []
    for path, _ in model.named_parameters():
        if path.endswith("bias") and not path.startswith("heads."):
            location = Place.of(path)
            module = model.get_submodule(path.rpartition(".")[0])
            sites.append(Site(path, location.role, location.stack, location.layer, module, ()))
    return sites
