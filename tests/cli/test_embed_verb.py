"""`pretune embed --of words`: lines of JSON and .npz files with places in the text, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tinymodels import save_bert, word_tokenizer

import pretune
from pretune.cli import main

TEXTS = ["the quick brown fox, don't", "a hat"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bert")
    save_bert(path, word_tokenizer())
    return path


def run(folder: Path, *flags: str) -> int:
    return main(["embed", str(folder), *TEXTS, "--quiet", "--device", "cpu", "--precision", "fp32", *flags])


def test_words_as_lines_of_json_and_as_arrays(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = pretune.load(folder, device="cpu", precision="fp32").embed(TEXTS, of="words", layers=[-1, 0])
    assert run(folder, "--of", "words", "--layers", "-1,0") == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == TEXTS
    for line, part in zip(lines, expected, strict=True):
        assert (line["words"], line["offsets"]) == (part.parts, part.offsets.tolist())
        np.testing.assert_allclose(line["vectors"], part.vectors, atol=1e-6)
    assert run(folder, "--of", "words", "--layers=-1,0", "--output", str(tmp_path / "words.npz")) == 0
    with np.load(tmp_path / "words.npz", allow_pickle=False) as arrays:
        assert arrays["lengths"].tolist() == [len(part) for part in expected]
        assert arrays["parts"].tolist() == [word for part in expected for word in part.parts]
        np.testing.assert_allclose(arrays["vectors"], np.concatenate([part.vectors for part in expected]), atol=1e-6)
        assert arrays["offsets"].tolist() == [place for part in expected for place in part.offsets.tolist()]


def test_texts_from_a_list_of_layers_and_the_first_numbers(folder: Path, tmp_path: Path) -> None:
    assert run(folder, "--layers", "0,-1", "--combine", "list", "--output", str(tmp_path / "texts.npy")) == 0
    assert np.load(tmp_path / "texts.npy").shape == (2, 2, 32)
    assert run(folder, "--dim", "8", "--normalize", "--output", str(tmp_path / "short.npy")) == 0
    np.testing.assert_allclose(np.linalg.norm(np.load(tmp_path / "short.npy"), axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--of", "words", "--output", "x.npy"], "write .npz or .jsonl"),
        (["--of", "words", "--output", "x.csv"], "write .npz or .jsonl"),
        (["--output", "x.npz"], "write .npy"),
        (["--layers", "0,1", "--combine", "list", "--output", "x.csv"], "no place for a list of layers"),
        (["--layers", "last"], "--layers last: expected numbers of layers"),
        (["--layers", "9"], "layers: 9 is none of this model's"),
        (["--segmenter", "jieba"], "use --of words"),
        (["--of", "tokens", "--pooling", "cls"], "--pooling is for vectors of texts"),
        (["--of", "tokens", "--dim", "4"], "dim is for vectors of texts"),
        (["--dim", "99"], "dim 99: this model's vectors have 32 numbers"),
    ],
)
def test_what_cannot_be_written_is_refused(
    folder: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, *flags) == 64
    assert message in capsys.readouterr().err
