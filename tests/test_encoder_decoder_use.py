"""An encoder-decoder and scores from the command line and from Python."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from tinymodels import TEXTS, byte_tokenizer, save_bert, word_tokenizer

import pretune
from pretune.cli import main
from pretune.errors import UsageError
from pretune.interop.huggingface import load_model, save_model
from pretune.models.metadata import VariantRecord
from pretune.text.store.prepare import PrepareConfig, prepare


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("t5")
    config = transformers.T5Config(
        vocab_size=300, d_model=32, d_kv=8, num_heads=4, d_ff=48, num_layers=2, decoder_start_token_id=0, eos_token_id=0
    )
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3.0)
    model.save_pretrained(path)
    byte_tokenizer().save(path)
    return path


def test_it_writes_a_text_of_its_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = pretune.load(folder, device="cpu", precision="fp32")
    assert not model.continues
    many = model.generate(["the cat", "", "模型"], max_new_tokens=8)
    assert many[0] == model.generate("the cat", max_new_tokens=8) == "".join(model.stream("the cat", max_new_tokens=8))
    assert many[0]
    words = ["generate", str(folder), "the cat", "--max-new-tokens", "8", "--quiet", "--device", "cpu"]
    assert main([*words, "--json"]) == 0
    messages = json.loads(capsys.readouterr().out)
    assert messages["text"] == "the cat"
    assert main(words) == 0
    output = capsys.readouterr().out
    assert not output.startswith("the cat")
    assert output.rstrip("\n") == messages["generated_text"]
    assert main([*words, "a hat"]) == 0
    assert "the cat" not in capsys.readouterr().out.split("\n\n")[0]


def test_it_is_evaluated_on_the_objective_that_is_named(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"{TEXTS[0]} {n}. And more of it." for n in range(40)), encoding="utf-8")
    prepare(text, byte_tokenizer(), tmp_path / "store", PrepareConfig(validation=0.2, processes=1))
    model = pretune.load(folder, device="cpu", precision="fp32")
    with pytest.raises(UsageError, match="name one, such as denoise, span or prefix"):
        model.evaluate(tmp_path / "store")
    actual = model.evaluate(tmp_path / "store", objective={"prefix": 1.0}, length=32)
    assert actual["predictions/prefix"] > 0
    assert main(["evaluate", str(folder), str(tmp_path / "store"), "--objective", "clm", "--quiet"]) == 64


def test_scores_are_lines_of_json(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(folder), "a hat", "the dog", "--source", "a cat", "--device", "cpu"]) == 0
    messages = capsys.readouterr()
    first, second = (json.loads(line) for line in messages.out.splitlines())
    assert first["text"] == "a hat"
    assert first["log_prob"] < 0 < second["bits_per_byte"]
    assert "2 texts: " in messages.err
    assert "bits per byte (likelihood)" in messages.err
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"text": "a hat", "before": "a cat"}\n', encoding="utf-8")
    assert main(["score", str(folder), "--input", str(pairs), "--second", "before", "--device", "cpu", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["log_prob"] == pytest.approx(first["log_prob"], rel=1e-5)
    save_bert(tmp_path / "bert", word_tokenizer())
    assert main(["score", str(tmp_path / "bert"), "a hat", "--masking", "word", "--quiet", "--device", "cpu"]) == 0
    assert "pseudo_log_prob" in json.loads(capsys.readouterr().out)
    model = pretune.load(folder, device="cpu", precision="fp32")
    assert model.log_prob("a hat", "a cat") == pytest.approx(first["log_prob"], rel=1e-5)
    assert model.score("a hat", "a cat") == model.score(["a hat"], ["a cat"])[0]


def test_it_is_evaluated_on_the_objective_that_its_files_record(folder: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"{TEXTS[0]} {n}. And more of it." for n in range(40)), encoding="utf-8")
    prepare(text, byte_tokenizer(), tmp_path / "store", PrepareConfig(validation=0.2, processes=1))
    network = load_model(folder)
    objectives = (VariantRecord.of("prefix", {"min_fraction": 0.5}),)
    network.metadata = network.metadata.model_copy(update={"objectives": objectives})
    save_model(network, tmp_path / "model", byte_tokenizer())
    model = pretune.load(tmp_path / "model", device="cpu", precision="fp32")
    named = model.evaluate(tmp_path / "store", objective={"prefix": {"min_fraction": 0.5}}, length=32)
    assert model.evaluate(tmp_path / "store", length=32) == named
    assert named != model.evaluate(tmp_path / "store", objective={"prefix": 1.0}, length=32)
