"""ROUGE in points, 0 to 100, by rouge-score: F-score of common words (1), pairs (2) and common subsequences (L, Lsum).

rouge-score's own tokenizer throws away every character but a to z and 0 to 9, so two identical Chinese texts get 0. For
text in another script than Latin it is given a tokenizer by characters (Chinese, Japanese, Thai) or by words. With
several references each score is that of the best one, as `score_multi` does.

Source: Lin 2004; rouge-score 0.1.2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from pretune import config as configuration
from pretune.errors import MissingPackageError
from pretune.metrics.metric import MeanMetric, Scores, Texts, check_cells, signature_of
from pretune.metrics.words import is_latin, split_words

_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


class Rouge(MeanMetric):
    """ROUGE-N, ROUGE-L and ROUGE-Lsum."""

    main: ClassVar[str] = "rougeL"

    class Config(configuration.Config):
        """What is counted.

        Attributes:
            types: scores: `rouge1` to `rouge9`, `rougeL`, and `rougeLsum`, which takes each line of a text for itself.
            stemmer: whether English words are cut to their stems.
            tokenize: `rouge` is rouge-score's own, `words` single characters of scripts without spaces and else whole
                words of any script; `auto` is `rouge` for languages in Latin script.
        """

        types: tuple[str, ...] = Field(default=_TYPES, min_length=1)
        stemmer: bool = False
        tokenize: Literal["auto", "rouge", "words"] = "auto"

        @field_validator("types")
        @classmethod
        def _known(cls, types: tuple[str, ...]) -> tuple[str, ...]:
            known = (*_TYPES, *(f"rouge{n}" for n in range(3, 10)))
            for name in types:
                if name not in known:
                    raise ValueError(f"{name!r} is no score of ROUGE; known: {', '.join(known)}")
            return types

    def prepare(self, texts: Texts) -> None:
        """Makes the scorer with the tokenizer of the language."""
        try:
            from rouge_score.rouge_scorer import RougeScorer
            from rouge_score.tokenizers import DefaultTokenizer
        except ImportError:
            raise MissingPackageError("rouge needs the package rouge-score: pip install 'pretune[tasks]'") from None
        own = self._tokenizer(texts.language) == "words"
        self._scorer: Any = RougeScorer(
            list(self.config.types),
            use_stemmer=self.config.stemmer,
            tokenizer=_Tokenizer(split_words) if own else DefaultTokenizer(self.config.stemmer),
        )

    def score_text(self, hypothesis: str, references: Sequence[str], source: str) -> Scores:
        """The F-scores of a text, each beside the reference that is best for it."""
        if any(name.startswith("rougeL") for name in self.config.types):
            check_cells("rouge", len(hypothesis), max(map(len, references)), "--rouge.types rouge1,rouge2")
        best = self._scorer.score_multi(references, hypothesis)
        return {name: 100.0 * float(best[name].fmeasure) for name in self.config.types}

    def signature(self, texts: Texts) -> str:
        """The version of rouge-score and what it was told."""
        from importlib.metadata import version

        config = self.config.model_copy(update={"tokenize": self._tokenizer(texts.language)})
        return f"rouge-score:{version('rouge-score')}|{signature_of(config)}"

    def _tokenizer(self, language: str) -> str:
        if self.config.tokenize != "auto":
            return str(self.config.tokenize)
        return "rouge" if is_latin(language) else "words"


class _Tokenizer:
    """A function in the form of rouge-score's tokenizers."""

    def __init__(self, split: Callable[[str], list[str]]) -> None:
        self.tokenize = split
