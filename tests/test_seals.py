"""Digests of finished folders: what a changed, missing or added file leads to, and that others' folders have none."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import xxhash

from pretune.errors import DataError
from pretune.seals import (
    SEAL,
    check,
    checked,
    digest,
    parse_sealed,
    read_seal,
    reseal,
    seal_files,
    sealed_json,
    write_seal,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "1_Pooling/config.json").write_text("{1}")
    (tmp_path / "large.bin").write_bytes(bytes(range(256)) * 70_000)  # more than a block
    write_seal(tmp_path)
    return tmp_path


def everything(name: str) -> bool:
    return True


def test_digests_are_those_of_the_usual_tool(folder: Path) -> None:
    assert digest(folder / "large.bin") == xxhash.xxh3_128_hexdigest((folder / "large.bin").read_bytes())
    assert digest(folder / "config.json") == xxhash.xxh3_128_hexdigest(b"{}")
    head, *lines = (folder / SEAL).read_text().splitlines()
    assert "3 files" in head
    assert [line.split("  ")[1] for line in lines] == ["1_Pooling/config.json", "config.json", "large.bin"]
    check(folder, everything)


def flip(path: Path, place: int, bit: int = 3) -> None:
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1 << bit
    path.write_bytes(raw)


@pytest.mark.parametrize("name", ["config.json", "1_Pooling/config.json", "large.bin"])
def test_a_flipped_bit_names_its_file_and_the_remedy(folder: Path, name: str) -> None:
    for place in (0, 1, -1):
        flip(folder / name, place)
        with pytest.raises(DataError, match=f"{name}: is not as it was saved.*pretune verify --accept {folder}"):
            check(folder, everything)
        with pytest.raises(DataError, match=name), checked(folder, [name]):
            pass
        check(folder, [other for other in read_seal(folder) if other != name])
        flip(folder / name, place)


def test_damage_is_said_instead_of_what_follows_from_it(folder: Path) -> None:
    def read() -> None:
        with checked(folder, everything):
            raise DataError("weight holds NaN")

    with pytest.raises(DataError, match="NaN"):
        read()
    flip(folder / "large.bin", 70)
    with pytest.raises(DataError, match=r"large\.bin: is not as it was saved"):
        read()


def test_every_flipped_bit_of_a_seal_is_found(folder: Path) -> None:
    path = folder / SEAL
    raw = path.read_bytes()
    for place in range(len(raw)):
        flip(path, place, place % 8)
        with pytest.raises(DataError):
            check(folder, ["config.json"])  # a damaged line of another file is found as well
        path.write_bytes(raw)
    for part in (b"", raw[:-34], b"\n".join(raw.split(b"\n")[:2]) + b"\n"):
        path.write_bytes(part)
        with pytest.raises(DataError, match=SEAL):
            read_seal(folder)


def test_missing_and_added_files(folder: Path) -> None:
    (folder / "README.md").write_text("of the user")
    check(folder, everything)
    (folder / "config.json").unlink()
    with pytest.raises(DataError, match=r"config\.json: is missing"):
        check(folder, everything)


def test_folders_of_others_have_no_digests(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "SHA256SUMS").write_text("of others")
    assert read_seal(tmp_path) == read_seal(tmp_path / "none") == read_seal(tmp_path / "config.json") == {}
    check(tmp_path, everything)


def test_a_seal_names_no_file_outside(folder: Path) -> None:
    for name in ("../secret", "/etc/passwd", "a/../../b"):
        reseal(folder, {name: "0" * 32})
        with pytest.raises(DataError, match="damaged or edited"):
            read_seal(folder)


@pytest.mark.timeout(20)
def test_a_pipe_is_no_seal(folder: Path) -> None:
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (folder / SEAL).unlink()
        make(folder / SEAL)
        with pytest.raises(DataError, match=f"{SEAL}: no file"):
            read_seal(folder)


def test_what_stays_keeps_its_digest(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    new = tmp_path_factory.mktemp("new")
    (new / "config.json").write_text("{2}")
    write_seal(new, folder, lambda names: [folder / "large.bin"])
    assert read_seal(new).keys() == {"config.json", "1_Pooling/config.json"}
    assert read_seal(new)["config.json"] == xxhash.xxh3_128_hexdigest(b"{2}")
    (folder / "added.txt").write_text("x")
    seal_files(folder, ["added.txt"])
    assert len(read_seal(folder)) == 4


TREES: list[dict[str, object]] = [
    {},
    {"a": 1},
    {"text": 'é "}\n', "nested": {"b": [1.5, None, True]}, "path": Path("x")},
]


@pytest.mark.parametrize("required", [True, False])
@pytest.mark.parametrize("tree", TREES)
def test_every_flipped_bit_of_sealed_json_is_found(tree: dict[str, object], required: bool) -> None:
    raw = sealed_json(tree)
    assert {**parse_sealed(Path("f"), raw, ""), "path": 0} == {**tree, "path": 0}
    for place in range(len(raw) * 8):
        changed = bytearray(raw)
        changed[place // 8] ^= 1 << place % 8
        with pytest.raises(DataError, match=r"f: .*remedy"):
            parse_sealed(Path("f"), bytes(changed), "remedy", required=required)


def test_the_usual_tool_agrees(folder: Path) -> None:
    tool = shutil.which("xxhsum")
    if tool is None:
        pytest.skip("xxhsum is not installed")
    done = subprocess.run([tool, "--check", SEAL], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
