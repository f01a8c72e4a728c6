"""Replaced-token detection: a small generator fills masks, the model says of every token whether it was replaced.

Data: any sequences, masked as in masked language modelling. The generator is a narrower model of the same family,
trained by its own masked loss in the same step; what it samples for the masks is what the model reads. A sample that
happens to be the original counts as original. No gradient goes from the model to the generator but through embeddings
that both share.

Sampling inverts the cumulative distribution at a uniform number that is a function of the sample and the position, so a
run that resumes, or has other ranks, samples the same.

The finished run directory holds the model; the generator is in its folder `generator`.

Source: Clark et al. 2020 (arXiv 2003.10555), section 2 and 3.2; of the chosen tokens 85% are masked and the others
kept, as in google-research/electra.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from pydantic import Field
from torch import nn

from pretune.batch import Batch
from pretune.draw import Draw, combine, unit
from pretune.errors import UsageError
from pretune.loss import Term
from pretune.nn.heads import DetectionHead, VocabularyHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.objectives.mlm import MaskedLanguageModelling
from pretune.objectives.objective import ModelLoader, Objective, refuse_to_load, target, wrap
from pretune.text.samples.rows import Row

if TYPE_CHECKING:
    from pretune.text.tokenizer.tokenizer import Vocabulary

GENERATOR = "generator"
_FINE = 1 << 53  # uniform numbers travel as integers of this fineness


class ReplacedTokenDetection(Objective):
    """Tell real tokens from a generator's."""

    name: ClassVar[str] = "rtd"
    default_family: ClassVar[str] = "electra"
    view: ClassVar[str] = "stream"
    pack: ClassVar[str] = "document"

    class Config(Objective.Config):
        """The generator, and what is asked of it.

        Attributes:
            weight: weight of the discriminator's loss; that of the generator's is 1.
            rate: fraction of a sample's tokens that are chosen, rounded to the nearest whole number, at least one.
            mask: fraction of the chosen tokens that become the mask token; the rest stay.
            generator: width of the generator as a fraction of the model's.
            tied: generator and discriminator share their embeddings.
        """

        weight: float = Field(default=50.0, gt=0.0, allow_inf_nan=False)
        rate: float = Field(default=0.15, gt=0.0, le=1.0)
        mask: float = Field(default=0.85, ge=0.0, le=1.0)
        generator: float = Field(default=0.25, gt=0.0, le=1.0)
        tied: bool = True

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        masking = MaskedLanguageModelling.Config(rate=config.rate, mask=config.mask, random=0.0)
        self._masked = (MaskedLanguageModelling(masking, vocabulary),)  # in a tuple: it is no part of this module
        self.overhead = self._masked[0].overhead

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A head that tells replaced tokens from original ones."""
        return {self.name: DetectionHead(model.width, model.head_activation)}

    def setup(self, model: TrainableModel, draw: Draw, load: ModelLoader = refuse_to_load) -> None:
        """Build the generator."""
        (masked,) = self._masked
        generator = model.narrower(self.config.generator, masked.heads, draw.at(GENERATOR).key & (2**63 - 1))
        if self.config.tied:
            generator.share_embedding(model)
        self.generator = generator

    def auxiliary_models(self) -> dict[str, TrainableModel]:
        """The generator."""
        return {GENERATOR: self.generator}

    @property
    def token_terms(self) -> tuple[str, ...]:
        """The generator's."""
        return (GENERATOR,)

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """One sequence a row, `[CLS] tokens [SEP]`."""
        return wrap(rows, self.vocabulary)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        """Mask, and set the targets "generator" (the originals), "rtd" (all that is not special) and "sample".

        The last holds a uniform number for each chosen token, in units of 2^-53.
        """
        (mlm,) = self._masked
        special = self.vocabulary.special.take(batch.tokens.numpy())
        masked = mlm.corrupt(batch, draw.at(self.name))
        index, label = masked.targets.pop(mlm.name)
        lengths = np.array(batch.layout.lengths, np.int64)
        keys = draw.at(self.name, "sample").keys(batch.samples).repeat(lengths)
        drawn = unit(combine(keys, batch.layout.positions.numpy()))[index.numpy()]
        (judged,) = (~special).nonzero()
        targets = {
            **batch.targets,
            GENERATOR: (index, label),
            "sample": target(index.numpy(), (drawn * _FINE).astype(np.int64)),
            self.name: target(judged, np.zeros(len(judged))),
        }
        return replace(masked, targets=targets)

    def output_rows(self, batch: Batch) -> NDArray[np.int64]:
        """The chosen tokens: what the generator gives."""
        return batch.targets[GENERATOR][0].numpy()

    def counts(self, batch: Batch) -> dict[str, int]:
        """Chosen tokens, and all that are not special."""
        return {name: len(batch.targets[name][1]) if name in batch.targets else 0 for name in (GENERATOR, self.name)}

    def forward(self, model: TrainableModel, batch: Batch) -> list[Term]:
        """Two passes: the generator over the masked text, the model over what it makes of it."""
        index, label = batch.targets[GENERATOR]
        generated = self.generator(batch)
        drawn = batch.targets["sample"][1].double() / _FINE
        total, correct, sampled = get_head(self.generator, self._masked[0].name, VocabularyHead).sampled_loss(
            generated.at(index), label, drawn, keys=generated.keys_at(index)
        )
        judged, _ = batch.targets[self.name]
        replaced = torch.zeros_like(batch.tokens, dtype=torch.float32).index_copy_(0, index, (sampled != label).float())
        output = model(replace(batch, tokens=batch.tokens.index_copy(0, index, sampled), output_rows=None))
        head = get_head(model, self.name, DetectionHead)
        answer, truth = head(output.at(judged), output.keys_at(judged)).float(), replaced[judged]
        detection = F.binary_cross_entropy_with_logits(answer, truth, reduction="sum")
        right = ((answer.detach() > 0) == (truth > 0)).sum()
        return [
            Term(GENERATOR, total, len(label), 1.0, correct),
            Term(self.name, detection, len(judged), self.config.weight, right),
        ]

    def passes(self, model: TrainableModel, batch: Batch) -> list[tuple[TrainableModel, Batch]]:
        """The generator's and the model's."""
        first = {self._masked[0].name: batch.targets[GENERATOR]} if GENERATOR in batch.targets else {}
        second = {name: batch.targets[name] for name in (self.name,) if name in batch.targets}
        return [
            (self.generator, replace(batch, targets=first)),
            (model, replace(batch, targets=second, output_rows=None)),
        ]

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """There is none of a single pass.

        Raises:
            UsageError: always.
        """
        raise UsageError("objective 'rtd' runs passes of its own and cannot be mixed with others; train it alone")
