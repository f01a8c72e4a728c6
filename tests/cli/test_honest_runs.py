"""What the screen says of runs: the dtype of matmuls, what was lost, what a directory holds, what comes next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pretune.cli import main

WORDS = ["the", "function", "returns", "an", "array", "of", "values", "sorted", "along", "its", "last", "axis"]
FIELDS = "--budget.steps 4 --data.batch 8 --data.length 32 --evaluation.samples 8 --model.size tiny --precision fp32"


def run(*words: object) -> int:
    return main([*map(str, words), "--no-allocator", "--device", "cpu"])


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of 300 documents, 20 of them twice; a tokenizer, a store, a finished run."""
    folder = tmp_path_factory.mktemp("life")
    draw = np.random.default_rng(0)
    sentences = [" ".join(draw.choice(WORDS, 12)).capitalize() + "." for _ in range(1200)]
    documents = [" ".join(sentences[n : n + 4]) for n in range(0, 1200, 4)]
    (folder / "corpus.txt").write_text("\n\n".join([*documents, *documents[:20]]))
    corpus, tokenizer, store = folder / "corpus.txt", folder / "tok", folder / "store"
    assert run("tokenizer", "train", corpus, "--output", tokenizer, "--vocab-size", 120, "--quiet") == 0
    assert run("prepare", corpus, "--tokenizer", tokenizer, "--output", store, "--processes", 1, "--quiet") == 0
    assert (
        run(
            "pretrain",
            "--objective",
            "mlm",
            "--data.stores",
            store,
            "--output",
            folder / "run",
            "--quiet",
            *FIELDS.split(),
        )
        == 0
    )
    return folder


def test_every_verb_takes_a_precision_and_says_it(life: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for chosen in ("fp32", "bf16"):
        assert run("evaluate", life / "run", life / "store", "--precision", chosen) == 0
        assert f"precision: {chosen} (as chosen)" in capsys.readouterr().err
    losses = []
    for _ in range(2):
        assert run("evaluate", life / "run", life / "store") == 0
        shown = capsys.readouterr()
        losses.append(shown.out)
        assert "precision: " in shown.err
    assert losses[0] == losses[1]
