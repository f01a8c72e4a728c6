"""Embeds the tokens or the words of texts: a vector for each, with its place in the text, from chosen layers.

    text -> tokens with offsets -> windows -> layers -> the row of each token, from the window where it is
         farthest from an edge -> tokens, or words: the mean of their tokens' rows, or the first of them

A text that is longer than the model reads is read in windows that share a quarter of their tokens, so that every token
has a vector. Special tokens have none.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from pretune.batch import ragged
from pretune.errors import DataError, UsageError
from pretune.evaluate.embed import budget_of
from pretune.evaluate.engine import by_length
from pretune.evaluate.layers import Combine, LayerChoice
from pretune.models.model import LanguageModel
from pretune.runtime.device import inference_context, is_bf16
from pretune.runtime.finite import first_non_finite_row, non_finite
from pretune.tasks.shared.units import split_words
from pretune.tasks.shared.windowed import token_spans
from pretune.text.samples.windows import Window, plan_windows, word_starts
from pretune.text.tokenizer.long_texts import EncodedText
from pretune.text.tokenizer.segmenter import WordFinder
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.unknown import say_unknown
from pretune.wording import counted

Part = Literal["tokens", "words"]
WordVector = Literal["mean", "first"]
_log = logging.getLogger("pretune")


@dataclass(frozen=True, eq=False)
class EmbeddedText:
    """Holds the vectors of a text's tokens or words.

    Attributes:
        parts: the tokens as the vocabulary spells them, or the words as the text does.
        offsets: (n, 2) where each lies in the text, in characters, the end exclusive.
        vectors: (n, width), or (n, layers, width) where layers are a list.
    """

    parts: list[str]
    offsets: NDArray[np.int64]
    vectors: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.parts)

    def unit_length(self) -> EmbeddedText:
        """The same with vectors of length 1; zeros stay as they are."""
        lengths = np.linalg.norm(self.vectors, axis=-1, keepdims=True)
        return replace(self, vectors=np.asarray(self.vectors / np.where(lengths > 0, lengths, 1.0), np.float32))


@dataclass(frozen=True)
class PartEmbedder:
    """Turns texts into vectors of their parts.

    Attributes:
        network: on its device, in evaluation mode.
        layers: whose rows are read.
        of: what has a vector.
        word_vector: what makes a word's vector of its tokens' ones.
        words: finds words, where they are not runs of letters and single signs: see `segmenter`.
        budget: tokens of a forward.
    """

    network: LanguageModel
    tokenizer: Tokenizer
    layers: LayerChoice
    of: Part
    word_vector: WordVector
    words: WordFinder | None
    budget: int

    @classmethod
    def make(
        cls,
        network: LanguageModel,
        tokenizer: Tokenizer,
        of: Part,
        layers: Sequence[int] = (-1,),
        combine: Combine = "mean",
        word_vector: WordVector = "mean",
        segmenter: str | None = None,
        budget: int | None = None,
    ) -> PartEmbedder:
        """The embedder of a model.

        Raises:
            UsageError: a layer that the model does not have, or an unknown part, combination or word vector.
        """
        for name, value, known in (("of", of, get_args(Part)), ("word_vector", word_vector, get_args(WordVector))):
            if value not in known:
                raise UsageError(f"{name} {value!r}: expected {', '.join(known)}")
        if segmenter is not None and of != "words":
            raise UsageError(f"segmenter {segmenter!r} finds words, and {of} are embedded; set of to words")
        lowercase = network.vectors is not None and network.vectors.lowercase
        return cls(
            network,
            tokenizer.lowercased() if lowercase else tokenizer,
            LayerChoice.of(network, layers, combine),
            of,
            word_vector,
            None if segmenter is None else WordFinder(segmenter),
            budget or budget_of(network.device),
        )

    @cached_property
    def length(self) -> int:
        """Tokens of a window, without special ones.

        Raises:
            DataError: there is no room for any.
        """
        vectors = self.network.vectors
        limit = None if vectors is None else vectors.max_length
        settings = self.tokenizer.settings if limit is None else {"model_max_length": limit}
        length = self.network.context(settings) - self.tokenizer.vocabulary.overhead(False)
        if length < 1:
            raise DataError("the model reads no more tokens than the special ones of a text; raise its length")
        return length

    def __call__(self, texts: Sequence[str]) -> list[EmbeddedText]:
        """The vectors of each text's parts, in their order.

        Raises:
            DataError: a text without any token, or one that cannot be encoded.
            NonFiniteError: a vector that is not finite; it names the text.
        """
        with say_unknown(self.tokenizer):
            encoded = self.tokenizer.encode_kept(texts)
        for n, (text, each) in enumerate(zip(texts, encoded, strict=True)):
            if not len(each.tokens):
                raise DataError(f"text {n + 1} of {len(texts)} has no tokens: {text[:40]!r}")
        tables = self._tables(encoded)
        for n, table in enumerate(tables):
            if first_non_finite_row(table) is not None:
                raise non_finite("a vector", n, len(texts), texts[n])
        if self.of == "tokens":
            return [self._tokens(each, table) for each, table in zip(encoded, tables, strict=True)]
        out = [self._words(*each) for each in zip(texts, encoded, tables, strict=True)]
        if lost := sum(count for _, count in out):
            _log.warning("%s no token, and so no vector: they are left out", counted(lost, "word has", "words have"))
        return [each for each, _ in out]

    def _tables(self, encoded: Sequence[EncodedText]) -> list[NDArray[np.float32]]:
        """The rows of all tokens of each text. Shape: return: (n, parts * width) each"""
        width = self.layers.parts * self.network.width
        tables = [np.empty((len(each.tokens), width), np.float32) for each in encoded]
        windows = [(n, window) for n, each in enumerate(encoded) for window in self._windows(each)]
        vocabulary = self.tokenizer.vocabulary
        runs = [vocabulary.add_special_tokens(encoded[n].tokens[window.index])[0] for n, window in windows]
        for index in by_length([len(run) for run in runs], self.budget):
            batch = ragged([runs[k] for k in index]).to(self.network.device)
            with inference_context(self.network.device, is_bf16(self.network)):
                rows = self.layers.rows(self.network, batch).float().cpu().numpy()
            bounds = batch.layout.bounds
            for sequence, k in enumerate(index.tolist()):
                n, window = windows[k]
                own = rows[bounds[sequence] : bounds[sequence + 1]][vocabulary.text_mask(len(window.index))]
                tables[n][window.answers] = own[window.answers_for]
        return tables

    def _windows(self, text: EncodedText) -> list[Window]:
        """Those of a text; one of a text that fits."""
        count = len(text.tokens)
        starts = np.ones(count, np.bool_)
        if count > self.length:
            starts = word_starts(text.tokens, text.offsets, self.tokenizer.vocabulary.continuation)
        return plan_windows(starts, self.length, self.length // 4)

    def _tokens(self, text: EncodedText, table: NDArray[np.float32]) -> EmbeddedText:
        """Each token with its row."""
        parts = [self.tokenizer.token(each) for each in text.tokens.tolist()]
        return EmbeddedText(parts, text.offsets, self._shaped(table))

    def _words(self, text: str, encoded: EncodedText, table: NDArray[np.float32]) -> tuple[EmbeddedText, int]:
        """Each word with the mean of its tokens' rows, or the first of them; and how many words have no token."""
        spans = split_words(text) if self.words is None else _word_spans(text, self.words(text))
        first, last = token_spans(encoded.offsets, spans[:, 0], spans[:, 1])
        has_tokens = last >= first
        spans, first, last = spans[has_tokens], first[has_tokens], last[has_tokens]
        rows = table[first]
        if self.word_vector == "mean":
            sums = np.concatenate([np.zeros((1, table.shape[1])), table.cumsum(axis=0, dtype=np.float64)])
            rows = ((sums[last + 1] - sums[first]) / (last + 1 - first)[:, None]).astype(np.float32)
        parts = [text[start:end] for start, end in spans.tolist()]
        return EmbeddedText(parts, spans, self._shaped(rows)), int((~has_tokens).sum())

    def _shaped(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Layers apart, where they are a list. Shape: (n, parts * width) -> (n, width') or (n, layers, width)"""
        return rows.reshape(len(rows), self.layers.parts, -1) if self.layers.combine == "list" else rows


def _word_spans(text: str, starts: Sequence[int]) -> NDArray[np.int64]:
    """Words from where each begins to where the next one does, without white space around. Shape: return: (k, 2)"""
    spans: list[tuple[int, int]] = []
    for start, end in zip(starts, [*starts[1:], len(text)], strict=True):
        word = text[start:end]
        begin = start + len(word) - len(word.lstrip())
        if word.strip():
            spans.append((begin, begin + len(word.strip())))
    return np.array(spans, np.int64).reshape(-1, 2)
