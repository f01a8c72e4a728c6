"""What `pretune.judge(...)` does: scores of texts in memory, with models that are loaded by their folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pretune.api import load
from pretune.evaluate.judging import Judged, JudgeOptions, judge_files
from pretune.metrics.significance import Test
from pretune.model import Model


def judge(
    hypotheses: Sequence[str] | Path,
    references: Sequence[str | Sequence[str]] | Path | None = None,
    sources: Sequence[str] | Path | None = None,
    *,
    other: Sequence[str] | Path | None = None,
    metrics: Sequence[str] = (),
    language: str | None = None,
    fluency: Model | Path | str | None = None,
    tagger: Model | Path | str | None = None,
    entailment: Model | Path | str | None = None,
    samples: int = 1000,
    test: Test = "bootstrap",
    settings: Mapping[str, Mapping[str, Any]] | None = None,
) -> Judged:
    """Score texts, as `pretune judge` does: beside references, by models, and by what their sources hold.

        pretune.judge(["the cat sat"], [["the cat sat", "a cat sat"]], metrics=["bleu", "rouge"])["rougeL"]

    Args:
        hypotheses: what a system wrote: texts, or a `Path` of a file with one per line.
        references: of each hypothesis a right text or several.
        sources: what each hypothesis was written from.
        other: what a second system wrote; the two are compared.
        metrics: names of files in `pretune/metrics/`, or paths of your own; by default what the texts allow.
        language: code of the language of the references; by default their script says it.
        fluency: a language model, or its folder: bits per byte and perplexity of the hypotheses.
        tagger: a tagger, or its folder: which of the names that it finds the sources hold.
        entailment: a classifier of pairs, or its folder: whether the sources entail the hypotheses.
        samples: draws of which the intervals are made; 0 for none.
        test: how two systems are compared: `bootstrap` or `randomization`.
        settings: of metrics by name, such as `{"bleu": {"tokenize": "char"}}`.

    Raises:
        UsageError: an unknown metric, or one that lacks what it compares with.
        DataError: unequal numbers of texts, an empty reference or source.
    """
    named = {"judge": fluency, "tagger": tagger, "entailment": entailment}
    models = {
        name: model if isinstance(model, Model) else load(model) for name, model in named.items() if model is not None
    }
    options = JudgeOptions(metrics, settings or {}, models, samples, test)
    return judge_files(hypotheses, references, sources, other, language, options)
