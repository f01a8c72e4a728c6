"""Turns passages and queries into vectors of unit length by one model, and tells whether an index is that model's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pretune.errors import DataError, NonFiniteError, UsageError
from pretune.interop.fingerprint import body_fingerprint
from pretune.model import Model
from pretune.search.manifest import VectorModel
from pretune.search.passages import Passage
from pretune.search.vectors import StoredVectors, Vectors

_QUERY, _PASSAGE = ("query",), ("passage", "document", "corpus")  # names of prompts in a model's files
_PROBED = 4  # passages whose vectors are made again to compare models
_ALIKE = 0.999  # cosine of vectors that one model makes in other precisions


@dataclass(frozen=True)
class Encoder:
    """A model that makes vectors.

    Attributes:
        model: any that embeds.
        path: its folder; empty where it was given in memory.
        query_prompt, passage_prompt: texts before each query and each passage; None for those of the model's files.
    """

    model: Model
    path: str
    query_prompt: str | None = None
    passage_prompt: str | None = None

    @classmethod
    def of_index(cls, model: Model, recorded: VectorModel) -> Encoder:
        """The encoder with the prompts that an index was made with."""
        return cls(model, recorded.path, recorded.query_prompt, recorded.passage_prompt)

    @cached_property
    def record(self) -> VectorModel:
        """What an index says of it."""
        passages, queries = self._prompt(self.passage_prompt, _PASSAGE), self._prompt(self.query_prompt, _QUERY)
        return VectorModel(
            path=str(Path(self.path).absolute()) if self.path else "",
            width=int(self.model.embed(["a"], prompt=passages).shape[1]),
            fingerprint=body_fingerprint(self.model.network),
            query_prompt=queries,
            passage_prompt=passages,
        )

    def made_by(self) -> Mapping[str, Any]:
        """What the vectors of passages depend on."""
        vectors = self.model.network.vectors
        return {
            "fingerprint": self.record.fingerprint,
            "prompt": self.record.passage_prompt,
            "length": self.model.length,
            "modules": "" if vectors is None else vectors.describe(),
        }

    def passages(self, passages: Sequence[Passage]) -> Vectors:
        """The vectors of passages. Shape: return: (n, width), of unit length

        Raises:
            NonFiniteError: a vector that is not finite; its passage is named.
            DataError: a passage without a token.
        """
        texts = [passage.searched for passage in passages]
        try:
            return self.model.embed(texts, prompt=self.record.passage_prompt, normalize=True)
        except NonFiniteError as error:
            passage = passages[error.index]
            raise error.at(f"document {passage.document!r}, characters {passage.start} to {passage.end}") from None

    def query(self, text: str) -> Vectors:
        """The vector of a query. Shape: return: (width,), of unit length"""
        vector: Vectors = self.model.embed([text], prompt=self._prompt(self.query_prompt, _QUERY), normalize=True)[0]
        return vector

    def queries(self, texts: Sequence[str]) -> Vectors:
        """The vectors of many queries. Shape: return: (n, width), of unit length"""
        return self.model.embed(list(texts), prompt=self._prompt(self.query_prompt, _QUERY), normalize=True)

    def check(self, recorded: VectorModel, passages: Sequence[Passage], stored: StoredVectors) -> None:
        """Makes the vectors of the first passages again, and compares.

        Args:
            passages: the first ones of the index.

        Raises:
            DataError: they are those of another model.
        """
        few = passages[:_PROBED]
        vectors = self.passages(few)
        same = vectors.shape[1] == stored.width
        alike = float((vectors * stored.rows(np.arange(len(few)))).sum(axis=1).min()) if same else 0.0
        if alike < _ALIKE:
            what = (
                f"their cosine is {alike:.3f}" if same else f"they have {vectors.shape[1]} numbers, not {stored.width}"
            )
            name, other = self.path or "the model", recorded.path or "another model"
            raise DataError(
                f"{name}: its vectors are not those of the index, which {other} made ({what}); give that model "
                "(--model), or make the index again"
            )

    def _prompt(self, prompt: str | None, names: Sequence[str]) -> str:
        """The prompt as it was given, else the first that the model's files name so, else their default one."""
        if prompt is not None:
            return prompt
        vectors = self.model.network.vectors
        if vectors is None:
            return ""
        name = next((name for name in names if name in vectors.prompts), None)
        try:
            return vectors.prompt(None, name)
        except UsageError:
            return ""
