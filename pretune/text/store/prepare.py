"""Prepares a token store from raw text, in one pass of bounded memory.

    documents --digest--> new ones --batches of 1 MiB--> tokens, sentences --in order--> train and validation files
                 \\-> duplicates, counted                (one or many processes)          manifest.json, rename

The bytes of a store are a function of the documents, the tokenizer and the configuration: not of the number of
processes, nor of how often an earlier attempt was killed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from pretune.config import Config
from pretune.disk import storage_errors
from pretune.errors import CannotCreateError, DataError
from pretune.new_folder import NewFolder, contents, settle
from pretune.runtime.affinity import cpus
from pretune.text.encode.encoder import EncodedDocuments
from pretune.text.encode.workers import CorpusEncoder, Workers
from pretune.text.readers.corpus import CorpusConfig, DataStats, Document, read_corpus
from pretune.text.store.dedup import DuplicateFilter
from pretune.text.store.held_out import HeldOut
from pretune.text.store.manifest import MANIFEST, Manifest, SplitManifest, write_manifest
from pretune.text.store.store import TokenStore
from pretune.text.store.writer import SplitWriter
from pretune.text.tokenizer.segmenter import WordFinder
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.unknown import SAMPLE, UnknownTokens

BATCH_BYTES = 1 << 20
BATCH_DOCUMENTS = 4096
MAX_DOMAINS = 1 << 16
_SMALL = 4  # batches: below this, starting processes costs more than it saves
_log = logging.getLogger(__name__)


class PrepareConfig(Config):
    """How a token store is made.

    Attributes:
        corpus: how raw text is read.
        validation: fraction of the documents held out, chosen by the hash of their text; by default 0.01, and of less
            than 16 MiB of text as much more as 100 documents and 64 KiB need, up to a tenth.
        shard_tokens: number of tokens in a full shard.
        segmenter: finds where words begin, for whole-word masking: `jieba`, a word list (a file) or your own
            `package.module:function`; without one, the tokenizer's subwords tell, which know no Chinese words.
        processes: number of processes that tokenize; 0 is one per CPU core.
        overwrite: replace an existing store.
    """

    corpus: CorpusConfig = CorpusConfig()
    validation: float | None = Field(default=None, ge=0, lt=1)
    shard_tokens: int = Field(default=1 << 26, ge=1)
    segmenter: str | None = None
    processes: int = Field(default=0, ge=0, le=256)
    overwrite: bool = False

    def content(self) -> dict[str, Any]:
        """The fields on which the bytes of a store depend."""
        tree = self.model_dump(mode="json", exclude={"processes", "overwrite"}, exclude_none=True)
        tree["validation"] = "auto" if self.validation is None else self.validation
        return tree if self.segmenter is None else {**tree, "segmenter": WordFinder(self.segmenter).fingerprint}


@dataclass(frozen=True)
class Progress:
    """How far a store is: documents and bytes of text read, tokens written, seconds since the start."""

    documents: int
    bytes: int
    tokens: int
    seconds: float


@dataclass
class _Batch:
    """New documents that are encoded together; those of the lowest ranks, 64 bits of their hash, are held out."""

    texts: list[str] = field(default_factory=list)
    domains: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    held_out: list[bool] = field(default_factory=list)


def prepare(
    paths: Sequence[Path | str] | Path | str,
    tokenizer: Tokenizer,
    output: Path | str,
    config: PrepareConfig | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> TokenStore:
    """Make a token store of raw text, or hand back the one that is there if it is the same.

    Args:
        paths: files, folders and globs, as `read_corpus` takes them.
        output: the folder of the store; it appears when the store is whole.
        progress: is called after each batch of about 1 MiB of text.

    Raises:
        DataError: no text, a record that cannot be read, a tokenizer without an end token.
        CannotCreateError: something else is at `output`, or another process is writing it.
        StorageError: the disk is full; nothing is left behind.
    """
    config = config or PrepareConfig()
    output = Path(output)
    _ = tokenizer.vocabulary.end
    if config.segmenter:
        WordFinder(config.segmenter)("")  # a segmenter that is not there is told before anything is read
    settle(output)
    if output.exists() and not _vacant(output):
        store = _same(paths, tokenizer, output, config)
        if store is not None:
            _log.info("%s: made before from the same documents, tokenizer and configuration; used as it is", output)
            return store
    with NewFolder(output, "replace" if config.overwrite else "refuse") as folder:
        run = _Preparation(tokenizer, config, folder.path)
        try:
            manifest = run.write(paths, progress)
            with storage_errors(output, "write the store"):
                tokenizer.write(folder.path / "tokenizer")
                write_manifest(folder.path, manifest)
                folder.publish(last=MANIFEST)
        finally:
            run.abandon()
    return TokenStore.open(output)


class _Preparation:
    """One pass over the corpus; what grows with it is 32 bytes per document in `DuplicateFilter`."""

    def __init__(self, tokenizer: Tokenizer, config: PrepareConfig, folder: Path) -> None:
        vocabulary = tokenizer.vocabulary
        self._tokenizer, self._config, self._folder = tokenizer, config, folder
        self._dtype = np.dtype(np.uint16 if vocabulary.size <= 1 << 16 else np.uint32)
        self._stats = DataStats()
        self._corpus = hashlib.sha256()
        self._seen = DuplicateFilter()
        self._domains: dict[str, int] = {}
        self._domain_counts: list[list[int]] = []  # documents, tokens
        self._some_in_train = False
        self._pending: list[_Batch] = []
        with storage_errors(folder, "write the store"):
            self._writers = [
                SplitWriter(folder, name, self._dtype, config.shard_tokens, vocabulary.unk, bool(config.segmenter))
                for name in ("train", "validation")
            ]

    def write(self, paths: Sequence[Path | str] | Path | str, progress: Callable[[Progress], None] | None) -> Manifest:
        """Read, encode and write everything."""
        began = time.monotonic()
        documents = read_corpus(paths, self._config.corpus, self._stats)
        with ExitStack() as stack:
            for encoded in self._encode(self._with_held_out(self._batches(documents)), stack):
                batch = self._pending.pop(0)
                with storage_errors(self._folder, "write the store"):
                    self._store(batch, encoded)
                if progress is not None:
                    tokens = sum(writer.tokens for writer in self._writers)
                    progress(Progress(self._stats.documents, self._stats.bytes, tokens, time.monotonic() - began))
        self._stats.check()
        if not self._stats.used:
            raise DataError(f"{_named(paths)}: no text that gives a token ({self._stats.summary()})")
        if not self._writers[0].tokens:
            raise DataError(f"{_named(paths)}: every document was held out for validation; set validation = 0")
        with storage_errors(self._folder, "write the store"):
            splits = {name: w.close() for name, w in zip(("train", "validation"), self._writers, strict=True)}
        return self._manifest(splits)

    def abandon(self) -> None:
        """Close files that an error left open."""
        for writer in self._writers:
            writer.abandon()

    def _manifest(self, splits: dict[str, SplitManifest]) -> Manifest:
        counts = {
            name: {"documents": self._domain_counts[i][0], "tokens": self._domain_counts[i][1]}
            for name, i in self._domains.items()
        }
        vocabulary = self._tokenizer.vocabulary
        return Manifest(
            tokenizer_hash=self._tokenizer.hash,
            vocab_size=vocabulary.size,
            end=vocabulary.end,
            corpus=self._corpus.hexdigest(),
            domains=counts,
            splits=splits,
            config=self._config.content(),
            data_stats=self._stats.to_json(),
        )

    def _encode(self, batches: Iterator[_Batch], stack: ExitStack) -> Iterator[EncodedDocuments]:
        """Encode in this process or in several; what is out for encoding waits in `_pending`, in order."""
        processes = self._config.processes or cpus()
        first = list(islice(batches, _SMALL))
        texts = (self._note(batch) for batch in chain(first, batches))
        if processes == 1 or len(first) < _SMALL:
            encoder = CorpusEncoder(self._tokenizer, self._dtype, self._config.segmenter or "")
            return (encoder(batch) for batch in texts)
        workers = Workers(processes, self._tokenizer, self._dtype, self._config.segmenter or "")
        return stack.enter_context(workers).map(texts)

    def _note(self, batch: _Batch) -> list[str]:
        self._pending.append(batch)
        texts, batch.texts = batch.texts, []
        return texts

    def _batches(self, documents: Iterable[Document]) -> Iterator[_Batch]:
        """New documents by the MiB; duplicates are counted and left out."""
        for window in _windows(documents, self._corpus):
            digests = [digest for _, _, digest in window]
            fresh = self._seen.add([digest[:16] for digest in digests])
            batch = _Batch()
            for (document, size, digest), new in zip(window, fresh.tolist(), strict=True):
                if not new:
                    self._stats.used -= 1
                    self._stats.duplicate += 1
                    self._stats.bytes -= size
                    continue
                batch.texts.append(document.text)
                batch.sizes.append(size)
                batch.domains.append(self._domain(document))
                batch.ranks.append(int.from_bytes(digest[16:24], "little"))
            if batch.texts:
                yield batch

    def _with_held_out(self, batches: Iterator[_Batch]) -> Iterator[_Batch]:
        """By the hash alone, but that the first document of all trains: no store is without training text."""
        held_out = HeldOut(self._config.validation)
        for batch in held_out.look_ahead(batches):
            batch.held_out = [rank < held_out.limit for rank in batch.ranks]
            if not self._some_in_train:
                batch.held_out[0], self._some_in_train = False, True
            yield batch

    def _domain(self, document: Document) -> int:
        number = self._domains.setdefault(document.domain, len(self._domains))
        if number == len(self._domain_counts):
            if number == MAX_DOMAINS:
                raise DataError(
                    f"{document.source}:{document.line}: more than {MAX_DOMAINS} domains; "
                    f"is {self._config.corpus.domain!r} (--domain) an identifier?"
                )
            self._domain_counts.append([0, 0])
        return number

    def _store(self, batch: _Batch, encoded: EncodedDocuments) -> None:
        """Divide a batch between the splits and write it; documents that gave no token are counted as empty."""
        lengths = encoded.lengths
        full = lengths > 1
        for size in np.array(batch.sizes)[~full].tolist():
            self._stats.used -= 1
            self._stats.empty += 1
            self._stats.bytes -= size
        domains = np.array(batch.domains, np.int64)[full].tolist()
        for domain, length in zip(domains, lengths[full].tolist(), strict=True):
            self._domain_counts[domain][0] += 1
            self._domain_counts[domain][1] += length
        held_out = np.array(batch.held_out, np.bool_)
        for writer, chosen in zip(self._writers, (full & ~held_out, full & held_out), strict=True):
            some = _select(encoded, chosen)
            writer.append(some.tokens, some.lengths, some.sentences, some.words)


def _select(encoded: EncodedDocuments, chosen: NDArray[np.bool_]) -> EncodedDocuments:
    """Some of the documents, laid end to end anew."""
    if chosen.all():
        return encoded
    is_kept = np.repeat(chosen, encoded.lengths)

    def among(places: NDArray[np.int64]) -> NDArray[np.int64]:
        begins_one = np.zeros(len(encoded.tokens), np.bool_)
        begins_one[places] = True
        return np.flatnonzero(begins_one[is_kept])

    words = None if encoded.words is None else among(encoded.words)
    return EncodedDocuments(encoded.tokens[is_kept], encoded.lengths[chosen], among(encoded.sentences), words)


def _windows(documents: Iterable[Document], corpus: Any) -> Iterator[list[tuple[Document, int, bytes]]]:
    """Documents by the MiB, each with its size in bytes and SHA-256; `corpus` takes in every one with its domain."""
    window: list[tuple[Document, int, bytes]] = []
    total = 0
    for document in documents:
        try:
            raw = document.text.encode()
            corpus.update((digest := hashlib.sha256(raw).digest()) + document.domain.encode() + b"\0")
        except UnicodeEncodeError as error:
            raise DataError(
                f"{document.source}:{document.line}: lone surrogate at character {error.start}; "
                "the text was decoded wrongly, read its bytes as UTF-8 again"
            ) from None
        window.append((document, len(raw), digest))
        total += len(raw)
        if total >= BATCH_BYTES or len(window) >= BATCH_DOCUMENTS:
            yield window
            window, total = [], 0
    if window:
        yield window


def sample_unknown(
    paths: Sequence[Path | str] | Path | str, tokenizer: Tokenizer, config: PrepareConfig, documents: int = 2000
) -> UnknownTokens:
    """What the tokenizer does not know of the first documents of a corpus: samples, and words that are too long for it.

    Args:
        documents: how many are looked at.
    """
    counter = tokenizer.new_counter()
    for document in islice(read_corpus(paths, config.corpus), documents):
        if len(counter.sample) < SAMPLE or counter.may_have_long_words(document.text):
            counter.add([document.text], tokenizer.encode_batch([document.text]), tokenizer.encode_offsets)
    return counter


def _vacant(output: Path) -> bool:
    return output.is_dir() and not contents(output)


def _same(
    paths: Sequence[Path | str] | Path | str, tokenizer: Tokenizer, output: Path, config: PrepareConfig
) -> TokenStore | None:
    """The store that is there, if it is the one asked for; None if it is to be replaced.

    Raises:
        CannotCreateError: what is there is another store, or none.
    """
    if not (output / MANIFEST).is_file():
        raise CannotCreateError(f"{output}: exists and is not a token store; choose another output")
    try:
        store = TokenStore.open(output)
        store.verify()
        differs = _difference(store, paths, tokenizer, config)
    except DataError as error:
        differs = str(error)
    if not differs:
        return store
    if config.overwrite:
        return None
    raise CannotCreateError(
        f"{output}: another store is there: {differs}; choose another output or replace it with --overwrite"
    )


def _difference(
    store: TokenStore, paths: Sequence[Path | str] | Path | str, tokenizer: Tokenizer, config: PrepareConfig
) -> str:
    if store.tokenizer_hash != tokenizer.hash:
        return "its tokenizer differs"
    wanted = json.loads(json.dumps(config.content()))
    recorded = _with_new_names(store.manifest.config)
    if recorded != wanted:
        fields = [name for name in wanted if recorded.get(name) != wanted[name]]
        return f"its configuration differs ({', '.join(fields)})"
    corpus = hashlib.sha256()
    for _ in _windows(read_corpus(paths, config.corpus), corpus):
        pass
    return "" if corpus.hexdigest() == store.manifest.corpus else "its documents differ"


def _with_new_names(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration of a store that was made when `corpus.text` was `corpus.text_field`."""
    corpus = config.get("corpus", {})
    return {**config, "corpus": {name.removesuffix("_field"): value for name, value in corpus.items()}}


def _named(paths: Sequence[Path | str] | Path | str) -> str:
    return str(paths) if isinstance(paths, (str, Path)) else ", ".join(map(str, paths))
