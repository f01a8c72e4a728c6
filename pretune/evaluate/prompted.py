"""Asks a language model for labels without training: by a prompt, with solved examples in it, calibrated.

prompt + label words  ->  the task `prompted`, untrained
solved examples       ->  chosen for each text, or the same for all
task                  ->  the log probability of each label, one pass over what texts share
channel               ->  and how likely the text is behind each label
calibration           ->  less what the same prompt gives without a text
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, cast

import numpy as np

from pretune.config import validate
from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.evaluate.channel import channel_scores
from pretune.evaluate.embed import Embedder
from pretune.evaluate.engine import encode_examples, predict_examples
from pretune.evaluate.labelled import Texts, examples_of
from pretune.evaluate.read import find_source, read_with_tokenizer
from pretune.evaluate.results import Evaluation, texts_of
from pretune.find import find
from pretune.models.fuse import fuse
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import find_language_head
from pretune.prompts.pool import Floats, Pool
from pretune.prompts.prompt import Prompt, Solved, find_prompt
from pretune.prompts.similarity import Similarity, by_tfidf, by_vectors
from pretune.prompts.words import check_labels
from pretune.tasks.prompted import Prompted
from pretune.tasks.shared.predictions import Answer, Prediction, Predictions
from pretune.tasks.shared.prompt_rows import PromptedExample
from pretune.tasks.shared.records import read_examples
from pretune.text.readers.files import names_file
from pretune.text.readers.labelled import Data, LabelledConfig
from pretune.text.samples.rows import Ints
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.wording import counted

Labels: TypeAlias = Sequence[str] | Mapping[str, str | Sequence[str]]
_log = logging.getLogger("pretune")
_LISTED = 5  # examples in a message
SELF, TFIDF = "self", "tfidf"
"""What `shot_model` may say beside a folder."""


class PromptOptions(TypedDict, total=False):
    """Keyword arguments of a prediction by a prompt.

    labels: the labels; or the word of each, or several words, in place of the prompt's.
    prompt: name of a prompt of `pretune/prompts/`, or the path of a TOML file; by default `plain`.
    shots: labelled data, of which solved examples are chosen.
    shot_count: how many stand in a prompt, 4 by default.
    choose: a file of `pretune/prompts/choosing/`: similar (the default), balanced, random, similar_balanced.
    shot_model: what says how alike texts are: `tfidf` (the default), `self`, or the folder of a model.
    calibrate: a file of `pretune/prompts/calibration/`: contextual, pmi, batch; by default none.
    channel: weight of how likely the text is behind each label's word, in the prompt's `channel`; by default 0.
    chat: put the prompt into the model's chat template.
    normalize: what the log probability of a word is divided by: `tokens`, `bytes`, or nothing.
    seed: of the draw of examples.
    """

    labels: Labels | None
    prompt: str | Path | None
    shots: Data | None
    shot_count: int
    choose: str
    shot_model: str | Path
    calibrate: str | None
    channel: float
    chat: bool
    normalize: str
    seed: int


@dataclass(frozen=True)
class Shots:
    """The examples among which solved ones are chosen.

    Attributes:
        solved: each, as it stands in a prompt.
        pool: what is looked at to choose.
        count: how many stand in a prompt.
        choose: name of the way to choose.
        draw: what random choices are made by.
    """

    solved: Sequence[Solved]
    pool: Pool
    count: int
    choose: str
    draw: Draw

    def of(self, texts: Sequence[str]) -> list[tuple[Solved, ...]]:
        """The solved examples of each text, the most important last; the text itself, with its label, is none."""
        chosen = cast(Ints, find("prompts.choosing", self.choose).choose(self.pool, texts, self.count, self.draw))
        rows = chosen.tolist()
        return [
            tuple(self.solved[n] for n in row if self.pool.texts[n] != text)
            for row, text in zip(rows if len(rows) == len(texts) else rows * len(texts), texts, strict=True)
        ]


class PromptedModel:
    """A language model that is asked by a prompt.

    Args:
        model: on its device.
        tokenizer: of the model.
        length: tokens that it can read.
        options: see `PromptOptions`.
        settings: other fields of the task's configuration: `columns`, `truncate`.

    Attributes:
        task: what reads texts and scores labels.

    Raises:
        UsageError: a model without a language head; labels without words, or the other way round; an unknown option.
        DataError: a solved example that cannot be used.
    """

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        length: int,
        options: PromptOptions,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        if find_language_head(model, "next", "masked") is None:
            raise UsageError(
                f"this {model.family} model has no language modelling head, which says the words of labels; use one "
                "with a head clm or mlm, or fine-tune it: pretune finetune --task classification"
            )
        self._model, self._tokenizer, self._length = model, tokenizer, length
        self.task = _task_of(model, tokenizer, options, settings or {})
        self.task.read_words(tokenizer)
        calibrate = options.get("calibrate")
        self._calibration: Any = None if calibrate is None else find("prompts.calibration", calibrate)
        self._channel = _channel_of(self.task, options)
        self._shots = None if options.get("shots") is None else self._read_shots(options)

    @property
    def needs_all_texts(self) -> bool:
        """Whether a prediction depends on the texts that are asked for together."""
        return self._calibration is not None and not self._calibration.references(self.task.form, ())

    def _read_shots(self, options: PromptOptions) -> Shots:
        task = self.task
        examples = read_examples(task, cast("Data", options["shots"]))
        count = options.get("shot_count", 4)
        if count < 1:
            raise UsageError(f"shot_count {count}: expected at least 1; leave the examples out for none")
        if count > len(examples):
            have = counted(len(examples), "example")
            _log.warning("%s solved examples were asked for, and there are no more than %s", count, have)
        numbers = [_number(task, example) for example in examples]
        solved = [
            Solved(each.text, task.form.words_of(task.labels[number])[0], each.second, each.origin)
            for each, number in zip(examples, numbers, strict=True)
        ]
        texts = [_text_of(each) for each in examples]
        similarity = self._similarity(texts, options.get("shot_model", TFIDF))
        pool = Pool(texts, np.array(numbers), similarity)
        return Shots(solved, pool, count, options.get("choose", "similar"), Draw(options.get("seed", 0)))

    def _similarity(self, texts: Sequence[str], name: str | Path) -> Similarity:
        """What says how alike texts are; built when it is first asked."""
        built: list[Similarity] = []

        def similarity(others: Sequence[str]) -> Floats:
            if not built:
                built.append(by_tfidf(texts) if str(name) == TFIDF else by_vectors(texts, self._embedder(name)))
            return built[0](others)

        return similarity

    def _embedder(self, name: str | Path) -> Any:
        if str(name) == SELF:
            return Embedder.of(self._model, self._tokenizer)
        network, tokenizer = read_with_tokenizer(find_source(Path(name)), None)
        return Embedder.of(fuse(network.to(self._model.device).eval()), tokenizer)

    def predict(self, data: Data, seconds: Texts | None = None) -> Predictions[Any]:
        """The predictions for texts, pairs of texts or records, in order.

        Raises:
            UsageError, DataError: as `Model.predict`.
        """
        examples = examples_of(self.task, data, seconds)
        return Predictions(self._answers(examples), [texts_of(example) for example in examples], self.task.brief)

    def answer(self, data: Data, seconds: str | Texts | None = None, task: object = None) -> Any:
        """The prediction for a single text or pair, else those for all: as `Model.predict` gives them.

        Raises:
            UsageError: a task is named too; else as `Model.predict`.
        """
        refuse_task(task, self.task.config.prompt)
        others = [seconds] if isinstance(seconds, str) else seconds
        if isinstance(data, str) and not names_file(data):
            return self.predict(cast("Data", [data]), others)[0]
        return self.predict(data, others)

    def render(self, data: Data, seconds: Texts | None = None) -> list[str]:
        """What the model reads of each text before the label, with its solved examples, however long."""
        examples = self._with_shots(examples_of(self.task, data, seconds))
        return [self.task.form.render(each.text, each.second, each.solved).before for each in examples]

    def evaluate(self, data: Data) -> Evaluation:
        """The scores on labelled data.

        Raises:
            UsageError, DataError: as `Model.evaluate`.
        """
        examples = read_examples(self.task, data)
        for example in examples:
            self.task.target_of(example)  # a label that is not known stops it before the work
        predictions = self._answers(examples)
        return Evaluation(self.task.score(predictions, examples), self.task.labels, predictions, examples)

    def _answers(self, examples: Sequence[PromptedExample]) -> list[Answer]:
        """A prediction for each example."""
        examples = self._with_shots(examples)
        self.task.left_out.clear()
        if self._calibration is None and not self._channel:
            answers = self._ask(examples)
        else:
            scores = self._scores(examples)
            answers = [self.task.merge(each, [row]) for each, row in zip(examples, scores.tolist(), strict=True)]
        self._say_left_out(len(examples))
        return answers

    def _with_shots(self, examples: Sequence[PromptedExample]) -> Sequence[PromptedExample]:
        """The examples with solved ones."""
        if self._shots is None:
            return examples
        solved = self._shots.of([_text_of(example) for example in examples])
        return [replace(each, solved=own) for each, own in zip(examples, solved, strict=True)]

    def _ask(self, examples: Sequence[PromptedExample], references: Sequence[PromptedExample] = ()) -> list[Answer]:
        """Predictions, then those of the references, whose unknown words are nobody's business."""
        rows = encode_examples(self.task, examples, self._tokenizer, self._length)
        more = self.task.encode(references, self._tokenizer, self._length) if references else []
        rows += [replace(row, example=row.example + len(examples)) for row in more]
        return predict_examples(self._model, self.task, [*examples, *references], rows, self._tokenizer)

    def _scores(self, examples: Sequence[PromptedExample]) -> Floats:
        """Log probabilities of labels, joined with the channel and calibrated. Shape: return: (n, C)

        Calibration takes away what the prompt gives without content; each set of solved examples is asked once.
        """
        contexts = list(dict.fromkeys(example.solved for example in examples)) if self._calibration else []
        without_content = [
            PromptedExample("", solved=solved, rendered=rendered)
            for solved in contexts
            for rendered in self._calibration.references(self.task.form, solved)
        ]
        logs = _log_probs(self._ask(examples, without_content))
        scores, size = logs[: len(examples)], len(self.task.labels)
        if self._channel:
            own = channel_scores(self._model, self._tokenizer, self.task.form, self.task.labels, examples, self._length)
            scores = _normalized(scores + self._channel * own)
        if self._calibration is None:
            return scores
        of_context = logs[len(examples) :].reshape(len(contexts), -1, size)
        number = {solved: n for n, solved in enumerate(contexts)}
        references = of_context[[number[example.solved] for example in examples]]
        return cast(Floats, self._calibration.calibrate(scores, references))

    def _say_left_out(self, texts: int) -> None:
        """Says which solved examples had no room."""
        left_out = self.task.left_out
        if left_out:
            listed = ", ".join(f"{origin} ({count:,})" for origin, count in left_out.most_common(_LISTED))
            more = f" and {len(left_out) - _LISTED:,} more" if len(left_out) > _LISTED else ""
            _log.warning(
                "the prompt is longer than the %s tokens that the model reads, so solved examples were left out, the "
                "least similar first, each of so many of %s: %s%s; ask for fewer with --shot-count",
                f"{self._length:,}",
                counted(texts, "text"),
                listed,
                more,
            )


def _task_of(
    model: LanguageModel, tokenizer: Tokenizer, options: PromptOptions, settings: Mapping[str, Any]
) -> Prompted:
    """The task, untrained."""
    name = str(options.get("prompt") or "plain")
    form, labels = find_prompt(name), options.get("labels")
    if isinstance(labels, Mapping):
        words = {label: (word,) if isinstance(word, str) else tuple(word) for label, word in labels.items()}
        own = {label: form.words_of(label) for label in labels}
        form = validate(Prompt, {**form.model_dump(), "words": {**own, **words}}, f"prompt {name}")
    chosen = tuple(form.words if labels is None else labels)
    if not chosen:
        raise UsageError(f"prompt {name} names no labels; give them, as in --labels good,bad")
    check_labels(form, chosen, name)
    fields: dict[str, Any] = {"labels": chosen, "prompt": name, "form": form}
    fields |= {"normalize": options.get("normalize", "none"), "chat": options.get("chat", False), **settings}
    columns = fields.get("columns")
    if form.is_paired and isinstance(columns, LabelledConfig) and columns.second is None:
        fields["columns"] = columns.model_copy(update={"second": "second"})
    task = Prompted(validate(Prompted.Config, fields, "prompt"), tokenizer.vocabulary)
    task.observe(model)
    return task.to(model.device).eval()


def _channel_of(task: Prompted, options: PromptOptions) -> float:
    """The weight of the channel.

    Raises:
        UsageError: no weight, or a prompt without a channel.
    """
    weight = options.get("channel", 0.0)
    if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
        raise UsageError(f"channel {weight!r}: expected a number of at least 0, such as 0.2")
    if weight and not task.form.channel:
        raise UsageError(
            f"prompt {task.config.prompt} has no channel, in which a text stands behind its label; write a prompt of "
            'your own with one, such as channel = "The review is {label}: {text}"'
        )
    return weight


def refuse_task(task: object, prompt: str) -> None:
    """Refuses a task beside a prompt.

    Raises:
        UsageError: there is one.
    """
    if task is not None:
        raise UsageError(f"a prompt ({prompt}) asks for labels without a task; leave the task out")


def _number(task: Prompted, example: PromptedExample) -> int:
    """The number of an example's label, which is known."""
    number = task.target_of(example)
    assert number is not None  # records with labels alone were read
    return int(number)


def _text_of(example: PromptedExample) -> str:
    return example.text if example.second is None else f"{example.text} {example.second}"


def _normalized(scores: Floats) -> Floats:
    """Log probabilities that sum to 1. Shape: (n, C) -> (n, C)"""
    return np.asarray(scores - np.logaddexp.reduce(scores, axis=1, keepdims=True))


def _log_probs(answers: Sequence[Answer]) -> Floats:
    """Shape: return: (n, C)"""
    rows = [list(answer.probabilities.values()) for answer in answers if isinstance(answer, Prediction)]
    return np.log(np.maximum(np.array(rows, np.float64), 1e-300))
