"""Guesses against none on passages: what is asked, and that both sides write the same."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from benchmarks.benchmark import OURS, Context
from benchmarks.suite import decode, lookup
from benchmarks.suite.lookup import Lookup
from pretune.errors import BenchError

SENTENCE = "The quick brown fox jumps over the lazy dog and runs home again. "


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    texts = [SENTENCE * 20, "Too short.", *(f"Text {n}. " + SENTENCE * 7 for n in range(6))]
    source = tmp_path / "texts.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    monkeypatch.setattr(lookup, "text_file", lambda name: source)
    decode.write_model(tmp_path / "model", size="tiny")
    monkeypatch.setattr(lookup, "model", lambda: tmp_path / "model")
    monkeypatch.setattr(lookup, "write_model", partial(decode.write_model, size="tiny"))
    monkeypatch.setattr(Lookup, "variants", {"passages": 6, "passages-quote": 6})
    return Context("passages", tmp_path, "fp32", 1)


def test_prompts_are_whole_sentences_with_each_task_in_turn(context: Context) -> None:
    prompts = list(lookup.ask(context.folder / "texts.jsonl", 10))
    assert len(prompts) == 7
    assert [prompt.split("\n")[1] for prompt in prompts] == [lookup.TASKS[n % 4] for n in range(7)]
    assert all(70 <= len(prompt.split("\n\n")[1].split()) <= 112 for prompt in prompts)
    assert all("again.<|im_end|>" in prompt for prompt in prompts)
    for word, task in zip(("correct", "summarize", "repeat", "quote"), lookup.TASKS, strict=True):
        assert all(task in prompt for prompt in lookup.ask(context.folder / "texts.jsonl", 3, word))


def test_both_sides_write_the_same(context: Context) -> None:
    ours, without = Lookup().sides(context)
    assert (ours.options["lookup"], without.options["lookup"]) == (None, 0)
    json.dumps([dict(side.options) for side in (ours, without)])
    options = {"prompts": ours.options["prompts"][:2]}
    runs = {side.label: [lookup.setup_passages(**side.options | options)()] for side in (ours, without)}
    assert runs[OURS][0]["tokens"] == 12
    assert Lookup().check(context, runs) == {}
    runs[OURS][0]["chosen"][1][0] ^= 1
    with pytest.raises(BenchError, match="guesses changed the text"):
        Lookup().check(context, runs)
