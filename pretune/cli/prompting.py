"""Flags of predictions that a prompt asks a language model for, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

from cyclopts import Parameter

from pretune.cli.answers import AnswerRow, open_answers
from pretune.cli.inputs import (
    RowFlags,
    RowInputs,
    chunks,
    read_task_records,
    say_columns,
    second_hint,
    split_names,
)
from pretune.cli.label_choice import LabelChoice
from pretune.cli.loading import digits_of, unknown_said_once
from pretune.cli.session import Session
from pretune.errors import UsageError
from pretune.wording import listed

if TYPE_CHECKING:
    from pretune.api import Model
    from pretune.evaluate.prompted import PromptOptions
    from pretune.tasks.task import AnyTask, Truncate


@dataclass(frozen=True)
class PromptFlags:
    """How a language model is asked for labels, without training.

    Attributes:
        labels: ask a language model for these, such as good,bad, or by words: 1=good|fine,0=bad.
        prompt: its name, or your own .toml file; by default plain.
        shots: labelled files, of which some examples stand solved in the prompt.
        shot_count: how many.
        shot_draws: ask with so many draws of them, and average the answers.
        choose: which ones: similar to the text, balanced over labels, both, or random; or a .py file of your own.
        shot_model: what says which are similar: tfidf, self for the model's own vectors, or the folder of a model.
        shot_label: column of the labels in the files of examples; by default "label".
        calibrate: contextual, pmi or batch, or your own .py file.
        channel: weight of how likely a text is behind its label, such as 0.2.
        chat: put the prompt into the model's chat template.
        normalize: divide the log probability of words by their length.
        shot_seed: of the draw of examples.
    """

    labels: tuple[str, ...] = ()
    prompt: str | None = None
    shots: tuple[Path, ...] = ()
    shot_count: int | None = None
    shot_draws: int | None = None
    choose: str | None = None
    shot_model: str | None = None
    shot_label: str | None = None
    calibrate: str | None = None
    channel: float | None = None
    chat: Annotated[bool, Parameter(negative="")] = False
    normalize: Literal["tokens", "bytes"] | None = None
    shot_seed: int | None = None

    @property
    def options(self) -> PromptOptions:
        """The flags that are given, as keyword arguments of `Model.prompted`.

        Raises:
            UsageError: a flag that means nothing without another, or a label twice.
        """
        of_shots = {
            "shot_count": self.shot_count,
            "shot_draws": self.shot_draws,
            "choose": self.choose,
            "shot_model": self.shot_model,
        }
        for flag, value in {**of_shots, "shot_seed": self.shot_seed, "shot_label": self.shot_label}.items():
            if value is not None and not self.shots:
                name = flag.replace("_", "-")
                raise UsageError(f"--{name} {value}: there are no examples to choose; name a file of them with --shots")
        values: dict[str, object] = {
            "prompt": self.prompt,
            "calibrate": self.calibrate,
            "normalize": self.normalize,
            **of_shots,
        }
        values |= {"channel": self.channel, "seed": self.shot_seed}
        options: dict[str, object] = {name: value for name, value in values.items() if value is not None}
        if self.chat:
            options["chat"] = True
        if self.labels:
            options["labels"] = self._labels()
        if self.shots:
            options["shots"] = list(self.shots)
        if options and not (self.labels or self.prompt):
            raise UsageError(
                f"--{next(iter(options))}: for a model that is asked by a prompt; give labels, as in --labels good,bad"
            )
        return cast("PromptOptions", options)

    def _labels(self) -> list[str] | dict[str, list[str]]:
        names = [part for part in split_names(self.labels) if part]
        if not any("=" in name for name in names):
            return names
        words: dict[str, list[str]] = {}
        for name in names:
            label, _, word = name.partition("=")
            if not label or not word or label in words:
                raise UsageError(f"--labels {name}: expected LABEL=WORD for each label once, such as 1=good,0=bad")
            words[label] = word.split("|")
        return words

    def describe(self, labels: list[str], model: Path) -> str:
        """What is done, for the screen."""
        shots = f", with examples of {listed(list(map(str, self.shots)))}" if self.shots else ""
        return (
            f"asking {model} by the prompt {self.prompt or 'plain'}: {len(labels):,} labels ({listed(labels)}){shots}"
        )


Prompting = Annotated[PromptFlags, Parameter(name="*")]
NO_PROMPT = PromptFlags()


@dataclass(frozen=True)
class ByPrompt:
    """Predictions of a language model that a prompt asks.

    Attributes:
        flags: how rows are read, as they are given.
        choice: what is told of each prediction.
    """

    loaded: Model
    prompting: PromptFlags
    options: PromptOptions
    flags: Mapping[str, object]
    choice: LabelChoice

    def predict(
        self,
        model: Path,
        firsts: Sequence[str],
        seconds: Sequence[str],
        rows: RowFlags,
        task: str | None,
        truncate: Truncate | None,
        session: Session,
    ) -> None:
        """Writes the answer of each row."""
        from pretune.evaluate.prompted import refuse_task

        refuse_task(task, self.prompting.prompt or "plain")
        label = {} if self.prompting.shot_label is None else {"label": self.prompting.shot_label}
        columns = {**self.flags, **label}
        prompted = self.loaded.prompted(columns=columns, truncate=truncate, **self.options)
        session.say(self.prompting.describe(prompted.task.labels, model))
        config = prompted.task.config.columns
        fields = [column for column in prompted.task.columns(needs_labels=False) if column.required]
        say_columns(session, rows.input, config, [*(column.name for column in fields), rows.id], second_hint(fields))
        inputs = RowInputs(fields, config, rows)
        choice = self.choice.of(cast("AnyTask", prompted.task), is_named=False)
        with open_answers(rows.output, rows.as_json, digits_of(self.loaded)) as writer, unknown_said_once(self.loaded):
            records = read_task_records(fields, config, firsts, rows, seconds)
            for part in [list(records)] if prompted.needs_all_texts else chunks(records):
                for record, prediction in zip(part, prompted.predict(part), strict=True):
                    fields_of_answer = choice.fields(prediction)
                    writer.write(AnswerRow(inputs.of(record), fields_of_answer, inputs.shown, {}, choice.thresholds))
        choice.say(session)
