"""Generation: writes a text from a text, such as a translation, a summary, a title, an answer or code.

Data: records with a source (`data.columns.text`) and a target (`data.columns.target`); where neither is named, usual
names are found: document, dialogue, question, instruction (with input) ..., and target, summary, translation ...
In validation a list of targets, or fields such as summary1 and summary2, are several right texts. Parallel files are
named at once: `--train 'train.{en,de}'`.

An encoder-decoder reads the source, a decoder a prompt that has it; both learn the target and the token that ends it,
and nothing else. A source that is too long is cut, and said; a target that is too long is an error.

Scores: those of `metric` between what the model writes and the references, the share of texts that ended by themselves,
and the perplexity of the references. Related: `chat`, for conversations. Where validation answers are as likely behind
another example's source as behind their own, the end of a run warns that the model does not look at what it reads.

Source: Sutskever et al. 2014 (arXiv 1409.3215); Lewis et al. 2019 (arXiv 1910.13461), section 3; Raffel et al. 2019
(arXiv 1910.10683) for prefixes; Radford et al. 2018, section 3.3, for decoders.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from pydantic import model_validator

from pretune.errors import DataError, UsageError
from pretune.tasks.shared.generation_task import GenerationTask
from pretune.tasks.shared.source_fields import (
    SOURCE,
    read_source,
    read_target,
    render,
    source_columns,
    target_columns,
    template_fields,
)
from pretune.tasks.shared.written_texts import GenerationExample
from pretune.tasks.task import truncate_run
from pretune.text.readers.records import Column, Record
from pretune.text.samples.rows import Encoded, Flags, Ints
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.vocabulary import is_byte_level
from pretune.wording import counted

_HAN = re.compile(r"[\u3400-\u9fff]")
_LETTERS = 3.0  # of an alphabet that a Chinese character stands for
_SHORT = 0.5  # targets that are shorter than this part of their sources are taken for summaries


@dataclass(frozen=True, slots=True)
class SourceExample(GenerationExample):
    """A source and its targets.

    Attributes:
        values: what stands in the template, by name.
        fields: that hold the source and the targets.
    """

    values: tuple[tuple[str, str], ...] = ()
    fields: tuple[str, ...] = ()

    @property
    def held_together(self) -> str:
        """The source: all its targets are held out together."""
        return self.text


class Generation(GenerationTask[SourceExample]):
    """A text from a text."""

    name: ClassVar[str] = "generation"

    class Config(GenerationTask.Config):
        """What is read.

        Attributes:
            prompt: template of what the model reads, with {source} or any fields of the records in braces, such as
                "translate English to German: {source}"; by default the source, for a decoder with a line break.
            truncate_target: whether a target of the training data that is too long is an error, or its beginning is
                learned, without an end.
        """

        prompt: str | None = None
        truncate_target: Literal["error", "head"] = "error"

        @model_validator(mode="after")
        def _has_fields(self) -> Generation.Config:
            if self.prompt is not None and not template_fields(self.prompt):
                raise ValueError(
                    f"prompt = {self.prompt!r} has no place for what is read; write {{{SOURCE}}} where it belongs"
                )
            return self

    config: Config

    @property
    def prompt(self) -> str:
        """The template of what the model reads."""
        default = "{source}" if self.reads_apart else "{source}\n"
        return default if self.config.prompt is None else self.config.prompt

    def columns(self, needs_labels: bool) -> list[Column]:
        """The fields of the source, and those of the target."""
        columns, names = self.config.columns, template_fields(self.prompt)
        return [*source_columns(columns, names), *target_columns(columns, needs_labels)]

    def read(self, record: Mapping[str, object]) -> SourceExample:
        """A source and its targets."""
        columns, fields = self.config.columns, Record.of(record)
        names = template_fields(self.prompt)
        if SOURCE in names:
            field, source = read_source(fields, columns)
        else:
            field, source = names[0], fields.text(names[0], "task.generation.prompt")
        values = {name: source if name == SOURCE else _value(fields, name) for name in names}
        texts, target_fields = read_target(fields, columns, field)
        target = texts[0] if texts else None
        return SourceExample(
            source, target, texts, tuple(values.items()), (field, *target_fields), origin=fields.origin
        )

    def resolve_config(self, examples: Sequence[SourceExample]) -> Config:
        """Fills in the metric.

        Raises:
            DataError: no examples, or one without a target.
            UsageError: windows, of which a text would have several answers.
        """
        if not examples:
            raise DataError("no examples: the file is empty; give it at least one record")
        for example in examples:
            if example.target is None:
                raise DataError(f"{example.origin}: no target; say what is to be written, or remove the record")
        if self.config.truncate == "windows":
            raise UsageError(f"task.{self.name}.truncate windows: a text has one answer; use head, tail or head+tail")
        sources = sum(_width(example.text) for example in examples)
        targets = sum(_width(example.target or "") for example in examples)
        usual = "rouge" if targets < _SHORT * sources else "bleu"
        return self.config.model_copy(update={"metric": self.config.metric or usual})

    def training_notes(self, examples: Sequence[SourceExample]) -> list[str]:
        """Which fields are read, and of how many examples one right text of several is learned."""
        first = examples[0]
        notes = [f"sources are read from {first.fields[0]!r}, targets from {', '.join(map(repr, first.fields[1:]))}"]
        if several := sum(len(example.references) > 1 for example in examples):
            notes.append(f"{counted(several, 'example')} with several targets, of which the first is learned")
        return [*notes, f"compared by {self.config.metric} (task.{self.name}.metric)"]

    def encode(self, examples: Sequence[SourceExample], tokenizer: Tokenizer, length: int) -> list[Encoded]:
        """A row for each example.

        Raises:
            DataError: a source or a target without tokens; a target of the training data that is too long.
        """
        template, space = self._template(tokenizer)
        answers = self._answers(examples, tokenizer, space)
        is_training = self._is_training and self.longest_answer is None
        if is_training:
            self.longest_answer = max((len(answer) for answer in answers if answer is not None), default=1)
        rendered = [render(template, dict(example.values)) for example in examples]
        encodings = tokenizer.encode_kept([text for text, _, _ in rendered])
        rows = []
        for n, (example, (_, start, end), encoding) in enumerate(zip(examples, rendered, encodings, strict=True)):
            inside = _inside(encoding.offsets, start, end)
            if not inside.any():
                raise _no_token(example, example.text)
            answer, around = answers[n], len(inside) - int(inside.sum())
            whole = 0 if answer is None else len(answer)
            if answer is not None:
                answer = self._fit_answer(answer, around, length, example, is_training)
            size = 0 if answer is None else len(answer)
            kept = self._cut(inside, self.room(length, size) - around, example)
            rows.append(Encoded(encoding.tokens[kept], answer, example=n, cut=len(inside) - len(kept) + whole - size))
        return rows

    def _template(self, tokenizer: Tokenizer) -> tuple[str, str]:
        """The template, and what stands before answers.

        Tokens of bytes have the space before a word, so that one at the end of a prompt belongs to the answer.
        """
        template = self.prompt
        if self.reads_apart or not template.endswith(" ") or not is_byte_level(tokenizer.layout):
            return template, ""
        return template.rstrip(" "), " "

    def _answers(self, examples: Sequence[SourceExample], tokenizer: Tokenizer, space: str) -> list[Ints | None]:
        """The tokens of each target, with the one that ends it; None where it is not known.

        Raises:
            DataError: a target without tokens.
        """
        known = [example for example in examples if example.target is not None]
        runs = iter(tokenizer.encode_batch([f"{space}{example.target}" for example in known]))
        out: list[Ints | None] = []
        for example in examples:
            if example.target is None:
                out.append(None)
                continue
            run = next(runs)
            if not len(run):
                raise _no_token(example, example.target)
            out.append(self.answer(run))
        return out

    def _fit_answer(self, answer: Ints, around: int, length: int, example: SourceExample, is_training: bool) -> Ints:
        """An answer that fits, with some room for what is read.

        Args:
            around: tokens of the template.
            is_training: it will be learned.

        Raises:
            DataError: it is too long.
        """
        limit = length if self.reads_apart else length - self.read_overhead - around - 1
        limit = min(limit, self.config.max_new_tokens or limit) if is_training else limit
        if len(answer) <= limit:
            return answer
        if is_training and self.config.truncate_target == "error":
            raise DataError(
                f"{example.origin}: the target has {len(answer)} tokens with its end, and there is room for {limit}; "
                f"raise --length (or max_new_tokens), or cut targets with --task.{self.name}.truncate_target head"
            )
        return answer[: max(1, limit)]

    def _cut(self, inside: Flags, room: int, example: SourceExample) -> Ints:
        """Which tokens of a prompt stay: those around its longest field, and as many of this as there is room for.

        Raises:
            DataError: there is room for none, or too long a source is an error.
        """
        if room < 1:
            raise DataError(f"{example.origin}: there is no room for what is read beside the answer; raise --length")
        own = np.flatnonzero(inside)
        if len(own) <= room:
            return np.arange(len(inside))
        if self.config.truncate == "error":
            raise DataError(
                f"{example.origin}: more than the {room} tokens that there is room for; raise --length, or set "
                "truncate to head, tail or head+tail"
            )
        return np.sort(np.concatenate([np.flatnonzero(~inside), truncate_run(own, room, self.config.truncate)]))


def _width(text: str) -> float:
    """The length of a text, in letters: a Chinese character says as much as some of them."""
    return len(text) + (_LETTERS - 1) * len(_HAN.findall(text))


def _value(fields: Record, name: str) -> str:
    """The value of a field in a template, which may be empty.

    Raises:
        DataError: no such field, or something else than text.
    """
    if name in fields and fields[name] in ("", None):
        return ""
    return fields.text(name, "task.generation.prompt")


def _no_token(example: SourceExample, text: str) -> DataError:
    return DataError(f"{example.origin}: the tokenizer gives no token for {text[:40]!r}; leave it out")


def _inside(offsets: Ints, start: int, end: int) -> Flags:
    """Which tokens begin in a part of a text. Shape: offsets: (n, 2); return: (n,) bool"""
    inside: Flags = (offsets[:, 0] >= start) & (offsets[:, 0] < end)
    return inside
