"""What the screen says of runs: the dtype of matmuls, what was lost, what a directory holds, what comes next."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from pretune.cli import main
from pretune.cli.data import Meter
from pretune.cli.session import Session
from pretune.text.readers.corpus import DataStats
from pretune.text.store.prepare import Progress

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
        output = capsys.readouterr()
        losses.append(output.out)
        assert "precision: " in output.err
    assert losses[0] == losses[1]


def test_prepare_says_what_was_left_out_and_what_comes_next(life: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """9,500 duplicates of 57,049 documents stood in the manifest only, and the next command had no budget."""
    words = ("--tokenizer", life / "tok", "--output", life / "second", "--processes", 1)
    assert run("prepare", life / "corpus.txt", *words) == 0
    output = capsys.readouterr().err
    assert "320 documents: 300 used, 20 duplicates; " in output
    assert f"--stores {life / 'second'} --steps 1000 --output run" in output


def test_training_says_what_was_left_out_in_a_line(life: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--objective", "mlm", "--data.stores", life / "store", "--output", life / "other", "--data.pack", "stream")
    assert run("pretrain", *words, *FIELDS.split()) == 0
    output = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert len(output) == 1
    assert output[0].startswith(f"left out: 20 duplicates of 320 documents of {life / 'store'}")


def test_the_default_budget_stands_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("pretrain", "--help-all") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "1000 for pretraining where no budget is given" in output
    assert "3 for fine-tuning where no budget is given" in output


def test_a_shorter_line_leaves_nothing_of_the_one_before(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counter left "MB/ss" behind."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    meter = Meter(Session())
    for progress in (Progress(9_999, 9_990_000, 10_000_000, 1.0), Progress(1, 1, 1, 1.0)):
        meter._last = 0.0
        meter.show(progress)
    meter.close()
    first, second, third = capsys.readouterr().err.split("\r")[:3]
    assert len(first) == len(second) > len(second.rstrip()) == len(third)
    assert third.strip() == ""


def test_extending_a_tokenizer_shows_how_much_was_read(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was silent for as long as it read."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with Meter(Session()) as meter:
        meter._last = 0.0
        assert list(meter.watch(["a", "b"], DataStats(bytes=25_000_000))) == ["a", "b"]
    assert capsys.readouterr().err.startswith("reading, 25 MB\r")


def test_an_interrupted_counter_is_cleared_and_fits_a_narrow_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C printed "^Cpretune: interruptedB, 4,584,352 tokens"."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "30")

    def prepare() -> None:
        with Meter(Session()) as meter:
            meter._last = 0.0
            meter.show(Progress(9_999, 9_990_000, 10_000_000, 1.0))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare()
    counter, cleared, rest = capsys.readouterr().err.split("\r")
    assert len(counter) == len(cleared) == 29
    assert cleared.strip() == rest == ""
