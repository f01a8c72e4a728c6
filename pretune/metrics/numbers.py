"""Numbers, 0 to 1: share of the numbers of the hypotheses that their source holds, whatever their spelling.

1,234 and 1234, 三百二十 and 320, 3万 and 30000, twenty-one and 21 are the same number. A text without any has no value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pretune import config as configuration
from pretune.metrics.metric import Judgement, Metric, Texts, signature_of
from pretune.metrics.number_words import find_numbers
from pretune.metrics.support import support_judgement
from pretune.metrics.words import language_of


class Numbers(Metric):
    """Numbers that the source holds."""

    main: ClassVar[str] = "numbers"
    needs_references: ClassVar[bool] = False
    needs_sources: ClassVar[bool] = True

    class Config(configuration.Config):
        """Nothing is to choose."""

    def judge(self, texts: Texts) -> Judgement:
        """The share, and the numbers of each text that its source does not hold."""
        read = language_of(texts.sources)
        source_language = texts.language if read == language_of(texts.hypotheses) else read
        claims: list[tuple[Sequence[str], Sequence[str]]] = []
        for hypothesis, _, source in texts:
            held = set(find_numbers(source, source_language))
            stated = list(dict.fromkeys(find_numbers(hypothesis, texts.language)))
            claims.append((stated, [number for number in stated if number not in held]))
        return support_judgement("numbers", claims, signature_of(self.config, language=texts.language))
