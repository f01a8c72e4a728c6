"""What `Model.embed` gives: vectors of texts, or of their tokens or words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, TypedDict, Unpack, overload

import numpy as np
from numpy.typing import NDArray

from pretune.errors import UsageError
from pretune.evaluate.embed import Embedder
from pretune.evaluate.embed_parts import EmbeddedText, Part, PartEmbedder, WordVector
from pretune.evaluate.exports import Exports
from pretune.evaluate.labelled import Texts
from pretune.evaluate.layers import Combine, LayerChoice
from pretune.evaluate.unit_length import unit_length
from pretune.models.fuse import fuse
from pretune.models.model import LanguageModel
from pretune.nn.vectors import PoolingMode
from pretune.text.readers.files import names_file
from pretune.text.readers.labelled import read_texts_of_file
from pretune.text.readers.memory import Records, check_texts
from pretune.text.tokenizer.tokenizer import Tokenizer

Embedded = Literal["texts", "tokens", "words"]
_FOR_TEXTS = ("prompt", "prompt_name", "dim")
_FOR_WORDS = ("word_vector", "segmenter")


class EmbedOptions(TypedDict, total=False):
    """Options of `Model.embed`.

    Attributes:
        layers: whose rows are read, such as `[-1, -2]`: 0 is the embedding, -1 the last. Of an encoder-decoder they are
            the encoder's. By default the last one.
        combine: what becomes of several layers: their `mean`, `concat`, or a `list`, one vector each.
        word_vector: of a word's tokens, their `mean` or the `first`.
        segmenter: finds Chinese words, such as `jieba`; by default each Chinese character is a word.
        prompt: a text that comes before each text; by default the files' default prompt, if they name one.
        prompt_name: of one of the files' prompts.
        dim: numbers of a vector that are kept, the first ones, as of a model that was trained with `dims`.
        normalize: to length 1.
        budget: tokens of a forward; by default what is fast on the device.
    """

    layers: Sequence[int] | None
    combine: Combine
    word_vector: WordVector
    segmenter: str | None
    prompt: str | None
    prompt_name: str | None
    dim: int | None
    normalize: bool
    budget: int | None


def embed_texts_by(
    network: LanguageModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    pooling: PoolingMode | None,
    group: NDArray[np.int64] | None = None,
    **options: Unpack[EmbedOptions],
) -> NDArray[np.float32]:
    """One vector for each text. Shape: return: (n, width), or (n, layers, width) of a list

    Args:
        group: number of the adapter that reads each text.

    Raises:
        UsageError, DataError: as `Model.embed`.
    """
    if unusable := [name for name in _FOR_WORDS if options.get(name) is not None]:
        raise UsageError(f"embed: {unusable[0]} is for vectors of words; set of to words, or leave it out")
    layers, combine = options.get("layers"), options.get("combine", "mean")
    several = None if layers is None else LayerChoice.of(network, layers, combine)
    embedder = Embedder.of(
        network,
        tokenizer,
        pooling,
        options.get("prompt"),
        options.get("prompt_name"),
        options.get("budget"),
        group,
        several,
        options.get("dim"),
    )
    out = embedder(texts)
    count = 1 if several is None or combine != "list" else several.parts
    if options.get("normalize"):
        repeated = [text for text in texts for _ in range(count)]
        out = unit_length(out.reshape(len(repeated), -1), repeated).reshape(out.shape)
    return out if several is None or combine != "list" else out.reshape(len(texts), count, -1)


def embed_parts_by(
    network: LanguageModel, tokenizer: Tokenizer, texts: Sequence[str], of: Part, **options: Unpack[EmbedOptions]
) -> list[EmbeddedText]:
    """The vectors of each text's tokens or words.

    Raises:
        UsageError, DataError: as `Model.embed`.
    """
    if unusable := [name for name in _FOR_TEXTS if options.get(name) is not None]:
        raise UsageError(f"embed of {of}: {unusable[0]} is for vectors of texts; leave it out")
    layers = options.get("layers")
    embedder = PartEmbedder.make(
        network,
        tokenizer,
        of,
        (-1,) if layers is None else layers,
        options.get("combine", "mean"),
        options.get("word_vector", "mean"),
        options.get("segmenter"),
        options.get("budget"),
    )
    parts = embedder(texts)
    return [part.unit_length() for part in parts] if options.get("normalize") else parts


class Embeds(Exports):
    """The vectors of a model in use."""

    @cached_property
    def _fused(self) -> LanguageModel:
        """The network in its derived form, made when it first pays."""
        return fuse(self.network)

    @overload
    def embed(
        self,
        texts: str | Path | Texts | Records,
        pooling: PoolingMode | None = None,
        *,
        of: Literal["texts"] = "texts",
        **options: Unpack[EmbedOptions],
    ) -> NDArray[np.float32]: ...
    @overload
    def embed(
        self, texts: str | Path | Texts | Records, *, of: Literal["tokens", "words"], **options: Unpack[EmbedOptions]
    ) -> list[EmbeddedText]: ...
    def embed(
        self,
        texts: str | Path | Texts | Records,
        pooling: PoolingMode | None = None,
        *,
        of: Embedded = "texts",
        **options: Unpack[EmbedOptions],
    ) -> NDArray[np.float32] | list[EmbeddedText]:
        """One vector for each text, or for each of its tokens or words; from the last layer, or any others.

        Args:
            texts: a list of texts, or a single one, whose vector is given alone; or a file, records, a DataFrame ...,
                of which the column is read that held the texts in training, else "text".
            pooling: of the last layer's rows, in place of all modules that the files name; special tokens count, as in
                sentence-transformers. By default what the model's training or its files said; else, as there, the last
                row of a model that its config.json calls `...ForCausalLM`, and the mean of any other.
            of: what has a vector. Texts that are too long are cut; of `tokens` and `words` they are read in windows,
                and special tokens have no vector.
            options: `layers` and how to `combine` several; a `prompt`, or its `prompt_name`; `dim`, the first numbers
                that are kept; `normalize` to length 1; `word_vector` and `segmenter` of words; `budget`: see
                `EmbedOptions`.

        Shape:
            return: (n, width) float32, or (n, layers, width) of a list of layers; (width,) of a single text. Of tokens
            and words an `EmbeddedText` for each text.

        Raises:
            UsageError: an unknown pooling or name of a prompt, a prompt and a name, a layer that the model does not
                have, more numbers than a vector has, an option of texts for words or of words for texts.
            DataError: a text without any token, or one that cannot be encoded.
        """
        column = self.network.metadata.text_column
        if isinstance(texts, Path) or (isinstance(texts, str) and names_file(texts)):
            texts = read_texts_of_file(texts, column)
        many = check_texts(texts, "embed", single=True, column=column)
        if of != "texts":
            if pooling is not None:
                raise UsageError(f"embed of {of}: pooling is for vectors of texts; leave it out")
            return embed_parts_by(self._fused, self.tokenizer, many, of, **options)
        out = embed_texts_by(self._fused, self.tokenizer, many, pooling, **options)
        return out[0] if isinstance(texts, str) else out
