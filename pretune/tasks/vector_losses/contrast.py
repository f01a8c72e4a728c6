"""Contrast: find the text that belongs to one among those of all other examples of the step, and its hard negatives.

Data: pairs (`--second`), or with hard negatives (`--third`: a text, or a list of texts, as many as one likes in each
example). The larger the step, the more negatives. A text that is the same as another one, or that answers the same
text, is no negative of it. `directions` adds the way back (translations, paraphrases: `doc_to_query`), and negatives on
the text's own side, such as those of its own language (`query_to_query`, `doc_to_doc`).

Source: Henderson et al. 2017 (arXiv 1705.00652); van den Oord et al. 2018, InfoNCE (arXiv 1807.03748); Gao et al. 2021,
SimCSE (arXiv 2104.08821), section 4; all four directions in one softmax: Li et al. 2023, GTE (arXiv 2308.03281).
Related: `simcse` is this loss on single sentences; `MultipleNegativesRankingLoss` of sentence-transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import field_validator
from torch import Tensor

from pretune import config as configuration
from pretune.objectives.same_texts import false_negatives, text_ids
from pretune.tasks.vector_losses.vector_loss import RowLosses, VectorLoss, VectorTable

Direction = Literal["query_to_doc", "doc_to_query", "query_to_query", "doc_to_doc"]


class Contrast(VectorLoss):
    """Cross-entropy of cosines over the temperature."""

    compares_examples: ClassVar[bool] = True

    class Config(configuration.Config):
        """Among what a text is found.

        Attributes:
            directions: whose texts are candidates: `query_to_doc` the second texts of all examples and their negatives;
                `doc_to_query` the first texts, for the second one; `query_to_query` and `doc_to_doc` those of the
                text's own side, which are negatives alone.
            joint: one softmax over the candidates of all directions; else one for each, of which the mean is taken.
        """

        directions: tuple[Direction, ...] = ("query_to_doc",)
        joint: bool = False

        @field_validator("directions", mode="before")
        @classmethod
        def _listed(cls, directions: Any) -> Any:
            return directions.split(",") if isinstance(directions, str) else directions

        @field_validator("directions")
        @classmethod
        def _has_partners(cls, directions: tuple[Direction, ...]) -> tuple[Direction, ...]:
            if "query_to_doc" not in directions or len(set(directions)) < len(directions):
                raise ValueError("name each direction once, query_to_doc among them")
            return directions

    config: Config

    def forward(self, table: VectorTable) -> RowLosses:
        """The negative logarithm of the partner's probability."""
        first, second = table.vectors[:, 0], table.vectors[:, 1]
        docs = torch.cat([second, table.vectors[:, 2:].flatten(0, 1)])
        absent = torch.cat([torch.zeros_like(table.present[:, 1]), ~table.present[:, 2:].flatten()])
        false = false_negatives(table.marks) | absent
        scores = {"query_to_doc": (first @ docs.T).masked_fill(false, -torch.inf)}
        if len(self.config.directions) > 1:
            scores |= self._other_directions(table, docs, false)
        chosen = [scores[direction] / table.temperature for direction in self.config.directions]
        partner = (first * second).sum(dim=1) / table.temperature
        if self.config.joint:
            total = torch.cat(chosen, dim=1).logsumexp(dim=1)
        else:
            total = _mean_of_logsumexp(chosen)
        best = scores["query_to_doc"].detach().argmax(dim=1)
        return RowLosses(total - partner, best == torch.arange(len(first), device=best.device))

    def _other_directions(self, table: VectorTable, docs: Tensor, false: Tensor) -> dict[str, Tensor]:
        """The cosines of the other directions, -inf for what is no negative. Shape: (N, N) or (N, number of docs)."""
        first, second = table.vectors[:, 0], table.vectors[:, 1]
        count = len(first)
        ids = text_ids(table.marks)
        itself = torch.eye(count, dtype=torch.bool, device=first.device)
        same = (ids[:, :1] == ids[:, 0]) | (ids[:, 1:2] == ids[:, 0]) | (ids[:, 1:2] == ids[:, 1])
        owner = torch.arange(count, device=first.device)
        owner = torch.cat([owner, owner.repeat_interleave(table.vectors.shape[1] - 2)])
        own = owner == torch.arange(count, device=first.device)[:, None]
        return {
            "doc_to_query": (second @ first.T).masked_fill(same & ~itself, -torch.inf),
            "query_to_query": (first @ first.T).masked_fill(same, -torch.inf),
            "doc_to_doc": (second @ docs.T).masked_fill(false | own, -torch.inf),
        }


def _mean_of_logsumexp(parts: Sequence[Tensor]) -> Tensor:
    """The mean over the parts in which a text has candidates: that of a step of one example has no text of its side.

    Shape:
        parts: (N, any) each, -inf for what is no candidate; return: (N,)
    """
    absent = torch.stack([part.detach().isneginf().all(dim=1) for part in parts])
    totals = [part.masked_fill(none[:, None], 0.0).logsumexp(dim=1) for part, none in zip(parts, absent, strict=True)]
    return torch.stack(totals).masked_fill(absent, 0.0).sum(dim=0) / (~absent).sum(dim=0)
