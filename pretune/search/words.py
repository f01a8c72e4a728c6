"""Search by words: BM25 over the passages of an index, by bm25s.

    passages -> words -> numbers -> bm25s -> a folder: three arrays, the vocabulary, the parameters (its own format)

Words are numbered by their first occurrence, so that the same passages give the same files. A query costs the
postings of its words; deleted and filtered passages count as 0.

Source: Robertson & Zaragoza 2009; bm25s (Lù 2024, arXiv 2407.03618), whose default is Lucene's BM25.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pretune.errors import DataError, MissingPackageError, first_line
from pretune.field_table import read_file
from pretune.find import find_class
from pretune.interop.safety import read_json
from pretune.search.tokenization import Tokenization

_KINDS = ("method", "idf_method", "dtype", "int_dtype", "backend")  # what says how scores are computed
_PARAMETERS = 64 << 10  # bytes of what bm25s says of itself
_WORD = 1 << 10  # bytes of a word of the vocabulary as JSON, on an average at most
Scores = NDArray[np.float32]
Allowed = NDArray[np.bool_]


class WordIndex:
    """BM25 of some passages.

    Args:
        bm25: of bm25s.
        tokenization: that made the words.
    """

    def __init__(self, bm25: Any, tokenization: Tokenization) -> None:
        self._bm25 = bm25
        self._tokenization = tokenization

    @classmethod
    def build(cls, texts: Iterable[str], tokenization: str, folder: Path) -> None:
        """Writes the index of texts into a folder.

        Args:
            tokenization: name of a variant of `search/tokenizations/`.

        Raises:
            MissingPackageError: bm25s, or what the tokenization needs, is not installed.
            DataError: no text has a word.
        """
        bm25s, tokenize = _library(), tokenization_of(tokenization)
        vocabulary: dict[str, int] = {}
        ids = [[vocabulary.setdefault(word, len(vocabulary)) for word in tokenize(text)] for text in texts]
        if not vocabulary:
            raise DataError("no passage has a word: letters, digits or Chinese characters; give documents of text")
        bm25 = bm25s.BM25()
        bm25.index((ids, vocabulary), show_progress=False)
        bm25.save(folder, show_progress=False)

    @classmethod
    def open(cls, folder: Path, tokenization: str, passages: int) -> WordIndex:
        """Reads a folder that `build` wrote.

        Args:
            passages: how many it must be of.

        Raises:
            MissingInputError: a file is missing.
            DataError: its files do not fit together, or are too large for what they hold.
        """
        bm25s = _library()
        own, written = bm25s.BM25(), read_json(folder / "params.index.json", _PARAMETERS)
        if any(written.get(name) != getattr(own, name) for name in _KINDS):
            raise DataError(f"{folder / 'params.index.json'}: is of another kind of BM25; make the index again")
        try:
            bm25 = bm25s.BM25.load(folder, mmap=True, load_vocab=False, show_progress=False)
            data, indices, bounds = (bm25.scores[name] for name in ("data", "indices", "indptr"))
            fits = (
                bm25.scores["num_docs"] == passages
                and len(data) == len(indices) == bounds[-1]
                and bounds[0] == 0
                and not (np.diff(bounds) < 0).any()
                and (not len(indices) or 0 <= indices.min() <= indices.max() < passages)
            )
            size = len(bounds)
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            raise DataError(f"{folder}: cannot be read as an index of words: {error}; make the index again") from None
        if not fits:
            raise DataError(f"{folder}: its arrays do not fit together; make the index again")
        bm25.vocab_dict = _read_vocabulary(folder / "vocab.index.json", size)
        return cls(bm25, tokenization_of(tokenization))

    def scores(self, query: str) -> Scores:
        """The BM25 score of every passage; 0 where it has no word of the query. Shape: return: (passages,)"""
        ids = self._bm25.get_tokens_ids(self._tokenization.query(query, self._bm25.vocab_dict))
        if not ids:
            return np.zeros(self._bm25.scores["num_docs"], np.float32)
        scores: Scores = self._bm25.get_scores_from_ids(ids)
        return scores

    def search(self, query: str, count: int, allowed: Allowed | None = None) -> tuple[NDArray[np.int64], Scores]:
        """The best passages that have a word of the query, best first; of equal ones the first.

        Shape:
            allowed: (passages,); return: at most (count,) rows and their scores
        """
        scores = self.scores(query)
        if allowed is not None:
            scores = scores * allowed
        return best_rows(scores, count, smallest=0.0)


def _read_vocabulary(path: Path, size: int) -> dict[str, int]:
    """The numbers of words.

    Args:
        size: how many words there are at most: the arrays have bounds for as many.

    Raises:
        DataError: larger than so many words can be, or something else than their numbers.
    """
    raw = read_file(path, _WORD * (size + 1))
    try:
        vocabulary = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON: {first_line(error)}; make the index again") from None
    numbers = vocabulary.values() if isinstance(vocabulary, dict) else [None]
    if any(type(number) is not int for number in numbers) or sorted(numbers) != list(range(min(len(numbers), size))):
        raise DataError(f"{path}: does not number its words; it is damaged or hostile; make the index again")
    return dict(vocabulary)


def best_rows(scores: Scores, count: int, smallest: float = -np.inf) -> tuple[NDArray[np.int64], Scores]:
    """The rows with the highest scores above the smallest, best first; of equal ones the first.

    Shape:
        scores: (n,); return: at most (count,) rows and their scores
    """
    if count < len(scores):
        bound = np.partition(scores, len(scores) - count)[len(scores) - count]
        rows = np.flatnonzero(scores >= bound)
    else:
        rows = np.arange(len(scores))
    rows = rows[scores[rows] > smallest]
    rows = rows[np.argsort(-scores[rows], kind="stable")][:count]
    return rows, scores[rows]


def tokenization_of(name: str) -> Tokenization:
    """A variant of `search/tokenizations/`, or a user's own.

    Raises:
        UsageError: no such variant.
    """
    return find_class("search.tokenizations", name, Tokenization)()  # type: ignore[type-abstract]


def _library() -> Any:
    try:
        import bm25s
    except ImportError:
        raise MissingPackageError("search by words needs the package bm25s: pip install 'pretune[search]'") from None
    return bm25s
