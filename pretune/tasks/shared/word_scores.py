"""The scores of label words under a language model, by what sort of model it is.

    decoder           [bos] prompt                       the word follows; words of several tokens by their chain
    masked model      [CLS] prompt [MASK] rest [SEP]     as many masks as the word has tokens, scored in one pass
    encoder-decoder   prompt <extra_id_0> rest </s>      the decoder writes the word behind the sentinel

Words of one token are read off one row of logits; words of several tokens share the pass over their prompt.

Source: Schick and Schütze 2021 (arXiv 2009.07118), section 3, for words of several masks; Raffel et al. 2020
(arXiv 1910.10683) for sentinels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pretune.batch import Batch, ragged
from pretune.errors import UsageError
from pretune.generate.continuations import Request, score_continuations, score_exactly
from pretune.generate.targets import Target, score_targets
from pretune.nn.heads import TokenPrediction, VocabularyHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.objectives.objective import MASK_REMEDY, require_token, target
from pretune.prompts.words import LabelWords
from pretune.text.samples.rows import Ints, Row, names_of
from pretune.text.tokenizer.vocabulary import Vocabulary

ASKED = "prompted rows"
"""The target that says which rows of the hidden run are read for the words, in the order of `prepare`."""
_SCORED = 256  # rows of the vocabulary's scores that are in memory at once, where nothing is trained
_BUDGET = 8192  # tokens of a forward, of both sides
_WORDS = 1024  # tokens that a decoder may write
_SHARED = 16  # tokens that all prompts of a batch have in common, for which they are read once


class WordScores(ABC):
    """Lays prompts out for a sort of model, and reads the scores of words.

    Args:
        vocabulary: of the tokenizer.
        start: token with which a decoder begins to write, where an encoder reads.

    Attributes:
        role: of the language head.
        predicts: what the head predicts.
        has_after: the model reads what stands behind the word.
    """

    role = "clm"
    predicts: TokenPrediction = "next"
    has_after = False

    def __init__(self, vocabulary: Vocabulary, start: int | None = None) -> None:
        self.vocabulary, self._start = vocabulary, start

    @staticmethod
    def of(model: TrainableModel, vocabulary: Vocabulary) -> WordScores:
        """What a model needs.

        Raises:
            UsageError: a model that predicts tokens in neither way, or a tokenizer without the mask that it needs.
        """
        if model.has_encoder:
            return SourceWordScores(vocabulary, model.decoder_start)
        if model.is_causal:
            return NextWordScores(vocabulary)
        if model.supports_permutation:
            raise UsageError(
                f"{model.family} predicts tokens in an order of its own, which prompts do not have; use a decoder such "
                "as gpt2 or llama, a masked model such as bert, or t5"
            )
        return MaskedWordScores(vocabulary)

    @abstractmethod
    def overhead(self, words: LabelWords) -> int:
        """Tokens of a row beside those of the prompt, at most."""

    @abstractmethod
    def prepare(self, rows: Sequence[Row], words: LabelWords) -> Batch:
        """A batch of prompts, with the target `ASKED`."""

    @abstractmethod
    def scores(
        self, model: TrainableModel, output: ModelOutput, batch: Batch, words: LabelWords, count: int
    ) -> Tensor | None:
        """Log probabilities of words by the rows of one pass; None where words of several tokens need more.

        Args:
            count: prompts of the batch.

        Shape:
            return: (N, W) fp32
        """

    def more_scores(self, model: TrainableModel, rows: Sequence[Row], words: LabelWords) -> NDArray[np.float64]:
        """Log probabilities of words, of several tokens too, without gradients. Shape: return: (N, W)"""
        raise NotImplementedError

    def shares(self, rows: Sequence[Row]) -> bool:
        """Whether the prompts have so much in common that `more_scores`, which reads it once, is faster."""
        return False


class MaskedWordScores(WordScores):
    """Of a masked language model: each number of tokens that words have makes a sequence of its own."""

    role = "mlm"
    predicts: TokenPrediction = "masked"
    has_after = True

    def __init__(self, vocabulary: Vocabulary, start: int | None = None) -> None:
        super().__init__(vocabulary, start)
        self._mask = require_token(vocabulary.mask, "prompted", "a mask token", MASK_REMEDY)

    def overhead(self, words: LabelWords) -> int:
        """Masks and special tokens."""
        return self.vocabulary.overhead(False) + words.max_length

    def prepare(self, rows: Sequence[Row], words: LabelWords) -> Batch:
        """For each number of masks, a sequence of each row."""
        sequences, positions = [], []
        sizes = _sizes(words)
        for size in sizes:
            masks = np.full(size, self._mask)
            for row in rows:
                after = np.zeros(0, np.int64) if row.second is None else row.second
                sequences.append(self.vocabulary.add_special_tokens(np.concatenate([row.tokens, masks, after])))
                positions.append(self.vocabulary.prefix_length + len(row.tokens) + np.arange(size))
        batch = ragged([tokens for tokens, _ in sequences], [segments for _, segments in sequences])
        starts = batch.layout.bounds
        index = np.concatenate([position + start for position, start in zip(positions, starts, strict=False)])
        batch.targets[ASKED] = target(index, np.zeros(len(index), np.int64))
        return replace(batch, samples=np.tile(names_of(rows), (len(sizes), 1)))

    def scores(
        self, model: TrainableModel, output: ModelOutput, batch: Batch, words: LabelWords, count: int
    ) -> Tensor | None:
        """The sum over a word's masks."""
        head = get_head(model, self.role, VocabularyHead)
        index, _ = batch.targets[ASKED]
        columns: list[Tensor] = []
        first, order = 0, list[int]()
        for size in _sizes(words):
            own = [n for n, run in enumerate(words.tokens) if len(run) == size]
            tokens = torch.from_numpy(np.stack([words.tokens[n] for n in own])).to(index.device)  # (w, size)
            rows = index[first : first + count * size].view(count, size)
            each = [
                _log_probs(head, output.at(rows[:, n].contiguous()), tokens[:, n]) for n in range(size)
            ]  # (count, w)
            columns.append(torch.stack(each).sum(dim=0))
            first, order = first + count * size, [*order, *own]
        return torch.cat(columns, dim=1)[:, np.argsort(order).tolist()]


class NextWordScores(WordScores):
    """Of a decoder."""

    def overhead(self, words: LabelWords) -> int:
        """The beginning of a document, and the word."""
        return len(self.vocabulary.prompt_prefix) + words.max_length

    def _prompt(self, row: Row) -> Ints:
        prefix = self.vocabulary.prompt_prefix
        has_prefix = len(prefix) and len(row.tokens) and row.tokens[0] == prefix[0]  # as a chat template writes it
        return row.tokens if has_prefix else np.concatenate([prefix, row.tokens])

    def prepare(self, rows: Sequence[Row], words: LabelWords) -> Batch:
        """Prompts, each followed by the word of its label where this is known and has several tokens."""
        return _chains([self._prompt(row) for row in rows], rows, words)

    def scores(
        self, model: TrainableModel, output: ModelOutput, batch: Batch, words: LabelWords, count: int
    ) -> Tensor | None:
        """The row of the prompt's last token."""
        if words.max_length > 1:
            return None
        return _first_tokens(model, output, batch, words, self.role)

    def more_scores(self, model: TrainableModel, rows: Sequence[Row], words: LabelWords) -> NDArray[np.float64]:
        """What prompts have in common is read once, and each prompt once for all words."""
        requests = [
            Request(np.concatenate([self._prompt(row), word[:-1]]), word) for row in rows for word in words.tokens
        ]
        out = np.empty(len(requests))
        head = get_head(model, self.role, VocabularyHead)
        for n, likelihood in score_continuations(cast(Any, model), head, requests):
            out[n] = likelihood.log_prob
        return out.reshape(len(rows), len(words.tokens))

    def shares(self, rows: Sequence[Row]) -> bool:
        """Solved examples, or a long instruction."""
        size = min(len(row.tokens) for row in rows)
        head = rows[0].tokens[: min(size, _SHARED)]
        return size > _SHARED and len(rows) > 1 and all(np.array_equal(row.tokens[:_SHARED], head) for row in rows)


class SourceWordScores(WordScores):
    """Of an encoder-decoder, whose encoder reads the prompt and whose decoder writes the word."""

    has_after = True

    def overhead(self, words: LabelWords) -> int:
        """The end, and the sentinel; words are the decoder's."""
        return len(self.vocabulary.with_end([])) + len(self._sentinel)

    @property
    def _sentinel(self) -> Ints:
        """Shape: return: (0 or 1,)"""
        return np.array(self.vocabulary.sentinels[:1], np.int64)

    def _source(self, row: Row) -> Ints:
        after = np.zeros(0, np.int64) if row.second is None else row.second
        return self.vocabulary.with_end(np.concatenate([row.tokens, self._sentinel, after]))

    def prepare(self, rows: Sequence[Row], words: LabelWords) -> Batch:
        """Sources, and what the decoder has written before the word, and of a word whose label is known."""
        start = self.vocabulary.end if self._start is None else self._start
        written = np.concatenate([[start], self.vocabulary.prefix, self._sentinel]).astype(np.int64)
        return replace(_chains([written] * len(rows), rows, words), source=ragged([self._source(row) for row in rows]))

    def scores(
        self, model: TrainableModel, output: ModelOutput, batch: Batch, words: LabelWords, count: int
    ) -> Tensor | None:
        """The row before the word's first token."""
        return None if words.max_length > 1 else _first_tokens(model, output, batch, words, self.role)

    def more_scores(self, model: TrainableModel, rows: Sequence[Row], words: LabelWords) -> NDArray[np.float64]:
        """Each source is read once for all words."""
        head, sentinel = get_head(model, self.role, VocabularyHead), self._sentinel
        runs = [np.concatenate([sentinel, word]) for word in words.tokens] + ([sentinel] if len(sentinel) else [])
        targets = [Target(source, run) for source in map(self._source, rows) for run in runs]
        longest = max(len(target.source) for target in targets)
        out = np.empty(len(targets))
        for n, likelihood in score_targets(cast(Any, model), head, self.vocabulary, targets, longest + _WORDS, _BUDGET):
            out[n] = likelihood.log_prob
        table = out.reshape(len(rows), len(runs))
        return table[:, : len(words.tokens)] - (table[:, -1:] if len(sentinel) else 0.0)


def _sizes(words: LabelWords) -> list[int]:
    """The different numbers of tokens that words have."""
    return sorted({len(run) for run in words.tokens})


def _chains(prompts: Sequence[Ints], rows: Sequence[Row], words: LabelWords) -> Batch:
    """Prompts, each with the word of its label but for the last token; `ASKED` is each prompt's last row."""
    runs = [
        prompt if row.targets is None else np.concatenate([prompt, words.first_of(int(row.targets))[:-1]])
        for prompt, row in zip(prompts, rows, strict=True)
    ]
    batch = replace(ragged(runs), samples=names_of(rows))
    starts = np.array(batch.layout.bounds[:-1])
    ends = starts + np.array([len(prompt) for prompt in prompts]) - 1
    batch.targets[ASKED] = target(ends, np.arange(len(rows)))
    return batch


def _first_tokens(model: TrainableModel, output: ModelOutput, batch: Batch, words: LabelWords, role: str) -> Tensor:
    """Log probabilities of words of one token. Shape: return: (N, W) fp32"""
    index, _ = batch.targets[ASKED]
    tokens = torch.tensor([int(run[0]) for run in words.tokens], device=index.device)
    return _log_probs(get_head(model, role, VocabularyHead), output.at(index), tokens)


def _log_probs(head: VocabularyHead, rows: Tensor, tokens: Tensor) -> Tensor:
    """Log probabilities of some tokens. Shape: rows: (K, width); tokens: (w,); return: (K, w) fp32"""
    block = len(rows) if torch.is_grad_enabled() else _SCORED
    parts = []
    for first in range(0, len(rows), max(block, 1)):
        some = rows[first : first + block]
        scores: Tensor = head(some)
        logits = scores.float()
        chosen = logits[:, tokens]
        if scores.dtype == torch.bfloat16 and not torch.is_grad_enabled():
            chosen = score_exactly(head, some, tokens.expand(len(some), -1))
        parts.append(chosen - logits.logsumexp(dim=1, keepdim=True))
    return torch.cat(parts) if parts else rows.new_zeros((0, len(tokens)), dtype=torch.float32)
