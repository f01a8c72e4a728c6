"""Events from files whose offsets do not all match: stopped, skipped and counted; and predicted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pretune.cli import main
from tests.train.trainkit import SHAPE, make_tokenizer


def document(number: int, shift: int = 0) -> dict[str, Any]:
    """A text of an attack, of which the argument may lie beside its offsets."""
    text = f"w1 w{number} w2 w3"
    start = 3 + shift
    argument = {"startOffset": start, "endOffset": start + len(f"w{number}"), "text": f"w{number}", "type": "Person"}
    trigger = {"startOffset": 0, "endOffset": 2, "text": "w1"}
    event = {"type": "Attack", "nugget": trigger, "argument": [{**argument, "role": {"type": "Victim"}}]}
    return {"content": text, "cyberevent": {"hopper": [{"events": [event]}]}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("events")
    make_tokenizer(folder / "tokenizer")
    (folder / "casie").mkdir()
    for number in range(10, 20):
        text = json.dumps(document(number, shift=1 if number == 17 else 0))
        (folder / "casie" / f"{number}.json").write_text(text)
    return folder


def words_of(folder: Path, *more: str) -> list[str]:
    words = ["finetune", "--task", "events", "--train", f"{folder}/casie", "--format", "casie"]
    words += ["--data.tokenizer", f"{folder}/tokenizer", "--model.size", "tiny", "--length", "16", "--steps", "2"]
    for name, value in SHAPE.items():
        words += [f"--model.overrides.{name}", str(value)]
    return [*words, "--holdout", "0", "--device", "cpu", "--precision", "fp32", "--no-allocator", *more]


def test_offsets_that_do_not_match_stop_the_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*words_of(folder), "--output", f"{folder}/stopped"]) == 65
    message = capsys.readouterr().err
    assert "17.json:1: 'spans[1]' = Person at 4 to 7, '17 ', and not 'w17' as its 'text' says" in message
    assert "the text has it at 3 to 6: correct the offsets" in message


def test_they_are_skipped_and_counted_where_the_recipe_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*words_of(folder), "--on_bad", "skip", "--output", f"{folder}/run"]) == 0
    assert "bad records skipped: 1; the first: " in capsys.readouterr().err
    assert '"records_skipped": 1' in (folder / "run" / "data_stats.json").read_text()
    assert main(["predict", f"{folder}/run", "w1 w5 w2", "--quiet", "--device", "cpu"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer.keys() == {"text", "spans", "links"}
    words = ["evaluate", f"{folder}/run", f"{folder}/casie", "--format", "casie", "--quiet", "--device", "cpu"]
    assert main(words) == 0
    assert json.loads(capsys.readouterr().out)["count/Victim"] == 9
