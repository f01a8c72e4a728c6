"""Tagging beside the pipeline of `transformers`: both find the same entities, and other ones do not count."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.benchmark import OURS, Context
from benchmarks.peers import transformers_tagging
from benchmarks.suite import tagging
from benchmarks.suite.tagging import Tagging, label_words, read_sentences
from pretune.errors import BenchError

SENTENCES = [(["Ada", "saw", "New", "York"], ["B-PER", "O", "B-LOC", "I-LOC"]), (["Rome"], ["B-LOC"])]


def test_wikiann_is_read(tmp_path: Path) -> None:
    blocks = ["\n".join(f"en:{word}\t{tag}" for word, tag in zip(*each, strict=True)) for each in SENTENCES]
    (tmp_path / "test").write_text("\n\n".join(blocks) + "\n\n")
    assert read_sentences(tmp_path / "test") == SENTENCES


def test_what_counts(tmp_path: Path) -> None:
    (tmp_path / "sentences.json").write_text(json.dumps([words for words, _ in SENTENCES]))
    ours = [[0, 0, 3, "PER"], [0, 8, 16, "LOC"], [1, 0, 4, "LOC"]]
    assert label_words(ours, [words for words, _ in SENTENCES]) == ["PER", "O", "LOC", "LOC", "LOC"]
    context = Context("wikiann", tmp_path, "bf16", 2)
    runs: dict[str, list[dict[str, Any]]] = {OURS: [{"entities": ours}], "peer": [{"entities": ours}]}
    assert Tagging().check(context, runs) == {"entities": 3, "agreement": 1.0}
    with pytest.raises(BenchError, match="the words' labels differ"):
        Tagging().check(context, {**runs, "peer": [{"entities": ours[:2]}]})
    search = Tagging().search(context)
    assert search.start.options["batch"] == 1


@pytest.mark.slow
def test_both_sides_find_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tagging, "variants", {"wikiann": 200})
    context = Context("wikiann", tmp_path, "fp32", 1)
    try:
        ours, default, best = Tagging().sides(context)
    except BenchError as error:
        pytest.skip(str(error))
    runs = {OURS: [tagging.setup(**ours.options)()]}
    runs |= {side.label: [transformers_tagging.setup(**side.options)()] for side in (default, best)}
    assert Tagging().check(context, runs)["entities"] > 100
