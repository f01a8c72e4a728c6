"""The base of objectives on sentence pairs: a window is split at a sentence, and a head classifies its two parts.

By key a window is split at one of its sentence boundaries. Its label, drawn by key too, says how the two parts are
arranged. Windows of one sentence stay whole, are not predicted and are counted as `unpaired`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from enum import Enum, auto
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import nn

from pretune.batch import Batch
from pretune.draw import Draw, bounded, unit
from pretune.loss import Term, cross_entropy
from pretune.nn.heads import SequenceHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.objectives.objective import Objective, ends, name_samples, require_token, target, wrap_texts
from pretune.text.samples.rows import Row, Text, names_of

if TYPE_CHECKING:
    from pretune.text.tokenizer.tokenizer import Vocabulary

Integers = NDArray[np.int64]


class Arrangement(Enum):
    """How the two parts of a window are arranged in a pair."""

    IN_ORDER = auto()
    SWAPPED = auto()
    BORROWED = auto()  # the second part gives way to a text of another document; needs the view "pairs"


class SentencePair(Objective):
    """Base of the objectives that split windows in two.

    Attributes:
        arrangements: what each label makes of the parts of a window.
        classes: names of the labels.
        head_dropout: probability of dropout in the head; None for the family's.
    """

    default_family: ClassVar[str] = "bert"
    view: ClassVar[str] = "pairs"
    arrangements: ClassVar[tuple[Arrangement, ...]]
    classes: ClassVar[tuple[str, ...]]
    head_dropout: ClassVar[float | None] = None

    def __init__(self, config: Objective.Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        require_token(
            vocabulary.sep,
            self.name,
            "a separator token",
            f"train one of kind wordpiece, or bpe with --special_tokens bert, or drop {self.name}",
        )
        self.overhead = vocabulary.overhead(True)

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A head that decides for a pair, as the family has it."""
        return {self.role: model.sequence_head(self.classes, dropout=self.head_dropout)}

    @abstractmethod
    def labels(self, samples: Integers, draw: Draw) -> Integers:
        """The label of each window, by key. Shape: (N, 3) -> (N,)."""

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """Split windows, make pairs, wrap them, and set the target, whose index counts sequences."""
        samples, stats = names_of(rows), {"unpaired": 0}
        if Arrangement.BORROWED in self.arrangements:
            stats |= {"displaced": 0, "borrowed": 0}  # tokens that leave windows, and those of other documents instead
        boundaries = np.array([0 if row.sentences is None else len(row.sentences) - 1 for row in rows], np.int64)
        chosen = 1 + bounded(draw.at(self.name, "split").keys(samples), boundaries)
        labels = self.labels(samples, draw.at(self.name))
        texts: list[tuple[Text, ...]] = []
        for n, row in enumerate(rows):
            if row.sentences is None or not boundaries[n]:
                texts.append((row.text,))
                continue
            edge = int(row.sentences[chosen[n]])
            texts.append(_arrange(row, edge, self.arrangements[labels[n]], stats))
        (paired,) = boundaries.nonzero()
        stats["unpaired"] = len(rows) - len(paired)
        batch = name_samples(wrap_texts(texts, self.vocabulary), rows, stats)
        batch.targets[self.name] = target(paired, labels[paired])
        return batch

    def output_rows(self, batch: Batch) -> Integers:
        """The ends of every sequence."""
        return ends(batch.layout)

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy of the paired sequences."""
        index, label = batch.targets[self.name]
        head = get_head(model, self.role, SequenceHead)
        logits = head(output.last_hidden_state, output.layout).index_select(0, index)
        correct = (logits.detach().argmax(dim=1) == label).sum()
        return [Term(self.name, cross_entropy(logits, label), len(label), self.config.weight, correct)]


def draw_binary(rate: float, draw: Draw, samples: Integers) -> Integers:
    """1 for a fraction `rate` of the samples, by key, 0 for the rest. Shape: (N, 3) -> (N,)."""
    return (unit(draw.keys(samples)) < rate).astype(np.int64)


def _arrange(row: Row, edge: int, arrangement: Arrangement, stats: dict[str, int]) -> tuple[Text, Text]:
    """The pair that a window split at `edge` becomes; what is lost is added to `stats`."""
    first, second = row.text.slice(0, edge), row.text.slice(edge)
    if arrangement is Arrangement.IN_ORDER:
        return first, second
    if arrangement is Arrangement.SWAPPED:
        return second, first
    other = substitute(row, len(second))
    stats["displaced"] += len(second)
    stats["borrowed"] += len(other)
    return first, other


def substitute(row: Row, size: int) -> Text:
    """The head of a row's other text that ends with a sentence, as near to `size` tokens as the window allows.

    Where the first sentence alone is too long it is cut.

    Raises:
        ValueError: the row was not read by the view "pairs".
    """
    if row.other is None or row.stops is None:
        raise ValueError(f"sample {row.sample} has no text of another document: it was not read by the view 'pairs'")
    other = Text(row.other, row.other_word_flags)
    stops = row.stops[row.stops <= size + row.spare]
    return other.slice(0, int(stops[np.abs(stops - size).argmin()]) if len(stops) else size)
