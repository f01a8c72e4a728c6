"""What a run leaves in its folder is what it trained: special tokens around texts, their ids, and positions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from trainkit import SPECIAL

from pretune import api
from pretune.batch import ragged
from pretune.config import validate
from pretune.text.store.prepare import PrepareConfig, prepare
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer
from pretune.train.recipe import Recipe
from pretune.train.run import finetune, pretrain

LINES = [
    "The quick brown fox jumps over the lazy dog. It's 12 o'clock in Café Zürich. The dog sleeps.",
    "模型学习语言很快，不是吗？我们今天去北京。 Hello World 我好。",
    "か゛ が東京タワーへ行きました。ありがとう。",
    "हिन्दी भाषा में नमस्ते दुनिया। Привет, мир! Как дела?",
]


def run_of(folder: Path, family: str, objective: str, tokenizer: Tokenizer) -> Path:
    """A run of four steps on a store of the tokenizer."""
    (folder / "corpus.jsonl").write_text(
        "\n".join(json.dumps({"text": f"{line} {n}"}) for n in range(20) for line in LINES)
    )
    tokenizer.save(folder / "tokenizer")
    config = validate(PrepareConfig, {"validation": 0.0, "processes": 1}, "prepare")
    prepare([str(folder / "corpus.jsonl")], Tokenizer.load(folder / "tokenizer"), folder / "store", config)
    tree = {
        "output": str(folder / "run"),
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "model": {"family": family, "size": "tiny"},
        "data": {"stores": [str(folder / "store")], "length": 48, "batch": 4},
        "objective": {objective: {}},
        "budget": {"steps": 4},
        "evaluation": {"samples": 0},
        "track": {"every": 2, "progress": "quiet", "report": False},
    }
    pretrain(validate(Recipe, tree, "recipe"))
    return folder / "run"


@pytest.mark.parametrize(
    ("family", "objective", "special"),
    [("roberta", "mlm", "roberta"), ("modernbert", "mlm", "bert"), ("bart", "denoise", "roberta")],
)
def test_pretrained_from_nothing_on_bytes(family: str, objective: str, special: str, tmp_path: Path) -> None:
    """A byte BPE with mask, pad and frame; `transformers` reads the run's own folder with the same ids and outputs."""
    fields = {"kind": "bpe", "vocab_size": 400, "special_tokens": special}
    folder = run_of(tmp_path, family, objective, train_tokenizer(LINES * 20, TokenizerConfig.model_validate(fields)))
    ours, theirs = api.load(folder, "cpu", "fp32"), transformers.AutoTokenizer.from_pretrained(folder)
    model: Any = {"bart": transformers.AutoModelForSeq2SeqLM}.get(family, transformers.AutoModelForMaskedLM)
    network = model.from_pretrained(folder).eval()
    mask = theirs.mask_token
    assert len({theirs.pad_token_id, theirs.mask_token_id, theirs.cls_token_id, theirs.sep_token_id}) == 4
    assert network.config.pad_token_id == theirs.pad_token_id
    for line in [*LINES, f"The quick{mask} fox", f"The quick {mask} fox"]:
        tokens = ours.tokenizer.encode(line, allow_special=True)
        assert theirs(line)["input_ids"] == ours.tokenizer.vocabulary.add_special_tokens(tokens)[0].tolist()
    inputs = theirs([f"The quick{mask} fox", LINES[0]], padding=True, return_tensors="pt")
    if family == "bart":
        assert network.config.decoder_start_token_id == network.config.forced_eos_token_id == theirs.eos_token_id
        written = network.generate(**theirs("The quick", return_tensors="pt"), max_new_tokens=9, do_sample=False)
        expected = ours.generate("The quick", max_new_tokens=9, temperature=0)
        assert theirs.decode(written[0], skip_special_tokens=True) == expected
        return
    with torch.no_grad():
        logits = network(**inputs).logits[0]
    (guesses,) = ours.fill(f"The quick{mask} fox", 1)
    at = int((inputs["input_ids"][0] == theirs.mask_token_id).nonzero())
    assert guesses[0].probability == pytest.approx(float(logits[at].softmax(-1).max()), rel=1e-3)


def test_roberta_with_a_wordpiece_tokenizer_is_read_as_it_was_trained(tmp_path: Path) -> None:
    """Its pad token is 0, not 1: read with other positions, the accuracy fell from 1.00 in the run to 0.47."""
    rows = [{"text": f"{word} a b c", "label": word} for word in ("good", "bad") for _ in range(24)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    train_tokenizer(["good bad a b c"] * 9, TokenizerConfig(vocab_size=60)).save(tmp_path / "tokenizer")
    tree = {
        "output": str(tmp_path / "run"),
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "model": {"family": "roberta", "size": "tiny"},
        "data": {
            "train": [str(tmp_path / "rows.jsonl")],
            "validation": [str(tmp_path / "rows.jsonl")],
            "tokenizer": str(tmp_path / "tokenizer"),
            "length": 32,
            "batch": 8,
        },
        "task": {"classification": {}},
        "optimizer": {"lr": 1e-3},
        "budget": {"steps": 40},
        "evaluation": {"every": 40, "keep": "last"},
        "track": {"every": 4, "progress": "quiet", "report": False},
    }
    finetune(validate(Recipe, tree, "recipe"))
    metrics = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    in_run = next(line for line in reversed(metrics) if "eval/accuracy" in line)
    ours = api.load(tmp_path / "run", "cpu", "fp32")
    again = ours.evaluate(str(tmp_path / "rows.jsonl"))
    assert again["accuracy"] == in_run["eval/accuracy"] == 1.0
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "run")
    network = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").eval()
    assert network.config.pad_token_id == theirs.pad_token_id == SPECIAL.index("[PAD]")
    with torch.no_grad():
        logits = network(**theirs(["good a b c", "bad a"], padding=True, return_tensors="pt")).logits
        tokens = [
            ours.tokenizer.vocabulary.add_special_tokens(ours.tokenizer.encode(t))[0] for t in ("good a b c", "bad a")
        ]
        batch = ragged(tokens)
        hidden = ours.network(batch)
        own = ours.network.heads["classification"](hidden.last_hidden_state, batch.layout)
    torch.testing.assert_close(own, logits, rtol=1e-4, atol=1e-5)
