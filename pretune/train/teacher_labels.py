"""Labels the training examples of a task by a better model, once, before the first step: its vectors or its scores."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pretune.errors import DataError, UsageError
from pretune.evaluate.embed import Embedder
from pretune.evaluate.labelled import predict_data
from pretune.evaluate.read import Source, find_source, read_with_tokenizer
from pretune.evaluate.recorded import trained_task
from pretune.generate.session import context_length
from pretune.interop.run_folder import check_has_model
from pretune.models.model import LanguageModel
from pretune.runtime.device import choose
from pretune.tasks.shared.predictions import score_of_prediction
from pretune.tasks.task import AnyTask, Example
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.wording import counted

_log = logging.getLogger("pretune")


@dataclass(frozen=True)
class LoadedTeacher:
    """A model that answers texts; a `Teacher` of tasks.

    Attributes:
        source: its folder.
    """

    network: LanguageModel
    tokenizer: Tokenizer
    source: Source

    @classmethod
    def load(cls, folder: str, device: str) -> LoadedTeacher:
        """Reads the model.

        Raises:
            MissingInputError: there is none.
        """
        check_has_model(Path(folder))
        source = find_source(Path(folder))
        network, tokenizer = read_with_tokenizer(source, None)
        return cls(network.to(choose(device)).eval(), tokenizer, source)

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector of each text. Shape: return: (n, width)"""
        return Embedder.of(self.network, self.tokenizer)(texts)

    def scores(self, firsts: Sequence[str], seconds: Sequence[str]) -> NDArray[np.float32]:
        """How well the texts of each pair belong together, by the task that it was trained for.

        Raises:
            UsageError: its task predicts no number.

        Shape:
            return: (n,)
        """
        task = trained_task(self.network, self.tokenizer.vocabulary, self.source.folder)
        length = context_length(self.network, self.tokenizer)
        predictions = predict_data(self.network, self.tokenizer, task, list(firsts), list(seconds), length)
        scores = [score_of_prediction(each) for each in predictions]
        if any(score is None for score in scores):
            raise UsageError(
                f"{self.source.folder}: its task {task.name} gives no score of a pair; name a model that was trained "
                "for reranking, regression or similarity"
            )
        return np.array(scores, np.float32)


def label_by_teacher(task: AnyTask, examples: Sequence[Example], device: str) -> list[Example]:
    """The examples with a teacher's answers as their labels; as they are, where the task names no teacher.

    Raises:
        MissingInputError: there is no model in the folder.
        DataError: a text that the teacher cannot read.
    """
    if task.teacher is None:
        return list(examples)
    _log.info("asking the teacher %s about %s", task.teacher, counted(len(examples), "training example"))
    try:
        return task.label_by(examples, LoadedTeacher.load(task.teacher, device))
    except DataError as error:
        raise DataError(f"teacher {task.teacher}: {error}") from None
