"""`pretune.load(path)`: predict, fill, embed, generate, evaluate, as a user calls them."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tinymodels import TEXTS, byte_tokenizer, save_bert, save_gpt2, word_tokenizer

import pretune
from pretune.api import Model
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.text.readers.labelled import LabelledConfig
from pretune.text.store.prepare import PrepareConfig, prepare

LABELS = ["bad", "good", "so-so"]
LINES = ["the quick fox", "a hat", "the cat ate the dog and the lazy brown fox jumps over a hat", "don't", "the 模型"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    save_bert(root / "mlm", word_tokenizer())
    save_bert(root / "labels", word_tokenizer(), transformers.BertForSequenceClassification, LABELS)
    save_gpt2(root / "gpt2", byte_tokenizer())
    return {path.name: path for path in root.iterdir()}


@pytest.fixture(scope="module")
def models(folders: dict[str, Path]) -> dict[str, Model]:
    return {name: pretune.load(path, device="cpu", precision="fp32") for name, path in folders.items()}


def test_fill_is_that_of_transformers(models: dict[str, Model], folders: dict[str, Path]) -> None:
    text = "the [MASK] fox jumps over the [MASK] dog"
    actual = models["mlm"].fill(text, top=4)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders["mlm"])
    theirs = transformers.BertForMaskedLM.from_pretrained(folders["mlm"]).eval()
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = theirs(**inputs).logits[0, inputs["input_ids"][0] == tokenizer.mask_token_id]
    best = logits.softmax(dim=1).topk(4)
    assert [[guess.id for guess in guesses] for guesses in actual] == best.indices.tolist()
    for guesses, row in zip(actual, best.values.tolist(), strict=True):
        assert [guess.probability for guess in guesses] == pytest.approx(row, abs=1e-5)
        assert all(guess.token for guess in guesses)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("gpt2", "the [MASK]", "no mlm head"),
        ("mlm", "no mask at all", r"no \[MASK\] in 'no mask"),
        ("mlm", "the [MASK] " * 40, "the model reads 48"),
    ],
)
def test_fill_refuses(models: dict[str, Model], name: str, text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        models[name].fill(text)


@pytest.mark.parametrize("name", ["mlm", "gpt2"])
@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
@pytest.mark.parametrize("budget", [7, 8192])
def test_embed_is_that_of_transformers(
    models: dict[str, Model], folders: dict[str, Path], name: str, pooling: str, budget: int
) -> None:
    actual = models[name].embed(LINES, pooling, budget=budget)  # type: ignore[arg-type]
    assert (actual.shape, actual.dtype) == ((len(LINES), 32), np.float32)
    theirs = transformers.AutoModel.from_pretrained(folders[name]).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folders[name])
    for text, vector in zip(LINES, actual, strict=True):
        with torch.no_grad():
            hidden = theirs(tokenizer(text, return_tensors="pt")["input_ids"]).last_hidden_state[0]
        wanted = {"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling]
        assert np.abs(vector - wanted.numpy()).max() < 1e-5 * max(1.0, float(wanted.abs().max()))
    unit = models[name].embed(LINES, pooling, normalize=True)  # type: ignore[arg-type]
    assert np.linalg.norm(unit, axis=1) == pytest.approx(1.0, abs=1e-5)


def test_embed_edges(models: dict[str, Model], caplog: pytest.LogCaptureFixture) -> None:
    assert models["mlm"].embed([]).shape == (0, 32)
    assert np.isfinite(models["mlm"].embed([""])).all(), "[CLS] [SEP] is a sequence"
    with pytest.raises(DataError, match="text 2 of 2 has no tokens"):
        models["gpt2"].embed(["a", ""])
    with pytest.raises(UsageError, match="expected mean, cls, last"):
        models["mlm"].embed(["a"], "median")  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING, "pretune"):
        models["mlm"].embed(["the cat " * 40, "a"])
    assert "1 of 2 texts cut to 48 tokens" in caplog.text


def test_predict(models: dict[str, Model], caplog: pytest.LogCaptureFixture) -> None:
    model = models["labels"]
    assert model.labels == LABELS
    many = model.predict(LINES)
    alone = model.predict(LINES[0])
    assert alone.label == many[0].label
    assert alone.probabilities == pytest.approx(many[0].probabilities, abs=1e-5)
    assert [list(p.probabilities) for p in many] == [LABELS] * len(LINES)
    assert all(sum(p.probabilities.values()) == pytest.approx(1.0) for p in many)
    pairs = model.predict(LINES, LINES[::-1])
    assert model.predict(LINES[0], LINES[-1]).probabilities == pytest.approx(pairs[0].probabilities, abs=1e-5)
    assert pairs[0].probabilities != pytest.approx(many[0].probabilities, abs=1e-3)
    head, tail = (model.predict("the cat " * 30 + "a hat " * 30, truncate=side) for side in ("head", "tail"))  # type: ignore[arg-type]
    assert head != tail
    assert "1 of 1 text cut to 48 tokens" in caplog.text


def test_predict_refuses(models: dict[str, Model]) -> None:
    with pytest.raises(UsageError, match="no classification head"):
        models["mlm"].predict("the cat")
    with pytest.raises(UsageError, match="2 texts but 1 second"):
        models["labels"].predict(["a", "b"], ["c"])
    with pytest.raises(DataError, match="text:2: field 'text' = ' ' is empty"):
        models["labels"].predict(["a", " "])
    with pytest.raises(DataError, match="more than the 46 tokens that fit"):
        models["labels"].predict("the cat " * 30, truncate="error")


NAN = float("nan")


@pytest.mark.parametrize("value", [None, NAN, 3])
def test_what_is_no_text_is_refused_with_its_place(models: dict[str, Model], value: Any) -> None:
    """`predict(["a", None])` ended as a TypeError, `predict(None)` as an AssertionError."""
    classifier, decoder, masked = models["labels"], models["gpt2"], models["mlm"]
    what = r"2 holds the number 3, not text" if value == 3 else r"2 has no value \((null|the number nan)\)"
    calls: list[Callable[[], object]] = [
        lambda: classifier.predict(["a", value]),
        lambda: classifier.predict(["a", "b"], ["c", value]),
        lambda: classifier.embed(["a", value]),
        lambda: decoder.generate(["a", value]),
        lambda: decoder.continuations(["a", value]),
        lambda: decoder.score(["a", value]),
    ]
    for call in calls:
        with pytest.raises(DataError, match=what):
            call()
    for single in (lambda: masked.fill(value), lambda: decoder.stream(value)):
        with pytest.raises(DataError, match=what.replace("2 ", "1 ", 1)):
            single()
    with pytest.raises(DataError, match="holds no records"):
        classifier.predict(value)


def test_dir_lists_what_is_handed_on() -> None:
    assert {"load", "pretrain", "finetune"} <= set(dir(pretune))


@pytest.mark.parametrize("name", ["bert-base-uncased", "google/bert_uncased"])
def test_a_name_of_a_hub_is_answered(name: str) -> None:
    with pytest.raises(MissingInputError, match=f"pretune downloads nothing: .*hf download {name} --local-dir"):
        pretune.load(name)


def test_generate_and_stream(models: dict[str, Model]) -> None:
    model = models["gpt2"]
    one = model.generate("the quick", max_new_tokens=12)
    assert model.generate(["the quick", "a"], max_new_tokens=12)[0] == one
    assert "".join(model.stream("the quick", max_new_tokens=12)) == one
    stop = one[4]
    assert model.generate("the quick", max_new_tokens=12, stop=stop) == one[: one.index(stop)]
    (actual,) = model.continuations(["the quick"], max_new_tokens=12, stop=[stop])
    assert actual.reason == "stop"


def test_text_is_text_in_a_prompt(models: dict[str, Model]) -> None:
    """The end token's name in a prompt is not the end token."""
    (actual,) = models["gpt2"].continuations(["<|endoftext|>"], max_new_tokens=1)
    assert actual.prompt_tokens > 1


def test_generate_refuses(models: dict[str, Model]) -> None:
    with pytest.raises(UsageError, match="prompt 2 is empty"):
        models["gpt2"].generate(["a", ""])
    with pytest.raises(UsageError, match="did you mean 'temperature'"):
        models["gpt2"].generate("a", temprature=1.0)  # type: ignore[call-arg]
    with pytest.raises(UsageError, match="no clm head"):
        models["mlm"].generate("a")


def test_evaluate_examples(models: dict[str, Model], tmp_path: Path) -> None:
    model = models["labels"]
    guesses = [p.label for p in model.predict(LINES)]
    file = tmp_path / "test.tsv"
    file.write_text("y\tx\n" + "".join(f"{y}\t{x}\n" for x, y in zip(LINES, guesses, strict=True)), encoding="utf-8")
    columns = LabelledConfig(text="x", label="y")
    assert model.evaluate(file, columns=columns)["accuracy"] == 1.0
    file.write_text("y\tx\nugly\tthe cat\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"test\.tsv:2: label 'ugly' was not seen in training; known labels: bad, good"):
        model.evaluate(file, columns=columns)


def test_evaluate_store(models: dict[str, Model], tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("\n\n".join(f"{n} {text}" for n in range(9) for text in TEXTS), encoding="utf-8")
    config = PrepareConfig(validation=0.3, processes=1)
    for name, metric in (("gpt2", "bits_per_byte"), ("mlm", "loss/mlm")):
        prepare(tmp_path / "text.txt", models[name].tokenizer, tmp_path / name, config)
        actual = models[name].evaluate(tmp_path / name)
        assert actual[metric] > 0
    with pytest.raises(DataError, match="tokenizer"):
        models["gpt2"].evaluate(tmp_path / "mlm")
    with pytest.raises(UsageError, match=r"nor the heads .* tell on which objective"):
        models["labels"].evaluate(tmp_path / "mlm")
    prepare(
        tmp_path / "text.txt", models["mlm"].tokenizer, tmp_path / "whole", PrepareConfig(validation=0, processes=1)
    )
    with pytest.raises(DataError, match=r"whole \(validation\) has no text; evaluate another split \(--split train\)"):
        models["mlm"].evaluate(tmp_path / "whole")  # printed {} and exited 0


@pytest.mark.parametrize("name", ["gpt2", "mlm", "labels"])
def test_bf16_is_near(folders: dict[str, Path], models: dict[str, Model], name: str) -> None:
    half = pretune.load(folders[name], device="cpu", precision="bf16")
    exact, actual = models[name].embed(LINES), half.embed(LINES)
    cosine = (exact * actual).sum(1) / np.linalg.norm(exact, axis=1) / np.linalg.norm(actual, axis=1)
    assert cosine.min() > 0.999
    assert not np.array_equal(exact, actual)


def test_load_refuses(folders: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(MissingInputError):
        pretune.load(tmp_path / "nothing")
    with pytest.raises(UsageError, match="device 'tpu'"):
        pretune.load(folders["mlm"], device="tpu")
    with pytest.raises(DataError, match="the tokenizer has 300 tokens, the model of"):
        pretune.load(folders["mlm"], tokenizer=folders["gpt2"])


def test_stated_length_is_kept(folders: dict[str, Path]) -> None:
    model = pretune.load(folders["mlm"], precision="fp32")
    assert model.length == 48
    model.tokenizer.settings["model_max_length"] = 10
    assert model.length == 10
    model.tokenizer.settings["model_max_length"] = 1e30
    assert model.length == 48


@pytest.mark.parametrize("call", [pretune.pretrain, pretune.finetune])
def test_recipes_are_read_first(call: object, tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="no such recipe"):
        call(tmp_path / "recipe.toml")  # type: ignore[operator]
    with pytest.raises(UsageError, match="did you mean 'budget'"):
        call({"budgte": {"steps": 3}})  # type: ignore[operator]


def test_finetune_gives_a_model_that_predicts(tmp_path: Path) -> None:
    rows = [(label, f"the {label} ate {'a hat ' * (n % 4)}{n}") for n in range(10) for label in ("cat", "dog")]
    train = tmp_path / "train.csv"
    train.write_text("label,text\n" + "".join(f"{a},{b}\n" for a, b in rows), encoding="utf-8")
    word_tokenizer().save(tmp_path / "tokenizer")
    recipe = {
        "output": str(tmp_path / "run"),
        "model": {"family": "bert", "size": "tiny", "overrides": {"num_hidden_layers": 1}},
        "task": "classification",
        "data": {"train": str(train), "tokenizer": str(tmp_path / "tokenizer"), "batch": 8, "length": 24},
        "budget": {"steps": 3},
        "device": "cpu",
        "precision": "fp32",
        "track": {"progress": "quiet"},
    }
    model = pretune.finetune(recipe)
    assert model.labels == ["cat", "dog"]
    assert model.length == 24, "texts are cut in use as they were in training"
    assert 0 <= model.evaluate(train)["accuracy"] <= 1
    assert pretune.load(tmp_path / "run", precision="fp32").predict("the cat") == model.predict("the cat")
    train.write_text("label,text\n" + "".join(f"cat,{b}\n" for _, b in rows), encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.csv.*have the label 'cat'"):
        pretune.finetune({**recipe, "output": str(tmp_path / "other")})


def test_pretrain_gives_a_model_that_generates(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(
        "\n\n".join(f"{n} {text}" for n in range(20) for text in TEXTS), encoding="utf-8"
    )
    config = PrepareConfig(validation=0.1, processes=1)
    prepare(tmp_path / "text.txt", byte_tokenizer(), tmp_path / "store", config)
    model = pretune.pretrain(
        {
            "output": str(tmp_path / "run"),
            "model": {"family": "gpt2", "size": "tiny", "overrides": {"n_layer": 1}},
            "objective": "clm",
            "data": {"stores": str(tmp_path / "store"), "batch": 4, "length": 16},
            "budget": {"steps": 2},
            "device": "cpu",
            "precision": "fp32",
            "track": {"progress": "quiet"},
        }
    )
    (actual,) = model.continuations(["the cat"], max_new_tokens=50)
    assert actual.prompt_tokens + len(actual.tokens) == 16, "positions past the length were never trained"
    assert actual.reason == "context"
    assert model.evaluate(tmp_path / "store")["loss/clm"] > 0


def test_a_model_in_use_imports_no_library_that_it_does_not_need() -> None:
    libraries = {"sklearn", "scipy", "pandas", "transformers"}
    code = f"import sys, pretune.model; sys.exit(str(sorted({libraries} & set(sys.modules))))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == "[]"
