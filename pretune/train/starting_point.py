"""What a run begins with where `model.init` names deltas: it goes on from them, or from their merged model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pretune.errors import UsageError
from pretune.evaluate.read import makers_of
from pretune.interop.deltas import check_tensors, is_delta, learned_shapes, read_record, read_tensors
from pretune.interop.head_labels import class_labels
from pretune.interop.tuned_model import base_folder, check_base, read_base, recorded_method
from pretune.interop.weight_names import OBJECTIVE
from pretune.models.metadata import VariantRecord
from pretune.models.model import LanguageModel, MakeHeads
from pretune.models.text_vectors import TextVectors
from pretune.train.recipe import Recipe
from pretune.tune.method import TuningMethod, find_method


@dataclass(frozen=True)
class StartingPoint:
    """Where the weights of a run come from.

    Attributes:
        base: folder of the model that the run tunes; deltas there are merged.
        deltas: folder of what the same method had learned on it, which the run goes on from; None where it begins.
        overrides: fields of the base's configuration that are changed.
        notes: what the user should know.
    """

    base: Path
    deltas: Path | None = None
    overrides: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, recipe: Recipe) -> StartingPoint:
        """That of a recipe which names a model.

        Raises:
            UsageError: deltas of another method, which cannot be merged.
            MissingInputError: the base of deltas is gone.
            DataError: damaged deltas.
        """
        assert recipe.model.init is not None
        init, overrides = Path(recipe.model.init), recipe.model.overrides
        if not is_delta(init):
            return cls(init, overrides=overrides)
        record, method = read_record(init), tuning_method(recipe)
        if VariantRecord.of(method.name, method.config.model_dump(mode="json")) == record.method:
            base = base_folder(init)
            note = f"goes on from what {method.name} had learned in {init}; its base is {base}"
            return cls(base, init, {**record.overrides, **overrides}, (note,))
        before = recorded_method(init, record)
        if not before.can_merge:
            raise UsageError(
                f"model.init (--model) = {str(init)!r}: what {before.name} learned there cannot be merged, so that "
                f"{method.name} cannot tune it; go on with the same method and settings, or tune its base {record.base}"
            )
        note = f"what {before.name} had learned in {init} is merged into its base; the run tunes the merged model"
        return cls(init, overrides=overrides, notes=(note,))

    def read(self, heads: MakeHeads, seed: int) -> LanguageModel:
        """Reads the base, with the heads that the run needs.

        Raises:
            PretuneError: as `read_base`; or it is another base than that of the deltas.
        """
        model = read_base(self.base, heads, self.overrides, seed=seed, makers_of=makers_of)
        if self.deltas is not None:
            record = read_record(self.deltas)
            check_base(model, self.deltas, record)
            model.metadata = record.metadata.model_copy(update={"base": None, "heads": {}})
            if record.sparse:
                model.vectors = TextVectors.sparse()
            elif record.pooling is not None:
                model.vectors = TextVectors.pooled(record.pooling)
        return model

    @torch.no_grad()
    def fill(self, model: LanguageModel, method: TuningMethod) -> list[str]:
        """Gives a model after surgery what was learned before; heads that have other labels or shapes begin anew.

        Returns:
            What the user should know.

        Raises:
            DataError: the deltas do not fit the model.
        """
        if self.deltas is None:
            return []
        record, tensors = read_record(self.deltas), read_tensors(self.deltas)
        model.extra_weights = {name: value for name, value in tensors.items() if name.startswith(OBJECTIVE)}
        tensors = {name: value for name, value in tensors.items() if name not in model.extra_weights}
        heads = {name: value for name, value in tensors.items() if name.startswith("heads.")}
        expected = learned_shapes(model, method.changes(model))
        body = {name: shape for name, shape in expected.items() if not name.startswith("heads.")}
        check_tensors({n: t.shape for n, t in tensors.items() if n not in heads}, body, (), self.deltas)
        targets = {**dict(model.named_buffers()), **dict(model.named_parameters())}
        anew: set[str] = set()
        for role in model.heads:
            own = {name for name in expected if name.startswith(f"heads.{role}.")}
            fits = all(name in heads and heads[name].shape == expected[name] for name in own)
            labels = class_labels(model, role)
            if not fits or (labels is not None and record.labels is not None and list(record.labels) != labels):
                anew |= own
        for name in expected.keys() - anew:
            targets[name].copy_(tensors[name])
        roles = sorted({name.split(".")[1] for name in anew})
        return [f"heads that begin anew, as {self.deltas} has none that fit: {', '.join(roles)}"] if roles else []


def tuning_method(recipe: Recipe) -> TuningMethod:
    """The tuning method of a recipe, with its settings."""
    return find_method(*next(iter(recipe.tune.items())))
