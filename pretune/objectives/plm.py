"""Permutation language modelling: predict some tokens in a random order, each from those before it in that order.

Data: any sequences, of any length. Spans of tokens are chosen by the sample's key until the rate is reached; they stand
at the end of the factorization order, which is a permutation drawn by key, and all other tokens before them. A chosen
token is predicted without its content, from the tokens before it; see `models/xlnet.py` for the two streams.

With `memory`, the beginning of each window is earlier text: the model reads it first, without gradient, and what it
made of it stays in memory while the rest is predicted. The authors keep what the last step made of the window before;
read anew it is never out of date, samples may come in any order, and a run resumes without it.

Source: Yang et al. 2019 (arXiv 1906.08237), sections 2.2 to 2.5. Spans are near to those of `_sample_mask` of
zihangdai/xlnet: n from 1 to 5 with odds 1 / n, somewhere in a context. Theirs are n whole words, in 6 n tokens beside
the span; ours are n tokens, in n / rate tokens of which the span is a part. Single tokens make up what is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from pretune.batch import Batch, ragged
from pretune.draw import Draw, bounded, combine
from pretune.errors import UsageError
from pretune.loss import Term
from pretune.nn.heads import TokenPrediction, VocabularyHead
from pretune.nn.model_protocol import ModelOutput, RecurrentModel, TrainableModel, get_head
from pretune.objectives.objective import Objective, target, wrap
from pretune.text.samples.rows import Row, names_of, sizes_of

if TYPE_CHECKING:
    from pretune.text.tokenizer.tokenizer import Vocabulary

Integers = NDArray[np.int64]


class PermutationLanguageModelling(Objective):
    """Predict tokens in any order."""

    name: ClassVar[str] = "plm"
    predicts: ClassVar[TokenPrediction | None] = "permuted"
    role: ClassVar[str] = "plm"
    default_family: ClassVar[str] = "xlnet"
    view: ClassVar[str] = "stream"

    class Config(Objective.Config):
        """What is predicted.

        Attributes:
            rate: fraction of a sample's tokens that are predicted, rounded, at least one.
            max_span: maximal number of tokens of a span.
            memory: maximal number of tokens at the beginning of a window that are read as earlier text; the number, at
                least one, is drawn for each sample and epoch, so that every token is predicted in some epoch. 0 for
                none.
        """

        rate: float = Field(default=1 / 6, gt=0.0, le=1.0)
        max_span: int = Field(default=5, ge=1, le=64)
        memory: int = Field(default=0, ge=0, le=1 << 20)

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self.overhead = vocabulary.overhead(False)

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A head over the vocabulary.

        Raises:
            UsageError: the model reads tokens in their own order alone.
        """
        if not model.supports_permutation:
            raise UsageError(
                f"objective 'plm' predicts tokens in any order, which {model.family} does not support; use xlnet"
            )
        return {self.role: model.vocabulary_head("permuted")}

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """One sequence a row, special tokens around it; its source is what goes before it into memory."""
        if not self.config.memory:
            return wrap(rows, self.vocabulary)
        max_early = np.minimum(self.config.memory, sizes_of(rows) - 1)  # a token at least is left to predict from
        drawn = bounded(combine(draw.at(self.name, "memory").keys(names_of(rows)), 0), max_early)
        cuts = np.where(max_early > 0, 1 + drawn, 0).tolist()
        early = ragged([row.tokens[:cut] for row, cut in zip(rows, cuts, strict=True)])
        texts = [row.text.slice(cut) for row, cut in zip(rows, cuts, strict=True)]
        late = [
            replace(row, tokens=text.tokens, word_flags=text.word_flags) for row, text in zip(rows, texts, strict=True)
        ]
        return replace(wrap(late, self.vocabulary), source=early)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        """Choose tokens and their order, and set the target "plm"; no token is changed."""
        special = self.vocabulary.special.take(batch.tokens.numpy())
        keys = draw.at(self.name).keys(batch.samples).tolist()
        order = np.full(batch.layout.total, -1, np.int64)
        for key, begin, end in zip(keys, batch.layout.bounds, batch.layout.bounds[1:], strict=False):
            (ordinary,) = (~special[begin:end]).nonzero()
            if not len(ordinary):
                continue
            chosen = begin + ordinary[choose_spans(len(ordinary), Draw(key), self.config.rate, self.config.max_span)]
            order[chosen] = np.argsort(np.argsort(Draw(key).at("order").bits(np.arange(len(chosen))), kind="stable"))
        (index,) = (order >= 0).nonzero()
        targets = {**batch.targets, self.name: target(index, batch.tokens.numpy()[index])}
        return replace(batch, targets=targets, order=torch.from_numpy(order))

    def output_rows(self, batch: Batch) -> NDArray[np.int64]:
        """The chosen tokens: the query stream's rows."""
        return batch.targets[self.name][0].numpy()

    def forward(self, model: TrainableModel, batch: Batch) -> list[Term]:
        """One pass, after another without gradient over what goes into memory."""
        if batch.source is None:
            return super().forward(model, batch)
        if not isinstance(model, RecurrentModel):
            raise UsageError(f"objective.plm.memory: {model.family} keeps no memory of earlier text; set it to 0")
        with torch.no_grad():
            memory = model.read_segment(batch.source, self.config.memory)
        return self.loss(model, model(batch, memory=memory), batch)

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy at the chosen tokens."""
        index, label = batch.targets[self.name]
        head, keys = get_head(model, self.role, VocabularyHead), output.keys_at(index)
        total, correct = head.loss(output.at(index), label, keys=keys)
        return [Term(self.name, total, len(label), self.config.weight, correct)]


def choose_spans(length: int, draw: Draw, rate: float, max_span: int) -> Integers:
    """Places of a rounded fraction of the tokens, at least one, in spans that lie apart where there is room.

    A walk through the text puts a span of n tokens at a random place of every n / rate tokens. What it chose too
    much is dropped from its end; what is missing is made up by single tokens in a random order.

    Shape:
        return: (any,) ascending
    """
    wanted = max(1, round(rate * length))
    odds = np.cumsum(1 / np.arange(1, max_span + 1))
    taken = np.zeros(length, np.bool_)
    begin = step = 0
    while begin < length:
        size = 1 + int(np.searchsorted(odds, draw.at("size").uniform(step) * odds[-1], side="right"))
        context = max(size, round(size / rate))
        first = begin + int(draw.at("place").below(step, context - size + 1))
        taken[first : first + size] = True
        begin, step = begin + context, step + 1
    chosen = taken.nonzero()[0][:wanted]
    if len(chosen) < wanted:
        rest = np.setdiff1d(np.arange(length), chosen)
        rest = rest[np.argsort(draw.at("rest").bits(np.arange(len(rest))), kind="stable")]
        chosen = np.sort(np.concatenate([chosen, rest[: wanted - len(chosen)]]))
    return chosen
