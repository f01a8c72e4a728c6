"""BLEU in points, 0 to 100, by sacrebleu: precisions of runs of 1 to 4 tokens, short texts punished.

Single texts are scored with the orders that they have (`effective_order`), as `sacrebleu --sentence-level` does.

Source: Papineni et al. 2002; Post 2018 (arXiv 1804.08771), sacrebleu.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from pretune import config as configuration
from pretune.errors import MissingPackageError, UsageError
from pretune.metrics.metric import Judgement, Metric, Texts
from pretune.metrics.sacre import judge_by, library
from pretune.metrics.words import base_language, has_spaces

_OF_LANGUAGE = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}  # sacrebleu's own choice


class Bleu(Metric):
    """BLEU."""

    main: ClassVar[str] = "bleu"

    class Config(configuration.Config):
        """How texts are split and sums smoothed.

        Attributes:
            tokenize: sacrebleu's tokenizer; `auto` is `zh` for Chinese, a morphological analyser for Japanese and
                Korean, and `13a` for all else.
            lowercase: whether case is ignored.
            smooth: what stands for a precision of 0.
            max_order: the longest run of tokens.
        """

        tokenize: Literal["auto", "13a", "zh", "char", "intl", "none", "ja-mecab", "ko-mecab"] = "auto"
        lowercase: bool = False
        smooth: Literal["exp", "floor", "add-k", "none"] = "exp"
        max_order: int = Field(default=4, ge=1, le=9)

    def judge(self, texts: Texts) -> Judgement:
        """Scores by sacrebleu, with the tokenizer of the language of the references."""
        metrics = library("bleu")
        fields = {
            "tokenize": choose_tokenizer(self.config.tokenize, texts.language),
            "lowercase": self.config.lowercase,
            "smooth_method": self.config.smooth,
            "max_ngram_order": self.config.max_order,
        }
        try:
            corpus = metrics.BLEU(**fields)
            single = metrics.BLEU(**fields, effective_order=True)
        except (ImportError, RuntimeError) as error:
            extra = fields["tokenize"].removesuffix("-mecab")
            raise MissingPackageError(
                f"bleu: the tokenizer {fields['tokenize']} is not installed: pip install 'sacrebleu[{extra}]', "
                f"or use --bleu.tokenize char"
            ) from error
        return judge_by("bleu", corpus, texts, single)


def choose_tokenizer(tokenize: str, language: str) -> str:
    """The tokenizer of sacrebleu for a language.

    Raises:
        UsageError: a language without spaces for which there is none.
    """
    if tokenize != "auto":
        return tokenize
    name = base_language(language)
    if name not in _OF_LANGUAGE and not has_spaces(name):
        raise UsageError(
            f"bleu: no tokenizer finds words of the language {language!r}, which has no spaces between them; "
            "use --bleu.tokenize char"
        )
    return _OF_LANGUAGE.get(name, "13a")
