"""Cross-encoders and sparse encoders of `sentence-transformers`: equal numbers from its files, and from ours in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentence_transformers
import torch
import transformers
from tinymodels import save_bert, word_tokenizer

import pretune
from pretune.cli import main
from pretune.errors import DataError, UsageError

TEXTS = ["the quick brown fox", "a hat", "the lazy dog and the cat ate a hat"]
PAIRS = [("the fox", "a hat"), ("the cat", "the lazy dog jumps")]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    save_bert(folder, word_tokenizer())
    return folder


@pytest.fixture(scope="module")
def scores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scores")
    save_bert(folder, word_tokenizer(), transformers.BertForSequenceClassification, ["LABEL_0"])
    return folder


def load(folder: Path) -> Any:
    return pretune.load(folder, device="cpu", precision="fp32")


def change(path: Path, **fields: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def cross(folder: Path, activation: Any, output: Path) -> Any:
    model = sentence_transformers.CrossEncoder(str(folder), device="cpu", activation_fn=activation)
    model.save_pretrained(str(output))
    return model


@pytest.mark.parametrize("activation", [torch.nn.Sigmoid(), torch.nn.Identity()])
def test_cross_encoders_are_read_and_written(scores: Path, tmp_path: Path, activation: Any) -> None:
    wanted = cross(scores, activation, tmp_path / "cross").predict(PAIRS)
    model = load(tmp_path / "cross")
    got = model.predict(*map(list, zip(*PAIRS, strict=True)), task="reranking")
    assert [each["score"] for each in got] == pytest.approx(wanted.tolist(), abs=1e-5)
    default = [
        each.get("value", each.get("probability")) for each in model.predict(*map(list, zip(*PAIRS, strict=True)))
    ]
    assert default == pytest.approx(wanted.tolist(), abs=1e-5)
    model.export(tmp_path / "out")
    again = sentence_transformers.CrossEncoder(str(tmp_path / "out"), device="cpu")
    assert type(again.activation_fn) is type(activation)
    assert again.predict(PAIRS).tolist() == pytest.approx(wanted.tolist(), abs=1e-5)


def test_activations_that_are_not_known_are_refused(scores: Path, tmp_path: Path) -> None:
    cross(scores, torch.nn.Sigmoid(), tmp_path / "cross")
    path = tmp_path / "cross" / "config_sentence_transformers.json"
    change(path, activation_fn="os.system")
    with pytest.raises(DataError, match=r"'activation_fn' = .os.system.: expected torch.nn.modules.activation.Sigmoid"):
        load(tmp_path / "cross")
    change(path, activation_fn="torch.nn.modules.activation.Sigmoid", prompts={"q": "a "}, default_prompt_name="q")
    with pytest.raises(DataError, match="no prompt is put before pairs"):
        load(tmp_path / "cross")


def sparse(folder: Path, output: Path, **pooling: str) -> Any:
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sparse_encoder.modules import SpladePooling

    first = Transformer(str(folder), transformer_task="fill-mask")
    model = sentence_transformers.SparseEncoder(modules=[first, SpladePooling(**pooling)], device="cpu")
    model.save_pretrained(str(output), create_model_card=False)
    return model


@pytest.mark.parametrize(
    "pooling",
    [{}, {"pooling_strategy": "sum"}, {"activation_function": "log1p_relu"}],
    ids=["max", "sum", "twice"],
)
def test_sparse_encoders_are_read_and_written(words: Path, tmp_path: Path, pooling: dict[str, str]) -> None:
    wanted = sparse(words, tmp_path / "sparse", **pooling).encode(TEXTS).to_dense().numpy()
    model = load(tmp_path / "sparse")
    assert model.is_sparse
    vectors = model.embed_sparse(TEXTS)
    assert vectors.dtype == np.float32
    np.testing.assert_allclose(vectors.toarray(), wanted, atol=1e-5, rtol=1e-5)
    model.export(tmp_path / "out")
    again = sentence_transformers.SparseEncoder(str(tmp_path / "out"), device="cpu")
    np.testing.assert_allclose(again.encode(TEXTS).to_dense().numpy(), wanted, atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(load(tmp_path / "out").embed_sparse(TEXTS).toarray(), wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(UsageError, match=r"makes sparse vectors: use Model\.embed_sparse"):
        model.embed(TEXTS)
    assert model.embed(TEXTS, "mean").shape == (3, 32)


def test_older_folders_of_sparse_encoders_are_read(words: Path, tmp_path: Path) -> None:
    wanted = sparse(words, tmp_path / "sparse").encode(TEXTS).to_dense().numpy()
    path = tmp_path / "sparse" / "modules.json"
    modules = json.loads(path.read_text())
    modules[0]["type"] = "sentence_transformers.sparse_encoder.models.MLMTransformer"
    modules[1]["type"] = "sentence_transformers.sparse_encoder.models.SpladePooling"
    path.write_text(json.dumps(modules))
    (tmp_path / "sparse" / "sentence_bert_config.json").write_text('{"max_seq_length": 48, "do_lower_case": false}')
    peer = sentence_transformers.SparseEncoder(str(tmp_path / "sparse"), device="cpu")
    np.testing.assert_allclose(peer.encode(TEXTS).to_dense().numpy(), wanted, atol=1e-6, rtol=1e-5)
    np.testing.assert_allclose(load(tmp_path / "sparse").embed_sparse(TEXTS).toarray(), wanted, atol=1e-5, rtol=1e-5)


def test_damaged_files_of_sparse_encoders_are_refused(words: Path, tmp_path: Path) -> None:
    sparse(words, tmp_path / "sparse")
    change(tmp_path / "sparse" / "1_SpladePooling" / "config.json", pooling_strategy="mean")
    with pytest.raises(DataError, match=r"'pooling_strategy' = .mean.: expected max or sum"):
        load(tmp_path / "sparse")


def test_any_masked_model_gives_sparse_vectors_when_asked(words: Path, scores: Path) -> None:
    wanted = sentence_transformers.SparseEncoder(str(words), device="cpu").encode(TEXTS).to_dense().numpy()
    np.testing.assert_allclose(load(words).embed_sparse(TEXTS).toarray(), wanted, atol=1e-5, rtol=1e-5)
    with pytest.raises(UsageError, match="no head of masked language modelling"):
        load(scores).embed_sparse(TEXTS)


@pytest.mark.parametrize(
    ("kind", "name"), [("scores", "CrossEncoder"), ("words", "SentenceTransformer"), ("sparse", "SparseEncoder")]
)
def test_the_class_fits_the_model(words: Path, scores: Path, tmp_path: Path, kind: str, name: str, capsys: Any) -> None:
    """`pretune export --format sentence-transformers` writes what this class reads with equal numbers."""
    folder = {"words": words, "scores": tmp_path / "cross", "sparse": tmp_path / "sparse"}[kind]
    if kind == "scores":
        cross(scores, torch.nn.Identity(), folder)
    elif kind == "sparse":
        sparse(words, folder)
    assert main(["export", str(folder), str(tmp_path / "out"), "--format", "sentence-transformers"]) == 0
    said = "".join(capsys.readouterr())
    noun = "10 scores of pairs" if kind == "scores" else "11 vectors"
    assert f"all equal: {name}; " in said
    assert f"sentence-transformers 6.2.0: the same {noun}" in said
    assert f"print(s.{name}(" in said
    model, again = load(folder), load(tmp_path / "out")
    if kind == "scores":
        assert again.predict(*map(list, zip(*PAIRS, strict=True))) == model.predict(
            *map(list, zip(*PAIRS, strict=True))
        )
    elif kind == "sparse":
        assert (again.embed_sparse(TEXTS) != model.embed_sparse(TEXTS)).nnz == 0
    else:
        np.testing.assert_array_equal(again.embed(TEXTS), model.embed(TEXTS))


def test_vectors_of_several_lengths_are_cut_there_too(words: Path, tmp_path: Path) -> None:
    pretune.finetune(
        model=str(words),
        task={"similarity": {"dims": (32, 16, 8)}},
        train=[{"text": f"the {noun}", "second": f"a {noun}"} for noun in ("fox", "dog", "cat", "hat")],
        data={"length": 16, "batch": 4, "columns": {"second": "second"}},
        output=str(tmp_path / "run"),
        steps=2,
        device="cpu",
        precision="fp32",
        track={"report": False, "progress": "quiet"},
    )
    model = load(tmp_path / "run")
    result = model.export_for("sentence-transformers", tmp_path / "out")
    assert any("cut to 16, 8 numbers: SentenceTransformer(folder, truncate_dim=8)" in note for note in result.notes)
    for dim in (16, 8):
        peer = sentence_transformers.SentenceTransformer(str(tmp_path / "out"), device="cpu", truncate_dim=dim)
        np.testing.assert_allclose(model.embed(TEXTS, dim=dim), peer.encode(TEXTS), atol=1e-5, rtol=1e-5)
