"""The tuning method that trains keys and values in front of every sequence's own, in each layer.

Source: Li and Liang 2021, arXiv 2101.00190; Liu et al. 2021, arXiv 2110.07602 (for encoders and classification).
"""

from __future__ import annotations

from functools import partial
from typing import Literal, TypeVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from pretune import config
from pretune.batch import ragged
from pretune.errors import UsageError
from pretune.nn.attention import Attention
from pretune.nn.embedding import Embedding
from pretune.nn.model_protocol import TrainableModel
from pretune.nn.prefix import (
    NO_PREFIX,
    Behind,
    LearnedPrefix,
    NoPrefix,
    PrefixBrick,
    PrefixSource,
    ReparameterizedPrefix,
)
from pretune.nn.relative_attention import RelativeAttention
from pretune.nn.spans import KeyLayout
from pretune.nn.stack import Stack
from pretune.places import Place
from pretune.tune.surgery import Site, freeze_body, select_sites

M = TypeVar("M", bound=nn.Module)
RATE = 5e-3  # the authors' scripts of arXiv 2110.07602 for BoolQ and RTE
COMMON = 5000  # tokens of low numbers, which are the frequent ones in most vocabularies


class Config(config.Config):
    """How long the prefix is, which layers have one, and how it begins.

    The model reads each text as if it stood behind `length` tokens: positions begin after them, so a model with a
    limited number of positions reads texts that are so much shorter. Every query sees the prefix, in layers with a
    window too. It cannot be merged into a plain model, and changes the model's answers from the first step on.

    Attributes:
        length: keys and values in front of each sequence, in each layer.
        places: which attention has a prefix; all there is by default. One of `attention` or `cross` (to the encoder's
            output), or, of an encoder-decoder, `encoder`, `decoder`, `decoder.attention`, `decoder.cross`; each with a
            range of layers before it, where wanted, as in `layers[-2:].attention`.
        initial: what the prefix is at first: `tokens`, the keys and values that the model has for frequent tokens of
            its vocabulary, drawn by chance; or `normal`, numbers from a standard normal distribution.
        projection: compute the prefix by a small network while it trains, which makes training more stable; at the end
            of the run the prefix alone is kept. It then does not begin as `initial` says.
        projection_width: of that network's hidden layer; the model's width by default.
    """

    length: int = Field(20, ge=1, le=2**14)
    places: tuple[str, ...] = ()
    initial: Literal["tokens", "normal"] = "tokens"
    projection: bool = False
    projection_width: int | None = Field(None, ge=1, le=2**16)


def apply(model: M, config: Config) -> M:
    """Puts a prefix into the attention of every place; it and the heads train.

    Raises:
        UsageError: a place that names no attention of this model, one that has a prefix already, or no position left
            for a text.
    """
    body = cast(TrainableModel, model)
    known = attention_sites(model)
    sites = select_sites(known, config.places) if config.places else known
    for site in sites:
        if not isinstance(_attention(site).prefix, NoPrefix):
            raise UsageError(f"tune.prefix: {site.path} has a prefix already; tune with one method that sets it")
    if body.max_length is not None and body.max_length <= config.length:
        raise UsageError(
            f"tune.prefix: field 'length' = {config.length}: the model has {body.max_length} positions, and the text "
            "needs some of them; make it shorter"
        )
    freeze_body(model)
    rows = _of_tokens(model, sites, config.length) if config.initial == "tokens" and not config.projection else {}
    source = None
    if config.projection:
        source = PrefixSource(config.length, body.width, config.projection_width or body.width)
    for site in sites:
        site.replace(_new(_attention(site), config, source, rows.get(site.path)).to(body.device))
    _move_positions(model, sites, config.length)
    return model


def after_step(model: nn.Module, fraction: float) -> None:
    """Keeps how large the gradients were, by which `idle` tells a prefix that no query sees."""
    del fraction
    for brick in _prefixes(model).values():
        brick.note_gradient()


def acted(model: nn.Module) -> list[str]:
    """The prefixes that had a gradient."""
    return [
        f"{path}: {brick.length} keys and values, largest gradient {float(brick.largest_gradient):.2g}"
        for path, brick in _prefixes(model).items()
        if bool(brick.largest_gradient)
    ]


def idle(model: nn.Module) -> list[str]:
    """The prefixes that no query saw on the way to a loss, so that they never had a gradient."""
    return [f"{path}: had no gradient" for path, brick in _prefixes(model).items() if not bool(brick.largest_gradient)]


@torch.no_grad()
def finished(model: nn.Module, config: Config) -> Config:
    """Keeps of each prefix its rows, without the network that they were computed by.

    Returns:
        the settings with which `apply` makes a model of the same weights.
    """
    for site in attention_sites(model):
        brick = _attention(site).prefix
        if isinstance(brick, ReparameterizedPrefix):
            plain = LearnedPrefix.of(*brick.rows())
            plain.largest_gradient.copy_(brick.largest_gradient)
            site.replace(plain)
    return config.model_copy(update={"projection": False, "projection_width": None})


def attention_sites(model: nn.Module) -> list[Site]:
    """Finds every attention; setting a site sets its prefix."""
    sites = []
    has_sides = any(path == "encoder" for path, _ in model.named_modules())
    for path, module in model.named_modules():
        if isinstance(module, Attention | RelativeAttention):
            location = Place.of(path)
            role = f"{location.side or 'decoder.'}{location.role}" if has_sides else location.role
            sites.append(
                Site(path, role, location.stack, location.layer, module, (partial(setattr, module, "prefix"),))
            )
    return sites


def _attention(site: Site) -> Attention | RelativeAttention:
    return cast(Attention | RelativeAttention, site.brick)


def _prefixes(model: nn.Module) -> dict[str, PrefixBrick]:
    return {name: module for name, module in model.named_modules() if isinstance(module, PrefixBrick)}


def _new(
    attention: Attention | RelativeAttention,
    config: Config,
    source: PrefixSource | None,
    rows: tuple[Tensor, Tensor] | None,
) -> PrefixBrick:
    """The prefix of one attention at the start of a run."""
    if source is not None:
        return ReparameterizedPrefix(source, attention.key_heads, attention.head_width)
    if rows is not None:
        return LearnedPrefix.of(*rows)
    prefix = LearnedPrefix(config.length, attention.key_heads, attention.head_width)
    prefix.reset_parameters(1.0)
    return prefix


def _move_positions(model: nn.Module, sites: list[Site], length: int) -> None:
    """Lets the positions of each side begin behind its prefix; attention to an encoder's output has none."""
    prefixed = {id(site.brick) for site in sites if not site.role.endswith("cross")}
    for module in model.modules():
        embedding, stack = getattr(module, "embedding", None), getattr(module, "stack", None)
        if not (isinstance(embedding, Embedding) and isinstance(stack, Stack)):
            continue
        if any(id(part) in prefixed for part in stack.modules()):
            embedding.behind = Behind(length)
            for part in stack.modules():
                if isinstance(part, Attention):
                    part.behind = Behind(length)


class _Recorder(NoPrefix):
    """Keeps the keys and values that it is shown."""

    def __init__(self) -> None:
        self.rows: tuple[Tensor, Tensor] | None = None

    def extend(self, key: Tensor, value: Tensor, keys: KeyLayout) -> tuple[Tensor, Tensor, KeyLayout]:
        """Shape: (T, H, D) -> the same."""
        if self.rows is None:  # the first of the layers that share this attention
            self.rows = (key.detach().float(), value.detach().float())
        return key, value, keys


@torch.no_grad()
def _of_tokens(model: nn.Module, sites: list[Site], length: int) -> dict[str, tuple[Tensor, Tensor]]:
    """The keys and values of each site for some frequent tokens. Shape: (length, H, D) each."""
    body = cast(TrainableModel, model)
    tokens = torch.randint(min(COMMON, body.vocab_size), (length,))
    if body.device.type == "meta":
        return {}
    recorders = {site.path: _Recorder() for site in sites}
    for site in sites:
        _attention(site).prefix = recorders[site.path]
    mode = model.training
    model.eval()
    try:
        body(ragged([tokens.numpy()]).to(body.device))
    finally:
        for site in sites:
            _attention(site).prefix = NO_PREFIX
        model.train(mode)
    return {path: recorder.rows for path, recorder in recorders.items() if recorder.rows is not None}
