"""Masked language modelling: hide an exact share of each sample's tokens, or whole words, and predict the originals.

Data: any sequences; special tokens are never hidden. Of the chosen tokens 80 % become `[MASK]`, 10 % a random token and
10 % stay as they are. Related: `clm` for decoders.

Source: Devlin et al. 2019 (arXiv 1810.04805), section 3.1 and appendix C.2; whole words as in google-research/bert,
`create_pretraining_data.py`, where one word is one draw and its tokens are replaced one by one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pretune.batch import Batch
from pretune.draw import Draw, bounded, combine, unit
from pretune.errors import DataError, UsageError
from pretune.loss import Term
from pretune.objectives.objective import Model, Objective, Output, target, wrap
from pretune.text.views import Row

if TYPE_CHECKING:
    from pretune.text.tokenizer import Vocabulary

_PLACE_BITS = 20  # of a 64-bit rank: 20 for the sequence, 24 for the hash, 20 for the position
_PLACES = 1 << _PLACE_BITS


class MaskedLanguageModelling(Objective):
    """Predict hidden tokens from both sides."""

    name: ClassVar[str] = "mlm"
    view: ClassVar[str] = "stream"
    pack: ClassVar[str] = "document"
    also: ClassVar[tuple[str, ...]] = ("pairs",)
    roles: ClassVar[tuple[str, ...]] = ("mlm",)

    class Config(Objective.Config):
        """How much is hidden, and how.

        Attributes:
            share: of a sample's units that are predicted, rounded to the nearest whole number, at least one.
            mask: share of the chosen tokens that become the mask token.
            random: share of the chosen tokens that become a random token; the rest stay.
            whole_words: units are words, not tokens.
        """

        share: float = Field(default=0.15, gt=0.0, le=1.0)
        mask: float = Field(default=0.8, ge=0.0, le=1.0)
        random: float = Field(default=0.1, ge=0.0, le=1.0)
        whole_words: bool = False

        @model_validator(mode="after")
        def _within_one(self) -> MaskedLanguageModelling.Config:
            if self.mask + self.random > 1.0 + 1e-9:
                raise ValueError(f"mask + random must be at most 1, got {self.mask} + {self.random}")
            return self

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        if vocabulary.mask is None:
            raise DataError(
                "objective 'mlm' needs a tokenizer with a mask token, and this one has none; "
                "train one of kind wordpiece, or use the objective clm"
            )
        self.overhead = vocabulary.overhead(False)
        self._mask = vocabulary.mask
        self._ordinary = np.flatnonzero(~vocabulary.special)

    def prepare(self, rows: list[Row], draw: Draw) -> Batch:
        """One sequence a row, `[CLS] tokens [SEP]`."""
        return wrap(rows, self.vocabulary)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        """Choose tokens, replace them, and set the target "mlm"."""
        tokens = batch.tokens.numpy()
        lengths = np.array(batch.layout.lengths, dtype=np.int64)
        sequence = np.repeat(np.arange(len(lengths)), lengths)
        position = batch.layout.positions.numpy()
        unit_of = self._units(tokens, position)
        keys = draw.at(self.name, "choice").keys(batch.samples)
        chosen = np.flatnonzero(choose(unit_of, sequence, position, keys, self.config.share))
        label = tokens[chosen]
        corrupted = tokens.copy()
        corrupted[chosen] = self._replace(label, batch.samples, sequence[chosen], position[chosen], draw)
        targets = {**batch.targets, self.name: target(chosen, label)}
        return replace(batch, tokens=torch.from_numpy(corrupted), targets=targets)

    def _units(self, tokens: NDArray[np.int64], position: NDArray[np.int64]) -> NDArray[np.int64]:
        """The unit of each token, numbered from 0 in order, -1 for special tokens. Shape: (T,), (T,) -> (T,)."""
        maskable = ~self.vocabulary.special[tokens]
        begins = maskable.copy()
        if self.config.whole_words:
            joined = self.vocabulary.continuation[tokens] & (position > 0)
            begins[1:] &= ~(joined[1:] & maskable[:-1])
        return np.where(maskable, np.cumsum(begins) - 1, -1)

    def _replace(
        self,
        label: NDArray[np.int64],
        samples: NDArray[np.int64],
        sequence: NDArray[np.int64],
        position: NDArray[np.int64],
        draw: Draw,
    ) -> NDArray[np.int64]:
        """What stands in for each chosen token. Shape: (K,), (N, 3), (K,), (K,) -> (K,)."""
        at = draw.at(self.name, "action").keys(samples)[sequence]
        action = unit(combine(at, position))
        other = draw.at(self.name, "token").keys(samples)[sequence]
        random = self._ordinary[bounded(combine(other, position), len(self._ordinary))]
        edge = self.config.mask + self.config.random
        return np.where(action < self.config.mask, self._mask, np.where(action < edge, random, label))

    def reads(self, batch: Batch) -> NDArray[np.int64]:
        """The chosen tokens."""
        return batch.targets[self.name][0].numpy()

    def loss(self, model: Model, output: Output, batch: Batch) -> list[Term]:
        """Cross-entropy at the chosen tokens; the head sees no other row."""
        index, label = batch.targets[self.name]
        total, correct = model.heads["mlm"].loss(output.at(index), label)
        return [Term(self.name, total, len(label), self.config.weight, correct)]


def choose(
    unit_of: NDArray[np.int64],
    sequence: NDArray[np.int64],
    position: NDArray[np.int64],
    keys: NDArray[np.uint64],
    share: float,
) -> NDArray[np.bool_]:
    """Choose a rounded share, at least one, of each sequence's units: those with the smallest hashes.

    A unit's rank is 24 bits of the hash of its first position, then that position, so ranks never tie and one sort of
    plain integers (sequence, hash, position) gives each sequence's threshold.

    Shape:
        unit_of: (T,) as numbered over the whole run, -1 for tokens that are in no unit; sequence, position: (T,);
        keys: (N,) one a sequence; return: (T,).
    """
    if len(keys) >= _PLACES or (len(position) and int(position.max()) >= _PLACES):
        raise UsageError(f"a batch holds at most {_PLACES} sequences of at most {_PLACES} tokens; make it smaller")
    inside = np.flatnonzero(unit_of >= 0)
    first = inside[np.flatnonzero(np.diff(unit_of[inside], prepend=-1))]
    owner, place = sequence[first], position[first]
    hashed = combine(keys[owner], place) >> np.uint64(40)
    rank = (((owner.astype(np.uint64) << np.uint64(24)) | hashed) << np.uint64(_PLACE_BITS)) | place.astype(np.uint64)
    units = np.bincount(owner, minlength=len(keys))
    wanted = np.where(units > 0, np.maximum(1, np.floor(share * units + 0.5).astype(np.int64)), 0)
    ends = np.cumsum(units) - units + wanted - 1
    threshold = np.sort(rank)[ends[owner]]
    return np.asarray((rank <= threshold)[unit_of] & (unit_of >= 0)) if len(rank) else unit_of >= 0
