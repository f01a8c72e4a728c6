"""Sparse vectors: what is learned, how sparse it becomes, and what `SparseEncoder` makes of the files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import sentence_transformers
import torch
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer

import pretune
from pretune.batch import StepContext
from pretune.cli import main
from pretune.draw import Draw
from pretune.errors import UsageError
from pretune.interop.huggingface import load_model
from pretune.nn.splade import flops
from pretune.tasks.shared.records import read_examples
from pretune.tasks.sparse import Sparse
from pretune.text.readers.labelled import LabelledConfig
from pretune.text.samples.examples import ExampleView

WORDS = word_tokenizer()
NOUNS = ["fox", "dog", "cat", "hat"]
FIELDS: dict[str, Any] = {
    "steps": 300,
    "lr": 3e-3,
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
    "evaluation": {"every": 300},
    "track": {"report": False, "progress": "quiet"},
}
COLUMNS = {"text": "query", "second": "passage"}


def pairs() -> list[dict[str, object]]:
    verbs = ["jumps", "ate", "the lazy", "quick"]
    return [{"query": f"the {noun}", "passage": f"{verb} {noun}"} for noun in NOUNS for verb in verbs]


def train(folder: Path, name: str, **fields: Any) -> Any:
    save_bert(folder / "bert", WORDS)
    return pretune.finetune(
        model=str(folder / "bert"),
        task={"sparse": fields},
        train=pairs(),
        data={"length": 24, "batch": 8, "columns": COLUMNS},
        output=str(folder / name),
        **FIELDS,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sparse")
    train(folder, "run", flops_query=0.005, flops_document=0.005, flops_steps=60)
    return folder / "run"


def load(folder: Path) -> Any:
    return pretune.load(folder, device="cpu", precision="fp32")


def recall(model: Any) -> float:
    """How often the product is largest with a passage of the same noun."""
    queries, passages = ([str(pair[name]) for pair in pairs()] for name in ("query", "passage"))
    scores = (model.embed_sparse(queries) @ model.embed_sparse(passages).T).toarray()
    return float(
        np.mean(
            [passages[n].split()[-1] == query.split()[-1] for n, query in zip(scores.argmax(1), queries, strict=True)]
        )
    )


def test_it_learns_sparse_vectors(trained: Path) -> None:
    model, before = load(trained), load(trained.parent / "bert")
    texts = [str(pair["passage"]) for pair in pairs()]
    assert recall(model) > 0.9
    assert model.embed_sparse(texts).nnz < 0.6 * before.embed_sparse(texts).nnz
    (score,) = model.predict(["the fox"], ["ate fox"])
    first, second = model.embed_sparse(["the fox", "ate fox"]).toarray()
    assert score == pytest.approx(float(first @ second), rel=1e-5)


def test_sentence_transformers_gives_the_same_vectors(trained: Path, tmp_path: Path) -> None:
    model = load(trained)
    texts = ["the quick brown fox", "a hat and the lazy dog", "fox"]
    own = model.embed_sparse(texts).toarray()
    for folder in (trained, tmp_path / "out"):
        if folder != trained:
            model.export(folder)
        where = folder / "model" if (folder / "model" / "modules.json").is_file() else folder
        peer = sentence_transformers.SparseEncoder(str(where), device="cpu")
        np.testing.assert_allclose(peer.encode(texts).to_dense().numpy(), own, atol=1e-5, rtol=1e-5)
    weights = model.token_weights(model.embed_sparse(texts))
    peer_weights = peer.decode(peer.encode(texts[0]))
    assert [token for token, _ in peer_weights] == list(weights[0])


def batch_and_model(folder: Path, **fields: Any) -> tuple[Sparse, Any, list[Any]]:
    save_bert(folder, WORDS)
    config = Sparse.Config(columns=LabelledConfig(**COLUMNS), loss="contrast", **fields)
    task = Sparse(config, WORDS.vocabulary)
    model = load_model(folder)
    examples = read_examples(task, pairs()[:6])
    rows = ExampleView(task.encode(examples, WORDS, 24)).read(np.arange(6), 0, 0, Draw(0))
    return task, model.eval(), rows


def test_terms_are_contrast_and_flops(tmp_path: Path) -> None:
    task, model, rows = batch_and_model(tmp_path, flops_steps=10, flops_query=0.4, flops_document=0.2)
    batch = task.build_batch(rows, Draw(0), step=5)
    contrast, query, document = task(model, batch)
    table = task.sparse_table(model, model(batch), batch)
    assert (contrast.name, query.name, document.name) == ("sparse", "sparse/flops_query", "sparse/flops_document")
    assert {term.name: term.count for term in (contrast, query, document)} == task.counts(batch)
    assert float(query.sum) / 6 == pytest.approx(float(flops(table[:, 0])), rel=1e-5)
    assert float(document.sum) / 6 == pytest.approx(float(flops(table[:, 1])), rel=1e-5)
    assert (query.weight, document.weight) == (pytest.approx(0.4 / 4), pytest.approx(0.2 / 4))
    assert task.config.weights_at(None) == (0.4, 0.2)
    assert task.config.weights_at(10) == (0.4, 0.2)


def test_terms_do_not_depend_on_how_a_step_is_divided(tmp_path: Path) -> None:
    task, model, rows = batch_and_model(tmp_path)
    whole = task(model, task.build_batch(rows, Draw(0), step=0))
    parts = [task.build_batch(rows[:2], Draw(0), step=0), task.build_batch(rows[2:], Draw(0), step=0)]
    with torch.no_grad():
        shared = torch.cat([task.gather_across_step(model, part, 2) for part in parts])
    parts = [replace(part, step_context=StepContext(shared, start)) for part, start in zip(parts, (0, 2), strict=True)]
    divided = [task(model, part) for part in parts]
    for n, term in enumerate(whole):
        assert sum(float(each[n].sum) for each in divided) == pytest.approx(float(term.sum), rel=1e-4)
    weight = next(model.stack.parameters())
    gradients = []
    for terms in (whole, [term for each in divided for term in each]):
        model.zero_grad()
        torch.stack([term.sum for term in terms]).sum().backward()
        gradients.append(weight.grad.clone())
    assert torch.allclose(gradients[0], gradients[1], atol=1e-3, rtol=1e-3)


def test_settings_and_models_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dims and projection are of dense vectors"):
        Sparse.Config(dims=(8,))
    reader = Sparse(Sparse.Config(columns=LabelledConfig(**COLUMNS), loss="cosine"), WORDS.vocabulary)
    examples = read_examples(reader, [{**pair, "label": n % 2} for n, pair in enumerate(pairs())])
    with pytest.raises(UsageError, match="it compares cosines, and sparse vectors have products"):
        reader.resolve_config(examples)
    save_gpt2(tmp_path, byte_tokenizer())
    with pytest.raises(UsageError, match="needs a model that sees both sides of a token, and gpt2 does not"):
        reader.heads(load_model(tmp_path))


def test_embed_writes_weights_and_matrices(trained: Path, tmp_path: Path, capsys: Any) -> None:
    assert main(["embed", str(trained), "the fox", "a hat", "--json", "--precision", "fp32"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    model = load(trained)
    assert list(lines[0]["vector"]) == list(model.token_weights(model.embed_sparse(["the fox"]))[0])
    path = tmp_path / "out.npz"
    assert main(["embed", str(trained), "the fox", "a hat", "--output", str(path), "--precision", "fp32"]) == 0
    np.testing.assert_allclose(
        scipy.sparse.load_npz(path).toarray(), model.embed_sparse(["the fox", "a hat"]).toarray(), atol=1e-6
    )
    assert main(["embed", str(trained), "the fox", "--output", str(tmp_path / "out.npy")]) == 64
    assert "this model's vectors are sparse; write .npz or .jsonl" in capsys.readouterr().err
    assert main(["embed", str(trained.parent / "bert"), "the fox", "--output", str(tmp_path / "other.npz")]) == 64


def test_deltas_remember_that_vectors_are_sparse(tmp_path: Path) -> None:
    save_bert(tmp_path / "bert", WORDS)
    trained = pretune.finetune(
        model=str(tmp_path / "bert"),
        task="sparse",
        tune="lora",
        train=pairs(),
        data={"length": 24, "batch": 8, "columns": COLUMNS},
        output=str(tmp_path / "run"),
        **{**FIELDS, "steps": 3, "evaluation": {"every": 3}},
    )
    model = load(tmp_path / "run")
    assert model.is_sparse
    np.testing.assert_allclose(
        model.embed_sparse(["the fox"]).toarray(), trained.embed_sparse(["the fox"]).toarray(), atol=1e-5
    )
