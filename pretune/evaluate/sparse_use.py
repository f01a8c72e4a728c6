"""The methods of a model in use that give sparse vectors of texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pretune.evaluate.labelled import Texts
from pretune.evaluate.sparse import SparseEmbedder, as_weights, is_sparse
from pretune.models.model import LanguageModel
from pretune.text.readers.labelled import read_texts_of_file
from pretune.text.readers.memory import Records, check_texts
from pretune.text.tokenizer.tokenizer import Tokenizer

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


class SparseUse:
    """What `pretune.load` gives, as far as its vectors are sparse.

    Attributes:
        network: on its device.
        tokenizer: that it was trained with.
    """

    network: LanguageModel
    tokenizer: Tokenizer

    @property
    def is_sparse(self) -> bool:
        """Whether the model's training or its files say that its vectors are sparse."""
        return is_sparse(self.network)

    def embed_sparse(
        self,
        texts: Path | Texts | Records,
        *,
        prompt: str | None = None,
        prompt_name: str | None = None,
        budget: int | None = None,
    ) -> csr_matrix:
        """A weight for each token of the vocabulary and each text, most of which are 0 (SPLADE).

        Args:
            texts: a list of texts, or a file, records, a DataFrame ..., of which the column is read that held the texts
                in training, else "text".
            prompt: a text that comes before each text; by default the files' default prompt, if they name one.
            prompt_name: of one of the files' prompts.
            budget: tokens of a forward; by default what is fast on the device.

        Shape:
            return: (n, V) float32, in compressed rows of scipy

        Raises:
            UsageError: the model does not predict hidden tokens, or an unknown name of a prompt.
            DataError: a text without any token, or one that cannot be encoded.
        """
        column = self.network.metadata.text_column
        many = check_texts(
            read_texts_of_file(texts, column) if isinstance(texts, Path) else texts, "embed", column=column
        )
        return SparseEmbedder.of(self.network, self.tokenizer, prompt, prompt_name, budget)(many)

    def token_weights(self, vectors: csr_matrix) -> list[dict[str, float]]:
        """The weights of each text by token, the heaviest first, of what `embed_sparse` gives."""
        return as_weights(vectors, self.tokenizer)
