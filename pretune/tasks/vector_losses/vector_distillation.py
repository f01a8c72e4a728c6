"""Distillation of vectors: the vectors of a text and of its translation shall be those that a teacher has of the text.

Data: texts, alone or with their translation or paraphrase (`--second`), and `teacher`, a model whose vectors of the
first texts are computed once, before the first step; or a label that is the list of the vector's numbers (`pretune
embed TEACHER FILE --output FILE.jsonl` writes it as `vector`). The teacher need not know the language of the second
texts, nor share the student's tokenizer: so an English model's vectors become those of other languages. Student and
teacher have vectors of the same width.

Source: Reimers and Gurevych 2020 (arXiv 2004.09813), section 2; `MSELoss` of sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch.nn.functional as F

from pretune import config as configuration
from pretune.errors import DataError, UsageError
from pretune.tasks.shared.vector_task import PairExample
from pretune.tasks.vector_losses.vector_loss import RowLosses, VectorLoss, VectorTable, mean_over, refuse_negatives


class VectorDistillation(VectorLoss):
    """Squared difference of the numbers of two vectors of length 1, the mean over a pair's texts."""

    needs_second: ClassVar[bool] = False
    learns: ClassVar[Literal["scores", "vectors"] | None] = "vectors"

    class Config(configuration.Config):
        """The teacher.

        Attributes:
            teacher: folder of a model that makes vectors, where the data hold none.
        """

        teacher: str | None = None

    config: Config

    def resolve_config(self, examples: Sequence[PairExample]) -> configuration.Config:
        """Nothing is filled in.

        Raises:
            DataError: an example has no vector, or one of another width; third texts.
        """
        refuse_negatives(examples, "vector_distillation")
        if self.config.teacher is None:
            for example in examples:
                _check_vector(example, examples[0])
        return super().resolve_config(examples)

    def training_notes(self, examples: Sequence[PairExample]) -> list[str]:
        """Whose vectors are learned."""
        if self.config.teacher is not None:
            return [f"vectors are learned from {self.config.teacher}; labels are not used"]
        return ["labels are used as a teacher's vectors"]

    def targets(self, example: PairExample) -> Sequence[float] | None:
        """The teacher's vector, where it is known."""
        return None if example.values is None else example.values.tolist()

    def forward(self, table: VectorTable) -> RowLosses:
        """The loss of each example."""
        assert table.targets is not None  # `resolve_config` wants some
        if table.targets.shape[1] != table.vectors.shape[2]:
            raise UsageError(
                f"task.similarity.loss vector_distillation: the teacher's vectors have {table.targets.shape[1]} "
                f"numbers and the model's {table.vectors.shape[2]}; train a model of the teacher's width"
            )
        wanted = F.normalize(table.targets, dim=1)[:, None]
        differences = (table.vectors[:, :2] - wanted).square().mean(dim=2)
        return RowLosses(mean_over(differences, table.present[:, :2]))


def _check_vector(example: PairExample, first: PairExample) -> None:
    """Refuses an example whose vector is missing, has another width, or is none.

    Raises:
        DataError: as said.
    """
    remedy = "pretune embed TEACHER FILE --output FILE.jsonl writes vectors as the field vector"
    if example.values is None:
        raise DataError(
            f"{example.origin}: no vector to learn, a list of numbers; name its field with --label ({remedy}), or name "
            "a model that makes vectors: task.similarity.loss.vector_distillation.teacher"
        )
    if first.values is not None and len(example.values) != len(first.values):
        raise DataError(
            f"{example.origin}: a vector of {len(example.values)} numbers, after one of {len(first.values)}; {remedy}"
        )
    if not example.values.any():
        raise DataError(f"{example.origin}: a vector of zeros points nowhere; leave the row out, or embed it anew")
