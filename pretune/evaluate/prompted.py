"""Asks a language model for labels without training: by a prompt, with solved examples in it, calibrated.

prompt + label words  ->  the task `prompted`, untrained
solved examples       ->  chosen for each text, or the same for all
each draw of them     ->  the scores of labels (`evaluate/asked_prompt.py`), whose log probabilities are averaged
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, TypedDict, cast

import numpy as np

from pretune.config import validate
from pretune.errors import UsageError
from pretune.evaluate.asked_prompt import AskedPrompt, merge_scores
from pretune.evaluate.embed import Embedder
from pretune.evaluate.labelled import Texts, examples_of
from pretune.evaluate.read import find_source, read_with_tokenizer
from pretune.evaluate.results import Evaluation, texts_of
from pretune.evaluate.shots import Shots
from pretune.find import find
from pretune.models.fuse import fuse
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import find_language_head
from pretune.prompts.pool import Floats
from pretune.prompts.prompt import Prompt, find_prompt
from pretune.prompts.similarity import Similarity, by_tfidf, by_vectors
from pretune.prompts.words import check_labels
from pretune.tasks.prompted import Prompted
from pretune.tasks.shared.predictions import Answer, Predictions
from pretune.tasks.shared.prompt_rows import PromptedExample
from pretune.tasks.shared.records import read_examples
from pretune.text.readers.files import names_file
from pretune.text.readers.labelled import Data, LabelledConfig
from pretune.text.tokenizer.tokenizer import Tokenizer

Labels: TypeAlias = Sequence[str] | Mapping[str, str | Sequence[str]]
SELF, TFIDF = "self", "tfidf"
"""What `shot_model` may say beside a folder."""


class PromptOptions(TypedDict, total=False):
    """Keyword arguments of a prediction by a prompt.

    labels: the labels; or the word of each, or several words, in place of the prompt's.
    prompt: name of a prompt of `pretune/prompts/`, or the path of a TOML file; by default `plain`.
    shots: labelled data, of which solved examples are chosen.
    shot_count: how many stand in a prompt, 4 by default.
    choose: a file of `pretune/prompts/choosing/`: similar (the default), balanced, random, similar_balanced.
    shot_draws: how many draws of them are asked with, one after another, 1 by default; the answers are averaged.
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
    shot_draws: int
    choose: str
    shot_model: str | Path
    calibrate: str | None
    channel: float
    chat: bool
    normalize: str
    seed: int


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
        self._model, self._tokenizer = model, tokenizer
        self.task = _task_of(model, tokenizer, options, settings or {})
        calibrate = options.get("calibrate")
        calibration = None if calibrate is None else find("prompts.calibration", calibrate)
        channel = _channel_of(self.task, options)
        self._asked = AskedPrompt(model, tokenizer, length, self.task, channel, calibration)
        self._shots = _draws_of(self._read_shots(options), options.get("shot_draws", 1))

    @property
    def needs_all_texts(self) -> bool:
        """Whether a prediction depends on the texts that are asked for together."""
        return self._asked.needs_all_texts

    def _read_shots(self, options: PromptOptions) -> Shots | None:
        data, name = options.get("shots"), options.get("shot_model", TFIDF)
        if data is None:
            return None
        return Shots.read(
            data,
            self.task,
            lambda texts: self._similarity(texts, name),
            options.get("shot_count", 4),
            options.get("choose", "similar"),
            options.get("seed", 0),
        )

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
        """What the model reads of each text before the label, with its solved examples, however long.

        Returns:
            one for each text and draw of examples, those of a text together.
        """
        form = self.task.form
        by_draw = [
            [form.render(each.text, each.second, each.solved).before for each in examples]
            for examples in self._with_shots(examples_of(self.task, data, seconds))
        ]
        return [text for own in zip(*by_draw, strict=True) for text in own]

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
        """A prediction for each example; with several draws of solved ones, by the mean of the log probabilities."""
        first, *others = self._with_shots(examples)
        if not others:
            return self._asked.answers(first)
        scores = [self._asked.scores(own) for own in (first, *others)]
        return merge_scores(self.task, examples, np.mean(scores, axis=0))

    def _with_shots(self, examples: Sequence[PromptedExample]) -> list[Sequence[PromptedExample]]:
        """The examples, with solved ones before them, for each draw of these.

        Raises:
            UsageError: several draws of examples that are the same each time.
        """
        if not self._shots:
            return [examples]
        chosen = [shots.choose_for(examples) for shots in self._shots]
        if examples and len(chosen) > 1 and chosen[0] == chosen[1]:
            raise UsageError(
                f"shot_draws {len(chosen)}: {self._shots[0].choose} chooses the same examples each time; leave it out, "
                "or choose random or balanced ones"
            )
        return [shots.put(examples, own, self.task.form) for shots, own in zip(self._shots, chosen, strict=True)]


def _draws_of(shots: Shots | None, count: int) -> list[Shots]:
    """The same examples to choose from, with the seeds from that of the first draw on.

    Raises:
        UsageError: a count below 1.
    """
    if not isinstance(count, int) or count < 1:
        raise UsageError(f"shot_draws {count!r}: expected a whole number of at least 1, such as 4")
    return [] if shots is None else [replace(shots, seed=shots.seed + n) for n in range(count)]


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
    task.read_words(tokenizer)
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
