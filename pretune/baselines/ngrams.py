"""TF-IDF of texts: of words and pairs of words, or of one to three characters where text has no blanks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from pretune.text.language import language_of

if TYPE_CHECKING:
    from scipy.sparse import csr_array
    from sklearn.feature_extraction.text import TfidfVectorizer

Unit = Literal["word", "char"]
RANGES: dict[Unit, tuple[int, int]] = {"word": (1, 2), "char": (1, 3)}
_SAMPLE = 200  # texts that tell the language


@dataclass(frozen=True)
class Ngrams:
    """The n-grams that texts are described by.

    Attributes:
        unit: what an n-gram is made of: words, or characters.
        sizes: of the n-grams, at least and at most.
        terms: the n-grams, in the order of the features.
        idf: weight of each: the rarer, the larger.
        is_paired: a text has a second text, and its features are those of both, of what they share, and of what they
            do not.

    Shape:
        idf: (F,)
    """

    unit: Unit
    sizes: tuple[int, int]
    terms: list[str]
    idf: NDArray[np.float64]
    is_paired: bool = False

    @classmethod
    def fit(cls, texts: Sequence[str], seconds: Sequence[str] | None = None, unit: Unit | None = None) -> Ngrams:
        """The n-grams of some texts.

        Args:
            unit: by default characters for Chinese, and words for other languages.
        """
        chosen: Unit = unit or ("char" if language_of("\n".join(texts[:_SAMPLE])) == "zh" else "word")
        vectorizer = _vectorizer(chosen, RANGES[chosen], None)
        vectorizer.fit([*texts, *(seconds or ())])
        terms = vectorizer.get_feature_names_out().tolist()
        return cls(chosen, RANGES[chosen], terms, np.asarray(vectorizer.idf_, np.float64), seconds is not None)

    def features(self, texts: Sequence[str], seconds: Sequence[str] | None = None) -> csr_array:
        """The features of texts, or of pairs. Shape: return: (n, F), or (n, 4 F) of pairs"""
        from scipy.sparse import csr_array, hstack

        vectorizer = _vectorizer(self.unit, self.sizes, self.terms)
        vectorizer.idf_ = self.idf
        first = csr_array(vectorizer.transform(texts))
        if not self.is_paired:
            return first
        second = csr_array(vectorizer.transform(seconds if seconds is not None else [""] * len(texts)))
        return csr_array(hstack([first, second, first.multiply(second), abs(first - second)]))


def _vectorizer(unit: Unit, sizes: tuple[int, int], terms: Sequence[str] | None) -> TfidfVectorizer:
    from sklearn.feature_extraction.text import TfidfVectorizer  # 100 MB with what it imports

    return TfidfVectorizer(
        analyzer=unit,
        ngram_range=sizes,
        sublinear_tf=True,
        token_pattern=r"(?u)\b\w+\b" if unit == "word" else None,
        vocabulary=terms,
    )
