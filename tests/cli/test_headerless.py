"""Files without a header row: `--columns` names their columns in every verb that reads tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pretune.cli import main
from tests.train.trainkit import make_tokenizer

NAMES = ["--columns", "id,text,label,source"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "table.csv"
    path.write_text("".join(f"{n},w{n} w{n + 1} w2,{n % 2},web\n" for n in range(30)))
    return path


def test_columns_are_named_in_verbs_on_text(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = table.parent
    make_tokenizer(folder / "tokenizer")
    words = ["prepare", f"{table}", "--tokenizer", f"{folder}/tokenizer", "--output", f"{folder}/store"]
    assert main([*words, *NAMES]) == 0
    words = ["tokenizer", "train", f"{table}", "--vocab-size", "200", "--output", f"{folder}/words"]
    assert main([*words, *NAMES]) == 0
    said = capsys.readouterr().err
    assert said.count("30 documents: 30 used") == 2
    words = ["augment", f"{table}", "--methods.swap.rate", "0.5", "--id", "id", "--output", f"{folder}/more.jsonl"]
    assert main([*words, *NAMES]) == 0
    rows = [json.loads(line) for line in (folder / "more.jsonl").read_text().splitlines()]
    assert rows[0] == {"id": "0", "text": "w0 w1 w2", "label": "0"}


@pytest.mark.parametrize("verb", ["prepare", "augment", "finetune"])
def test_a_missing_header_is_answered_with_the_flag(verb: str, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = table.parent
    make_tokenizer(folder / "tokenizer")
    flags = {
        "prepare": [f"{table}", "--tokenizer", f"{folder}/tokenizer"],
        "augment": [f"{table}", "--methods.swap.rate", "0.5"],
        "finetune": ["--train", f"{table}", "--task", "classification", "--tokenizer", f"{folder}/tokenizer"],
    }[verb]
    assert main([verb, *flags, "--output", f"{folder}/{verb}.jsonl"]) == 65
    said = capsys.readouterr().err
    assert "no column 'text'" in said
    assert "no header row" in said
    assert "--columns" in said
