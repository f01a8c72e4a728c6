"""Removes parts of a model: whole layers, heads, inner width of the feed-forward, evenly over the layers; or weights.

    pretune compress prune MODEL --layers 0.33 --calibration labels.csv --output smaller
    pretune compress prune MODEL --inner 0.33 --calibration labels.csv --train labels.csv --output smaller
    pretune compress prune MODEL --sparsity wanda --rate 0.5 --calibration texts.txt --output sparse

The first two, and `--heads`, give a plain model of the family with smaller numbers in its `config.json`, which computes
less and is trained again afterwards. What is removed is what matters least to the loss of the model's own objective or
task: heads and inner values by first-order importance, layers by the loss without each (see `pruning.importance`).
Removing single weights (`sparsity`) sets them to zero: the model has its old shapes and its old speed.

Source: Molchanov et al. 2019, arXiv 1906.10771; Michel et al. 2019, arXiv 1905.10650; layers: Sajjad et al. 2020, arXiv
2004.03844.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

from pydantic import Field, field_validator, model_validator

from pretune import config as configuration
from pretune.compress.method import CompressContext, check_name
from pretune.compress.pruning.importance import importance, loss_without_layers
from pretune.compress.pruning.selection import (
    best_heads,
    best_inner,
    best_layers,
    check_part,
    drop_layers,
    narrow_heads,
    narrow_inner,
    remaining,
)
from pretune.compress.pruning.structure import attentions, check_bricks, feedforwards
from pretune.compress.pruning.weights import find_sparsity, sparsify_model
from pretune.errors import UsageError
from pretune.models.flops import count_parameters, encoder_flops, flops_per_token
from pretune.models.model import LanguageModel
from pretune.models.size_check import stacks
from pretune.models.size_fields import Part
from pretune.wording import counted, percent

_LENGTH = 128  # tokens of the sequence whose operations are compared
_PARTS: tuple[Part, ...] = ("layers", "heads", "inner")
WANTS_PLAIN = True


class Config(configuration.Config):
    """What is removed.

    Attributes:
        layers: fraction of the layers of each stack.
        heads: fraction of the heads of each attention; of heads that share keys, of the groups.
        inner: fraction of the inner width of each feed-forward.
        multiple: that the inner width stays a multiple of, as products and formats of weights want it.
        importance: how layers are judged: by the loss without each, or to first order, by the gradient of a gate.
        rounds: in how many steps parts are removed, with a training run after each where one is asked for.
        sparsity: how weights are chosen that become zero: a file of `compress/sparsity`, or a user's own.
        rate: fraction of the weights of each projection that become zero.
        pattern: N:M, such as 2:4, where N of every M weights in a row become zero; instead of `rate`.
    """

    layers: float = Field(0.0, ge=0.0, lt=1.0)
    heads: float = Field(0.0, ge=0.0, lt=1.0)
    inner: float = Field(0.0, ge=0.0, lt=1.0)
    multiple: int = Field(32, ge=1, le=4096)
    importance: Literal["loss", "gradient"] = "loss"
    rounds: int = Field(1, ge=1, le=64)
    sparsity: str | None = None
    rate: float = Field(0.5, gt=0.0, lt=1.0)
    pattern: str | None = Field(None, pattern=r"^\d{1,2}:\d{1,2}$")

    @field_validator("sparsity")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None:
            check_name("compress.sparsity", name, "sparsity")
        return name

    @model_validator(mode="after")
    def _pattern(self) -> Config:
        zeros, of = self.group
        if self.pattern is not None and not 0 < zeros < of:
            raise ValueError(f"pattern {self.pattern!r}: fewer zeros than weights, and one at least, such as 2:4")
        return self

    @property
    def group(self) -> tuple[int, int]:
        """How many of how many weights in a row become zero; (0, 0) where only their rate is given."""
        zeros, _, of = (self.pattern or "0:0").partition(":")
        return int(zeros), int(of)

    @property
    def parts(self) -> tuple[Part, ...]:
        """The parts that are removed."""
        return tuple(part for part in _PARTS if getattr(self, part))


def needs(config: Config) -> set[str]:
    """What of the context it cannot do without."""
    _check_asked(config)
    wanted = {"loss"} if config.parts else set()
    if config.sparsity is not None and find_sparsity(config.sparsity).reads_inputs:
        wanted.add("calibration")
    return wanted


def rounds(config: Config) -> list[Config]:
    """The steps that remove the same one after another, each an equal part of the whole."""
    steps = []
    for number in range(1, config.rounds + 1):
        rates: dict[str, float] = {}
        for part in config.parts:
            rate = getattr(config, part) / config.rounds
            rates[part] = 1.0 - (1.0 - rate * number) / (1.0 - rate * (number - 1))
        steps.append(config.model_copy(update={**rates, "rounds": 1, "sparsity": None}))
    if config.sparsity is not None:
        last = steps.pop() if steps and config.parts else config.model_copy(update={"rounds": 1})
        steps = [*steps, last.model_copy(update={"sparsity": config.sparsity})] if config.parts else [last]
    return steps


def apply(model: LanguageModel, config: Config, context: CompressContext) -> LanguageModel:
    """Removes parts of a model, and says of how much it is rid.

    Raises:
        UsageError: nothing is asked for, the family's files could not say it, so little is asked for that nothing would
            go, or a part has been replaced by a method.
        DataError: the loss of the model is not a finite number.
    """
    _check_asked(config)
    for part in config.parts:
        check_part(model, part)
        _check_amount(model, part, config)
    for path, module in {**attentions(model), **feedforwards(model)}.items():
        check_bricks(module, path)
    before, size = _operations(model), count_parameters(model)
    for part in config.parts:
        _STEPS[part](model, config, context)
    if config.parts:
        context.note(
            f"prune: {percent(_operations(model) / before)} of the operations of a text of {_LENGTH} tokens and "
            f"{percent(count_parameters(model) / size)} of the parameters are left; train it again (--train FILE, or "
            "pretune finetune), or it answers worse than it could"
        )
    if config.sparsity is not None:
        sparsify_model(model, find_sparsity(config.sparsity), config.rate, config.group, context)
    return model


def _check_asked(config: Config) -> None:
    if not config.parts and config.sparsity is None:
        raise UsageError(
            "prune: nothing to remove: give a fraction of the layers (--layers 0.33), the inner width (--inner 0.33) "
            "or the heads (--heads 0.33), or the zeros of single weights (--sparsity wanda)"
        )


def _check_amount(model: LanguageModel, part: Part, config: Config) -> None:
    """Refuses fractions that remove nothing."""
    rate = getattr(config, part)
    for path, count, multiple in _part_sizes(model, part, config.multiple):
        if remaining(count, rate, multiple) == count:
            step = f" in steps of {multiple}" if multiple > 1 else ""
            raise UsageError(
                f"prune: {part}: {rate:g} of the {count:,} of {path}{step} is none of them; give a larger fraction, or "
                "leave it out"
            )


def _part_sizes(model: LanguageModel, part: Part, multiple: int) -> list[tuple[str, int, int]]:
    """How many of a part there are at each place, and the step in which they go."""
    if part == "layers":
        return [(path, len(stack.order), 1) for path, stack in stacks(model).items()]
    if part == "heads":
        return [(path, each.key_heads, 1) for path, each in attentions(model).items()]
    return [(path, each.down.in_features, multiple) for path, each in feedforwards(model).items()]


def _remove_layers(model: LanguageModel, config: Config, context: CompressContext) -> None:
    calibration = context.get_calibration()
    if config.importance == "loss":
        whole, without = loss_without_layers(model, calibration.batches, calibration.loss, context.progress)
        scores = {path: each - whole for path, each in without.items()}
    else:
        each = importance(model, calibration.batches, calibration.loss, "layers", context.progress)
        scores = {path: float(score) for path, score in each.items()}
    kept = best_layers(model, scores, config.layers)
    for path, numbers in kept.items():
        for number in range(len(stacks(model)[path].order)):
            layer = f"{path}.blocks.{number}"
            context.record(layer, importance=scores[layer], removed=number not in numbers)
        removed = sorted(set(range(len(stacks(model)[path].order))) - set(numbers))
        context.note(f"prune: {path} loses {counted(len(removed), 'layer')}: {', '.join(map(str, removed))}")
    drop_layers(model, kept)


def _remove_heads(model: LanguageModel, config: Config, context: CompressContext) -> None:
    calibration = context.get_calibration()
    scores = importance(model, calibration.batches, calibration.loss, "heads", context.progress)
    kept = best_heads(model, scores, config.heads)
    known = attentions(model)
    for path, heads in kept.items():
        context.record(
            path, heads=len(heads), importance=_remaining_fraction(scores[path][heads].sum(), scores[path].sum())
        )
    path, heads = next(iter(kept.items()))
    context.note(f"prune: {len(heads)} of {known[path].heads} heads are left in each attention")
    narrow_heads(model, kept)


def _remove_inner(model: LanguageModel, config: Config, context: CompressContext) -> None:
    calibration = context.get_calibration()
    scores = importance(model, calibration.batches, calibration.loss, "inner", context.progress)
    kept = best_inner(scores, config.inner, config.multiple)
    for path, index in kept.items():
        context.record(
            path, inner=len(index), importance=_remaining_fraction(scores[path][index].sum(), scores[path].sum())
        )
    path, index = next(iter(kept.items()))
    context.note(f"prune: inner width of {len(index):,} is left of {len(scores[path]):,}")
    narrow_inner(model, kept)


def _remaining_fraction(part: object, whole: object) -> float:
    """Which fraction of the importance is left."""
    return float(part) / max(float(whole), 1e-30)  # type: ignore[arg-type]


def _operations(model: LanguageModel) -> float:
    """Operations of one text, of both sides of an encoder-decoder."""
    own = flops_per_token(model, _LENGTH) * _LENGTH if model.stack.order else 0.0
    return own + encoder_flops(model, _LENGTH)


_Step = Callable[[LanguageModel, Config, CompressContext], None]
_STEPS: Mapping[Part, _Step] = {"layers": _remove_layers, "heads": _remove_heads, "inner": _remove_inner}
