"""The base of tasks that write: a model reads a text and learns the answer to it, token by token.

A row holds what is read (`tokens`) and what is written (`second`, with the token that ends it); `targets` says which
tokens of the latter are learned, all of them by default.

    encoder-decoder   encoder: <s> source </s>    decoder: START a n s   ->  a n s END
    decoder           <bos> prompt a n s          rows: the prompt's last and those of the answer  ->  a n s END

The head reads these rows alone. Examples are scored by what the model writes (`pretune.generate`), in validation for
some of them.

Source: Sutskever et al. 2014 (arXiv 1409.3215); Radford et al. 2018 for decoders; Szegedy et al. 2016 (arXiv
1512.00567), section 7, for label smoothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import nn

from pretune.batch import Batch, ragged
from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.generate.defaults import end_tokens
from pretune.generate.generate import generate
from pretune.generate.options import MAX_BEAMS, MAX_PENALTY, Candidate, Continuation, GenerateConfig
from pretune.generate.recorded import record_options
from pretune.generate.session import add_special_tokens, max_new_tokens_left
from pretune.loss import Term
from pretune.metrics.metric import main_score, score_texts
from pretune.nn.heads import VocabularyHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.objectives.objective import Ability, ModelLoader, name_samples, refuse_to_load, target
from pretune.objectives.root_module import unwrapped
from pretune.tasks.shared.written_texts import Alternative, GenerationExample, GenerationPrediction, WrittenRow
from pretune.tasks.task import RowBatch, Task
from pretune.text.samples.rows import Encoded, Ints, Row
from pretune.text.tokenizer.tokenizer import Tokenizer

_CHUNK = 256  # rows of scores that are held at once
_FALLBACK = 128  # new tokens where training has not said how long answers are


GenerationExampleT = TypeVar("GenerationExampleT", bound=GenerationExample)


class GenerationTask(Task[GenerationExampleT, WrittenRow, GenerationPrediction], Generic[GenerationExampleT]):
    """Base of the tasks that write; a subclass reads records and encodes them.

    Attributes:
        reads_apart: an encoder reads the text, so that the answer has positions of its own; known once it observed a
            model.
    """

    role: ClassVar[str] = "clm"
    shares_head: ClassVar[bool] = True
    main_metric: str = "bleu"

    class Config(Task.Config):
        """How answers are learned, and how they are written; the model's files keep it.

        Attributes:
            label_smoothing: fraction of each target that is spread over all tokens.
            max_new_tokens: tokens of an answer at most, its end included; by default a quarter more than those of the
                longest answer of the training data.
            min_new_tokens: an answer does not end before so many tokens.
            beams: beam search over so many texts; 1 takes the most probable token each time.
            length_penalty: of beam search; above 0 longer texts are preferred.
            no_repeat_ngram_size: runs of so many tokens come once at most; 0: as often as they like.
            repetition_penalty: by which scores of tokens that came before are divided.
            n_best: number of the best texts that a prediction lists; needs as many beams.
            metric: by which checkpoints are compared, a file of `metrics`; by default rouge where answers are less than
                half as long as what is read, else bleu.
            metrics: that are reported too.
            validation_samples: validation examples for which the model writes at each evaluation, chosen by key; the
                loss is that of all of them. 0: none, so that checkpoints are compared by the loss.
            validation_beams: beams of these.
        """

        label_smoothing: float = Field(default=0.0, ge=0.0, lt=1.0)
        max_new_tokens: int | None = Field(default=None, ge=1)
        min_new_tokens: int = Field(default=0, ge=0)
        beams: int = Field(default=1, ge=1, le=MAX_BEAMS)
        length_penalty: float = Field(default=1.0, ge=-MAX_PENALTY, le=MAX_PENALTY)
        no_repeat_ngram_size: int = Field(default=0, ge=0)
        repetition_penalty: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
        n_best: int = Field(default=1, ge=1)
        metric: str | None = None
        metrics: tuple[str, ...] = ()
        validation_samples: int | None = Field(default=128, ge=0)
        validation_beams: int = Field(default=1, ge=1, le=MAX_BEAMS)

        @model_validator(mode="after")
        def _can_be_written(self) -> GenerationTask.Config:
            if self.n_best > self.beams:
                raise ValueError(f"n_best = {self.n_best} texts need as many beams, and there are {self.beams}")
            if self.metric is not None and not main_score(self.metric)[1]:
                raise ValueError(f"metric = {self.metric!r}: less is better; name it in metrics, and another one here")
            for metric in self.metrics:
                main_score(metric)
            return self

    config: Config

    def __init__(self, config: Config, vocabulary: Any) -> None:
        super().__init__(config, vocabulary)
        self.reads_apart = False
        self.longest_answer: int | None = None
        self._start: int | None = None
        self._end: int | None = None
        self._is_training = False
        self._validated: frozenset[int] | None = None
        self.main_metric = main_score(self.metrics[0])[0] if config.validation_samples != 0 else "loss"

    @property
    def abilities(self) -> dict[str, Ability]:
        """It writes texts for texts."""
        return {self.name: "write"}

    @property
    def metrics(self) -> tuple[str, ...]:
        """How written texts are scored; the first compares checkpoints."""
        return tuple(dict.fromkeys([self.config.metric or "bleu", *self.config.metrics]))

    def observe(self, model: TrainableModel) -> None:
        """Learns whether an encoder reads, with which token a decoder begins, and which one ends a text.

        Raises:
            UsageError: the model would read what is to be written.
        """
        if not model.has_encoder and not model.is_causal:
            raise UsageError(
                f"task {self.name!r} needs a model that writes, and {model.family} sees the tokens that are to be "
                "written; use a decoder such as gpt2 or llama, an encoder-decoder such as bart or t5, or join two "
                "encoders (pretune join)"
            )
        self.reads_apart, self._start = model.has_encoder, model.decoder_start
        ending = self.vocabulary.ending
        ends = end_tokens(cast(Any, model), ending, self.vocabulary.size)
        self._end = ending if ending in ends else min(ends, default=None)

    def setup(self, model: TrainableModel, draw: Draw, load: ModelLoader = refuse_to_load) -> None:
        """Prepares training: validation writes for some examples alone, and its loss is that of the batches."""
        self.observe(model)
        self._is_training = True

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """A causal head over the vocabulary.

        Raises:
            UsageError: the model would read what is to be written.
        """
        self.observe(model)
        return {self.role: model.vocabulary_head("next")}

    @property
    def end_token(self) -> int:
        """The token that ends an answer of a decoder.

        Raises:
            DataError: neither the tokenizer nor the model's files name one.
        """
        return self.vocabulary.end if self._end is None else self._end

    def answer(self, tokens: Ints) -> Ints:
        """An answer as it is learned, with the token that ends it. Shape: (n,) -> (more,)"""
        if self.reads_apart:
            return self.vocabulary.with_end(tokens)
        return np.append(tokens, self.end_token)

    @property
    def lead(self) -> Ints:
        """The special tokens that a decoder reads before a row's tokens; none where a row has them itself."""
        return self.vocabulary.prompt_prefix

    def prompt_of(self, row: Row) -> Ints:
        """What is read before the model writes, without `lead`; by default all that a row reads."""
        return row.tokens

    @property
    def read_overhead(self) -> int:
        """Special tokens around what is read."""
        if self.reads_apart:
            return len(self.vocabulary.with_end([]))
        return len(self.lead)

    @property
    def new_tokens(self) -> int:
        """Tokens of an answer at most."""
        if self.config.max_new_tokens is not None:
            return self.config.max_new_tokens
        if self.longest_answer is None:
            return _FALLBACK
        return -(-self.longest_answer * 5 // 4 // 8) * 8

    def room(self, length: int, answer: int = 0) -> int:
        """Tokens of what is read at most.

        Args:
            length: tokens of a sequence at most.
            answer: tokens of a known answer, which may be longer than those that are usual.
        """
        if self.reads_apart:
            return length - self.read_overhead
        return length - self.read_overhead - max(answer, min(self.new_tokens, length // 2))

    def prepare(self, rows: Sequence[Row], draw: Draw) -> Batch:
        """A sequence for each row, whose targets are the tokens of its answer that are learned.

        Raises:
            DataError: a decoder would begin to write without anything read.
        """
        lead = np.zeros(0, np.int64) if self.reads_apart else self.lead
        runs, index, labels, start = [], [], [], 0
        for row in rows:
            label = np.zeros(0, np.int64) if row.second is None else row.second
            before = np.array([self._start], np.int64) if self.reads_apart else np.concatenate([lead, row.tokens])
            if not len(before):
                raise DataError("a model that continues texts cannot write after nothing; put a prompt before the text")
            learned = np.ones(len(label), np.bool_) if row.targets is None else np.asarray(row.targets, np.bool_)
            index.append(start + len(before) - 1 + np.flatnonzero(learned))
            labels.append(label[learned])
            runs.append(np.concatenate([before, label[:-1]]))
            start += len(runs[-1])
        batch = name_samples(ragged(runs), rows)
        none = [np.zeros(0, np.int64)]
        batch.targets[self.name] = target(np.concatenate(none + index), np.concatenate(none + labels))
        if not self.reads_apart:
            return batch
        return replace(batch, source=ragged([self.vocabulary.with_end(row.tokens) for row in rows]))

    def output_rows(self, batch: Batch) -> Ints | None:
        """Those of the answers; all, where none is known."""
        index: Ints = batch.targets[self.name][0].numpy()
        return index if len(index) else None

    def passes(self, model: TrainableModel, batch: Batch) -> list[tuple[TrainableModel, Batch]]:
        """One, whose targets the head sees."""
        return [(model, replace(batch, targets={self.role: batch.targets[self.name]}))]

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """Cross-entropy of the answers' tokens, smoothed in training alone."""
        index, label = batch.targets[self.name]
        smoothing = self.config.label_smoothing if self.training else 0.0
        head = get_head(model, self.role, VocabularyHead)
        total, correct = head.loss(output.at(index), label, smoothing, keys=output.keys_at(index))
        return [Term(self.name, total, len(label), self.config.weight, correct)]

    def select_validation(self, rows: Sequence[Row]) -> None:
        """Chooses the examples for which the model writes during training, by key."""
        names = np.unique([row.example for row in rows])
        limit = self.config.validation_samples
        if limit is not None:
            names = names[np.argsort(Draw(0).at(self.name, "validation").bits(names), kind="stable")[:limit]]
        self._validated = frozenset(names.tolist())

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[WrittenRow]:
        """What the model writes for each row, and the loss of the known answers."""
        wanted = [n for n, row in enumerate(rows) if self._is_written(row)]
        beams = self.config.validation_beams if self._is_training else self.config.beams
        written: dict[int, Continuation] = {}
        if wanted:
            network = cast(Any, unwrapped(model))
            prompts = [self.prompt_of(rows[n]) for n in wanted]
            written = dict(zip(wanted, self.write(network, tokenizer, prompts, beams), strict=True))
        losses = [(0.0, 0)] * len(rows) if self._is_training else self._losses(model, rows)
        return [WrittenRow(written.get(n), *loss) for n, loss in enumerate(losses)]

    def write(self, network: Any, tokenizer: Tokenizer, prompts: Sequence[Ints], beams: int) -> list[Continuation]:
        """What a model writes after prompts, as many tokens as its context leaves at most.

        Args:
            network: the language model itself.
        """
        left = max(max_new_tokens_left(network, tokenizer, add_special_tokens(network, tokenizer, prompts)))
        return generate(network, tokenizer, prompts, self.options(beams, min(self.new_tokens, left)))

    def _is_written(self, row: Row) -> bool:
        """Whether the model writes for a row: in validation during training for some alone."""
        return not self._is_training or self._validated is None or row.example in self._validated

    def options(self, beams: int | None = None, max_new_tokens: int | None = None) -> GenerateConfig:
        """How answers are written.

        Args:
            beams, max_new_tokens: other values than those of the configuration.
        """
        config, beams = self.config, self.config.beams if beams is None else beams
        return GenerateConfig(
            max_new_tokens=self.new_tokens if max_new_tokens is None else max_new_tokens,
            min_new_tokens=config.min_new_tokens,
            beams=beams,
            length_penalty=config.length_penalty,
            no_repeat_ngram_size=config.no_repeat_ngram_size,
            repetition_penalty=config.repetition_penalty,
            n_best=min(config.n_best, beams),
        )

    def _losses(self, model: TrainableModel, rows: RowBatch) -> list[tuple[float, int]]:
        """The summed loss of each row's known answer, and how many tokens it has."""
        index, label = rows.batch.targets[self.name]
        if not len(label):
            return [(0.0, 0)] * len(rows)
        counts = [_learned(row) for row in rows]
        hidden, head = model(rows.batch).at(index), get_head(model, self.role, VocabularyHead)
        each = torch.cat(
            [
                F.cross_entropy(head(hidden[n : n + _CHUNK]).float(), label[n : n + _CHUNK], reduction="none")
                for n in range(0, len(label), _CHUNK)
            ]
        ).cpu()
        ends = np.cumsum(counts).tolist()
        return [(float(each[end - count : end].sum()), count) for end, count in zip(ends, counts, strict=True)]

    def merge(self, example: GenerationExampleT, answers: Sequence[WrittenRow]) -> GenerationPrediction:
        """The text of the only row."""
        (answer,) = answers
        text = None if answer.written is None else answer.written.text.strip()
        reason = "" if answer.written is None else answer.written.reason
        prediction = GenerationPrediction(generated_text=text, finish_reason=reason)
        if answer.written is not None and answer.written.candidates:
            prediction["candidates"] = [_alternative(each) for each in answer.written.candidates]
        if answer.tokens:
            prediction["target_loss"] = answer.loss / answer.tokens
            prediction["target_tokens"] = answer.tokens
        return prediction

    def brief(self, prediction: GenerationPrediction) -> Mapping[str, object]:
        """The text, and the next best ones."""
        others = {f"text_{n}": each["text"] for n, each in enumerate(prediction.get("candidates", [])[1:], 2)}
        return {"generated_text": prediction["generated_text"], **others}

    def score(
        self, predictions: Sequence[GenerationPrediction], examples: Sequence[GenerationExampleT]
    ) -> dict[str, float]:
        """Scores of the written texts from 0 to 100, the share that ended by itself, and the loss of the references."""
        pairs = [(p, e) for p, e in zip(predictions, examples, strict=True) if e.references]
        written = [(str(p["generated_text"]), p, e) for p, e in pairs if p["generated_text"] is not None]
        scores: dict[str, float] = {}
        if written:
            texts, references = [text for text, _, _ in written], [example.references for _, _, example in written]
            scores |= score_texts(self.metrics, texts, references, sources=[example.text for _, _, example in written])
            scores["ended"] = sum(p["finish_reason"] in ("end", "stop") for _, p, _ in written) / len(written)
        tokens = sum(p.get("target_tokens", 0) for p, _ in pairs)
        if tokens:
            loss = sum(p.get("target_loss", 0.0) * p.get("target_tokens", 0) for p, _ in pairs) / tokens
            scores |= {"loss": loss, "perplexity": float(np.exp(min(loss, 700.0)))}
        return scores

    def finalize(self, model: TrainableModel) -> Config:
        """Says in the model's files how it writes, and how long its answers are."""
        self.observe(model)
        config = self.config.model_copy(update={"max_new_tokens": self.new_tokens})
        record_options(cast(Any, model), self.vocabulary, self.options())
        return config

    def tokens(self, rows: Sequence[Encoded]) -> Ints | None:
        """None: any token may be written."""
        return None


def _learned(row: Row) -> int:
    """How many tokens of a row's answer are learned."""
    if row.second is None:
        return 0
    return len(row.second) if row.targets is None else int(row.targets.sum())


def _alternative(candidate: Candidate) -> Alternative:
    return {"text": candidate.text.strip(), "score": candidate.score}
