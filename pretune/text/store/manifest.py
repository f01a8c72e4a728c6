"""The manifest of a token store: counts, digests and origin, with a digest of its own and checked against itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pretune.errors import DataError
from pretune.seals import parse_sealed, sealed_json
from pretune.text.store.array_files import StoredFile

FORMAT = "pretune token store"
VERSION = 4
MANIFEST = "manifest.json"
MAX_VOCABULARY = 1 << 32
_REMEDY = "bring it back from a copy, or prepare the store again"


@dataclass(frozen=True)
class SplitManifest:
    """Counts and files of one split; `unknown` counts tokens that stand for text outside the vocabulary."""

    tokens: int
    documents: int
    sentences: int
    unknown: int
    shards: tuple[StoredFile, ...]
    document_file: StoredFile
    sentence_file: StoredFile
    word_file: StoredFile | None = None

    def files(self) -> Iterator[StoredFile]:
        """Every file of the split."""
        yield from (*self.shards, self.document_file, self.sentence_file)
        if self.word_file is not None:
            yield self.word_file


@dataclass(frozen=True)
class Manifest:
    """What a store says of itself.

    Attributes:
        tokenizer_hash: `Tokenizer.hash` of the tokenizer that made it.
        vocab_size: size of that tokenizer's vocabulary.
        end: id of the token that ends each document.
        corpus: SHA-256 over the text and domain of every document used, in order.
        domains: for each domain, its documents and tokens.
        splits: "train" and "validation".
        config: the configuration that made the store.
        data_stats: what came in and what became of it.
    """

    tokenizer_hash: str
    vocab_size: int
    end: int
    corpus: str
    domains: dict[str, dict[str, int]]
    splits: dict[str, SplitManifest]
    config: dict[str, Any]
    data_stats: dict[str, Any]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes the manifest, the last file of a store."""
    tree: Mapping[str, Any] = {"format": FORMAT, "version": VERSION, **asdict(manifest)}
    (folder / MANIFEST).write_bytes(sealed_json(tree))


def parse_manifest(path: Path, raw: bytes) -> Manifest:
    """Reads a manifest.

    Raises:
        DataError: not a manifest, another version, a changed byte, counts that contradict each other, or a file name
            that leaves the folder.
    """
    try:
        tree = parse_sealed(path, raw, _REMEDY)
        if (tree["format"], tree["version"]) != (FORMAT, VERSION):
            raise DataError(
                f"{path}: format {tree['format']!r} version {tree['version']!r}, expected {FORMAT!r} {VERSION}; "
                "prepare the store again"
            )
        del tree["format"], tree["version"]
        tree["splits"] = {name: _parse_split(path, split) for name, split in tree["splits"].items()}
        manifest = Manifest(**tree)
        contradiction = next(_contradictions(manifest), None)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: not the manifest of a token store: {error!r}; {_REMEDY}") from None
    if contradiction is not None:
        raise DataError(f"{path}: {contradiction}; {_REMEDY}")
    return manifest


def _parse_split(path: Path, tree: dict[str, Any]) -> SplitManifest:
    single = {
        key: StoredFile(**tree[key])
        for key in ("document_file", "sentence_file", "word_file")
        if tree.get(key) is not None
    }
    split = SplitManifest(**{**tree, "shards": tuple(StoredFile(**shard) for shard in tree["shards"]), **single})
    for file in split.files():
        if Path(file.file).name != file.file:
            raise DataError(f"{path}: file name {file.file!r} leaves the store")
    return split


def _contradictions(manifest: Manifest) -> Iterator[str]:
    """Yields what the counts of a manifest say against each other, a sentence each."""
    if not 0 < manifest.vocab_size <= MAX_VOCABULARY:
        yield f"field 'vocab_size' = {manifest.vocab_size}: no vocabulary has so many tokens"
    if not 0 <= manifest.end < manifest.vocab_size:
        yield f"field 'end' = {manifest.end}: outside the vocabulary of {manifest.vocab_size}"
    for name, split in manifest.splits.items():
        in_shards = sum(file.items for file in split.shards)
        pairs = [
            ("tokens", split.tokens, "tokens in its shards", in_shards),
            ("documents", split.documents, "documents in their file", split.document_file.items - 1),
            ("sentences", split.sentences, "sentences in their file", split.sentence_file.items),
        ]
        if split.word_file is not None:
            pairs.append(("tokens", split.tokens, "tokens in the file of words", split.word_file.items))
        for field, stated, what, counted in pairs:
            if stated != counted or counted < 0:
                yield f"field 'splits.{name}.{field}' = {stated}, and {counted} {what}"
        if not 0 <= split.unknown <= split.tokens:
            yield f"field 'splits.{name}.unknown' = {split.unknown} of {split.tokens} tokens"
        types = {*(file.dtype for file in split.shards)} - {"uint16", "uint32"}
        types |= {file.dtype for file in (split.document_file, split.sentence_file)} - {"int64"}
        if split.word_file is not None:
            types |= {split.word_file.dtype} - {"bool"}
        if types:
            yield f"field 'splits.{name}': files of type {sorted(types)[0]!r}"
    for count in ("documents", "tokens"):
        stated = sum(domain[count] for domain in manifest.domains.values())
        counted = sum(getattr(split, count) for split in manifest.splits.values())
        if manifest.domains and stated != counted:
            yield f"field 'domains' has {stated} {count}, the splits have {counted}"
