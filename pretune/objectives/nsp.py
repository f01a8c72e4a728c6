"""Next-sentence prediction: does the second text follow the first in its document, or come from another one?

Data: windows of whole sentences of one document, each with a candidate second text from another document (the view
"pairs"). By key a window is split at one of its sentence boundaries; in half of the samples the second part gives way
to the other document's text, cut at the sentence end that comes nearest to the displaced length. So neither the length
nor a broken sentence tells the answer. Windows of one sentence stay whole and are not predicted.

Label 0: the second text follows; 1: it does not (as in Hugging Face's `BertForPreTraining`).

Source: Devlin et al. 2019 (arXiv 1810.04805), section 3.1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from pretune.batch import Batch, ragged
from pretune.draw import Draw, bounded, unit
from pretune.errors import DataError
from pretune.loss import Term, cross_entropy
from pretune.nn.heads import NSP_LABELS, SequenceHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.objectives.objective import Objective, ends, name_samples, target
from pretune.text.samples.rows import Row

if TYPE_CHECKING:
    from pretune.text.tokenizer.tokenizer import Vocabulary


class NextSentencePrediction(Objective):
    """Tell a continuation from a text of another document."""

    name: ClassVar[str] = "nsp"
    default_family: ClassVar[str] = "bert"
    view: ClassVar[str] = "pairs"

    class Config(Objective.Config):
        """How the second text is chosen.

        Attributes:
            random: share of the pairs whose second text comes from another document.
        """

        random: float = Field(default=0.5, ge=0.0, le=1.0)

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        if vocabulary.sep is None:
            raise DataError(
                "objective 'nsp' needs a tokenizer with a separator token, and this one has none; "
                "train one of kind wordpiece, or drop nsp"
            )
        self.overhead = vocabulary.overhead(True)

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A head that decides for a pair."""
        return {self.name: model.sequence_head(NSP_LABELS, dropout=0.0)}

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """Split windows, exchange second texts, wrap, and set the target "nsp", whose index counts sequences.

        The account gives samples: `unpaired`; and tokens: `displaced` from windows, `borrowed` for them.
        """
        samples = np.array([row.sample for row in rows], dtype=np.int64).reshape(-1, 3)
        boundaries = np.array([0 if row.sentences is None else len(row.sentences) - 1 for row in rows], dtype=np.int64)
        picked = 1 + bounded(draw.at(self.name, "split").keys(samples), boundaries)
        exchanged = unit(draw.at(self.name, "other").keys(samples)) < self.config.random
        account = {"unpaired": 0, "displaced": 0, "borrowed": 0}
        wrapped, paired = [], []
        for n, row in enumerate(rows):
            if row.sentences is None or not boundaries[n]:
                wrapped.append(self.vocabulary.wrap(row.tokens))
                account["unpaired"] += 1
                continue
            edge = int(row.sentences[picked[n]])
            second = row.tokens[edge:]
            if exchanged[n]:
                account["displaced"] += len(second)
                second = substitute(row, len(second))
                account["borrowed"] += len(second)
            wrapped.append(self.vocabulary.wrap(row.tokens[:edge], second))
            paired.append(n)
        batch = ragged([tokens for tokens, _ in wrapped], [segments for _, segments in wrapped])
        index = np.array(paired, dtype=np.int64)
        batch = name_samples(batch, rows, account)
        batch.targets[self.name] = target(index, exchanged[index])
        return batch

    def output_rows(self, batch: Batch) -> NDArray[np.int64]:
        """The ends of every sequence."""
        return ends(batch.layout)

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy of the paired sequences."""
        index, label = batch.targets[self.name]
        logits = get_head(model, self.name, SequenceHead)(output.last_hidden_state, output.layout).index_select(
            0, index
        )
        correct = (logits.detach().argmax(dim=1) == label).sum()
        return [Term(self.name, cross_entropy(logits, label), len(label), self.config.weight, correct)]


def substitute(row: Row, size: int) -> NDArray[np.int64]:
    """The head of a row's other text that ends with a sentence, as near to `size` tokens as the window allows.

    Where the first sentence alone is too long it is cut.
    """
    if row.other is None or row.stops is None:
        raise ValueError(f"sample {row.sample} has no text of another document: it was not read by the view 'pairs'")
    stops = row.stops[row.stops <= size + row.spare]
    if not len(stops):
        return row.other[:size]
    return row.other[: int(stops[np.abs(stops - size).argmin()])]
