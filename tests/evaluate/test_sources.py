"""A translator wrote fluent sentences about anything (BLEU 0.2): its decoder never looked at the source."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from generationkit import FIELDS, MODELS, TOKENIZER

import pretune
from pretune.evaluate.engine import encode_examples
from pretune.evaluate.sources import SourceUse, exchange, source_use
from pretune.interop.huggingface import load_model
from pretune.models import build
from pretune.tasks.generation import Generation
from pretune.text.samples.rows import Encoded
from pretune.train.ignored_source import larger_weights


def row(tokens: str, answer: str = "x") -> Encoded:
    return Encoded(np.frombuffer(tokens.encode(), np.uint8).astype(np.int64), np.array([ord(answer)]))


def test_sources_go_round_and_none_is_longer_than_before() -> None:
    rows = exchange([row("a"), row("bcd"), row("efghi")])
    assert ["".join(map(chr, each.tokens)) for each in rows] == ["d", "ghi", "a"]


def test_the_gain_is_the_part_of_the_loss_that_the_own_source_takes_away() -> None:
    assert SourceUse(own=1.0, exchanged=4.0).gain == 0.75
    assert SourceUse(own=2.0, exchanged=2.0).gain == 0.0
    assert SourceUse(own=0.0, exchanged=0.0).gain == 0.0


@pytest.mark.parametrize("family", ["bart", "gpt2"])
def test_losses_are_those_of_transformers(family: str, tmp_path: Path) -> None:
    """Behind the own source and behind the next one, each pair by itself."""
    theirs = MODELS[family](tmp_path / "model")
    model, tokenizer = load_model(tmp_path / "model"), TOKENIZER
    task = Generation(Generation.Config(), tokenizer.vocabulary)
    task.observe(model)
    examples = [
        task.read(record) for record in ({"text": "fox", "target": "dog"}, {"text": "cats", "target": "hat hat"})
    ]
    rows = encode_examples(task, examples, tokenizer, 40)
    use = source_use(model, task, rows, tokenizer)
    assert use is not None
    own = [(each.tokens, each.second) for each in rows]
    exchanged = [(each.tokens, each.second) for each in exchange(sorted(rows, key=lambda each: len(each.tokens)))]
    for ours, pairs in ((use.own, own), (use.exchanged, exchanged)):
        assert ours == pytest.approx(_loss_of(theirs, task, pairs), abs=1e-5)


def _loss_of(theirs: Any, task: Generation, pairs: Any) -> float:
    total, count = 0.0, 0
    for source, answer in pairs:
        labels = torch.tensor(answer)[None]
        with torch.no_grad():
            if task.reads_apart:
                read = torch.tensor(task.vocabulary.with_end(source))[None]
                loss = theirs(input_ids=read, labels=labels).loss
            else:
                read = torch.tensor(np.concatenate([task.lead, source]))[None]
                run = torch.cat([read, labels], dim=1)
                loss = theirs(input_ids=run, labels=torch.cat([torch.full_like(read, -100), labels], dim=1)).loss
        total, count = total + float(loss) * labels.shape[1], count + labels.shape[1]
    return total / count


def test_nothing_is_said_where_all_sources_are_alike(tmp_path: Path) -> None:
    MODELS["gpt2"](tmp_path / "model")
    model, tokenizer = load_model(tmp_path / "model"), TOKENIZER
    task = Generation(Generation.Config(), tokenizer.vocabulary)
    task.observe(model)
    examples = [task.read({"text": "fox", "target": target}) for target in ("dog", "hat")]
    rows = encode_examples(task, examples, tokenizer, 40)
    assert source_use(model, task, rows, tokenizer) is None
    assert source_use(model, task, rows[:1], tokenizer) is None
    assert source_use(model, task, [], tokenizer) is None


@pytest.mark.parametrize(("family", "follows"), [("bart", True), ("gpt2", True), ("gpt2", False)])
def test_a_run_says_that_its_model_does_not_look_at_the_source(
    family: str, follows: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The answers follow from the sources, or from nothing that is read."""
    MODELS[family](tmp_path / "model", 0.05)
    targets = {"fox": "a cat", "dog": "the hat"}
    rows = [{"text": text, "target": targets[text if follows else "fox"]} for text in ["fox", "dog"] * 12]
    settings = {**FIELDS, "lr": 1e-2, "track": {"report": False, "progress": "plain"}}
    output = str(tmp_path / "run")
    data = {"train": rows, "validation": rows[:4], "steps": 20}
    pretune.finetune(model=str(tmp_path / "model"), task="generation", output=output, **data, **settings)
    said = capsys.readouterr().err
    assert ("warning: task 'generation' does not look at what it reads" in said) is not follows, said[-400:]


def test_larger_weights_are_a_remedy_of_small_ones_that_were_drawn(tmp_path: Path) -> None:
    """Of a width of 128; what files hold was not drawn here, and GPT-2's field has another name."""
    small = build("marian", "tiny", [], {"vocab_size": 60, "init_std": 0.02}, allocate=False)
    assert larger_weights(small) == ", begin with larger weights (model.overrides.init_std 0.088)"
    assert larger_weights(build("marian", "tiny", [], {"vocab_size": 60, "init_std": 0.08}, allocate=False)) == ""
    assert larger_weights(build("gpt2", "tiny", [], {"vocab_size": 60}, allocate=False)) == ""
    MODELS["bart"](tmp_path / "model")
    assert larger_weights(load_model(tmp_path / "model")) == ""
