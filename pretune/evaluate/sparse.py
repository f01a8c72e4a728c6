"""Embeds texts as sparse vectors: a weight for each token of the vocabulary, most of which are 0.

texts -> tokens, cut -> batches by tokens -> network -> rows -> largest score of each token -> (n, V) in CSR
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from pretune.batch import ragged
from pretune.errors import DataError, UsageError
from pretune.evaluate.embed import budget_of
from pretune.evaluate.engine import by_length
from pretune.models.model import LanguageModel
from pretune.models.text_vectors import TextVectors
from pretune.nn.heads import VocabularyHead
from pretune.nn.model_protocol import find_language_head
from pretune.nn.splade import largest_scores, saturate, summed_weights
from pretune.nn.vectors import SparsePool
from pretune.nn.vocabulary import values_for
from pretune.runtime.device import inference_context, is_bf16
from pretune.runtime.finite import non_finite
from pretune.text.tokenizer.long_texts import Keep
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.unknown import say_cut, say_unknown
from pretune.text.tokenizer.vocabulary import Tokens

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


@dataclass(frozen=True)
class SparseEmbedder:
    """Turns texts into sparse vectors.

    Attributes:
        network: on its device, in evaluation mode.
        head: of masked language modelling.
        pool: what makes weights of scores.
        length: tokens that a text may have, special ones included: what is over is cut.
        prompt: comes before each text.
        budget: tokens of a forward.
    """

    network: LanguageModel
    tokenizer: Tokenizer
    head: VocabularyHead
    pool: SparsePool
    length: int
    prompt: str
    budget: int

    @classmethod
    def of(
        cls,
        network: LanguageModel,
        tokenizer: Tokenizer,
        prompt: str | None = None,
        prompt_name: str | None = None,
        budget: int | None = None,
    ) -> SparseEmbedder:
        """The embedder of a model as its files say it; without any, as SPLADE makes vectors.

        Args:
            prompt, prompt_name: as of `Model.embed`.

        Raises:
            UsageError: the model does not predict hidden tokens, or an unknown name of a prompt.
        """
        head = find_language_head(network, "masked")
        if head is None:
            raise UsageError(
                f"this {network.family} has no head of masked language modelling, whose scores sparse vectors are made "
                "of; train one with --task sparse"
            )
        vectors = network.vectors if is_sparse(network) else TextVectors.sparse()
        assert vectors is not None  # it was just said
        settings = tokenizer.settings if vectors.max_length is None else {"model_max_length": vectors.max_length}
        tokenizer = tokenizer.lowercased() if vectors.lowercase else tokenizer
        text, length = vectors.prompt(prompt, prompt_name), network.context(settings)
        pool = vectors.sparse_pool or SparsePool()
        return cls(network, tokenizer, head, pool, length, text, budget or budget_of(network.device))

    def __call__(self, texts: Sequence[str]) -> csr_matrix:
        """The vectors of texts, in their order, in compressed rows.

        Shape:
            return: (n, V) float32

        Raises:
            DataError: a text without any token, or one that cannot be encoded.
            NonFiniteError: a vector that is not finite.
        """
        from scipy.sparse import csr_matrix, vstack

        runs, cut = self._read(texts)
        parts: list[csr_matrix] = []
        order: list[int] = []
        for index in by_length([len(run) for run in runs], self.budget):
            vectors = self._forward([runs[n] for n in index]).cpu().numpy()
            if not np.isfinite(vectors).all():
                bad = int(index[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])])
                raise non_finite("a vector", bad, len(texts), texts[bad])
            parts.append(csr_matrix(vectors))
            order += index.tolist()
        say_cut(self.tokenizer, cut, len(texts), self.length)
        if not parts:
            return csr_matrix(np.zeros((0, self.network.vocab_size), np.float32))
        back = np.argsort(np.array(order), kind="stable")
        return csr_matrix(vstack(parts, format="csr")[back])

    def _read(self, texts: Sequence[str]) -> tuple[list[Tokens], int]:
        """The tokens of each text, and how many texts were cut."""
        vocabulary = self.tokenizer.vocabulary
        most = self.length - vocabulary.overhead(False)
        with say_unknown(self.tokenizer):
            encoded = self.tokenizer.encode_batch([self.prompt + text for text in texts], keep=Keep(most))
        runs = [vocabulary.add_special_tokens(tokens[:most])[0] for tokens in encoded]
        for n, run in enumerate(runs):
            if not len(run):
                raise DataError(f"text {n + 1} of {len(texts)} has no tokens: {texts[n][:40]!r}")
        return runs, sum(len(tokens) > most for tokens in encoded)

    def _forward(self, runs: Sequence[Tokens]) -> Tensor:
        """Shape: N runs of tokens; return: (N, V) fp32."""
        batch = ragged(runs).to(self.network.device)
        with inference_context(self.network.device, is_bf16(self.network)):
            output = self.network(batch)
            rows = self.head.transform(output.last_hidden_state)
            table, bounds = values_for(self.head.vocabulary, rows), batch.layout.bounds
            if self.pool.mode == "sum":
                return summed_weights(rows, table, self.head.bias, bounds, self.pool.activation)
            return saturate(largest_scores(rows, table, self.head.bias, bounds), self.pool.activation)


def is_sparse(network: LanguageModel) -> bool:
    """Whether a model's training or its files say that its vectors are sparse."""
    return network.vectors is not None and network.vectors.sparse_pool is not None


def as_weights(vectors: csr_matrix, tokenizer: Tokenizer) -> list[dict[str, float]]:
    """The weights of each text by token, the heaviest first."""
    names: dict[int, str] = {}
    out = []
    for start, stop in zip(vectors.indptr[:-1].tolist(), vectors.indptr[1:].tolist(), strict=True):
        ids, weights = vectors.indices[start:stop], vectors.data[start:stop]
        order = np.lexsort((ids, -weights))
        for token in ids.tolist():
            known = token < tokenizer.vocabulary.size  # a model may have rows for more
            names.setdefault(token, tokenizer.token(token) if known else f"token {token}")
        out.append({names[int(ids[n])]: float(weights[n]) for n in order.tolist()})
    return out
