"""Masked language modelling: hide an exact fraction of each sample's tokens, words or runs of words; predict them.

Data: any sequences; special tokens are never hidden. Of the chosen tokens 80% become `[MASK]`, 10% a random token
and the other 10% keep theirs. What is chosen, `units`:

- `token`: single tokens (BERT);
- `word`: whole words, all of whose tokens are chosen by one draw and replaced one by one;
- `ngram`: runs of n whole words, n from 1 to `max_span` with odds 1 / n (ALBERT, with `max_span` 3);
- `span`: runs of n whole words, n geometric with `p`, up to `max_span` (SpanBERT, 10 and 0.2); one draw says for a
  whole run whether it becomes masks, random tokens or stays.

Runs are those of a random division of the text, as if it were cut out of a longer one: they never overlap, and their
lengths have the stated law. The last run that is taken is cut where the rate is reached; all words are as likely to
be hidden, but the first ones a tenth more, as they are cut off less. Words are what the store's segmenter found
(`pretune prepare --segmenter`), else what the tokenizer's subwords tell, for which a Chinese character is a word.

The rate may change over a run, from `rate_start` at its first step to `rate` after `rate_steps` steps; evaluation
has `rate`. With `patterns` a sample has only so many different masks, which epochs take in turn: 1 is a static mask,
10 are the copies that BERT was trained on; by default each epoch has its own. Related: `clm` for decoders.

Source: Devlin et al. 2019 (arXiv 1810.04805), section 3.1 and appendix C.2; whole words as in google-research/bert,
`create_pretraining_data.py`; Lan et al. 2019 (1909.11942), section 4.1; Joshi et al. 2020 (1907.10529), section 3.1;
Liu et al. 2019 (1907.11692), section 4.1 for dynamic masks; Yang et al. 2023 (2212.05272) for falling rates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import nn

from pretune.batch import Batch
from pretune.draw import Draw, Words, combine, mix, mixable, unit
from pretune.errors import UsageError
from pretune.loss import Term
from pretune.nn.heads import TokenPrediction, VocabularyHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.objectives.objective import MASK_REMEDY, Objective, ramp, require_token, wrap
from pretune.text.samples.rows import Row

if TYPE_CHECKING:
    from pretune.text.tokenizer.tokenizer import Vocabulary

Integers = NDArray[np.int64]
_CHOICE = np.array(40, np.uint64)  # bits of a token's hash that do not choose it: they say by what it is replaced
_LOW = np.array((1 << 40) - 1, np.uint64)
_PLACE_BITS = 20  # of a rank: its position, below the 24 bits of the hash that choose
_LAST: dict[type, Any] = {word: word(np.iinfo(word).max) for word in (np.uint32, np.uint64)}
_MAX_SPAN = {"ngram": 3, "span": 10}  # runs of words
_RUNS = -1  # the counter under which a sample's key makes that of its runs: no position
_FILL = 4  # a table of ranks is made while at least a quarter of it is filled


class MaskedLanguageModelling(Objective):
    """Predict hidden tokens from both sides."""

    name: ClassVar[str] = "mlm"
    predicts: ClassVar[TokenPrediction | None] = "masked"
    role: ClassVar[str] = "mlm"
    default_family: ClassVar[str] = "bert"
    view: ClassVar[str] = "stream"
    pack: ClassVar[str] = "document"
    compatible_views: ClassVar[tuple[str, ...]] = ("pairs", "sentences")

    class Config(Objective.Config):
        """How much is hidden, and how.

        Attributes:
            rate: fraction of a sample's units that are predicted, rounded to the nearest whole number, at least one.
            mask: fraction of the chosen tokens that become the mask token.
            random: fraction of the chosen tokens that become a random token; the rest stay.
            units: what is chosen as a whole: `token`, `word`, `ngram` or `span`.
            max_span: maximal number of words of a run, for ngram (3 by default) and span (10).
            p: parameter of the geometric distribution of a span's length; smaller means longer spans.
            rate_start: rate at the first step of training; by default `rate` throughout.
            rate_steps: number of steps after which `rate` is reached, linearly.
            patterns: number of different masks of a sample, over all epochs; 0 draws a new one in each epoch.
        """

        rate: float = Field(default=0.15, gt=0.0, le=1.0)
        mask: float = Field(default=0.8, ge=0.0, le=1.0)
        random: float = Field(default=0.1, ge=0.0, le=1.0)
        units: Literal["token", "word", "ngram", "span"] = "token"
        max_span: int | None = Field(default=None, ge=1, le=64)
        p: float = Field(default=0.2, gt=0.0, lt=1.0)
        rate_start: float | None = Field(default=None, gt=0.0, le=1.0)
        rate_steps: int = Field(default=0, ge=0)
        patterns: int = Field(default=0, ge=0)

        def rate_at(self, step: int | None) -> float:
            """The fraction of a step; of evaluation where there is none."""
            return ramp(self.rate_start, self.rate, self.rate_steps, step)

        @model_validator(mode="after")
        def _within_one(self) -> MaskedLanguageModelling.Config:
            if self.mask + self.random > 1.0 + 1e-9:
                raise ValueError(f"mask + random must be at most 1, got {self.mask} + {self.random}")
            if (self.rate_start is None) != (not self.rate_steps):
                raise ValueError("rate_start and rate_steps belong together: give both or none")
            if self.max_span is not None and self.units in ("token", "word"):
                raise ValueError(f"max_span is for units = 'ngram' and 'span', not {self.units!r}")
            return self

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self.overhead = vocabulary.overhead(False)
        self.words = config.units != "token"
        self._mask = require_token(vocabulary.mask, "mlm", "a mask token", MASK_REMEDY)
        self._runs = _law(config)
        self._ordinary = np.flatnonzero(~vocabulary.special)

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A head over the vocabulary.

        Raises:
            UsageError: the model sees one side alone.
        """
        if model.is_causal:
            raise UsageError(
                f"objective 'mlm' is for models that see both sides of a hidden token, and {model.family} sees what "
                "comes before it; use the objective clm, or a family such as bert"
            )
        return {self.role: model.vocabulary_head("masked")}

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """One sequence a row, `[CLS] tokens [SEP]`."""
        return wrap(rows, self.vocabulary)

    def corrupt(self, batch: Batch, draw: Draw) -> Batch:
        """Choose tokens, replace them, and set the target "mlm"."""
        tokens, position = batch.tokens.numpy(), batch.layout.positions.numpy()
        lengths = np.array(batch.layout.lengths, dtype=np.int64)
        keys = draw.at(self.name, "choice").keys(self._patterns(batch.samples))
        hashed = mix(mixable(keys).repeat(lengths), position, batch.layout.max_length)
        chosen, run = self._choose(batch, hashed, keys, lengths)
        (hidden,) = chosen.nonzero()
        label = tokens.take(hidden)
        corrupted = tokens.copy()
        own = hashed.take(hidden)
        how = own if run is None or self.config.units != "span" else hashed.take(run.take(hidden))
        corrupted[hidden] = self._replace(label, how, own)
        targets = {**batch.targets, self.name: (torch.from_numpy(hidden), torch.from_numpy(label))}
        return replace(batch, tokens=torch.from_numpy(corrupted), targets=targets)

    def _patterns(self, samples: Integers) -> Integers:
        """The names of the samples' masks. Shape: (N, 3) -> (N, 3)."""
        if not self.config.patterns:
            return samples
        out = samples.copy()
        out[:, 1] %= self.config.patterns
        return out

    def _choose(
        self, batch: Batch, hashed: Words, keys: Words, lengths: Integers
    ) -> tuple[NDArray[np.bool_], Integers | None]:
        """Which tokens are to be predicted, and the first token of the run that each belongs to, where there are runs.

        Shape:
            hashed: (T,); keys, lengths: (N,); return: (T,), (T,) or None.
        """
        tokens, position = batch.tokens.numpy(), batch.layout.positions.numpy()
        rate = self.config.rate_at(batch.step)
        special = self.vocabulary.special.take(tokens)
        if self.config.units == "token":
            return choose(hashed, special, position, lengths, rate), None
        flags = batch.continues_word
        continues = (self.vocabulary.continuation.take(tokens) if flags is None else flags) & (position > 0)
        continues[1:] &= ~special[:-1]
        begins = ~(special | continues)
        (words,) = begins.nonzero()
        if not len(words):
            return begins, None
        count = np.bincount(lengths.cumsum().searchsorted(words, side="right"), minlength=len(lengths))
        first = words if self._runs is None else words[runs(count, keys, self._runs)]
        ranked = hashed.copy()
        ranked[words] = hashed.take(first)
        number = np.maximum(begins.cumsum() - 1, 0)
        taken = choose(ranked, ~begins, position, lengths, rate)[words]
        return np.asarray(taken[number] & ~special), first[number]

    def _replace(self, label: Integers, how: Words, own: Words) -> Integers:
        """What stands in for each chosen token, by the bits of hashes that did not choose it.

        Args:
            how: says whether it is a mask, a random token or stays.
            own: says which random token; where it is the same as `how`, so is the number.

        Shape:
            (K,), (K,), (K,) -> (K,)
        """
        drawn = _fraction(how)
        mask, random = self.config.mask, self.config.random
        count = len(self._ordinary)
        if own is how:
            number = (drawn - mask) * (count / random if random else 0.0)
        else:
            number = _fraction(own) * count
        other = self._ordinary.take(number.astype(np.int64), mode="clip")
        other[drawn < mask] = self._mask
        return np.where(drawn < mask + random, other, label)

    def output_rows(self, batch: Batch) -> NDArray[np.int64]:
        """The chosen tokens."""
        return batch.targets[self.name][0].numpy()

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy at the chosen tokens; the head sees no other row."""
        index, label = batch.targets[self.name]
        head, keys = get_head(model, self.role, VocabularyHead), output.keys_at(index)
        total, correct = head.loss(output.at(index), label, keys=keys)
        return [Term(self.name, total, len(label), self.config.weight, correct)]


def _fraction(hashed: Words) -> NDArray[np.float64]:
    """The bits of hashes that did not choose, as numbers in [0, 1). Shape: (K,) -> (K,)."""
    drawn = (hashed & _LOW).astype(np.float64)
    drawn *= 1 / (int(_LOW) + 1)
    return drawn


def _law(config: MaskedLanguageModelling.Config) -> NDArray[np.float64] | None:
    """Cumulative probabilities of runs of 1, 2, 3 ... words; None where every run is one word."""
    if config.units not in _MAX_SPAN:
        return None
    n = np.arange(1, (config.max_span or _MAX_SPAN[config.units]) + 1)
    odds = 1.0 / n if config.units == "ngram" else (1.0 - config.p) ** (n - 1)
    return np.asarray(odds.cumsum() / odds.sum())


def runs(counts: Integers, keys: Words, law: NDArray[np.float64]) -> Integers:
    """Divide each sequence's words into runs of random lengths, one after the other.

    Args:
        counts: words of each sequence.
        keys: of each sequence.
        law: cumulative probabilities of the lengths 1, 2, 3 ...

    Shape:
        counts, keys: (N,); return: (sum of counts,) the number of the word that begins each word's run.
    """
    max_words = int(counts.max(initial=0))
    drawn = unit(combine(combine(keys, _RUNS)[:, None], np.arange(max_words)))
    sizes = law[:-1].searchsorted(drawn, side="right") + 1
    left = 1.0 - np.append(0.0, law[:-1])  # of a run that a text cuts into, anywhere, so many words and more are in it
    sizes[:, :1] = (left.cumsum() / left.sum())[:-1].searchsorted(drawn[:, :1], side="right") + 1
    starts = sizes.cumsum(axis=1) - sizes
    inside = starts < counts[:, None]
    before = counts.cumsum() - counts
    first = np.zeros(int(counts.sum()), np.int64)
    places = (starts + before[:, None])[inside]
    first[places] = places
    return np.maximum.accumulate(first)


def choose(
    hashed: Words, outside: NDArray[np.bool_], position: Integers, lengths: Integers, rate: float
) -> NDArray[np.bool_]:
    """Choose a rounded fraction, at least one, of each sequence's tokens: those with the smallest hashes.

    A token's rank is 24 bits of its hash, then its position, so that ranks never tie.

    Shape:
        hashed, position: (T,); outside: (T,) tokens that cannot be chosen; lengths: (N,); return: (T,).
    """
    count, max_length = len(lengths), int(lengths.max(initial=0))
    if max_length >= 1 << _PLACE_BITS:
        raise UsageError(
            f"a sequence holds fewer than {1 << _PLACE_BITS} tokens, got {max_length}; make 'length' smaller"
        )
    word, bits = (np.uint32, 8) if max_length < 1 << 8 else (np.uint64, _PLACE_BITS)
    rank = (hashed >> _CHOICE << np.array(bits, np.uint64) | position.view(np.uint64)).astype(word)
    (out,) = outside.nonzero()
    rank[out] = _LAST[word]  # no token's rank is as large: its position is not
    units = lengths - np.bincount(lengths.cumsum().searchsorted(out, side="right"), minlength=count)
    wanted = np.maximum((rate * units + 0.5).astype(np.int64), 1)
    threshold = np.minimum(_smallest(rank, lengths, wanted - 1), _LAST[word] - 1)
    return np.asarray(rank <= threshold.repeat(lengths))


def _smallest(rank: NDArray[Any], lengths: Integers, index: Integers) -> NDArray[Any]:
    """The rank at an index of each sequence's ranks in order; anything where it has not so many.

    Short rows of a table are sorted ten times faster than one long run: numpy sorts 128 numbers without a branch.

    Shape:
        rank: (T,); lengths, index: (N,); return: (N,).
    """
    count, max_length = len(lengths), int(lengths.max(initial=0))
    if count * max_length > _FILL * len(rank):
        order = np.lexsort((rank, np.arange(count).repeat(lengths)))
        return np.append(rank[order], rank[:1]).take(lengths.cumsum() - lengths + index, mode="clip")
    if count * max_length == len(rank):
        table = rank.reshape(count, max_length).copy()
    else:
        table = np.full((count, max_length), _LAST[rank.dtype.type])
        table[np.arange(max_length) < lengths[:, None]] = rank
    table.sort(axis=1)
    return table[np.arange(count), index]
