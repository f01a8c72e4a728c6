"""Which files are found, in which order, with which domain; and their bytes behind compression."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pyarrow as pa
import pytest

from pretune.errors import DataError, MissingInputError
from pretune.text.readers.files import UnreadableError, find_sources, read_chunks


def make(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x\n")


def test_folder_is_walked_in_sorted_order_and_domains_are_folders(tmp_path: Path) -> None:
    make(tmp_path, "b.txt", "en/z.jsonl", "en/a.csv.gz", "a.tsv", "zh/old/x.parquet.zst", "README.odd", ".git/c.txt")
    ignored: list[str] = []
    actual = find_sources(tmp_path, ignored=ignored)
    assert [(str(s.path.relative_to(tmp_path)), s.format, s.compression, s.domain) for s in actual] == [
        ("a.tsv", "tsv", "", "a"),
        ("b.txt", "txt", "", "b"),
        ("en/a.csv.gz", "csv", "gzip", "en"),
        ("en/z.jsonl", "jsonl", "", "en"),
        ("zh/old/x.parquet.zst", "parquet", "zstd", "zh/old"),
    ]
    assert sorted(ignored) == [str(tmp_path / ".git"), str(tmp_path / "README.odd")]


def test_globs_are_sorted_and_paths_keep_their_order(tmp_path: Path) -> None:
    make(tmp_path, "c.txt", "a.txt", "sub/b.txt", "odd[1].txt")
    names = [
        s.path.name for s in find_sources([tmp_path / "c.txt", f"{tmp_path}/**/[ab].txt", tmp_path / "odd[1].txt"])
    ]
    assert names == ["c.txt", "a.txt", "b.txt", "odd[1].txt"]


def test_format_can_be_named_against_the_suffix(tmp_path: Path) -> None:
    make(tmp_path, "train.neg")
    assert find_sources(tmp_path / "train.neg", "txt")[0].domain == "train.neg"
    with pytest.raises(DataError, match=r"train\.neg: unknown suffix '\.neg'.*\.jsonl.*format"):
        find_sources(tmp_path / "train.neg")


def test_missing_paths_and_empty_globs_are_missing_input(tmp_path: Path) -> None:
    for path, words in ((tmp_path / "no.txt", "no such file"), (f"{tmp_path}/*.txt", "matches this pattern")):
        with pytest.raises(MissingInputError, match=words) as caught:
            find_sources(path)
        assert caught.value.code == 66


def test_pipes_are_refused_without_being_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    for path in (tmp_path / "pipe.txt", tmp_path):
        with pytest.raises(DataError, match=r"pipe\.txt: not a regular file"):
            find_sources(path)


def test_linked_folders_cannot_make_a_loop(tmp_path: Path) -> None:
    make(tmp_path, "a.txt")
    (tmp_path / "loop").symlink_to(tmp_path)
    ignored: list[str] = []
    assert len(find_sources(tmp_path, ignored=ignored)) == 1
    assert ignored == [str(tmp_path / "loop")]


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_forbidden_file_is_missing_input(tmp_path: Path) -> None:
    make(tmp_path, "a.txt")
    (tmp_path / "a.txt").chmod(0)
    with pytest.raises(MissingInputError, match="permission"):
        find_sources(tmp_path / "a.txt")


def packed(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else pa.compress(data, "zstd", asbytes=True))
    return path


def unfold(path: Path, ratio: int = 200) -> bytes:
    return b"".join(read_chunks(find_sources(path)[0], 1 << 20, ratio))


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_compressed_files_unfold_also_from_several_members(tmp_path: Path, suffix: str) -> None:
    data = os.urandom(3 << 20)
    path = packed(tmp_path / f"a.txt{suffix}", data)
    assert unfold(path) == data
    path.write_bytes(path.read_bytes() * 2)
    assert unfold(path) == data * 2


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_corrupt_and_truncated_files_are_found_out(tmp_path: Path, suffix: str) -> None:
    path = packed(tmp_path / f"a.txt{suffix}", os.urandom(1 << 20))
    whole = path.read_bytes()
    for broken in (whole[: len(whole) // 2], whole[:-3], b"not compressed at all\n" * 9):
        path.write_bytes(broken)
        with pytest.raises(UnreadableError, match="corrupt or cut-off"):
            unfold(path)


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_bombs_stop_at_the_ratio(tmp_path: Path, suffix: str) -> None:
    path = packed(tmp_path / f"a.txt{suffix}", bytes(80 << 20))
    with pytest.raises(UnreadableError, match="more than 200 times"):
        for _ in read_chunks(find_sources(path)[0], 1 << 20, 200):
            pass
    assert len(unfold(path, ratio=100_000)) == 80 << 20
