"""One prompt as a model is asked by it: the scores of labels, joined with the channel and calibrated.

task         ->  the log probability of each label, one pass over what texts share
channel      ->  and how likely the text is behind each label
calibration  ->  less what the same prompt gives without a text
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from pretune.evaluate.channel import channel_scores
from pretune.evaluate.engine import encode_examples, predict_examples
from pretune.models.model import LanguageModel
from pretune.prompts.pool import Floats
from pretune.tasks.prompted import Prompted
from pretune.tasks.shared.predictions import Answer, Prediction
from pretune.tasks.shared.prompt_rows import PromptedExample
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.wording import counted

_log = logging.getLogger("pretune")
_LISTED = 5  # examples in a message


@dataclass(frozen=True)
class AskedPrompt:
    """A prompt with a model.

    Attributes:
        model: on its device.
        tokenizer: of the model.
        length: tokens that it can read.
        task: what reads texts and scores labels.
        channel: weight of the prompt's channel; 0: it is not asked.
        calibration: a module of `pretune/prompts/calibration/`; None: scores stay as they are.
    """

    model: LanguageModel
    tokenizer: Tokenizer
    length: int
    task: Prompted
    channel: float
    calibration: Any

    @property
    def needs_all_texts(self) -> bool:
        """Whether a prediction depends on the texts that are asked for together."""
        return self.calibration is not None and not self.calibration.references(self.task.form, ())

    def answers(self, examples: Sequence[PromptedExample]) -> list[Answer]:
        """A prediction for each example."""
        if self.calibration is None and not self.channel:
            self.task.left_out.clear()
            answers = self._ask(examples)
            self._say_left_out(len(examples))
            return answers
        return merge_scores(self.task, examples, self.scores(examples))

    def scores(self, examples: Sequence[PromptedExample]) -> Floats:
        """Log probabilities of labels, up to a constant of each example. Shape: return: (n, C)

        Calibration takes away what the prompt gives without content; each set of solved examples is asked once.
        """
        self.task.left_out.clear()
        contexts = list(dict.fromkeys(example.solved for example in examples)) if self.calibration else []
        without_content = [
            PromptedExample("", solved=solved, rendered=rendered)
            for solved in contexts
            for rendered in self.calibration.references(self.task.form, solved)
        ]
        logs = _log_probs(self._ask(examples, without_content))
        self._say_left_out(len(examples))
        scores, size = logs[: len(examples)], len(self.task.labels)
        if self.channel:
            own = channel_scores(self.model, self.tokenizer, self.task.form, self.task.labels, examples, self.length)
            scores = _normalized(scores + self.channel * own)
        if self.calibration is None:
            return scores
        of_context = logs[len(examples) :].reshape(len(contexts), -1, size)
        number = {solved: n for n, solved in enumerate(contexts)}
        references = of_context[[number[example.solved] for example in examples]]
        return cast(Floats, self.calibration.calibrate(scores, references))

    def _ask(self, examples: Sequence[PromptedExample], references: Sequence[PromptedExample] = ()) -> list[Answer]:
        """Predictions, then those of the references, whose unknown words are nobody's business."""
        rows = encode_examples(self.task, examples, self.tokenizer, self.length)
        more = self.task.encode(references, self.tokenizer, self.length) if references else []
        rows += [replace(row, example=row.example + len(examples)) for row in more]
        return predict_examples(self.model, self.task, [*examples, *references], rows, self.tokenizer)

    def _say_left_out(self, texts: int) -> None:
        """Says which solved examples had no room."""
        left_out = self.task.left_out
        if left_out:
            listed = ", ".join(f"{origin} ({count:,})" for origin, count in left_out.most_common(_LISTED))
            more = f" and {len(left_out) - _LISTED:,} more" if len(left_out) > _LISTED else ""
            _log.warning(
                "the prompt is longer than the %s tokens that the model reads, so solved examples were left out, the "
                "least similar first, each of so many of %s: %s%s; ask for fewer with --shot-count",
                f"{self.length:,}",
                counted(texts, "text"),
                listed,
                more,
            )


def merge_scores(task: Prompted, examples: Sequence[PromptedExample], scores: Floats) -> list[Answer]:
    """A prediction for each example by the scores of its labels. Shape: scores: (n, C)"""
    return [task.merge(each, [row]) for each, row in zip(examples, scores.tolist(), strict=True)]


def _normalized(scores: Floats) -> Floats:
    """Log probabilities that sum to 1. Shape: (n, C) -> (n, C)"""
    return np.asarray(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))


def _log_probs(answers: Sequence[Answer]) -> Floats:
    """Shape: return: (n, C)"""
    rows = [list(answer.probabilities.values()) for answer in answers if isinstance(answer, Prediction)]
    return np.log(np.maximum(np.array(rows, np.float64), 1e-300))
