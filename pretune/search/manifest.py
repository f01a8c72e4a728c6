"""What an index says of itself: `index.json`, which is replaced in one move and names every other file.

    INDEX/index.json               this file: settings, model, digests of all files; a changed byte is noticed
          segments/000000/         passages as lines, vectors as .npy; never changed after they are written
          words/000001/            BM25 of all passages, as bm25s writes it
          nearest/000001/          what the backend wrote, such as usearch's graph
          deleted/000002/          rows of deleted passages

A writer makes new files beside the old ones, replaces `index.json`, and then removes what nobody names: whoever reads
meanwhile sees the old index, whole. What a killed writer left is used by the next one or removed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pretune.config import Config, validate
from pretune.disk import replace_file
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.field_table import parse_json, read_file
from pretune.interop.metadata import resolve
from pretune.missing_paths import no_such_folder
from pretune.models.metadata import VariantRecord
from pretune.seals import digest, parse_sealed, sealed_json
from pretune.search.passages import WindowConfig

FILE = "index.json"
FORMAT = 1
_LIMIT = 64 << 20  # bytes of index.json: an index of a hundred million passages has 24,000 segments
_REMEDY = "bring it back from a copy, or make the index again"
_PART = r"^(segments|words|nearest|deleted)/[0-9]{6,12}$"
_NAME = re.compile(r"(segments|words|nearest|deleted)/[0-9]{6,12}/[A-Za-z0-9_][A-Za-z0-9._-]{0,99}")
Part = Annotated[str, Field(pattern=_PART)]
Mode = Literal["words", "vectors", "fused"]


class VectorModel(Config):
    """The model whose vectors an index holds.

    Attributes:
        path: its folder; empty where it was given in memory.
        width: numbers of a vector.
        fingerprint: SHA-256 of its weights as they were in memory.
        query_prompt, passage_prompt: texts before each query and each passage.
    """

    path: str
    width: int = Field(ge=1, le=1 << 20)
    fingerprint: str
    query_prompt: str = ""
    passage_prompt: str = ""


class Segment(Config):
    """Passages that were written together.

    Attributes:
        folder: of its files.
        passages, documents: how many passages it has, and how many documents begin in it.
    """

    folder: Part
    passages: int = Field(ge=1)
    documents: int = Field(ge=0)


class Nearest(Config):
    """What finds the nearest vectors.

    Attributes:
        backend: of `search/backends/`; its settings are as it gave them.
        folder: of its files.
        is_chosen: the user named the backend; else it follows the number of passages.
    """

    backend: VariantRecord
    folder: Part
    is_chosen: bool = False


class RankingConfig(Config):
    """How passages are ranked.

    Attributes:
        mode: by words, by vectors, or by both.
        fusion: of `search/fusion/`: how both are joined.
        weight: of the vectors when both are joined, 0 to 1.
        depth: passages that are taken from words and from vectors.
        reranker: folder of the model that orders the best passages anew; None for none.
        reranked: how many of the best it orders.
        measured: scores on held-out queries, by way of ranking, where the ranking was chosen by them.
    """

    mode: Mode = "fused"
    fusion: VariantRecord = VariantRecord(name="weighted")
    weight: float = Field(0.5, ge=0, le=1)
    depth: int = Field(100, ge=1)
    reranker: str | None = None
    reranked: int = Field(20, ge=1)
    measured: dict[str, dict[str, float]] = Field(default_factory=dict)


class Manifest(Config):
    """All that `index.json` says.

    Attributes:
        format: version of this form.
        versions: of the packages that wrote the files.
        generation: counts changes; new files are named by it.
        window: how documents are cut.
        tokenization: of `search/tokenizations/`.
        model: None for an index of words alone.
        segments: in the order of their rows.
        words, deleted: folders; None where nothing is deleted.
        ranking: how passages are ranked.
        files: digests of all files, by their names.
    """

    format: int = Field(ge=1)
    versions: dict[str, str] = Field(default_factory=dict)
    generation: int = Field(1, ge=1)
    window: WindowConfig
    tokenization: VariantRecord
    model: VectorModel | None = None
    segments: tuple[Segment, ...] = Field(min_length=1)
    words: Part
    nearest: Nearest | None = None
    deleted: Part | None = None
    ranking: RankingConfig = RankingConfig()
    files: dict[str, str]

    @property
    def passages(self) -> int:
        """All rows, those of deleted passages too."""
        return sum(segment.passages for segment in self.segments)

    @property
    def documents(self) -> int:
        """All documents that were ever given a number."""
        return sum(segment.documents for segment in self.segments)

    def parts(self) -> Iterator[str]:
        """The folders that it names."""
        yield from (segment.folder for segment in self.segments)
        yield self.words
        yield from (part for part in (self.nearest and self.nearest.folder, self.deleted) if part)


def read_manifest(folder: Path) -> Manifest:
    """Reads `index.json`.

    Raises:
        MissingInputError: no such folder, or no index.
        DataError: an unfinished build, a damaged or hostile file, or one of a newer pretune.
    """
    if not folder.is_dir():
        if folder.exists():
            raise MissingInputError(
                f"{folder}: is a file, not the folder of an index; make one: pretune index {folder} --output INDEX"
            )
        raise no_such_folder(folder, "index")
    path = folder / FILE
    if not path.is_file():
        if (folder / "segments").is_dir():
            raise DataError(f"{folder}: its build was not finished; start the same command again, which goes on")
        raise MissingInputError(f"{folder}: holds no index (no {FILE}); make one: pretune index FILES --output INDEX")
    raw = read_file(path, _LIMIT)
    parse_json(raw, str(path))
    tree = parse_sealed(path, raw, _REMEDY)
    if isinstance(version := tree.get("format"), int) and version > FORMAT:
        raise DataError(
            f"{path}: written by a newer pretune (format {version}, this one reads {FORMAT}); update pretune"
        )
    try:
        manifest = validate(Manifest, tree, FILE, is_json=True)
    except UsageError as error:
        raise DataError(f"{path}: {error}; the file is damaged or hostile") from None
    unknown = next((name for name in manifest.files if not _NAME.fullmatch(name)), None)
    if unknown is not None:
        raise DataError(f"{path}: field 'files' names {unknown[:80]!r}, which is no file of an index; {_REMEDY}")
    return manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Replaces `index.json` in one move; from then on readers see the new index."""
    replace_file(folder / FILE, sealed_json(manifest.model_dump(mode="json")))


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compares every file with its digest.

    Raises:
        DataError: one is missing or was changed; it is named.
    """
    for name, known in manifest.files.items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"{path}: is missing; {_REMEDY}")
        if digest(path) != known:
            raise DataError(f"{path}: is not as it was written: it was damaged or edited; {_REMEDY}")


def variant_of(record: VariantRecord, axis: str, folder: Path, field: str) -> str:
    """The name by which `find` finds a recorded variant of search; see `interop.metadata.resolve`."""
    return resolve(record, f"search.{axis}", folder, field, FILE)


def digests(folder: Path, parts: Iterator[str] | tuple[str, ...]) -> dict[str, str]:
    """The digests of the files of some folders of an index, by their names."""
    return {
        f"{part}/{entry.name}": digest(Path(entry.path))
        for part in parts
        for entry in sorted(os.scandir(folder / part), key=lambda entry: entry.name)
        if entry.is_file(follow_symlinks=False)
    }


def versions(*libraries: str) -> dict[str, str]:
    """The versions of pretune, numpy and some packages."""
    out: dict[str, Any] = {}
    for name in ("pretune", "numpy", *filter(None, libraries)):
        try:
            out[name] = metadata.version("faiss-cpu" if name == "faiss" else name)
        except metadata.PackageNotFoundError:
            continue
    return out
