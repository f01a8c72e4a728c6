"""What people get wrong in their first hour (docs/first-hour.md, D): exit code, what is named, and the remedy."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pretune.cli import main

WORDS = ["the", "function", "returns", "an", "array", "of", "values", "sorted", "along", "its", "last", "axis"]
QUIET = ("--no-allocator", "--device", "cpu")
TUNE = "finetune --task classification --tokenizer tok --size tiny --steps 1 --output run"


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tokenizer, stores, a language model, a classifier, and files with everything that is wrong with files."""
    folder = tmp_path_factory.mktemp("house")
    rows = [(" ".join(WORDS[(n + i) % 12] for i in range(8)), "ab"[n % 2]) for n in range(24)]
    good = "text,label\n" + "".join(f"{text},{label}\n" for text, label in rows)
    files = {
        "corpus.txt": "\n\n".join(f"{text}. {text[::-1]}." for text, _ in rows),
        "good.csv": good,
        "other-labels.csv": good.replace(",a\n", ",c\n"),
        "one-label.csv": good.replace(",b\n", ",a\n"),
        "empty-text.csv": "text,label\nhello,a\n,b\n",
        "empty-label.csv": "text,label\nhello,a\nthere,\n",
        "ragged.csv": "text,label\nhello,a\nthere,b,c,d\n",
        "semicolon.csv": good.replace(",", ";"),
        "bad.jsonl": '{"text": "a", "label": "b"}\n{"text": "a", "label": \n',
        "array.json": json.dumps([{"text": "a", "label": "b"}]),
        "array.jsonl": json.dumps([{"text": "a", "label": "b"}]),
        "lines.txt": '{"text": "a b", "label": "b"}\n{"text": "c d", "label": "a"}\n',
        "labels.jsonl": '{"text": "a b", "label": ["x", "y"]}\n{"text": "c d", "label": ["x"]}\n',
        "bad.toml": 'output = "run"\n[data\ntrain = ["good.csv"]\n',
        "typo.toml": 'task = "classification"\n[optimiser]\nlr = 1e-4\n',
    }
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "gbk.csv").write_bytes("text,label\n中文的句子,好\n另一个句子,坏\n".encode("gbk"))
    (folder / "latin.csv").write_bytes("text,label\nun café crème,a\nune forêt,b\n".encode("latin-1"))
    back = Path.cwd()
    os.chdir(folder)
    try:
        for line in (
            "tokenizer train corpus.txt --vocab-size 60 --output tok",
            "tokenizer train good.csv --vocab-size 60 --output other",
            "prepare corpus.txt --tokenizer tok --output store",
            "prepare corpus.txt --tokenizer tok --validation 0 --output unheld",
            "prepare corpus.txt --tokenizer other --output other-store",
            "pretrain --objective mlm --size tiny --stores store --steps 1 --length 16 --output bert",
            f"{TUNE.replace('output run', 'output classifier')} --train good.csv",
        ):
            assert main([*line.split(), *QUIET, "--quiet"]) == 0, line
    finally:
        os.chdir(back)
    weights = (folder / "bert" / "model.safetensors").read_bytes()
    broken = folder / "broken"
    broken.mkdir()
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (broken / name).write_bytes((folder / "bert" / name).read_bytes())
    (broken / "model.safetensors").write_bytes(weights[:8] + b"xx" + weights[10:])
    return folder


CASES = [
    # what was very good, and stays so
    ("a Chinese encoding", f"{TUNE} --train gbk.csv", 65, ["gbk.csv", "iconv -f G"]),
    ("a Western encoding", f"{TUNE} --train latin.csv", 65, ["latin.csv", "iconv -f"]),
    ("a column that is not there", f"{TUNE} --train good.csv --text title", 65, ["good.csv", "'title'", "text, label"]),
    ("a label that training has not", f"{TUNE} --train good.csv --validation other-labels.csv", 65, ["'c'", "a, b"]),
    ("an empty text", f"{TUNE} --train empty-text.csv", 65, ["empty-text.csv:3", "text"]),
    ("an empty label", f"{TUNE} --train empty-label.csv", 65, ["empty-label.csv:3", "label"]),
    ("one label alone", f"{TUNE} --train one-label.csv", 65, ["'a'"]),
    ("a row with more fields", f"{TUNE} --train ragged.csv", 65, ["ragged.csv:3", "4"]),
    ("a broken line of JSON", f"{TUNE} --train bad.jsonl", 65, ["bad.jsonl:2"]),
    ("an array for lines", f"{TUNE} --train array.jsonl", 65, ["array.jsonl", "jq"]),
    ("a broken recipe", "finetune bad.toml", 64, ["bad.toml", "line"]),
    ("a table spelt otherwise", "finetune typo.toml", 64, ["optimiser", "optimizer"]),
    ("a field spelt otherwise", f"{TUNE} --train good.csv --optimizer.lrr 1", 64, ["lrr", "lr"]),
    (
        "a variant spelt otherwise",
        "finetune --task clasification --train good.csv --model bert",
        64,
        ["classification"],
    ),
    ("two budgets", f"{TUNE} --train good.csv --epochs 3", 64, ["steps", "epochs"]),
    ("longer than the model reads", f"{TUNE} --train good.csv --length 4096", 64, ["4096", "length"]),
    ("no GPU", "predict classifier text --device cuda:7", 64, ["cuda"]),
    (
        "a store of another tokenizer",
        "pretrain --objective mlm --model bert --stores other-store --output x",
        65,
        ["its tokenizer", "prepare the store"],
    ),
    (
        "another run in the directory",
        "finetune --task classification --model bert --train good.csv --output classifier",
        64,
        ["--output"],
    ),
    ("no head for masks", "fill classifier text", 64, ["mlm"]),
    ("no head for generation", "generate bert text", 64, ["clm"]),
    ("no task", "predict bert text", 64, ["finetune"]),
    # what was bad
    (
        "the name of a model on a hub",
        "finetune --task classification --train good.csv --model bert-base-uncased",
        66,
        ["hf download bert-base-uncased"],
    ),
    ("a value that was forgotten", f"{TUNE} --train good.csv --lr --seed 3", 64, ["--lr"]),
    ("what others call the rate", f"{TUNE} --train good.csv --learning-rate 1e-4", 64, ["--lr"]),
    ("no tokenizer for a store", "prepare corpus.txt --output x", 64, ["tokenizer train"]),
    (
        "a decoder's objective alone",
        "pretrain --objective clm --size tiny --stores store --steps 1 --output x",
        64,
        ["gpt2"],
    ),
    ("a task that is not there", "finetune --task ner --train good.csv --model bert", 64, ["ner", "classification"]),
    ("lines of JSON in a .txt", f"{TUNE} --train lines.txt", 65, ["--format", "jsonl"]),
    ("semicolons", f"{TUNE} --train semicolon.csv", 65, ["semicolon.csv", ";"]),
    ("several labels of a text", f"{TUNE} --train labels.jsonl", 65, ["labels.jsonl", "several labels"]),
    ("nothing held out", "evaluate bert unheld", 65, ["unheld", "validation"]),
    ("a damaged model", "embed broken text", 65, ["model.safetensors"]),
]


@pytest.mark.parametrize(("words", "code", "parts"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_mistake_is_answered(
    words: str,
    code: int,
    parts: list[str],
    house: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(house)
    flags = QUIET[:1] if "--device" in words else QUIET
    assert main([*words.split(), *flags]) == code
    message = capsys.readouterr().err.rpartition("pretune: ")[2]
    missing = [part for part in parts if part not in " ".join(message.split())]
    assert not missing, message
    for python in ("None", "Traceback", "tuple", "Input should", "valid string", "NoneType", "<class"):
        assert python not in message
    assert not (house / "run").exists()
