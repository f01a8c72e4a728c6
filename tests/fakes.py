"""Small stand-ins that several tests share: a split in memory, a vocabulary, a model of one embedding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pretune.batch import Batch, Layout
from pretune.nn.cross_entropy import linear_cross_entropy
from pretune.text.store.index import Index, Parts, computed
from pretune.text.tokenizer.vocabulary import Vocabulary

PAD, UNK, CLS, SEP, MASK = range(5)
ORDINARY = 5
BEGINNINGS = """
import numpy as np

from pretune.text.samples.views.view import StoreView


class Beginnings(StoreView):
    \"\"\"The first tokens of every document.\"\"\"

    def __init__(self, split, width, lookahead=0, words=False):
        super().__init__(split, width, lookahead, words)
        offsets = np.asarray(split.document_offsets)
        self.start, self.stop = offsets[:-1], np.minimum(offsets[:-1] + width, offsets[1:] - 1)

    def __len__(self):
        return len(self.start)

    def lengths(self, index):
        return self.stop[index] - self.start[index]

    def read(self, index, store, epoch, draw):
        return self.windows(index, store, epoch, self.start[index], self.stop[index])

    def data_stats(self):
        used = int((self.stop - self.start).sum())
        return {"samples": len(self), "tokens": self.split.token_count, "used": used}
"""  # a user's own view, as a file


def make_vocabulary(size: int = 100, continuing: int = 30) -> Vocabulary:
    """BERT-like: five special tokens; the last `continuing` ids continue a word."""
    special = np.zeros(size, np.bool_)
    special[:ORDINARY] = True
    continuation = np.zeros(size, np.bool_)
    continuation[size - continuing :] = True
    return Vocabulary(size, PAD, UNK, CLS, SEP, MASK, None, None, special, continuation)


def make_decoder_vocabulary(size: int = 100) -> Vocabulary:
    """GPT-2-like: one special token, the end of text, with id 0."""
    special = np.zeros(size, np.bool_)
    special[0] = True
    return Vocabulary(size, None, None, None, None, None, None, 0, special, np.zeros(size, np.bool_))


class MemorySplit:
    """A split of a token store made from documents, each a list of sentence lengths; tokens count up from 1000."""

    def __init__(self, documents: Sequence[Sequence[int]], tokens: NDArray[np.int64] | None = None) -> None:
        ends = np.cumsum([sum(sentences) + 1 for sentences in documents], dtype=np.int64)
        self.document_offsets = np.concatenate([[0], ends]).astype(np.int64)
        self.document_count = len(documents)
        starts = zip(self.document_offsets.tolist(), documents, strict=False)
        self.sentence_offsets = np.array(
            [first + sum(sentences[:n]) for first, sentences in starts for n in range(max(1, len(sentences)))], np.int64
        )
        self.token_count = int(self.document_offsets[-1])
        self.tokens = np.arange(self.token_count) + 1000 if tokens is None else tokens
        self.tokens[self.document_offsets[1:] - 1] = SEP
        self.has_words = False

    def read_word_starts(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.bool_]:
        raise AssertionError("a split without words was asked for them")

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        assert 0 <= start <= stop <= self.token_count
        return self.tokens[start:stop].copy()

    def index(self, name: str, parts: Parts) -> Index:
        return computed(parts)

    def read_runs(self, start: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.int64]:
        runs = [self.read(a, b) for a, b in zip(start.tolist(), stop.tolist(), strict=True)]
        return np.concatenate([np.zeros(0, np.int64), *runs])


def sequences_of(batch: Batch, run: Tensor | None, numbers: Sequence[int]) -> list[list[int]]:
    """The parts of a run of the batch that belong to some of its sequences, in the order given."""
    assert run is not None
    parts = run.split(batch.layout.lengths)
    return [parts[n].tolist() for n in numbers]


@dataclass
class FakeOutput:
    last_hidden_state: Tensor
    layout: Layout | None = None

    def at(self, index: Tensor) -> Tensor:
        return self.last_hidden_state[index]

    def keys_at(self, index: Tensor) -> None:
        return None


class FakeTokenHead(nn.Module):
    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, size)

    def loss(self, rows: Tensor, labels: Tensor, *, keys: None = None) -> tuple[Tensor, Tensor]:
        return linear_cross_entropy(rows, self.linear.weight, self.linear.bias, labels)


class FakeSequenceHead(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2)

    def forward(self, hidden: Tensor, layout: Layout) -> Tensor:
        return self.linear(hidden[layout.first])


class FakeModel(nn.Module):
    """An embedding and heads; counts its forwards."""

    def __init__(self, size: int = 100, width: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(size, width)
        self.heads = nn.ModuleDict(
            {"mlm": FakeTokenHead(width, size), "clm": FakeTokenHead(width, size), "nsp": FakeSequenceHead(width)}
        )
        self.passes = 0

    def forward(self, batch: Batch) -> FakeOutput:
        self.passes += 1
        return FakeOutput(self.embedding(batch.tokens), batch.layout)
