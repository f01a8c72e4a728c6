"""Names, 0 to 1: share of the names of the hypotheses that their source holds; a tagger finds the names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from pretune import config as configuration
from pretune.errors import UsageError
from pretune.evaluate.judges.judge import Judge
from pretune.metrics.metric import Judgement, Texts, signature_of
from pretune.metrics.names import judge_names


class TaggedNames(Judge):
    """Names that the source holds."""

    main: ClassVar[str] = "names"
    needs_sources: ClassVar[bool] = True

    class Config(configuration.Config):
        """Which names count.

        Attributes:
            labels: of the tagger, whose spans are names; by default all.
        """

        labels: tuple[str, ...] = ()

    def judge(self, texts: Texts) -> Judgement:
        """The share, and the names of each text that its source does not hold.

        Raises:
            UsageError: the model is no tagger.
        """
        index = [n for n, text in enumerate(texts.hypotheses) if text.strip()]
        predictions = self.model.predict([texts.hypotheses[n] for n in index]) if index else []
        names: list[list[str]] = [[] for _ in texts.hypotheses]
        for n, prediction in zip(index, predictions, strict=True):
            spans = prediction.get("spans") if isinstance(prediction, Mapping) else None
            if spans is None:
                raise UsageError("--tagger: the model finds no spans in texts; use one that was fine-tuned for tagging")
            kept = [span["text"] for span in spans if not self.config.labels or span["label"] in self.config.labels]
            names[n] = list(dict.fromkeys(kept))
        return judge_names(names, texts.sources, signature_of(self.config, language=texts.language, names="tagger"))
