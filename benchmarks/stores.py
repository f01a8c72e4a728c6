"""Token stores of random tokens, for benchmarks that need no text."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from pretune.text.tokenizer.tokenizer import Tokenizer

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # the first ids
_SHARD = 1 << 28  # tokens of a file


def write_store(folder: Path, words: int, documents: Iterable[tuple[NDArray[Any], NDArray[np.int64]]]) -> Tokenizer:
    """A store whose documents are one sentence each, nothing held out, and the tokenizer that it names.

    Args:
        words: of the vocabulary, special ones included; at most 65,536.
        documents: tokens end to end, each document with its end token or without, and the sizes of the documents.
    """
    from tokenizers import Tokenizer as Backend
    from tokenizers import models, processors

    from pretune.text.store.manifest import Manifest, write_manifest
    from pretune.text.store.store import SPLITS
    from pretune.text.store.writer import SplitWriter
    from pretune.text.tokenizer.tokenizer import Tokenizer

    vocabulary = [*SPECIAL, *(f"w{n}" for n in range(words - len(SPECIAL)))]
    backend = Backend(models.WordPiece({word: n for n, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    backend.add_special_tokens(list(SPECIAL))
    backend.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    tokenizer = Tokenizer(backend, {f"{name[1:-1].lower()}_token": name for name in SPECIAL})
    tokenizer.save(folder / "tokenizer")
    writers = {name: SplitWriter(folder, name, np.dtype(np.uint16), _SHARD, None) for name in SPLITS}
    for tokens, sizes in documents:
        starts = np.cumsum(sizes) - sizes
        writers["train"].append(tokens.astype(np.uint16, copy=False), sizes, starts)
    splits = {name: writer.close() for name, writer in writers.items()}
    domains = {"all": {"documents": splits["train"].documents, "tokens": splits["train"].tokens}}
    write_manifest(folder, Manifest(tokenizer.hash, words, SPECIAL.index("[SEP]"), "", domains, splits, {}, {}))
    return tokenizer
