"""Parallel files: how two files are named at once, and which line lacks its partner."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from pretune.cli import main
from pretune.config import validate
from pretune.config.overrides import parse_overrides
from pretune.errors import DataError, MissingInputError
from pretune.tasks.generation import Generation
from pretune.tasks.shared.records import read_examples
from pretune.text.readers.files import names_file
from pretune.text.readers.labelled import LabelledConfig, field_names, read_records
from pretune.text.readers.records import Column, SkippedRecords
from pretune.text.tokenizer.vocabulary import numbered
from pretune.train.recipe import Recipe

COLUMNS = [Column("text", "columns.text"), Column("target", "columns.target")]


def write(folder: Path, first: str, second: str, names: tuple[str, str] = ("train.en", "train.de")) -> str:
    for name, text in zip(names, (first, second), strict=True):
        (folder / name).write_text(text, encoding="utf-8")
    return str(folder / "train.{en,de}")


def pairs(name: str, skipped: SkippedRecords | None = None, **config: object) -> list[tuple[int, object, object]]:
    read = read_records(name, COLUMNS, validate(LabelledConfig, config, "columns"), skipped=skipped)
    return [(record.origin.row, record["text"], record["target"]) for record in read]


def test_lines_belong_together(tmp_path: Path) -> None:
    name = write(tmp_path, "\ufeffa dog\r\n\nb\n", "ein Hund\n\nB")
    assert pairs(name) == [(1, "a dog", "ein Hund"), (3, "b", "B")]
    assert field_names(name) == ["text", "target"]


@pytest.mark.parametrize("target", ["de", ".de", "{folder}/train.de"])
def test_the_other_file_is_named_by_its_suffix_or_path(target: str, tmp_path: Path) -> None:
    write(tmp_path, "a\n", "b\n")
    target = target.format(folder=tmp_path)
    config = LabelledConfig(format="parallel", target=target)
    columns = [Column("text", "columns.text"), Column(target, "columns.target")]
    (record,) = read_records(str(tmp_path / "train.en"), columns, config)
    assert (record["text"], record[target]) == ("a", "b")
    (example,) = read_examples(Generation(Generation.Config(columns=config), numbered(8)), str(tmp_path / "train.en"))
    assert (example.text, example.target) == ("a", "b")


def test_compressed_files_and_names_that_differ_at_the_beginning(tmp_path: Path) -> None:
    for name in ("source-train.txt.gz", "target-train.txt.gz"):
        (tmp_path / name).write_bytes(gzip.compress(f"{name[:6]}\n".encode()))
    assert pairs(f"{tmp_path}/{{source,target}}-train.txt.gz") == [(1, "source", "target")]


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("a\nb\nc\n", "A\nB\n", r"train\.en:3: the line has no partner: .*train\.de has 2 lines; align the files"),
        ("a\n", "A\nB\nC\n", r"train\.de:2: the line has no partner: .*train\.en has 1 line; align the files"),
        ("a\n\nc\n", "A\nB\nC\n", r"train\.en:2: the line is empty; fill it in, or remove this line of both files"),
        ("a\nb\n", "A\n \n", r"train\.de:2: the line is empty; fill it in, .*train\.en has a text there"),
        ("a\nb\0\n", "A\nB\n", r"train\.en:2: NUL character"),
    ],
)
def test_what_is_wrong_names_file_and_line(first: str, second: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        pairs(write(tmp_path, first, second))


def test_bad_lines_may_be_skipped(tmp_path: Path) -> None:
    skipped = SkippedRecords()
    name = write(tmp_path, "a\n\nc\n", "A\nB\nC\n")
    assert [pair[0] for pair in pairs(name, skipped)] == [1, 3]
    assert skipped.count == 1


def test_a_file_without_its_partner(tmp_path: Path) -> None:
    write(tmp_path, "a\n", "A\n")
    with pytest.raises(MissingInputError, match=r"train\.fr: no such file .*both files are needed"):
        pairs(str(tmp_path / "train.{en,fr}"))
    with pytest.raises(MissingInputError, match=r"train\.\{en,de,fr\}: no such file .*braces hold two parts of names"):
        pairs(str(tmp_path / "train.{en,de,fr}"))
    with pytest.raises(DataError, match=r"train\.en: a parallel file needs its partner, .* name both as in"):
        pairs(str(tmp_path / "train.en"), format="parallel", target="fr")
    for target in ("nowhere/train.de", "."):
        with pytest.raises(DataError, match=rf"train\.en: a parallel file .* there is no {target};"):
            pairs(str(tmp_path / "train.en"), format="parallel", target=target)
    with pytest.raises(DataError, match=r"unknown suffix '\.en'.*two files whose lines belong together are named"):
        pairs(str(tmp_path / "train.en"))


def test_the_comma_between_braces_is_part_of_the_name() -> None:
    tree = parse_overrides(["--train", "train.{en,de},more.{en,de}"], None)
    assert tree == {"train": "train.{en,de},more.{en,de}"}
    from pretune.config import load

    recipe = load(Recipe, None, ["--task", "generation", "--train", "train.{en,de},more.{en,de}", "--steps", "1"])
    assert recipe.data.train == ("train.{en,de}", "more.{en,de}")
    assert main(["evaluate", "nowhere", "train.{en,de}"]) == 66


def test_a_text_with_braces_is_no_name(tmp_path: Path) -> None:
    """Each was taken for the name of two files, and the long ones ended in an OSError."""
    for text in ('{"a":1,"b":2}', "集合{a,b}的元素", "a text {x,y} " + "long " * 100, "长" * 300 + "{a,b}", "a\0{b,c}"):
        assert not names_file(text)
    for name in ("train.{en,de}", "{source,target}-train.txt", "corpus.{zh,en}.gz"):
        assert names_file(name)
    for name in ("a b", "c d"):
        (tmp_path / name).write_text("x\n")
    assert names_file(f"{tmp_path}/{{a b,c d}}")
