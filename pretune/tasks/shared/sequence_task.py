"""The base of tasks that answer for a whole text, or a pair of texts, by the scores of one sequence.

BERT reads `[CLS] text [SEP]` and answers from the first row through the pooler; GPT-2 reads the bare text and answers
from the last row, without any padding token. A task adds what it reads of a record, what the scores must give
(`target_of`), its loss, and what it says of scores.

Source: Devlin et al. 2019 (arXiv 1810.04805), section 4.1; Radford et al. 2018, section 3.3.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import model_validator
from torch import Tensor, nn

from pretune.batch import Batch, ragged
from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.nn.heads import ProblemType, SequenceHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.nn.pair_features import TextPairs
from pretune.nn.vector_head import VectorHead
from pretune.objectives.objective import Ability, ends, name_samples
from pretune.tasks.shared.windowed import cut_pair, window_row
from pretune.tasks.task import Example, PredictionT, Task, encode_texts, tokens_of
from pretune.text.samples.rows import Encoded, Ints, Row
from pretune.text.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class TextExample(Example):
    """A text, or a pair of texts.

    Attributes:
        text: never empty.
        second: the second text of a pair.
    """

    text: str
    second: str | None = field(default=None, kw_only=True)


_PAIRS = "pairs"  # the target that says which sequences are the texts of a pair
TextExampleT = TypeVar("TextExampleT", bound=TextExample)


class SequenceTask(Task[TextExampleT, PredictionT, PredictionT]):
    """Base of the tasks on whole texts, whose answer for the one row of an example is its prediction.

    Attributes:
        problem_type: what the scores of the head are, in the words of `config.json`.
        target_shape: of what one example's scores must give.
        target_dtype: of the same.
    """

    role: ClassVar[str] = "classification"
    problem_type: ClassVar[ProblemType] = "single_label_classification"
    target_shape: tuple[int, ...] = ()
    target_dtype: ClassVar[type[np.generic]] = np.int64

    class Config(Task.Config):
        """Which head scores a text.

        Attributes:
            head: `standard` is that of the model's family, which transformers reads too; `mean`, `first` and `last`
                score the vector of a text, the mean of its rows or one of them, scaled to length 1. A model that makes
                good vectors of texts learns from few examples through these alone.
            fit_head: fit the head to the vectors of the training texts once training has ended, by logistic regression;
                for a head that scores vectors.
            apart: read the texts of a pair apart, and score both vectors, their distance, product and cosine, and how
                well the tokens of each are found in the other; by default one sequence has both.
        """

        head: Literal["standard", "mean", "first", "last"] = "standard"
        fit_head: bool = False
        apart: bool = False

        @model_validator(mode="after")
        def _fits_vectors(self) -> Self:
            if self.fit_head and self.head == "standard":
                raise ValueError('fit_head: the standard head is not fitted in closed form; set head = "mean" too')
            if self.apart and self.head == "standard":
                raise ValueError('apart: the standard head reads one sequence; set head = "mean" too')
            return self

    config: Config

    @property
    def head_role(self) -> str:
        """What the model calls the head."""
        return self.role if self.config.head == "standard" else f"vector_{self.role}"

    @property
    def fits_head(self) -> bool:
        """Whether `fit_head` can fit a head in closed form; by default it cannot."""
        return False

    @abstractmethod
    def target_of(self, example: TextExampleT) -> NDArray[np.generic] | None:
        """What an example's scores must give, of `target_shape`; None where it is not known.

        Raises:
            DataError: it can be no target.
        """

    @property
    @abstractmethod
    def outputs(self) -> Sequence[str]:
        """Names of the scores of the head, in their order."""

    def encode(self, examples: Sequence[TextExampleT], tokenizer: Tokenizer, length: int) -> list[Encoded]:
        """A row for each example, or for each window of one; a text and its second make one sequence."""
        targets = [self.target_of(example) for example in examples]
        single = next((example for example in examples if example.second is None), None)
        if self.config.apart and single is not None:
            raise DataError(f"{single.origin}: no second text, and this reads pairs; name their column with --second")
        keep = self.keep(length)
        firsts = encode_texts(examples, [example.text for example in examples], tokenizer, keep)
        seconds = encode_texts(examples, [example.second for example in examples], tokenizer, keep)
        rows: list[Encoded] = []
        for n, (example, first, second) in enumerate(zip(examples, firsts, seconds, strict=True)):
            assert first is not None  # every example has a text
            max_tokens = length - self.vocabulary.overhead(second is not None)
            windows = cut_pair(self, first, second, max_tokens, example)
            rows += [window_row(n, (first, second), pair, targets[n]) for pair in windows]
        return rows

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A head that scores sequences."""
        if self.config.head == "standard":
            return {self.head_role: model.sequence_head(self.outputs, self.problem_type)}
        position, apart = self.config.head, self.config.apart
        return {self.head_role: VectorHead(model.width, self.outputs, position, self.problem_type, apart=apart)}

    def fit_head(
        self,
        head: VectorHead,
        vectors: NDArray[np.float32],
        targets: NDArray[np.generic],
        strength: float | None = None,
    ) -> None:
        """Fits the head in closed form, where the task can.

        Args:
            vectors: of the training texts.
            targets: what their scores must give.
            strength: inverse of the penalty's weight; by default what suits the data.

        Shape:
            vectors: (n, width); targets: (n, *target_shape)

        Raises:
            UsageError: it cannot.
        """
        raise UsageError(f"task.{self.name}.fit_head: it cannot be fitted in closed form; leave fit_head out")

    @property
    def abilities(self) -> dict[str, Ability]:
        """It labels texts."""
        return {self.name: "classify"}

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """Wrap texts in the model's special tokens and name the targets that are known."""
        texts = [(row.tokens, row.second) for row in rows]
        if self.config.apart:
            texts = [(text, None) for column in zip(*texts, strict=True) for text in column if text is not None]
        wrapped = [self.vocabulary.add_special_tokens(*text) for text in texts]
        batch = ragged([tokens for tokens, _ in wrapped], [segments for _, segments in wrapped])
        batch = name_samples(batch, [*rows, *rows] if self.config.apart else rows)
        if self.config.apart:
            first = torch.arange(len(rows))
            batch.targets[_PAIRS] = first, first + len(rows)
        index = np.array([n for n, row in enumerate(rows) if row.targets is not None], np.int64)
        known = [row.targets for row in rows if row.targets is not None]
        targets = np.array(known, self.target_dtype).reshape(len(known), *self.target_shape)
        batch.targets[self.name] = torch.from_numpy(index), torch.from_numpy(targets)
        return batch

    def tokens(self, rows: Sequence[Encoded]) -> Ints | None:
        """Those of the texts, and the special ones around them."""
        return tokens_of(self, SequenceTask, rows)  # type: ignore[type-abstract]

    def output_rows(self, batch: Batch) -> NDArray[np.int64]:
        """The ends of every sequence."""
        return ends(batch.layout)

    def merge(self, example: TextExampleT, answers: Sequence[PredictionT]) -> PredictionT:
        """The answer of the one row, or the average of those of several windows."""
        return answers[0] if len(answers) == 1 else self.average(answers)

    def average(self, answers: Sequence[PredictionT]) -> PredictionT:
        """One answer of those of a text's windows, where the task has such; by default it has none.

        Raises:
            UsageError: it has none.
        """
        raise UsageError(f"task.{self.name}.truncate windows: its answers have no average; use head, tail or head+tail")

    def logits(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> Tensor:
        """The scores of every sequence. Shape: return: (N, outputs) fp32."""
        head = get_head(model, self.head_role, SequenceHead)
        parts = (self._pairs(batch),) if self.config.apart else ()
        logits: Tensor = head(output.last_hidden_state, output.layout, *parts)
        return logits.float()

    def vectors(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> Tensor:
        """What a head on vectors scores. Shape: return: (N, any)"""
        head = get_head(model, self.head_role, VectorHead)
        pairs = self._pairs(batch) if self.config.apart else None
        return head.vectors(output.last_hidden_state, output.layout, pairs)

    def _pairs(self, batch: Batch) -> TextPairs:
        """Which sequences are the texts of each pair."""
        return TextPairs(*batch.targets[_PAIRS], self.vocabulary.prefix_length, len(self.vocabulary.suffix))
