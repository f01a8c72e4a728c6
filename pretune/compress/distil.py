"""Distillation: a student learns from labels and from what a teacher says of the same texts.

It is a training run whose objective or task, whatever it is, is wrapped: `Distilled(objective, config)` adds terms to
those of labels, and neither a family nor the loop knows of it. The teacher is a frozen companion. What the two heads
score is seen from outside while the ordinary loss is computed (`distillation.observe`), so that a user's own objective,
task or head is distilled as ours are.

Source: Hinton et al. 2015 (arXiv 1503.02531); see `distillation.terms` for the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pretune.batch import Batch, Layout
from pretune.compress.distillation import terms
from pretune.compress.distillation.config import DistilConfig
from pretune.compress.distillation.layer_match import LAYER_TERMS, LayerMatch
from pretune.compress.distillation.layers import keep_student
from pretune.compress.distillation.match import Comparison, check_teacher, compare_heads
from pretune.compress.distillation.observe import HeadScores, observed_attention, observed_heads
from pretune.compress.method import CompressContext
from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.loss import Term
from pretune.models.frozen import FrozenModel
from pretune.models.model import LanguageModel
from pretune.nn.call import AttentionCall
from pretune.nn.model_protocol import ModelOutput, TrainableModel
from pretune.nn.vectors import PoolingMode, pool
from pretune.objectives.objective import Ability, ModelLoader, Objective, refuse_to_load
from pretune.text.samples.rows import Row

Config = DistilConfig
_STUDENT = "student"
Calls = Mapping[int, AttentionCall]


def apply(model: LanguageModel, config: DistilConfig, context: CompressContext) -> LanguageModel:
    """Makes the student, which `training` then trains: some layers of the model, or the model as it is.

    Raises:
        UsageError: the student would be its own teacher, or layers that cannot be left out.
    """
    if config.student.choice is None:
        if config.teacher is None and context.teacher_folder is None:
            raise UsageError(
                "compress: distil: the model would be its own teacher; say how many layers the student keeps "
                "(--student.layers 6), or give a smaller model, and its teacher by --teacher FOLDER"
            )
        return model
    chosen = keep_student(model, config.student.choice)
    context.note(f"the student has layers {', '.join(map(str, chosen))} of the model")
    context.record(_STUDENT, layers=" ".join(map(str, chosen)))
    return model


def training(config: DistilConfig, context: CompressContext) -> Mapping[str, object]:
    """The recipe's fields of the run that trains the student; its data are the user's to name."""
    teacher = config.teacher or context.teacher_folder or context.folder
    settings = config.model_dump(mode="json", exclude={"student"}) | {"teacher": str(teacher)}
    kept = str(context.facts.get(_STUDENT, {}).get("layers", "")).split()
    if kept and not config.layer_map and (config.hidden or config.attention) and str(teacher) == str(context.folder):
        settings["layer_map"] = [[n + 1, int(layer) + 1] for n, layer in enumerate(kept)]
    return {"distil": settings}


class Distilled(Objective):
    """An objective or a task, with a teacher.

    Args:
        objective: of labels: one, or a mixture.
        config: names the teacher, whose terms are not all 0.

    Attributes:
        teacher: the frozen model.
        projections: from the student's hidden states to the teacher's, by the student's layer, where widths differ;
            they serve training alone.
    """

    def __init__(self, objective: Objective, config: DistilConfig, student_layers: Sequence[int] = ()) -> None:
        super().__init__(Objective.Config(), objective.vocabulary)
        self.objective, self.distil = objective, config
        self.name = objective.name  # type: ignore[misc]  # its own, where a variant has its class's
        self.view, self.pack = objective.view, objective.pack  # type: ignore[misc]
        self.overhead, self.lookahead, self.words = objective.overhead, objective.lookahead, objective.words
        self.repeats_in_step = objective.repeats_in_step  # type: ignore[misc]
        self.projections = nn.ModuleDict()
        self._answering: tuple[TrainableModel, Callable[[], None]] | None = None  # no part of the module
        self._student_layers = tuple(student_layers)
        self._layers = LayerMatch()
        self._comparisons: dict[str, Comparison] = {}
        self._pooling: PoolingMode = "mean"

    # -- what is the wrapped objective's --------------------------------------------------------------------------

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """Those of the wrapped objective."""
        return self.objective.heads(model)

    @property
    def pooling(self) -> PoolingMode | None:
        """As of the wrapped objective."""
        return self.objective.pooling

    @property
    def token_terms(self) -> tuple[str, ...]:
        """Those of the wrapped objective."""
        return self.objective.token_terms

    @property
    def abilities(self) -> dict[str, Ability]:
        """Those that the wrapped objective teaches."""
        return self.objective.abilities

    def auxiliary_models(self) -> dict[str, TrainableModel]:
        """Those of the wrapped objective."""
        return self.objective.auxiliary_models()

    @property
    def alternatives(self) -> tuple[Objective, ...]:
        """Those of the wrapped objective, which build batches."""
        return self.objective.alternatives

    def choose(self, draw: Draw, step: int) -> int:
        """As the wrapped objective."""
        return self.objective.choose(draw, step)

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """As the wrapped objective."""
        return self.objective.prepare(rows, draw)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        """As the wrapped objective."""
        return self.objective.corrupt(batch, draw)

    def output_rows(self, batch: Batch) -> NDArray[np.int64] | None:
        """As the wrapped objective."""
        return self.objective.output_rows(batch)

    def step_data_stats(self, parts: Sequence[Sequence[Row]]) -> dict[str, int]:
        """As the wrapped objective."""
        return self.objective.step_data_stats(parts)

    def gather_across_step(self, model: TrainableModel, batch: Batch, parts: int) -> Tensor | None:
        """As the wrapped objective."""
        return self.objective.gather_across_step(model, batch, parts)

    def after_step(self, model: TrainableModel, shared: Tensor | None) -> None:
        """As the wrapped objective."""
        self.objective.after_step(model, shared)
        if self._answering is not None:
            self._answering[1]()

    def passes(self, model: TrainableModel, batch: Batch) -> list[tuple[TrainableModel, Batch]]:
        """The wrapped objective's, and the teacher's forward."""
        teacher = (
            replace(batch, targets={}) if not self._needs_all_rows else replace(batch, targets={}, output_rows=None)
        )
        return [*self.objective.passes(model, batch), (cast(TrainableModel, self.teacher.model), teacher)]

    # -- the teacher ----------------------------------------------------------------------------------------------

    def setup(self, model: TrainableModel, draw: Draw, load: ModelLoader = refuse_to_load) -> None:
        """Reads the teacher and finds out how it is compared with the model.

        Raises:
            UsageError: a term that this objective or these models cannot have.
            DataError: a teacher of other labels, another task or other tokens, or one that is not finite.
        """
        self.objective.setup(model, draw, load)
        assert self.distil.teacher is not None
        teacher = load(self.distil.teacher)
        if not isinstance(teacher, FrozenModel):
            raise TypeError(f"a teacher is a FrozenModel, not a {type(teacher).__name__}")
        self.teacher = teacher
        check_teacher(teacher.model, self.distil)
        weights = self.distil.weights
        if "soft" in weights:
            self._comparisons = compare_heads(self.members, model, teacher.model, self.distil)
        if weights.keys() & LAYER_TERMS:
            self._layers = LayerMatch.of(model, teacher.model, self.distil, self._student_layers)
        if "vectors" in weights:
            self._pooling = self.objective.pooling or "mean"
        self._add_projections(model, draw)

    @property
    def members(self) -> list[Objective]:
        """The objectives and tasks that are wrapped, the members of a mixture each for itself."""
        members = getattr(self.objective, "members", None)
        return [self.objective] if members is None else [each for each in members if isinstance(each, Objective)]

    @property
    def _needs_all_rows(self) -> bool:
        """Whether the terms read all rows of the last layer, or other layers."""
        return bool(self.distil.weights.keys() - {"soft", "vectors"}) or (
            "vectors" in self.distil.weights and self._pooling != "cls"
        )

    def _add_projections(self, model: TrainableModel, draw: Draw) -> None:
        """Makes a projection for each layer, and for vectors, where widths differ."""
        theirs, weights = self.teacher.width, self.distil.weights
        if model.width == theirs:
            return
        names = [f"layer_{ours}" for ours, _ in self._layers.pairs] if "hidden" in weights else []
        for name in [*names, *(["vectors"] if "vectors" in weights else [])]:
            dense = nn.Linear(model.width, theirs, bias=False)
            generator = torch.Generator().manual_seed(draw.at("distil", name).key & (2**63 - 1))
            with torch.no_grad():
                dense.weight.normal_(0, model.width**-0.5, generator=generator)
            self.projections[name] = dense

    @property
    def notes(self) -> list[str]:
        """What the user should know of how the two are compared."""
        weights = ", ".join(f"{name} {weight:g}" for name, weight in self.distil.weights.items())
        lines = [f"distilled from {self.distil.teacher}: labels {self.distil.labels:g}, {weights}"]
        if self._layers.pairs and self.distil.weights.keys() & {"hidden", "attention"}:
            lines.append(
                f"layers of the student and the teacher: {', '.join(f'{a}-{b}' for a, b in self._layers.pairs)}"
            )
        if self.projections:
            lines.append("the widths differ: hidden states are compared through projections, which are not saved")
        return lines

    # -- a step ---------------------------------------------------------------------------------------------------

    def counts(self, batch: Batch) -> dict[str, int]:
        """Predictions of labels, and rows, texts or tokens that are compared."""
        counts = self.objective.counts(batch)
        for role, comparison in self._comparisons.items():
            counts[f"soft_{role}"] = comparison.count(batch) if self._is_for(comparison.owner, batch) else 0
        sequences = batch.layout.count - batch.dummies
        rows = sum(batch.layout.lengths[:sequences])
        for name in self.distil.weights.keys() - {"soft"}:
            counts[f"distil_{name}"] = sequences if name == "vectors" else rows
        return counts

    def _is_for(self, member: Objective, batch: Batch) -> bool:
        return member is self.objective or member.name in batch.targets

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """The terms of labels alone."""
        return self.objective.loss(model, output, batch)

    def forward(self, model: TrainableModel, batch: Batch) -> list[Term]:
        """A pass of the model, one of the teacher, and the terms of both."""
        reads_layers = bool(self.distil.weights.keys() & LAYER_TERMS)
        whole = replace(batch, output_rows=None) if self._needs_all_rows else batch
        with self._observed(model, side=0) as calls:
            output = model(whole, layers=True) if reads_layers else model(whole)
        with observed_heads(model) as heads:
            label_terms = self.objective.loss(model, output, batch)
        weights = {term.name: term.weight for term in label_terms}
        with torch.no_grad():
            with self._observed(self.teacher, side=1) as their_calls:
                teacher_output = self.teacher(whole, layers=True) if reads_layers else self._teacher_output(whole)
            with observed_heads(cast(TrainableModel, self.teacher), skips_loss=True) as their_heads:
                if self._comparisons:
                    self.objective.loss(cast(TrainableModel, self.teacher), teacher_output, batch)
        outputs = (output, teacher_output)
        distil_terms = self._soft_terms(model, outputs, batch, (heads, their_heads), weights)
        with torch.autocast(batch.tokens.device.type, enabled=False):
            distil_terms += self._layer_terms(outputs, (calls, their_calls), batch)
            distil_terms += self._vector_terms(outputs, batch)
        if not self.training:  # the loss of validation is that of labels, as without a teacher
            return [*label_terms, *(replace(term, weight=0.0) for term in distil_terms)]
        return [*(replace(term, weight=term.weight * self.distil.labels) for term in label_terms), *distil_terms]

    def keep_answers(self, model: TrainableModel, publish: Callable[[], None]) -> None:
        """Lets something be asked in place of the teacher that keeps what it answers.

        Args:
            model: does as the teacher.
            publish: called after each step, so that answers are kept whatever becomes of the process.
        """
        self._answering = model, publish

    def _teacher_output(self, batch: Batch) -> ModelOutput:
        """What the heads of the teacher read."""
        output: ModelOutput = self.teacher(batch) if self._answering is None else self._answering[0](batch)
        return output

    def _observed(self, model: object, *, side: int) -> AbstractContextManager[Calls]:
        """Notes the calls of the attentions that are compared, of the student (0) or the teacher (1)."""
        names = self.distil.weights.keys() & {"attention", "relations"}
        if not names:
            return nullcontext({})
        layers = {pair[side] - 1 for pair in self._layers.pairs} if "attention" in names else set()
        if "relations" in names:
            layers.add(self._layers.relation[side])
        return observed_attention(model.stack, sorted(layers))  # type: ignore[attr-defined]

    def _soft_terms(
        self,
        model: TrainableModel,
        outputs: tuple[ModelOutput, ModelOutput],
        batch: Batch,
        heads: tuple[Mapping[str, HeadScores], Mapping[str, HeadScores]],
        weights: Mapping[str, float],
    ) -> list[Term]:
        """Answers of both, for each head whose objective the batch is for.

        Args:
            weights: of the terms of labels, which those of the teacher share.
        """
        soft_terms = []
        temperature = self.distil.temperature
        models = (model, cast(TrainableModel, self.teacher))
        for role, comparison in self._comparisons.items():
            name, owner = f"soft_{role}", comparison.owner
            weight = self.distil.soft * weights.get(owner.name, owner.config.weight)
            if not self._is_for(comparison.owner, batch):
                soft_terms.append(Term(name, outputs[0].last_hidden_state[:0].float().sum(), 0, weight))
                continue
            total = comparison.sum(models, outputs, batch, heads, temperature)
            soft_terms.append(Term(name, total, comparison.count(batch), weight))
        return soft_terms

    def _layer_terms(
        self, outputs: tuple[ModelOutput, ModelOutput], calls: tuple[Calls, Calls], batch: Batch
    ) -> list[Term]:
        """Hidden states, attention scores and relations."""
        weights = self.distil.weights
        layout = _without_dummies(batch)
        layer_terms = []
        if "hidden" in weights:
            ours, theirs = outputs[0].layers, outputs[1].layers
            assert ours is not None
            assert theirs is not None
            each = [
                terms.hidden_distance(self._projected(f"layer_{a}", ours[a][: layout.total]), theirs[b][: layout.total])
                for a, b in self._layers.pairs
            ]
            layer_terms.append(Term("distil_hidden", torch.stack(each).mean(), layout.total, weights["hidden"]))
        if "attention" in weights:
            each = [terms.attention_distance(calls[0][a - 1], calls[1][b - 1], layout) for a, b in self._layers.pairs]
            layer_terms.append(Term("distil_attention", torch.stack(each).mean(), layout.total, weights["attention"]))
        if "relations" in weights:
            a, b = self._layers.relation
            sides = [(call.query, call.key, call.value) for call in (calls[0][a], calls[1][b])]
            structure = calls[1][b].structure
            total = terms.relation_divergence(sides[0], sides[1], self._layers.heads, layout, structure)
            layer_terms.append(Term("distil_relations", total, layout.total, weights["relations"]))
        return layer_terms

    def _vector_terms(self, outputs: tuple[ModelOutput, ModelOutput], batch: Batch) -> list[Term]:
        """The vectors of texts, made as the objective makes them."""
        weight = self.distil.weights.get("vectors")
        if weight is None:
            return []
        layout = _without_dummies(batch)
        if self._pooling == "cls":
            ours, theirs = (output.at(layout.first) for output in outputs)
        else:
            runs = [output.last_hidden_state[: layout.total].float() for output in outputs]
            ours, theirs = (pool(run, layout, self._pooling) for run in runs)
        total = terms.vector_distance(self._projected("vectors", ours), theirs)
        return [Term("distil_vectors", total, layout.count, weight)]

    def _projected(self, name: str, run: Tensor) -> Tensor:
        """A run of the student in the teacher's width. Shape: (T, width) -> (T, the teacher's width)."""
        return self.projections[name](run.float()) if name in self.projections else run


def _without_dummies(batch: Batch) -> Layout:
    """The layout of the sequences that are no dummies, which come first."""
    if not batch.dummies:
        return batch.layout
    return Layout.of(batch.layout.lengths[: -batch.dummies], batch.tokens.device)
