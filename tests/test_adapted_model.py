"""One base with several adapters in use at once: what each says is what it says alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer

import pretune
from pretune.adapted_model import AdaptedModel
from pretune.api import Model
from pretune.cli import main
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.interop.deltas import save_delta
from pretune.interop.fingerprint import body_fingerprint
from pretune.interop.huggingface import load_model
from pretune.interop.tuned_model import tune
from pretune.models.metadata import Metadata
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.tune.method import find_method

TEXTS = [
    "the quick brown fox",
    "a hat",
    "the cat ate a hat",
    "the lazy dog and the cat",
    "over the dog",
    "fox",
    "the hat jumps over the quick brown cat and the fox",
]
METHODS: dict[str, tuple[str, dict[str, object]]] = {
    "low": ("lora", {"rank": 2}),
    "all": ("lora", {"rank": 3, "places": ["attention", "feedforward"]}),
    "decomposed": ("lora", {"rank": 2, "weight_decomposed": True}),
    "prefixed": ("prefix", {"length": 3}),
    "last": ("top", {"layers": 1}),
}
NAMES = ["low", "prefixed", None, "all", "low", "last", "decomposed"]


def save_adapters(base: Path, root: Path, tokenizer: Tokenizer, heads: list[str]) -> dict[str, Path]:
    """Adapters of a base by several methods, with values that some training would have given."""
    folders = {}
    for seed, (name, (method_name, settings)) in enumerate(METHODS.items()):
        model = load_model(base, heads=heads)
        method = find_method(method_name, settings)
        model.metadata = Metadata(base=body_fingerprint(model), heads=dict.fromkeys(heads, "standard"))
        model = tune(model, method)
        torch.manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.add_(torch.randn_like(weight) * 0.3)
        folders[name] = root / name
        save_delta(model, folders[name], method, str(base), tokenizer)
    return folders


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    out: dict[str, dict[str, Path]] = {}
    for kind in ("labels", "gpt2"):
        root = tmp_path_factory.mktemp(kind)
        if kind == "labels":
            save_bert(root / "base", word_tokenizer(), transformers.BertForSequenceClassification, ["bad", "good"])
            adapters = save_adapters(root / "base", root, word_tokenizer(), ["classification"])
        else:
            save_gpt2(root / "base", byte_tokenizer())
            adapters = save_adapters(root / "base", root, byte_tokenizer(), ["clm"])
        out[kind] = {"base": root / "base", **adapters}
    return out


def load(parts: dict[str, Path]) -> AdaptedModel:
    adapters = {name: folder for name, folder in parts.items() if name != "base"}
    model = pretune.load(parts["base"], device="cpu", precision="fp32", adapters=adapters)
    assert isinstance(model, AdaptedModel)
    return model


@pytest.fixture(scope="module")
def classifier(folders: dict[str, dict[str, Path]]) -> AdaptedModel:
    return load(folders["labels"])


@pytest.fixture(scope="module")
def writer(folders: dict[str, dict[str, Path]]) -> AdaptedModel:
    return load(folders["gpt2"])


@pytest.fixture(scope="module")
def alone(folders: dict[str, dict[str, Path]]) -> dict[str, dict[str | None, Model]]:
    return {
        kind: {
            None if name == "base" else name: pretune.load(folder, device="cpu", precision="fp32")
            for name, folder in parts.items()
        }
        for kind, parts in folders.items()
    }


def test_predictions_of_a_mixed_batch(
    classifier: AdaptedModel, alone: dict[str, dict[str | None, Model]], monkeypatch: pytest.MonkeyPatch
) -> None:
    together: list[int] = []
    forward = type(classifier._together).forward
    monkeypatch.setattr(
        type(classifier._together),
        "forward",
        lambda self, batch, **more: (
            together.append(batch.layout.count) if self is classifier._together else None,
            forward(self, batch, **more),
        )[1],
    )
    predictions = classifier.predict(TEXTS, adapter=NAMES)
    assert together == [6]  # one forward for all but the one that trained a layer
    for text, name, prediction in zip(TEXTS, NAMES, predictions, strict=True):
        wanted = alone["labels"][name].predict(text)
        assert prediction.label == wanted.label
        for label, probability in wanted.probabilities.items():
            assert prediction.probabilities[label] == pytest.approx(probability, abs=1e-5)
    assert len({round(p.probability, 4) for p in predictions}) > 4
    assert len(predictions.table().rows) == len(TEXTS)
    one = classifier.predict(TEXTS[0], adapter="all")
    assert one.probability == pytest.approx(alone["labels"]["all"].predict(TEXTS[0]).probability, abs=1e-5)
    plain = classifier.predict(TEXTS)
    assert [p.probability for p in plain] == pytest.approx(
        [alone["labels"][None].predict(t).probability for t in TEXTS]
    )


def test_vectors_of_a_mixed_batch(classifier: AdaptedModel, alone: dict[str, dict[str | None, Model]]) -> None:
    for pooling in (None, "cls"):
        vectors = classifier.embed(TEXTS, pooling, adapter=NAMES)
        wanted = np.stack([alone["labels"][n].embed(t, pooling) for t, n in zip(TEXTS, NAMES, strict=True)])
        np.testing.assert_allclose(vectors, wanted, atol=1e-5 * np.abs(wanted).max())
    assert classifier.embed(TEXTS[0], adapter="low").shape == (32,)
    assert classifier.embed([], adapter=[]).shape == (0, 32)


@pytest.mark.parametrize("beams", [1, 3])
def test_texts_of_a_mixed_batch(writer: AdaptedModel, alone: dict[str, dict[str | None, Model]], beams: int) -> None:
    options = {"max_new_tokens": 6, "temperature": 0.0, "beams": beams}
    texts = writer.generate(TEXTS, adapter=NAMES, **options)
    wanted = [alone["gpt2"][name].generate(text, **options) for text, name in zip(TEXTS, NAMES, strict=True)]
    assert texts == wanted
    assert len(set(texts)) > 4
    assert writer.generate(TEXTS[0], adapter="low", **options) == wanted[0]
    assert writer.generate(TEXTS[2], **options) == wanted[2]


def test_which_adapters_read_apart_is_said(classifier: AdaptedModel) -> None:
    assert classifier.adapters == tuple(METHODS)
    assert list(classifier.apart) == ["last"]
    assert "has other values" in classifier.apart["last"]


def test_mistakes_are_named(classifier: AdaptedModel, folders: dict[str, dict[str, Path]], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no adapter 'lwo'; did you mean 'low'"):
        classifier.predict(TEXTS[:1], adapter=["lwo"])
    with pytest.raises(UsageError, match="2 names of adapters for 7 texts"):
        classifier.embed(TEXTS, adapter=["low", "low"])
    base = folders["labels"]["base"]
    with pytest.raises(UsageError, match="adapter 'whole'"):
        pretune.load(base, device="cpu", adapters={"whole": base})
    with pytest.raises(MissingInputError):
        pretune.load(base, device="cpu", adapters={"gone": tmp_path / "gone"})
    with pytest.raises(DataError):
        pretune.load(folders["gpt2"]["base"], device="cpu", adapters={"low": folders["labels"]["low"]})
    assert json.loads((folders["labels"]["low"] / "delta.json").read_text())["method"]


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str], str]:
    """The verb's exit code, the lines that it wrote, and what it said."""
    code = main([*arguments, "--no-allocator", "--device", "cpu", "--precision", "fp32"])
    captured = capsys.readouterr()
    return code, captured.out.splitlines(), captured.err


def test_verbs_read_rows_by_a_column(
    folders: dict[str, dict[str, Path]],
    alone: dict[str, dict[str | None, Model]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "rows.jsonl"
    rows = [{"text": text, "which": name, "id": n} for n, (text, name) in enumerate(zip(TEXTS, NAMES, strict=True))]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    parts = folders["labels"]
    names = ",".join(f"{name}={folder}" for name, folder in parts.items() if name != "base")
    flags = ["--adapters", names, "--adapter-column", "which"]
    code, lines, said = run("predict", str(parts["base"]), str(file), *flags, capsys=capsys)
    assert code == 0, said
    for line, text, name in zip(map(json.loads, lines), TEXTS, NAMES, strict=True):
        wanted = alone["labels"][name].predict(text)
        assert (line["label"], line["which"]) == (wanted.label, name)
        assert line["probability"] == pytest.approx(wanted.probability, abs=1e-4)
    code, lines, said = run("embed", str(parts["base"]), str(file), *flags, capsys=capsys)
    assert code == 0, said
    wanted_vector = alone["labels"]["prefixed"].embed(TEXTS[1])
    np.testing.assert_allclose(json.loads(lines[1])["vector"], wanted_vector, atol=1e-4)
    code, lines, said = run("predict", str(parts["base"]), TEXTS[0], *flags[:2], "--adapter", "low", capsys=capsys)
    assert json.loads(lines[0])["label"] == alone["labels"]["low"].predict(TEXTS[0]).label, said


def test_generate_reads_rows_by_a_column(
    folders: dict[str, dict[str, Path]],
    alone: dict[str, dict[str | None, Model]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("text,which\n" + "".join(f"{t},{n or ''}\n" for t, n in zip(TEXTS, NAMES, strict=True)))
    parts = folders["gpt2"]
    names = [text for n, folder in parts.items() if n != "base" for text in ("--adapters", f"{n}={folder}")]
    more = ["--adapter-column", "which", "--max-new-tokens", "5", "--json"]
    code, lines, said = run("generate", str(parts["base"]), str(file), *names, *more, capsys=capsys)
    assert code == 0, said
    wanted = [alone["gpt2"][n].generate(t, max_new_tokens=5) for t, n in zip(TEXTS, NAMES, strict=True)]
    assert [json.loads(line)["generated_text"] for line in lines] == wanted


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--adapters", "low", "--adapter", "low"], "expected NAME=FOLDER"),
        (["--adapters", "a=x,a=y", "--adapter", "a"], "given twice"),
        (["--adapters", "a=x"], "say which one reads a row"),
        (["--adapter", "a"], "there are no adapters"),
        (["--adapters", "a=x", "--adapter", "a", "--adapter-column", "which"], "leave one of them out"),
        (["--adapters", "a=x", "--adapter-column", "which"], "name the file too"),
    ],
)
def test_flags_that_do_not_fit(
    folders: dict[str, dict[str, Path]], flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = run("predict", str(folders["labels"]["base"]), "a hat", *flags, capsys=capsys)
    assert code == 64
    assert message in said
