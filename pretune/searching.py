"""Search in one's own texts: `pretune.index(...)` makes an index, `pretune.open_index(path)` opens one.

index = pretune.index("handbook/", output="handbook.index", model="minilm")
for hit in index.search("how do I return a parcel?", 3): print(hit.document, hit.start, hit.text)
index.answer("how long do I have?", reader="reader").text
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from pretune.api import load
from pretune.config import validate
from pretune.errors import UsageError
from pretune.model import Model
from pretune.runtime.precision import Name as Precision
from pretune.search.build import IndexSettings, build_index, default_window
from pretune.search.documents import DocumentConfig, DocumentStats, read_documents
from pretune.search.encoder import Encoder
from pretune.search.hits import Hit
from pretune.search.index import SearchIndex
from pretune.search.passages import WindowConfig
from pretune.text.readers.labelled import Data

__all__ = ["Hit", "SearchIndex", "index", "open_index"]


def index(
    data: Data,
    output: Path | str,
    *,
    model: Model | Path | str | None = None,
    size: int | None = None,
    overlap: int | None = None,
    unit: Literal["tokens", "characters"] | None = None,
    tokenization: str = "bigrams",
    backend: str | None = None,
    query_prompt: str | None = None,
    passage_prompt: str | None = None,
    replace: bool = False,
    device: str = "auto",
    precision: Precision = "auto",
    stats: DocumentStats | None = None,
    **columns: Any,
) -> SearchIndex:
    """Make an index of documents, in which passages are found by words and by vectors.

        pretune.index("handbook/", output="handbook.index", model="minilm").search("a question")

    A build that was killed goes on when it is called again.

    Args:
        data: files and folders (text, Markdown, HTML, JSONL, CSV, TSV, Excel, Parquet, SQuAD), or records in memory.
        output: folder of the index.
        model: whose vectors are searched, or its folder; without one passages are found by words alone.
        size: tokens, or characters, of a passage at most; 0 for whole documents; by default 200 tokens, without a model
            1,000 characters.
        overlap: tokens, or characters, that a passage has of the end of the one before, at most; none by default.
        unit: what is counted; by default tokens, without a model characters.
        tokenization: of `search/tokenizations/`: what words Chinese is cut into: bigrams, characters, jieba.
        backend: of `search/backends/`; by default exact, of more than 20,000 passages usearch.
        query_prompt, passage_prompt: texts before each query and each passage; by default those of the model's files.
        replace: an index that is there is replaced when the new one is whole.
        device, precision: as of `load`.
        stats: counts what became of the records.
        columns: how documents are read: `text`, `title`, `id`, `documents`, `format` ...

    Raises:
        CannotCreateError: there is an index already.
        DataError: a bad document, an id that is missing or comes twice, a vector that is not finite.
    """
    config = validate(DocumentConfig, columns, "columns")
    loader = _loader(device, precision)
    encoder = None
    if model is not None:
        loaded, path = (model, "") if isinstance(model, Model) else (loader(str(model)), str(model))
        if loaded.is_sparse:
            raise UsageError(f"{path or 'the model'}: makes sparse vectors; an index takes a model of dense ones")
        encoder = Encoder(loaded, path, query_prompt, passage_prompt)
    elif query_prompt is not None or passage_prompt is not None:
        raise UsageError(
            "query_prompt and passage_prompt stand before what a model reads; give a model, or leave them out"
        )
    usual = WindowConfig() if unit == "characters" else default_window(encoder)
    asked = {"size": size, "overlap": overlap, "unit": unit}
    fields = usual.model_dump() | {name: value for name, value in asked.items() if value is not None}
    window = validate(WindowConfig, fields, "passages")
    settings = IndexSettings(window=window, tokenization=tokenization, backend=backend)
    folder = Path(output)
    build_index(read_documents(data, config, stats), folder, encoder, settings, replace=replace)
    return SearchIndex(folder, loader, model)


def open_index(
    path: Path | str,
    model: Model | Path | str | None = None,
    *,
    device: str = "auto",
    precision: Precision = "auto",
) -> SearchIndex:
    """Open an index, which then searches, answers, and takes documents in and out.

        pretune.open_index("handbook.index").search("how do I return a parcel?", where={"language": "en"})

    Args:
        path: folder of the index.
        model: that makes vectors of queries, or its folder, where it is no longer where it was.
        device, precision: as of `load`.

    Raises:
        MissingInputError: no index.
        DataError: an unfinished or a damaged one; the file is named.
    """
    return SearchIndex(Path(path), _loader(device, precision), model)


def _loader(device: str, precision: Precision) -> Callable[[str], Model]:
    return lambda path: load(path, device, precision)
