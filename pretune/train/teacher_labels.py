"""Labels the training examples of a task by a better model, once, before the first step: its vectors or its scores."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pretune.errors import DataError
from pretune.evaluate.embed import Embedder
from pretune.evaluate.pair_scoring import score_pairs
from pretune.evaluate.read import Source, find_source, read_with_tokenizer
from pretune.generate.session import context_length
from pretune.interop.fingerprint import model_fingerprint
from pretune.interop.run_folder import check_has_model
from pretune.models.model import LanguageModel
from pretune.runtime.device import choose
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

    def fingerprint(self) -> str:
        """SHA-256 of what its answers hang on: weights, settings, tokenizer, and what it was trained for."""
        network, vectors = self.network, self.network.vectors
        facts = {
            "weights": model_fingerprint(network),
            "config": [network.family, network.config.model_dump(mode="json")],
            "tokenizer": [self.tokenizer.hash, context_length(network, self.tokenizer)],
            "trained for": network.metadata.model_dump(mode="json", include={"task", "tasks"}),
            "vectors": None if vectors is None else vectors.settings(),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A vector of each text. Shape: return: (n, width)"""
        return Embedder.of(self.network, self.tokenizer)(texts)

    def scores(self, firsts: Sequence[str], seconds: Sequence[str]) -> NDArray[np.float32]:
        """How well the texts of each pair belong together.

        Raises:
            UsageError: the model gives a pair no number.

        Shape:
            return: (n,)
        """
        return score_pairs(self.network, self.tokenizer, self.source.folder, firsts, seconds)


def label_by_teacher(task: AnyTask, examples: Sequence[Example], teacher: LoadedTeacher) -> list[Example]:
    """The examples with a teacher's answers as their labels.

    Raises:
        DataError: a text that the teacher cannot read.
    """
    _log.info("asking the teacher %s about %s", task.teacher, counted(len(examples), "training example"))
    try:
        return task.label_by(examples, teacher)
    except DataError as error:
        raise DataError(f"teacher {task.teacher}: {error}") from None
