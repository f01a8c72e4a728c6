"""Sparse vectors for search: how much a text says of each token of the vocabulary, also of such that it does not hold.

Data: as of `similarity`: a query and a passage that belongs to it, with or without passages that do not
(`data.columns.third`), or with a teacher's scores. A text's weight of a token is `log(1 + relu(score))` of the largest
score that masked language modelling gives the token in any row of the text; a query finds a passage by the product of
both. The FLOPS regulariser keeps most weights at 0, so that an inverted index can hold them.

The head is that of masked language modelling, and the files are those of `SparseEncoder` of `sentence-transformers`.

Related: `similarity`, whose vectors are dense. Source: Formal et al. 2021, SPLADE (arXiv 2107.05720) and SPLADE v2
(arXiv 2109.10086); Paria et al. 2020 (arXiv 2004.05665) for the regulariser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Self

import numpy as np
import torch
from pydantic import Field, model_validator
from scipy.sparse import csr_matrix, vstack
from torch import Tensor, nn

from pretune.batch import Batch
from pretune.errors import UsageError
from pretune.loss import Term
from pretune.metrics.ranking import score_rankings
from pretune.nn.heads import VocabularyHead
from pretune.nn.model_protocol import ModelOutput, TrainableModel, get_head
from pretune.nn.splade import flops, largest_scores, saturate
from pretune.nn.vocabulary import values_for
from pretune.objectives.same_texts import TEXTS
from pretune.tasks.shared.vector_task import PairAnswer, PairExample, second
from pretune.tasks.similarity import Similarity
from pretune.tasks.task import RowBatch
from pretune.text.samples.rows import Encoded, Ints
from pretune.text.tokenizer.tokenizer import Tokenizer

_DEPTH = 100  # of a ranking: no measure looks further
_LOSSES = ("contrast", "margin_distillation")


class Sparse(Similarity):
    """Weights of tokens by which a query finds the passage that belongs to it."""

    name: ClassVar[str] = "sparse"
    role: ClassVar[str] = "mlm"
    shares_head: ClassVar[bool] = True
    reads_windows: ClassVar[bool] = False
    is_sparse: ClassVar[bool] = True

    class Config(Similarity.Config):
        """How sparse the vectors become.

        Attributes:
            loss: `contrast` of products, or `margin_distillation` of a reranker's scores; by default what fits the
                labels.
            temperature: divides the products.
            flops_query: weight of the FLOPS regulariser of the queries. The larger, the fewer tokens they have.
            flops_document: the same of the passages.
            flops_steps: steps after which both weights are reached, with the square of the steps: vectors that are made
                sparse before they have learned to find anything end at 0.
        """

        temperature: float = Field(default=1.0, gt=0.0, allow_inf_nan=False)
        flops_query: float = Field(default=5e-3, ge=0.0, allow_inf_nan=False)
        flops_document: float = Field(default=3e-3, ge=0.0, allow_inf_nan=False)
        flops_steps: int = Field(default=200, ge=0)

        @model_validator(mode="after")
        def _for_the_vocabulary(self) -> Self:
            if self.dims or self.projection:
                raise ValueError("dims and projection are of dense vectors: leave them out, or use --task similarity")
            return self

        def weights_at(self, step: int | None) -> tuple[float, float]:
            """The weights of the regulariser of queries and passages at a step; of evaluation where there is none."""
            ramp = 1.0 if step is None or step >= self.flops_steps else (step / self.flops_steps) ** 2
            return self.flops_query * ramp, self.flops_document * ramp

    config: Config

    @property
    def pooling(self) -> None:
        """None: no vectors of the model's width are trained."""
        return None

    def resolve_config(self, examples: Sequence[PairExample]) -> Similarity.Config:
        """As of `similarity`.

        Raises:
            DataError: examples that it cannot learn from.
            UsageError: a loss of vectors of length 1, or windows.
        """
        config = super().resolve_config(examples)
        loss = config.loss if isinstance(config.loss, str) else next(iter(config.loss or ()), "")
        if loss not in _LOSSES and not loss.endswith(".py") and "." not in loss:
            raise UsageError(
                f"task.sparse.loss = {loss}: it compares cosines, and sparse vectors have products; use "
                f"{' or '.join(_LOSSES)}, or train dense vectors with --task similarity"
            )
        return config

    def heads(self, model: TrainableModel) -> dict[str, nn.Module]:
        """The head of masked language modelling.

        Raises:
            UsageError: the model predicts the next token, or reads a source.
        """
        if model.is_causal or model.has_encoder:
            raise UsageError(
                f"task sparse needs a model that sees both sides of a token, and {model.family} does not; use bert"
            )
        return {self.role: model.vocabulary_head("masked")}

    def output_rows(self, batch: Batch) -> None:
        """All rows."""
        return

    def tokens(self, rows: Sequence[Encoded]) -> Ints | None:
        """None: the head scores all tokens."""
        return None

    def sparse_table(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> Tensor:
        """Weights of tokens in the first, the second and the further texts. Shape: return: (N, 2 + negatives, V)."""
        head = get_head(model, self.role, VocabularyHead)
        return self.arrange(splade_vectors(head, output, self.vector_count(batch)), batch)

    def gather_across_step(self, model: TrainableModel, batch: Batch, parts: int) -> Tensor | None:
        """The table of all texts: the regulariser is of all passages of a step together."""
        if not self.needs_others(batch, parts):
            return None
        return torch.cat([self.sparse_table(model, model(batch), batch), batch.targets[TEXTS][1]], dim=2)

    def loss(self, model: TrainableModel, output: ModelOutput, batch: Batch) -> list[Term]:
        """The loss of the configured file, and the regulariser of queries and of passages."""
        first, *others = self.terms(self.sparse_table(model, output, batch), batch)
        return [replace(first, count=self.counts(batch)[self.name]), *others]

    def counts(self, batch: Batch) -> dict[str, int]:
        """Examples, of each term."""
        counts = super().counts(batch)
        return counts | dict.fromkeys(self._flops_names, len(batch.targets[TEXTS][0]))

    @property
    def _flops_names(self) -> tuple[str, str]:
        return f"{self.name}/flops_query", f"{self.name}/flops_document"

    def group_terms(self, table: Tensor, marks: Tensor, some: slice, batch: Batch) -> list[Term]:
        """The loss of some examples among all of a group, and the regulariser of the group."""
        count = len(table[some])
        documents = table[:, 1:].flatten(0, 1)
        documents = documents[documents.detach().any(dim=1)]  # an example may have fewer texts than the table has room
        query, document = self.config.weights_at(batch.step)
        names = self._flops_names
        return [
            self.contrast(table, marks, some),
            Term(names[0], flops(table[:, 0]) * count, count, query * self.config.weight),
            Term(names[1], flops(documents) * count, count, document * self.config.weight),
        ]

    def zero_terms(self, model: TrainableModel, output: ModelOutput) -> list[Term]:
        """Each term: 0 of 0."""
        (term,) = super().zero_terms(model, output)
        return [term, *(replace(term, name=name) for name in self._flops_names)]

    def decode(self, model: TrainableModel, rows: RowBatch, tokenizer: Tokenizer) -> list[PairAnswer]:
        """The product of the vectors of each pair."""
        head, count = get_head(model, self.role, VocabularyHead), len([second(row) for row in rows])
        vectors = splade_vectors(head, model(rows.batch), 2 * count)
        products = (vectors[:count] * vectors[count:]).sum(dim=1).tolist()
        rows_of_both = csr_matrix(vectors.cpu().numpy())
        return [SparseProduct(product, rows_of_both[n], rows_of_both[n + count]) for n, product in enumerate(products)]

    def score(self, predictions: Sequence[float], examples: Sequence[PairExample]) -> dict[str, float]:
        """Correlations of products with the labels, or, of pairs without labels, how well texts find their partners.

        Raises:
            DataError, MissingPackageError: as of `similarity`.
        """
        pairs = [each for each in predictions if isinstance(each, SparseProduct)]
        if any(example.label is not None for example in examples) or len(pairs) < len(examples):
            return super().score(predictions, examples)
        places: dict[str, int] = {}  # the number of each second text, and where it stands first
        for n, example in enumerate(examples):
            places.setdefault(str(example.second), n)
        table = csr_matrix(vstack([pairs[n].second for n in places.values()], format="csr"))
        queries = {example.text: n for n, example in enumerate(examples)}
        names = {text: str(number) for number, text in enumerate(places)}
        judgements: dict[str, dict[str, int]] = {}
        for example in examples:
            judgements.setdefault(str(queries[example.text]), {})[names[str(example.second)]] = 1
        rankings = {}
        for n in queries.values():
            products = (pairs[n].first @ table.T).toarray()[0]
            rankings[str(n)] = [str(best) for best in np.argsort(-products, kind="stable")[:_DEPTH].tolist()]
        return score_rankings(rankings, judgements)


class SparseProduct(float):
    """The product of a pair, with the sparse vectors that it is made of.

    Attributes:
        first, second: of the two texts. Shape: (1, V)
    """

    first: csr_matrix
    second: csr_matrix

    def __new__(cls, product: float, first: csr_matrix, second: csr_matrix) -> Self:
        own = super().__new__(cls, product)
        own.first, own.second = first, second
        return own

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (float(self), self.first, self.second)


def splade_vectors(head: VocabularyHead, output: ModelOutput, count: int) -> Tensor:
    """The weights of all tokens in each text, of the first `count` texts. Shape: return: (count, V) fp32."""
    bounds = output.layout.bounds[: count + 1]
    index = torch.arange(bounds[-1], device=output.last_hidden_state.device)
    rows = head.states(output.at(index), output.keys_at(index))
    return saturate(largest_scores(rows, values_for(head.vocabulary, rows), head.bias, bounds))
