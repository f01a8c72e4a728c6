"""chrF and chrF++ in points, 0 to 100, by sacrebleu: F-score of runs of 1 to 6 characters, without spaces.

It needs no words, so it is the same for every language; chrF++ adds runs of one and two words.

Source: Popović 2015 (chrF), 2017 (chrF++); sacrebleu.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pretune import config as configuration
from pretune.metrics.metric import Judgement, Metric, Texts, join_judgements
from pretune.metrics.sacre import judge_by, library


class ChrF(Metric):
    """chrF and chrF++."""

    main: ClassVar[str] = "chrf"

    class Config(configuration.Config):
        """What is counted.

        Attributes:
            char_order: the longest run of characters.
            word_order: the longest run of words of chrF++; 0 leaves chrF++ out.
            beta: recall counts so many times as precision.
            lowercase: whether case is ignored.
            whitespace: whether spaces count as characters.
        """

        char_order: int = Field(default=6, ge=1, le=20)
        word_order: int = Field(default=2, ge=0, le=9)
        beta: int = Field(default=2, ge=1, le=9)
        lowercase: bool = False
        whitespace: bool = False

    def judge(self, texts: Texts) -> Judgement:
        """Both scores, by sacrebleu."""
        metrics = library("chrf")
        fields = {name: getattr(self.config, name) for name in ("char_order", "beta", "lowercase", "whitespace")}
        plain = judge_by("chrf", metrics.CHRF(**fields, word_order=0), texts)
        if not self.config.word_order:
            return plain
        words = judge_by("chrf++", metrics.CHRF(**fields, word_order=self.config.word_order), texts)
        return join_judgements(plain, words)
