"""What the verbs from text to tokens say: the true size of a tokenizer, duplicates, how little is held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from pretune.cli import main

QUIET = ("--no-allocator",)


def run(*words: object) -> int:
    return main([*map(str, words), *QUIET])


def test_from_text_to_tokens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The size that was asked for was said, not the size that it became; 32 documents were held out without a word."""
    folder = tmp_path / "my texts"
    folder.mkdir()
    texts = [f"the {'very ' * (n % 7)}quick fox number {n} jumps" for n in range(150)]
    (folder / "a.txt").write_text("\n\n".join([*texts, *texts[:40]]), encoding="utf-8")
    tokenizer, store = tmp_path / "my tokenizer", tmp_path / "store"
    assert run("tokenizer", "train", folder, "--vocab_size", 9000, "--output", tokenizer) == 0
    output = capsys.readouterr().err
    assert "tokens; 9,000 were asked for, and this text gives no more\n" in output
    assert f"next: pretune prepare '{folder}' --tokenizer '{tokenizer}' --output store\n" in output
    assert run("prepare", folder, "--tokenizer", tokenizer, "--output", store, "--processes", 1) == 0
    output = capsys.readouterr().err
    assert "190 documents: 150 used, 40 duplicates; " in output
    assert "held out, so few that the validation loss says little; add text, or hold more out with prepare" in output
    assert f"--stores {store} " in output
