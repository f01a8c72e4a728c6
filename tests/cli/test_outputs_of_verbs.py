"""Where verbs write: what is there stays, what cannot be written is told first, what was killed is finished."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import transformers
from diskkit import mounted, names
from tinymodels import byte_tokenizer, save_bert, word_tokenizer

from pretune.cli import main
from pretune.cli.embedding import _save_array
from pretune.errors import DataError
from pretune.new_folder import NewFolder
from pretune.text.store.store import TokenStore

TRAIN = ("--kind", "bpe", "--vocab_size", "300")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "corpus.txt"
    path.write_text("\n\n".join(f"the cat number {n} sat on a mat of its own" for n in range(200)))
    return path


def run(*words: object) -> int:
    return main([*map(str, words), "--no-allocator"])


class TestTokenizers:
    def test_where_they_are_written(self, corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        train = ("tokenizer", "train", corpus, *TRAIN)
        with mounted(tmp_path / "disk"):
            assert run(*train, "--output", tmp_path / "disk") == 0
            (tmp_path / "link").symlink_to(tmp_path / "disk" / "below")
            assert run(*train, "--output", tmp_path / "link") == 0
            assert (tmp_path / "disk" / "below" / "tokenizer.json").is_file()
            (tmp_path / "disk" / "here").mkdir()
            monkeypatch.chdir(tmp_path / "disk" / "here")
            assert run(*train, "--output", ".") == 0
            assert sorted(os.listdir(".")) == sorted(os.listdir(tmp_path / "link"))
            assert run("prepare", corpus, "--tokenizer", ".", "--output", tmp_path / "disk" / "store") == 0
            (tmp_path / "disk" / "store2").mkdir()
            monkeypatch.chdir(tmp_path / "disk" / "store2")
            for _ in range(2):
                assert run("prepare", corpus, "--tokenizer", "../here", "--output", ".") == 0
            monkeypatch.chdir(tmp_path)
            there = names(tmp_path / "disk" / "store"), names(tmp_path / "disk" / "store2")
            assert there[0] == there[1]
        assert names(tmp_path) == ["disk", "link"]

    @pytest.mark.parametrize("verb", ["train", "extend"])
    def test_one_at_a_time(self, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str) -> None:
        byte_tokenizer().save(tmp_path / "old")
        words = TRAIN if verb == "train" else ("--model", tmp_path / "old")
        with NewFolder(tmp_path / "out"):
            assert run("tokenizer", verb, corpus, *words, "--output", tmp_path / "out") == 73
        assert "another process is writing it" in capsys.readouterr().err
        assert names(tmp_path)[0] == "old"

    def test_what_a_killed_one_had_ready_is_put_in_place(self, corpus: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        assert run("tokenizer", "train", corpus, *TRAIN, "--output", out) == 0
        whole = {path.name: path.read_bytes() for path in out.iterdir()}
        (out / ".partial").mkdir()
        (out / "tokenizer.json").rename(out / ".partial" / "tokenizer.json")
        (out / ".partial" / ".plan.json").write_text(
            '{"files": ["special_tokens_map.json", "tokenizer.json"], "last": "tokenizer.json", "obsolete": []}'
        )
        assert run("tokenizer", "train", corpus, *TRAIN, "--output", out) == 73
        assert {path.name: path.read_bytes() for path in out.iterdir()} == whole


def test_what_was_cut_off_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model and a store without their main file, as between two moves."""
    save_bert(tmp_path / "model", word_tokenizer())
    (tmp_path / "model" / "config.json").unlink()
    for name in ("model", "store"):
        (tmp_path / name / ".partial").mkdir(parents=True)
        (tmp_path / name / ".partial" / ".plan.json").write_text("{}")
    assert run("embed", tmp_path / "model", "a text") == 65
    assert "was killed while it put its files in place; start the same command again" in capsys.readouterr().err
    with pytest.raises(DataError, match="start the same command again"):
        TokenStore.open(tmp_path / "store")


class TestAnswers:
    @pytest.fixture(scope="class")
    def model(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        path = tmp_path_factory.mktemp("model")
        save_bert(path, word_tokenizer(), transformers.BertForSequenceClassification, ["bad", "good"])
        return path

    @pytest.mark.parametrize(("verb", "name"), [("predict", "a.jsonl"), ("embed", "a.npy"), ("embed", "a.csv")])
    def test_a_file_that_is_there_stays(
        self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str, name: str
    ) -> None:
        (tmp_path / name).write_text("mine")
        assert run(verb, model, "a text", "--output", tmp_path / name) == 73
        assert "exists already; remove it, or give another --output" in capsys.readouterr().err
        assert (tmp_path / name).read_text() == "mine"

    def test_an_output_that_cannot_be_made_is_told_before_the_work(
        self, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.setattr("pretune.model.Model.embed", lambda *arguments, **options: pytest.fail("worked"))
        (tmp_path / "file").touch()
        for name in ("a.npy", "a.jsonl"):
            assert run("embed", model, "a text", "--output", tmp_path / "file" / name) == 73
            assert f"file/{name}: cannot create the file: {tmp_path}/file is a file" in capsys.readouterr().err

    def test_vectors_are_written_as_numpy_does(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        parts = [[rng.random((n, 4), np.float32)] for n in (3, 1)]
        _save_array(tmp_path / "one.npy", iter(parts))
        _save_array(tmp_path / "two.npy", ([side, side] for (side,) in parts))
        _save_array(tmp_path / "none.npy", [])
        one = np.concatenate([side for (side,) in parts])
        arrays = {"one": one, "two": np.stack([one, one], axis=1), "none": np.zeros((0, 0), np.float32)}
        for name, array in arrays.items():
            file = io.BytesIO()
            np.save(file, array)
            assert (tmp_path / f"{name}.npy").read_bytes() == file.getvalue()

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
    def test_a_full_disk(self, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "a.npy").symlink_to("/dev/full")
        assert run("embed", model, "a text", "--output", tmp_path / "a.npy") == 74
        assert "a.npy: cannot write the file: No space left" in capsys.readouterr().err
