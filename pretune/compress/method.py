"""The joint of compression methods: what a file of `compress/`, or a user's own file, offers to `pretune compress`.

A method's file has a class `Config` and the function `apply(model, config, context) -> model`, which changes a built
model with its heads by surgery and gives it back; it may give another model too. The model is in fp32, on its device,
in evaluation mode. Where it needs more, it has some of

- `needs(config) -> Iterable[str]`: what of the context it cannot do without, of `calibration`, `loss` (a calibration
  whose batches have targets) and `teacher`; what is missing is refused before a model is read;
- `training(config, context) -> dict | None`: fields of the recipe of a training run that follows, such as
  `{"task": "classification", "budget": {"epochs": 1}, "distil": {...}}`, by which what was cut is learned again; its
  model and its output are filled in. The result of the step is then the model of the finished run;
- `rounds(config) -> list[Config]`: configurations which, applied one after another with a training run after each, give
  the whole; they are used where the step has training;
- `ROUNDS = True`: it leaves rounded matrices; `WANTS_PLAIN = True`: it refuses them. A chain in which one that wants
  plain matrices comes after one that rounds is refused before its first step;
- `acted(model) -> list[str]`: what the method changed, for people, such as the places; an empty list fails the step.

Methods chain: the model that one gives is what the next gets, and each chooses from its context what it needs:

    tokenizer                    of the model
    draw                         the key of all that is random in this step
    teacher                      another model, in evaluation mode without gradients, where the user named one
    calibration.batches          some thousand tokens as batches of the model's own objective or task, with targets
    calibration.loss(model, b)   the mean loss of a batch, for gradients by which importance is judged
    record(place, error=0.01)    facts of a place, which the report shows by layer
    note("...")                  a sentence that the user reads, and that the report keeps
    progress(3, 12, "layers")    how far a step is
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType
from typing import Literal

from pretune import config as configuration
from pretune.compress.calibration import Calibration
from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.find import call_if_defined, find_defining, suggest, variants
from pretune.models.model import LanguageModel
from pretune.text.tokenizer.tokenizer import Tokenizer

Need = Literal["calibration", "loss", "teacher"]
Fact = float | int | str | bool
_log = logging.getLogger("pretune")
_EVERY = 5.0  # seconds between lines of progress


@dataclass
class CompressContext:
    """What a step of compression may use, and where it says what it did.

    Attributes:
        tokenizer: of the model.
        draw: the key of all that is random in the step.
        calibration: texts or labelled data on which activations and importance are measured.
        teacher: a model to learn from, in evaluation mode and without gradients.
        folder: of the model of this step, which reloads it.
        teacher_folder: of the teacher.
        half: passes over calibration data multiply in bf16.
        facts: what was recorded of places, by their paths.
        notes: sentences for the user, in their order.
    """

    tokenizer: Tokenizer
    draw: Draw
    calibration: Calibration | None = None
    teacher: LanguageModel | None = None
    folder: Path = Path()
    teacher_folder: Path | None = None
    half: bool = False
    facts: dict[str, dict[str, Fact]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)
    _last: float = field(default_factory=time.monotonic)

    def get_calibration(self) -> Calibration:
        """The calibration data.

        Raises:
            UsageError: there are none.
        """
        if self.calibration is None:
            raise UsageError(_REMEDIES["calibration"])
        return self.calibration

    def get_teacher(self) -> LanguageModel:
        """The teacher.

        Raises:
            UsageError: there is none.
        """
        if self.teacher is None:
            raise UsageError(_REMEDIES["teacher"])
        return self.teacher

    def record(self, path: str, **facts: Fact) -> None:
        """Keeps facts of a place for the report, such as `error`, its relative output error on the calibration data.

        Args:
            path: of the brick in the model, such as `stack.blocks.0.attention.query`.
        """
        self.facts.setdefault(path, {}).update(facts)

    def note(self, sentence: str) -> None:
        """Says something to the user, and keeps it for the report."""
        self.notes.append(sentence)
        _log.info("%s", sentence)

    def progress(self, done: int, total: int, what: str) -> None:
        """Says now and then how far a step is, and how long the rest may take.

        Args:
            what: is counted, in the plural, such as `layers`.
        """
        now = time.monotonic()
        if done <= 1:
            self._began = min(now, self._last) if done else now
        if now - self._last < _EVERY or not 0 < done < total:
            return
        minutes, seconds = divmod(round((now - self._began) / done * (total - done)), 60)
        _log.info("%s of %s %s, %d:%02d left", f"{done:,}", f"{total:,}", what, minutes, seconds)
        self._last = now


@dataclass(frozen=True)
class CompressionMethod:
    """A method with its settings.

    Attributes:
        name: file name of the method, or the path to a user's own file.
        config: its settings.
        module: its file.
    """

    name: str
    config: configuration.Config
    module: ModuleType

    def apply(self, model: LanguageModel, context: CompressContext) -> LanguageModel:
        """The compressed model; the given one may have been changed.

        Raises:
            UsageError: something that the method needs is missing, or it changed nothing.
        """
        self.check_needs(context)
        compressed: LanguageModel = self.module.apply(model, self.config, context)
        if (acted := self.acted(compressed)) is not None and not acted:
            raise UsageError(f"compress: {self.name} changed nothing of this model; name other places, or leave it out")
        return compressed

    def needs(self) -> set[str]:
        """What of the context the method cannot do without."""
        needs: Iterable[str] = call_if_defined(self.module, "needs", self.config, default=())
        return set(needs)

    def check_needs(self, context: CompressContext) -> None:
        """Refuses a context that lacks what the method needs.

        Raises:
            UsageError: it does; the message says which flag gives it.
        """
        calibration = context.calibration
        present = {
            "calibration": calibration is not None,
            "loss": calibration is not None and calibration.objective is not None,
            "teacher": context.teacher is not None,
        }
        for need in sorted(self.needs()):
            if not present.get(need, True):
                self.refuse(need)

    def refuse(self, need: str) -> None:
        """Refuses to go on without something that the method needs.

        Raises:
            UsageError: always; the message says which flag gives it.
        """
        raise UsageError(f"compress: {self.name}: {_REMEDIES[need]}")

    def rounds(self) -> list[CompressionMethod]:
        """The method with the settings of each round; itself alone where it has no rounds."""
        configs: list[configuration.Config] = call_if_defined(self.module, "rounds", self.config, default=[self.config])
        return [replace(self, config=config) for config in configs]

    def training(self, context: CompressContext) -> Mapping[str, object] | None:
        """Fields of the recipe of a training run that follows; None where none does."""
        return call_if_defined(self.module, "training", self.config, context, default=None)

    def acted(self, model: LanguageModel) -> list[str] | None:
        """What the method changed; None of a method that makes no such statement."""
        return call_if_defined(self.module, "acted", model, default=None)


_REMEDIES: Mapping[str, str] = {
    "calibration": "needs texts to measure activations on; give --calibration with a text file, labelled data or a "
    "token store of the model's tokenizer",
    "loss": "needs calibration data that the model can be wrong about; give --calibration with labelled data of its "
    "task, or texts for the objective that it was trained on",
    "teacher": "needs a model to learn from; name its folder with --teacher",
}


def find_compression(name: str, settings: Mapping[str, object]) -> CompressionMethod:
    """The method of a name or path, with validated settings.

    Raises:
        UsageError: no such method, a file without `Config` and `apply`, or a bad setting.
        MissingInputError: a path to a user's own file that does not exist.
    """
    module = find_defining("compress", name, ("Config", "apply"), f"compress: {name!r}")
    config_class: type[configuration.Config] = module.Config
    return CompressionMethod(name, configuration.validate(config_class, settings, f"compress.{name}"), module)


def check_name(axis: str, name: str, field_name: str) -> None:
    """Refuses the name of a variant that is no file of an axis, as early as a configuration is read.

    Args:
        axis: such as `nn.formats`.
        field_name: for the message.

    Raises:
        ValueError: as pydantic expects it of a validator.
    """
    known = variants(axis)
    if name not in known and not name.partition(":")[0].endswith(".py") and "." not in name:
        raise ValueError(f"no {field_name} {name!r}; {suggest(name, known)}")
