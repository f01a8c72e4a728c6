"""Classification as language modelling: the text stands in a prompt, and the model says the word of its label.

Data: examples with a text, a label, and a second text where the prompt has a place for one. No head is added: the
probability of a label is that of its word under the model's own language head, among the words of all labels. So a
handful of examples is enough, and `transformers` opens the folder as `...ForCausalLM` or `...ForMaskedLM`.

- A decoder learns to write the word of the label behind the prompt (`loss = "vocabulary"`: cross-entropy over all
  tokens, as in GPT and T5), or to prefer it to the other labels' (`loss = "words"`, for words of one token).
- A masked language model has as many masks as the word has tokens at its place, and learns to prefer the right word:
  pattern-exploiting training. Beside it, `--objective mlm` on a store of texts is the auxiliary loss of that method.
- An encoder-decoder reads the prompt, with a sentinel at the label's place where its tokenizer has one, and writes the
  word.

Which prompts there are: `pretune/prompts/`; one of your own is a TOML file (docs/prompting.md). What it holds is saved
with the model. Without any training, `pretune predict MODEL --labels a,b` asks in the same form.

Source: Radford et al. 2018, section 3.3; Raffel et al. 2020, T5 (arXiv 1910.10683), section 2.4; Schick and Schütze
2021, "Exploiting cloze questions for few-shot text classification" (arXiv 2001.07676).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from pretune.batch import Batch
from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.loss import Term
from pretune.nn.heads import VocabularyHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.objectives.objective import Ability, ModelLoader, refuse_to_load, target
from pretune.prompts.chat import ChatPrompt
from pretune.prompts.prompt import Prompt, find_prompt
from pretune.prompts.words import LabelWords, encode_words
from pretune.tasks.classification import Classification, ClassificationExample
from pretune.tasks.shared.predictions import Answer, Prediction
from pretune.tasks.shared.prompt_rows import PromptedExample, PromptRows
from pretune.tasks.shared.word_scores import ASKED, MaskedWordScores, WordScores
from pretune.tasks.task import RowBatch, Task
from pretune.text.chat.choice import find_chat_template, special_marks
from pretune.text.readers.records import Column
from pretune.text.samples.rows import Encoded, Row
from pretune.text.tokenizer.tokenizer import Tokenizer, Vocabulary

_RIGHT = "prompted labels"  # the target that says which prompts of a batch have a known label, and its number
Normalize = Literal["none", "tokens", "bytes"]


class Prompted(Task[PromptedExample, list[float], Answer]):
    """One label a text, by the word that a language model says.

    Args:
        config: with `labels` and `form` filled in, by hand or by `resolve_config`.
        vocabulary: of the tokenizer that encodes the texts.

    Attributes:
        left_out: how many texts had no room for a solved example, by where this was read; filled in by `encode`.
    """

    name: ClassVar[str] = "prompted"

    class Config(Task.Config):
        """The labels, the prompt, and the loss.

        Attributes:
            labels: the labels; empty: those of the prompt's words, else of the training data, sorted.
            prompt: name of a prompt, or the path of a TOML file.
            form: what the prompt says, in place of its name; filled in and saved with the model.
            loss: `words` is cross-entropy among the labels' words, `vocabulary` among all tokens; by default that of
                the words for a masked model, and of the vocabulary for any other.
            chat: put the prompt into the model's chat template, whose assistant says the label.
            normalize: what the log probability of a word is divided by: `tokens`, `bytes`, or nothing.
        """

        labels: tuple[str, ...] = ()
        prompt: str = "plain"
        form: Prompt | None = None
        loss: Literal["words", "vocabulary"] | None = None
        chat: bool = False
        normalize: Normalize = "none"

    config: Config

    def __init__(self, config: Config, vocabulary: Vocabulary) -> None:
        super().__init__(config, vocabulary)
        self.config = config
        self.form = config.form or find_prompt(config.prompt)
        self.labels = list(config.labels)
        self._sort: WordScores | None = None
        self._compares = False  # words in training, by one row of a prompt
        self._words: LabelWords | None = None
        self._files: Mapping[str, bytes] = {}  # of the model, which may hold its chat template
        self.left_out: Counter[str] = Counter()

    @cached_property
    def _classifier(self) -> Classification:
        """What reads records, orders labels and scores predictions."""
        config = Classification.Config(labels=self.config.labels, columns=self.config.columns)
        return Classification(config, self.vocabulary)

    def resolve_config(self, examples: Sequence[PromptedExample]) -> Config:
        """Fills in the labels and what the prompt says.

        Raises:
            UsageError, DataError: as `Classification.resolve_config`.
        """
        if self.config.truncate == "windows":
            raise UsageError("task.prompted.truncate windows: a prompt has one text; use head, tail or head+tail")
        labels = self._classifier.resolve_config([_plain(example) for example in examples]).labels
        return self.config.model_copy(update={"labels": labels, "form": self.form})

    def columns(self, needs_labels: bool) -> list[Column]:
        """The text, the second text where the prompt has a place for it, and the label."""
        if self.form.is_paired and self.config.columns.second is None:
            raise UsageError(
                f"prompt {self.config.prompt}: it has a place for a second text; give the second texts (--pair, or "
                "--second for the name of their column)"
            )
        return super().columns(needs_labels)

    def read(self, record: Mapping[str, object]) -> PromptedExample:
        """A text or a pair, and its label."""
        example = self._classifier.read(record)
        return PromptedExample(example.text, example.label, second=example.second, origin=example.origin)

    def observe(self, model: TrainableModel) -> None:
        """Learns what sort of language model it is.

        Raises:
            UsageError: one that no prompt can ask.
        """
        self._sort, self._words = WordScores.of(model, self.vocabulary), None
        self._files = getattr(getattr(model, "carried", None), "whole", {})

    def setup(self, model: TrainableModel, draw: Draw, load: ModelLoader = refuse_to_load) -> None:
        """Checks that the prompt and the loss suit the model.

        Raises:
            UsageError: they do not.
        """
        self.observe(model)
        self._compares = self.uses_words_loss and not isinstance(self.sort, MaskedWordScores)
        if self.config.loss == "vocabulary" and isinstance(self.sort, MaskedWordScores):
            raise UsageError("task.prompted.loss vocabulary: a masked language model learns by the words; leave it out")

    @property
    def sort(self) -> WordScores:
        """How the model is asked.

        Raises:
            UsageError: no model was looked at.
        """
        if self._sort is None:
            raise UsageError("task prompted: observe was not called with the model; call it first")
        return self._sort

    @property
    def label_words(self) -> LabelWords:
        """The labels' words, once texts were encoded."""
        assert self._words is not None  # rows come from encode
        return self._words

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """The model's language head."""
        sort = WordScores.of(model, self.vocabulary)
        return {sort.role: model.vocabulary_head(sort.predicts)}

    @property
    def abilities(self) -> dict[str, Ability]:
        """It labels texts."""
        return {self.name: "classify"}

    def read_words(self, tokenizer: Tokenizer) -> LabelWords:
        """The labels' words as the tokenizer writes them in the prompt.

        Raises:
            UsageError: as `encode_words`; a prompt that asks before a text, of a model that does not read on; words of
                several tokens that the loss cannot compare.
        """
        if self._words is None:
            if self.config.chat and self._sort is not None and not isinstance(self.form, ChatPrompt):
                self.form = self._in_chat(tokenizer)
            if not self._has_after and not self.form.asks_at_end:
                raise UsageError(
                    f"prompt {self.config.prompt}: {{label}} stands before a text, which this model has not read when "
                    "it says the label; put {label} behind the texts"
                )
            where = self.config.prompt
            words = encode_words(self.form, self.labels, tokenizer, where, has_after=self._has_after)
            if self._compares and words.max_length > 1:
                long = next(text for text, run in zip(words.texts, words.tokens, strict=True) if len(run) > 1)
                raise UsageError(
                    f"task.prompted.loss words: the word {long!r} has several tokens, which this model compares in "
                    'several passes; use loss = "vocabulary", or words of one token'
                )
            self._words = words
        return self._words

    def _in_chat(self, tokenizer: Tokenizer) -> ChatPrompt:
        """The prompt in the model's chat template.

        Raises:
            UsageError: the model has none.
        """
        template = find_chat_template(tokenizer, self._files)
        if template is None:
            raise UsageError("the model has no chat template; leave chat (--chat) out")
        return ChatPrompt.of(self.form, template, special_marks(tokenizer))

    @property
    def _has_after(self) -> bool:
        """Whether the model reads what stands behind the label; assumed as long as no model was looked at."""
        return self._sort is None or self._sort.has_after

    @property
    def uses_words_loss(self) -> bool:
        """Whether the loss compares the labels' words alone."""
        default = "words" if isinstance(self.sort, MaskedWordScores) else "vocabulary"
        return (self.config.loss or default) == "words"

    def encode(self, examples: Sequence[PromptedExample], tokenizer: Tokenizer, length: int) -> list[Encoded]:
        """A row for each example: what stands before the label, and behind it."""
        words = self.read_words(tokenizer)
        max_tokens = length - (words.max_length if self._sort is None else self._sort.overhead(words))
        config = self.config
        maker = PromptRows(self.form, config.prompt, words.texts[0], self._has_after, config.truncate, self.left_out)
        rows = maker.encode(examples, tokenizer, max_tokens)
        return [replace(row, targets=self.target_of(example)) for row, example in zip(rows, examples, strict=True)]

    def target_of(self, example: PromptedExample) -> NDArray[np.int64] | None:
        """The label's number.

        Raises:
            DataError: a label that is not known.
        """
        return self._classifier.target_of(_plain(example))

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """Prompts as the model reads them, and what is to be said."""
        batch = self.sort.prepare(rows, self.label_words)
        known = [(n, int(row.targets)) for n, row in enumerate(rows) if row.targets is not None]
        index, label = np.array(known, np.int64).reshape(-1, 2).T
        batch.targets[_RIGHT] = target(index, label)
        batch.targets[self.name] = batch.targets[_RIGHT]
        if not self.uses_words_loss:
            ends = batch.targets[ASKED][0].numpy()
            runs = [self.label_words.first_of(number) for number in label.tolist()]
            places = [ends[n] + np.arange(len(run)) for n, run in zip(index.tolist(), runs, strict=True)]
            empty = np.zeros(0, np.int64)
            batch.targets[self.name] = target(np.concatenate([empty, *places]), np.concatenate([empty, *runs]))
        return batch

    def output_rows(self, batch: Batch) -> NDArray[np.int64]:
        """The rows that say the words."""
        rows = batch.targets[ASKED][0].numpy()
        return rows if self.uses_words_loss else np.unique(np.concatenate([rows, batch.targets[self.name][0].numpy()]))

    def passes(self, model: TrainableModel, batch: Batch) -> list[tuple[TrainableModel, Batch]]:
        """One, whose rows the language head sees."""
        return [(model, replace(batch, targets={self.sort.role: batch.targets[ASKED]}))]

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy among the words of the labels, or at each token of the right one's word."""
        index, label = batch.targets[self.name]
        if not self.uses_words_loss:
            head = get_head(model, self.sort.role, VocabularyHead)
            total, correct = head.loss(output.at(index), label, keys=output.keys_at(index))
            return [Term(self.name, total, len(label), self.config.weight, correct)]
        scores = self._label_scores(self._word_scores(model, output, batch))[index]
        total = F.cross_entropy(scores, label, reduction="sum") if len(label) else scores.sum() * 0.0
        correct = (scores.detach().argmax(dim=1) == label).sum()
        return [Term(self.name, total, len(label), self.config.weight, correct)]

    def _word_scores(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> Tensor:
        masks = sum({len(run) for run in self.label_words.tokens}) if isinstance(self.sort, MaskedWordScores) else 1
        count = len(batch.targets[ASKED][0]) // masks
        scores = self.sort.scores(model, output, batch, self.label_words, count)
        assert scores is not None  # read_words refuses words of several tokens
        return scores

    def _label_scores(self, words: Tensor) -> Tensor:
        """Log probabilities of labels, up to a constant, of those of words. Shape: (N, W) -> (N, C)"""
        sizes = torch.from_numpy(self.label_words.sizes(self.config.normalize)).to(words)
        owners = torch.from_numpy(self.label_words.owners).to(words.device)
        scaled = words / sizes
        return torch.stack([scaled[:, owners == n].logsumexp(dim=1) for n in range(len(self.labels))], dim=1)

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[list[float]]:
        """The log probability of each label, by that of its words."""
        words, count = self.label_words, len(rows)
        scores = None
        if not self.sort.shares(rows):
            scores = self.sort.scores(model, model(rows.batch), rows.batch, words, count)
        if scores is None:
            scores = torch.from_numpy(self.sort.more_scores(model, rows, words))
        answers: list[list[float]] = self._label_scores(scores.double()).cpu().tolist()
        return answers

    def merge(self, example: PromptedExample, answers: Sequence[list[float]]) -> Answer:
        """The most probable label, the first of equals."""
        (scores,) = answers
        probabilities = torch.tensor(scores, dtype=torch.float64).softmax(dim=0).tolist()
        label = self.labels[int(np.argmax(scores))]
        return Prediction(label, dict(zip(self.labels, probabilities, strict=True)))

    def score(self, predictions: Sequence[Answer], examples: Sequence[PromptedExample]) -> dict[str, float]:
        """The scores of a classification.

        Raises:
            DataError: an example without a label.
        """
        return self._classifier.score(predictions, [_plain(example) for example in examples])


def _plain(example: PromptedExample) -> ClassificationExample:
    """The same as an example of a classification."""
    return ClassificationExample(example.text, example.label, second=example.second, origin=example.origin)
