"""Scores language models on sets of choices, sentence pairs and cloze texts, with the numbers of lm-eval.

- acc: the right choice has the highest log-likelihood; acc_norm: the highest for each character, acc_bytes: for each
  byte of the choice, without the delimiter.
- of cloze texts acc: greedy decoding would write the last word; perplexity: of it, not of its tokens.
- stderr: standard error of the mean over the items.

Source: lm-evaluation-harness 0.4.13, `ConfigurableTask.process_results`, `mean_stderr`, `perplexity`.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from pretune.disk import replace_file
from pretune.errors import DataError, NonFiniteError, UsageError
from pretune.evaluate.choice_sets import ChoiceSet
from pretune.generate.choices import ContinuationError, encode_pairs, score_pairs
from pretune.generate.continuations import NEW_ROWS, Likelihood
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import find_language_head
from pretune.table import Table
from pretune.text.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class ChoiceSetScore:
    """What a model gave on a set.

    Attributes:
        form: of its records.
        items: that were scored.
        shots: solved examples before each.
        scores: by name.
        stderr: of each score that is a mean.
        seconds: of encoding and scoring.
        measure: what is compared: a likelihood, or the pseudo-likelihood of a masked model.
    """

    form: str
    items: int
    shots: int
    scores: dict[str, float]
    stderr: dict[str, float]
    seconds: float
    measure: str


def score_set(model: LanguageModel, tokenizer: Tokenizer, chosen: ChoiceSet, budget: int = NEW_ROWS) -> ChoiceSetScore:
    """Scores a model on a set; all of it at once, so that what its contexts share is computed once.

    Raises:
        UsageError: a model without a language modelling head.
        DataError: a choice that cannot be scored, with its place.
        NonFiniteError: a log-likelihood that is not finite, with its place.
    """
    begin = time.perf_counter()
    pairs = [pair for item in chosen.items for pair in item.pairs]
    ends = [0, *accumulate(len(item.pairs) for item in chosen.items)]
    try:
        likelihoods = score_pairs(model, tokenizer, encode_pairs(model, tokenizer, pairs), budget)
    except ContinuationError as error:
        raise DataError(f"{_place(chosen, ends, error.index)} {error.reason}") from None
    except NonFiniteError as error:
        raise error.at(_place(chosen, ends, error.index)) from None
    rows = [likelihoods[a:b] for a, b in pairwise(ends)]
    right = _right(chosen, rows)
    scores = {name: float(np.mean(values)) for name, values in right.items()}
    errors = {name: _stderr(values) for name, values in right.items()}
    if chosen.form == "cloze":
        scores["perplexity"] = math.exp(min(-float(np.mean([row[0].log_prob for row in rows])), 700.0))
    head = find_language_head(model, "next", "permuted", "masked")
    measure = "pseudo-likelihood" if head is not None and head.predicts == "masked" else "likelihood"
    seconds = round(time.perf_counter() - begin, 3)
    return ChoiceSetScore(chosen.form, len(chosen.items), chosen.shots, scores, errors, seconds, measure)


def _place(chosen: ChoiceSet, ends: Sequence[int], index: int) -> str:
    number = int(np.searchsorted(ends, index, side="right")) - 1
    return f"{chosen.items[number].origin}: choice {index - ends[number] + 1}"


def _right(chosen: ChoiceSet, rows: Sequence[Sequence[Likelihood]]) -> dict[str, list[float]]:
    """Of each item 1 where it was right, else 0, by the names of scores."""
    if chosen.form == "cloze":
        return {"acc": [float(row[0].is_greedy) for row in rows]}
    out: dict[str, list[float]] = {"acc": []}
    for item, row in zip(chosen.items, rows, strict=True):
        sums = np.array([likelihood.log_prob for likelihood in row])
        out["acc"].append(float(sums.argmax() == item.gold))
        if chosen.form == "choices":
            lengths = {"acc_norm": [len(c) for c in item.choices], "acc_bytes": [len(c.encode()) for c in item.choices]}
            for name, length in lengths.items():
                out.setdefault(name, []).append(float((sums / np.array(length)).argmax() == item.gold))
    return out


def _stderr(values: Sequence[float]) -> float:
    """The standard error of a mean, with the deviation of a sample; 0 of one value."""
    return float(np.std(values, ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else 0.0


@dataclass
class ChoiceScores:
    """The scores of a model on several sets, in a file that grows.

    Attributes:
        model: its folder.
        settings: what else decides the scores.
        sets: by the names of their files.
    """

    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    sets: dict[str, ChoiceSetScore] = field(default_factory=dict)

    def table(self) -> Table:
        """A row for each set, accuracies in percent with their standard errors."""
        names = [name for name in ("acc", "acc_norm", "acc_bytes") if any(name in s.scores for s in self.sets.values())]
        has_perplexity = any("perplexity" in each.scores for each in self.sets.values())
        rows: list[list[object]] = []
        for name, each in self.sets.items():
            accuracies = [_percent(each, score) for score in names]
            row: list[object] = [name, each.form, each.items, each.shots, *accuracies]
            rows.append(
                [*row, *([each.scores.get("perplexity", "")] if has_perplexity else []), round(each.seconds, 1)]
            )
        columns = ["set", "form", "items", "shots", *names, *(["perplexity"] if has_perplexity else []), "seconds"]
        return Table(columns, rows, self.model)

    def write(self, path: Path) -> None:
        """Writes all scores so far."""
        replace_file(path, (json.dumps(asdict(self), ensure_ascii=False, indent=1) + "\n").encode())

    @classmethod
    def continued(cls, model: str, settings: dict[str, Any], path: Path) -> ChoiceScores:
        """The scores that an earlier call wrote with the same settings, or none yet.

        Raises:
            UsageError: they are of another model, or of other settings.
            DataError: the file is damaged.
        """
        if not path.exists():
            return cls(model, settings)
        try:
            tree = json.loads(path.read_text(encoding="utf-8"))
            before = cls(tree["model"], tree["settings"], {n: ChoiceSetScore(**s) for n, s in tree["sets"].items()})
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataError(f"{path}: holds no scores of sets; remove the file, or give another --output") from None
        for name, old, new in (("model", before.model, model), ("settings", before.settings, settings)):
            if old != new:
                raise UsageError(
                    f"{path}: holds scores with {name} = {old}, not {new}; give another --output, or remove it"
                )
        return before


def _percent(score: ChoiceSetScore, name: str) -> str:
    if name not in score.scores:
        return ""
    return f"{100 * score.scores[name]:.2f} ± {100 * score.stderr[name]:.2f}"
