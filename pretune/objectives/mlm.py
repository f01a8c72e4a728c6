"""Masked language modelling: hide an exact share of each sample's tokens, or whole words, and predict the originals.

Data: any sequences; special tokens are never hidden. Of the chosen tokens 80 % become `[MASK]`, 10 % a random token and
10 % stay as they are. Related: `clm` for decoders.

Source: Devlin et al. 2019 (arXiv 1810.04805), section 3.1 and appendix C.2; whole words as in google-research/bert,
`create_pretraining_data.py`, where one word is one draw and its tokens are replaced one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from pretune.batch import Batch
from pretune.draw import Draw, Words, mix, mixable
from pretune.errors import DataError, UsageError
from pretune.loss import Term
from pretune.objectives.objective import Model, Objective, Output, wrap
from pretune.text.rows import Row

if TYPE_CHECKING:
    from pretune.text.tokenizer import Vocabulary

Integers = NDArray[np.int64]
_CHOICE = np.array(40, np.uint64)  # bits of a token's hash that do not choose it: they say by what it is replaced
_LOW = np.array((1 << 40) - 1, np.uint64)
_PLACE_BITS = 20  # of a rank: its position, below the 24 bits of the hash that choose
_LAST: dict[type, Any] = {word: word(np.iinfo(word).max) for word in (np.uint32, np.uint64)}
_FILL = 4  # a table of ranks is made while at least a quarter of it is filled


class MaskedLanguageModelling(Objective):
    """Predict hidden tokens from both sides."""

    name: ClassVar[str] = "mlm"
    home: ClassVar[str] = "bert"
    view: ClassVar[str] = "stream"
    pack: ClassVar[str] = "document"
    also: ClassVar[tuple[str, ...]] = ("pairs", "sentences")
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

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """One sequence a row, `[CLS] tokens [SEP]`."""
        return wrap(rows, self.vocabulary)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        """Choose tokens, replace them, and set the target "mlm"."""
        tokens, position = batch.tokens.numpy(), batch.layout.positions.numpy()
        lengths = np.array(batch.layout.lengths, dtype=np.int64)
        keys = mixable(draw.at(self.name, "choice").keys(batch.samples))
        hashed = mix(keys.repeat(lengths), position, batch.layout.longest)
        (hidden,) = self._choose(tokens, hashed, position, lengths).nonzero()
        label = tokens.take(hidden)
        corrupted = tokens.copy()
        corrupted[hidden] = self._replace(label, hashed.take(hidden))
        targets = {**batch.targets, self.name: (torch.from_numpy(hidden), torch.from_numpy(label))}
        return replace(batch, tokens=torch.from_numpy(corrupted), targets=targets)

    def _choose(self, tokens: Integers, hashed: Words, position: Integers, lengths: Integers) -> NDArray[np.bool_]:
        """Which tokens are to be predicted. Shape: (T,), (T,), (T,), (N,) -> (T,)."""
        special = self.vocabulary.special.take(tokens)
        if not self.config.whole_words:
            return choose(hashed, special, position, lengths, self.config.share)
        joined = self.vocabulary.continuation[tokens] & (position > 0)
        joined[1:] &= ~special[:-1]
        begins = ~(special | joined)
        words = choose(hashed, ~begins, position, lengths, self.config.share)[begins]
        return np.asarray(words[np.cumsum(begins) - 1] & ~special) if len(words) else begins

    def _replace(self, label: Integers, hashed: Words) -> Integers:
        """What stands in for each chosen token, by the bits of its hash that did not choose it. Shape: (K,) -> (K,)."""
        drawn = (hashed & _LOW).astype(np.float64)
        drawn *= 1 / (int(_LOW) + 1)
        mask, random = self.config.mask, self.config.random
        number = (drawn - mask) * (len(self._ordinary) / random if random else 0.0)
        other = self._ordinary.take(number.astype(np.int64), mode="clip")
        other[drawn < mask] = self._mask
        return np.where(drawn < mask + random, other, label)

    def reads(self, batch: Batch) -> NDArray[np.int64]:
        """The chosen tokens."""
        return batch.targets[self.name][0].numpy()

    def loss(self, model: Model, output: Output, batch: Batch) -> list[Term]:
        """Cross-entropy at the chosen tokens; the head sees no other row."""
        index, label = batch.targets[self.name]
        total, correct = model.heads["mlm"].loss(output.at(index), label)
        return [Term(self.name, total, len(label), self.config.weight, correct)]


def choose(
    hashed: Words, outside: NDArray[np.bool_], position: Integers, lengths: Integers, share: float
) -> NDArray[np.bool_]:
    """Choose a rounded share, at least one, of each sequence's tokens: those with the smallest hashes.

    A token's rank is 24 bits of its hash, then its position, so that ranks never tie.

    Shape:
        hashed, position: (T,); outside: (T,) tokens that cannot be chosen; lengths: (N,); return: (T,).
    """
    count, longest = len(lengths), int(lengths.max(initial=0))
    if longest >= 1 << _PLACE_BITS:
        raise UsageError(f"a sequence holds fewer than {1 << _PLACE_BITS} tokens, got {longest}; make 'length' smaller")
    word, bits = (np.uint32, 8) if longest < 1 << 8 else (np.uint64, _PLACE_BITS)
    rank = (hashed >> _CHOICE << np.array(bits, np.uint64) | position.view(np.uint64)).astype(word)
    (out,) = outside.nonzero()
    rank[out] = _LAST[word]  # no token's rank is as large: its position is not
    units = lengths - np.bincount(lengths.cumsum().searchsorted(out, side="right"), minlength=count)
    wanted = np.maximum((share * units + 0.5).astype(np.int64), 1)
    threshold = np.minimum(_smallest(rank, lengths, wanted - 1), _LAST[word] - 1)
    return np.asarray(rank <= threshold.repeat(lengths))


def _smallest(rank: NDArray[Any], lengths: Integers, place: Integers) -> NDArray[Any]:
    """The rank at a place of each sequence's ranks in order; anything where it has not so many.

    Short rows of a table are sorted ten times faster than one long run: numpy sorts 128 numbers without a branch.

    Shape:
        rank: (T,); lengths, place: (N,); return: (N,).
    """
    count, longest = len(lengths), int(lengths.max(initial=0))
    if count * longest > _FILL * len(rank):
        order = np.lexsort((rank, np.arange(count).repeat(lengths)))
        return np.append(rank[order], rank[:1]).take(lengths.cumsum() - lengths + place, mode="clip")
    if count * longest == len(rank):
        table = rank.reshape(count, longest).copy()
    else:
        table = np.full((count, longest), _LAST[rank.dtype.type])
        table[np.arange(longest) < lengths[:, None]] = rank
    table.sort(axis=1)
    return table[np.arange(count), place]
