"""Faults of input through the command line: 64, 65 or 66 in a few lines and at once, never a defect."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers
from drillkit import Zygote
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer

DEEP = "[" * 100_000 + "]" * 100_000
TEXT = "the quick brown fox "
SECONDS, BYTES = 10.0, 1 << 30
Words = Sequence[object]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, zygote: Zygote) -> Path:
    folder = tmp_path_factory.mktemp("inputs") / "inputs"
    save_bert(folder / "bert", word_tokenizer())
    save_gpt2(folder / "gpt2", byte_tokenizer())
    word_tokenizer().save(folder / "tokenizer")
    lines = [json.dumps({"text": TEXT * (n % 5 + 1), "label": "ab"[n % 2]}) for n in range(60)]
    (folder / "corpus.jsonl").write_text("\n".join(lines))
    words = ("prepare", "corpus.jsonl", "--tokenizer", "tokenizer", "--output", "store")
    assert zygote.run(*words, folder=folder).code == 0
    return folder


def _recipe(text: str) -> Callable[[Path], Words]:
    def write(folder: Path) -> Words:
        (folder / "recipe.toml").write_text(text)
        return ("pretrain", "recipe.toml")

    return write


def _pretrain(*more: object) -> Callable[[Path], Words]:
    base = ("pretrain", "--objective", "mlm", "--model.size", "tiny", "--data.stores", "store", "--output", "run")
    return lambda folder: (*base, "--budget.steps", 1, *more)


def _generate(*more: object) -> Callable[[Path], Words]:
    return lambda folder: ("generate", "gpt2", "the", *more)


def _finetune(labels: Sequence[object]) -> Callable[[Path], Words]:
    def write(folder: Path) -> Words:
        lines = [json.dumps({"text": TEXT, "label": label}) for label in labels]
        (folder / "labels.jsonl").write_text("\n".join(lines))
        return ("finetune", "--task", "classification", "--model.init", "bert", "--data.train", "labels.jsonl")

    return write


def _empty_bin(folder: Path) -> Words:
    shutil.rmtree(folder / "bert")
    shutil.copytree(folder / "gpt2", folder / "bert")
    (folder / "bert" / "model.safetensors").unlink()
    (folder / "bert" / "pytorch_model.bin").touch()
    return ("embed", "bert", "a")


def _column_twice(folder: Path) -> Words:
    arrays = [pa.array(["a b", "c d"]), pa.array(["x", "y"])]
    pq.write_table(pa.Table.from_arrays(arrays, names=["text", "text"]), folder / "twice.parquet")
    return ("prepare", "twice.parquet", "--tokenizer", "tokenizer", "--output", "other")


def _config(name: str, value: object) -> Callable[[Path], Words]:
    def write(folder: Path) -> Words:
        path = folder / "bert" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))
        return ("embed", "bert", "a")

    return write


def _empty(folder: Path) -> Words:
    (folder / "empty.jsonl").touch()
    return ("finetune", "--task", "classification", "--model.init", "bert", "--data.train", "empty.jsonl")


def _field_twice(folder: Path) -> Words:
    (folder / "twice.jsonl").write_text('{"text": "a", "text": "b"}\n')
    return ("prepare", "twice.jsonl", "--tokenizer", "tokenizer", "--output", "other")


CASES: dict[str, tuple[int, Callable[[Path], Words]]] = {
    "deep toml": (64, _recipe(f"a = {DEEP}")),
    "dotted toml": (64, _recipe("a" + ".a" * 100_000 + " = 1")),
    "digits in toml": (64, _recipe("seed = " + "1" * 10_000)),
    "hex digits in toml": (64, _recipe("seed = 0x" + "f" * 10_000)),
    "unknown fields": (64, _recipe("".join(f"x{n} = 1\n" for n in range(300_000)))),
    "some unknown fields": (64, _recipe("".join(f"x{n} = 1\n" for n in range(50_000)))),
    "deep flag": (64, _pretrain("--seed", DEEP[:100_000])),
    "digits in a flag": (64, _pretrain("--seed", "1" * 10_000)),
    "dotted flag": (64, _pretrain("--" + "a." * 30_000 + "b", 1)),
    "betas": (64, _pretrain("--optimizer.betas", "[1, 1]")),
    "batch_tokens": (64, _pretrain("--data.batch_tokens", 10**12)),
    "batch": (64, _pretrain("--data.batch", 10**12)),
    "length": (64, _pretrain("--data.length", 10**9)),
    "temperature of stores": (64, _pretrain("--data.temperature", "1e-320")),
    "queue": (64, _pretrain("--objective", "cert", "--objective.cert.queue", 10**9)),
    "beams": (64, _generate("--beams", 10**6)),
    "length penalty": (64, _generate("--beams", 3, "--length-penalty", "1e308")),
    "fractions": (65, _finetune([0.5, 1.5] * 4)),
    "truth values": (65, _finetune([True, False] * 4)),
    "empty bin": (65, _empty_bin),
    "column twice": (65, _column_twice),
    "field twice": (65, _field_twice),
    "quoted number": (65, _config("hidden_size", "32")),
    "truth value": (65, _config("num_hidden_layers", True)),
    "fewer layers": (65, _config("num_hidden_layers", 1)),
    "activation": (65, _config("hidden_act", "nonsense")),
    "empty file": (65, _empty),
}


@pytest.mark.drill
@pytest.mark.parametrize("name", CASES)
def test_a_fault_of_input_is_told(name: str, kept: Path, zygote: Zygote, tmp_path: Path) -> None:
    folder = tmp_path / "case"
    shutil.copytree(kept, folder)
    code, write = CASES[name]
    ended = zygote.run(*write(folder), folder=folder, timeout=120.0)
    assert ended.code == code, ended.err[-2000:]
    assert "bug in pretune" not in ended.err
    assert len(ended.err.splitlines()) < 40
    assert len(ended.err) < 10_000
    assert ended.peak < BYTES
    assert not (folder / "other").exists()


VERBS: dict[str, tuple[int, Words]] = {
    "predict": (0, ("predict", "classifier", "--input", "big.jsonl")),
    "tail": (0, ("predict", "classifier", "--input", "big.jsonl", "--truncate", "tail")),
    "both": (0, ("predict", "classifier", "--input", "big.jsonl", "--truncate", "head+tail")),
    "error": (65, ("predict", "classifier", "--input", "big.jsonl", "--truncate", "error")),
    "evaluate": (0, ("evaluate", "classifier", "big.jsonl")),
    "embed": (0, ("embed", "bert", "--input", "big.jsonl")),
    "fill": (64, ("fill", "bert", "--input", "big.jsonl")),
    "generate": (64, ("generate", "gpt2", "--input", "big.jsonl")),
}


@pytest.mark.drill
@pytest.mark.parametrize("verb", VERBS)
def test_ten_megabytes(verb: str, kept: Path, zygote: Zygote, tmp_path: Path) -> None:
    folder = tmp_path / "case"
    shutil.copytree(kept, folder)
    save_bert(folder / "classifier", word_tokenizer(), transformers.BertForSequenceClassification, ["a", "b"])
    code, words = VERBS[verb]
    usual = ["small.jsonl" if word == "big.jsonl" else word for word in words]
    (folder / "small.jsonl").write_text(json.dumps({"text": TEXT, "label": "a"}))
    (folder / "big.jsonl").write_text(json.dumps({"text": TEXT * 500_000, "label": "a"}))
    small = zygote.run(*usual, folder=folder, timeout=120.0)
    big = zygote.run(*words, folder=folder, timeout=120.0)
    assert big.code == code, big.err[-2000:]
    assert big.peak - small.peak < 150 << 20
