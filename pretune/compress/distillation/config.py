"""Settings of distillation, the table `[distil]` of a recipe; read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from pretune.config import Config


class StudentConfig(Config):
    """The student, where it is made of the model that the run starts from.

    Attributes:
        layers: how many layers of that model it keeps, evenly spread from the first to the last (6 of 12: 0, 2, 4, 7,
            9, 11).
        keep: the numbers of the layers that it keeps, from 0, instead of `layers`.
    """

    layers: int | None = Field(None, ge=1)
    keep: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _one_choice(self) -> StudentConfig:
        if self.layers is not None and self.keep:
            raise ValueError("layers says how many, keep says which: give one of them")
        return self

    @property
    def choice(self) -> int | tuple[int, ...] | None:
        """How many layers, or which; None for the model as it is."""
        return self.keep or self.layers


class DistilConfig(Config):
    """A teacher, and what of it the student learns; each weight of 0 leaves its term out.

    Attributes:
        teacher: folder of the model to learn from; nothing is distilled without one.
        student: which layers of the model that the run starts from are the student.
        labels: factor of the ordinary loss on labels; 0 learns from the teacher's answers alone.
        unlabelled: the training texts have no labels, so that `labels` is 0; the task is set as the teacher's was.
        soft: weight of soft targets, the divergence of the student's answers from the teacher's.
        temperature: that softens both before they are compared; the term is multiplied by its square.
        hidden: weight of the squared distance of hidden states, layer by layer.
        attention: weight of the squared distance of attention scores, layer by layer, for as many heads as the teacher.
        relations: weight of the divergence of relations between queries, between keys and between values, in one layer.
        vectors: weight of one minus the cosine of the vectors of texts.
        layer_map: pairs of a layer of the student and one of the teacher, counted from 1, for hidden states and
            attention; of hidden states 0 is the embedding. By default those that the student was made of, else evenly.
        relation_layer: of the teacher, counted from 1, for relations; the last by default. The student's is its last.
        relation_heads: number of relations of each sort; by default the teacher's heads.
        cache: `auto` keeps the teacher's answers in the run directory where a sample is read more than once, always
            the same, and the disk has room; `never` computes them each time; `always` refuses a run in which they
            cannot be kept. Results are the same.
        baseline: train the same student without the teacher too, in the folder `without-teacher` of the run, and
            compare the scores of all three.
    """

    teacher: str | None = None
    student: StudentConfig = Field(default_factory=StudentConfig)
    labels: float = Field(1.0, ge=0, allow_inf_nan=False)
    unlabelled: bool = False
    soft: float = Field(1.0, ge=0, allow_inf_nan=False)
    temperature: float = Field(2.0, gt=0, allow_inf_nan=False)
    hidden: float = Field(0.0, ge=0, allow_inf_nan=False)
    attention: float = Field(0.0, ge=0, allow_inf_nan=False)
    relations: float = Field(0.0, ge=0, allow_inf_nan=False)
    vectors: float = Field(0.0, ge=0, allow_inf_nan=False)
    layer_map: tuple[tuple[int, int], ...] = ()
    relation_layer: int | None = Field(None, ge=1)
    relation_heads: int | None = Field(None, ge=1)
    cache: Literal["auto", "always", "never"] = "auto"
    baseline: bool = False

    @property
    def weights(self) -> dict[str, float]:
        """The terms that are wanted, with their weights."""
        every = {name: getattr(self, name) for name in ("soft", "hidden", "attention", "relations", "vectors")}
        return {name: weight for name, weight in every.items() if weight}

    @property
    def is_on(self) -> bool:
        """Whether a teacher is asked anything."""
        return self.teacher is not None and bool(self.weights)

    @model_validator(mode="before")
    @classmethod
    def _no_labels(cls, tree: Any) -> Any:
        if isinstance(tree, Mapping) and tree.get("unlabelled") is True and "labels" not in tree:
            return {**tree, "labels": 0.0}
        return tree

    @model_validator(mode="after")
    def _something(self) -> DistilConfig:
        if self.unlabelled and (self.labels or self.teacher is None):
            raise ValueError("unlabelled texts are learned from a teacher alone: name it, and leave labels at 0")
        if self.teacher is not None and not self.labels and not self.weights:
            raise ValueError("all weights are 0, so that nothing is learned; set soft, or labels")
        if self.layer_map and not (self.hidden or self.attention):
            raise ValueError("layer_map is for hidden and attention, whose weights are 0; set one, or leave it out")
        return self
