"""Translation edit rate in points, by sacrebleu: edits and moves of word runs for each 100 words of the reference.

Lower is better; above 100 where a text is much longer than its reference.

Source: Snover et al. 2006; sacrebleu.
"""

from __future__ import annotations

from typing import ClassVar

from pretune import config as configuration
from pretune.metrics.metric import Judgement, Metric, Texts, check_cells
from pretune.metrics.sacre import judge_by, library
from pretune.metrics.words import has_spaces


class Ter(Metric):
    """Translation edit rate."""

    main: ClassVar[str] = "ter"
    is_better: ClassVar[str] = "lower"

    class Config(configuration.Config):
        """How texts are split.

        Attributes:
            normalized: whether punctuation is set apart.
            punctuation: whether punctuation counts.
            case_sensitive: whether case counts.
            characters: whether single characters of Chinese and Japanese are words; None: where the language is one
                without spaces.
        """

        normalized: bool = False
        punctuation: bool = True
        case_sensitive: bool = False
        characters: bool | None = None

    def judge(self, texts: Texts) -> Judgement:
        """Scores by sacrebleu; characters are split only together with normalization, as its tokenizer does."""
        characters = self.config.characters
        if characters is None:
            characters = not has_spaces(texts.language)
        for hypothesis, references, _ in texts:
            check_cells("ter", len(hypothesis), max(map(len, references)), "the metric chrf")
        scorer = library("ter").TER(
            normalized=self.config.normalized or characters,
            no_punct=not self.config.punctuation,
            asian_support=characters,
            case_sensitive=self.config.case_sensitive,
        )
        return judge_by("ter", scorer, texts)
