"""What pretune does with a model, for comparing it with what another reader does with the same files."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pretune.evaluate.embed import embed_texts
from pretune.evaluate.rerank import Reranker
from pretune.evaluate.sparse import SparseEmbedder
from pretune.generate.defaults import resolve_options
from pretune.generate.generate import generate
from pretune.generate.session import add_special_tokens
from pretune.interop.cross_encoder import encoder_class
from pretune.interop.foreign_reader import Uses
from pretune.models.model import LanguageModel
from pretune.text.tokenizer.tokenizer import Tokenizer


def greedy_tokens(
    model: LanguageModel, tokenizer: Tokenizer, prompts: Sequence[str], new_tokens: int
) -> list[tuple[list[int], list[int]]]:
    """What the model reads of each prompt, and the tokens that it writes greedily, the end token included.

    Raises:
        DataError: the model's files ask for something that is not built.
    """
    encoded = tokenizer.encode_batch(prompts)
    read = add_special_tokens(model, tokenizer, encoded)
    config = resolve_options(model, {"max_new_tokens": new_tokens, "temperature": 0.0, "beams": 1})
    texts = generate(model, tokenizer, encoded, config)
    return [(ids.tolist(), text.tokens) for ids, text in zip(read, texts, strict=True)]


def embed_as_files_say(model: LanguageModel, tokenizer: Tokenizer, texts: Sequence[str]) -> NDArray[np.float32]:
    """Vectors of texts, sparse ones in full; of a cross-encoder, scores of each text with the next one.

    Shape:
        return: (n, width), (n, V) or (n - 1,)
    """
    encoder = encoder_class(model)
    if encoder == "CrossEncoder":
        pairs = list(pairwise(texts))
        scores = Reranker.of(model, tokenizer, Path())([first for first, _ in pairs], [[second] for _, second in pairs])
        return np.array(scores, np.float32)[:, 0]
    if encoder == "SparseEncoder":
        return np.asarray(SparseEmbedder.of(model, tokenizer)(texts).toarray(), np.float32)
    return embed_texts(model, tokenizer, texts)


USES = Uses(greedy_tokens, embed_as_files_say)
