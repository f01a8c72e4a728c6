"""What reading a model's files found is said by every verb, and by a run of its teacher."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer

from pretune.cli import main
from pretune.errors import DataError
from pretune.interop.huggingface import load_model
from pretune.models.metadata import Loaded

EXTRA = "some.adapter.weight"


def add_weight(folder: Path) -> Path:
    path = folder / "model.safetensors"
    save_file({**load_file(path), EXTRA: torch.zeros(2)}, path, {"format": "pt"})
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(fields | {"odd_field": 3}))
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    save_bert(root / "bert", word_tokenizer())
    save_gpt2(root / "gpt2", byte_tokenizer())
    return {path.name: add_weight(path) for path in root.iterdir()}


VERBS = [
    ("bert", ["fill", "the [MASK] fox"]),
    ("bert", ["embed", "a hat"]),
    ("gpt2", ["generate", "a hat", "--max-new-tokens", "2"]),
    ("gpt2", ["score", "a hat"]),
    ("gpt2", ["export"]),
]


@pytest.mark.parametrize(("name", "words"), VERBS, ids=lambda value: value if isinstance(value, str) else value[0])
def test_every_verb_says_what_is_left_over(name, words, folders, tmp_path, capsys):
    verb, *rest = words
    output = [str(tmp_path / "out")] if verb == "export" else []
    flags = ["--output", str(tmp_path / "vectors.npy")] if verb == "embed" else []
    assert main([verb, str(folders[name]), *output, *rest, *flags]) == 0
    said_aloud = capsys.readouterr().err
    assert f"not used of the model's files: 1 weight ({EXTRA})" in said_aloud
    assert "config.json: field 'odd_field' is not known here and is handed on unread" in said_aloud
    if verb == "export":
        assert json.loads((tmp_path / "out" / "config.json").read_text())["odd_field"] == 3


def test_a_missing_output_layer_is_refused_by_every_verb(tmp_path, capsys):
    save_gpt2(tmp_path / "gpt2", byte_tokenizer())
    fields = json.loads((tmp_path / "gpt2" / "config.json").read_text())
    (tmp_path / "gpt2" / "config.json").write_text(json.dumps(fields | {"tie_word_embeddings": False}))
    for words in (["generate", str(tmp_path / "gpt2"), "a"], ["export", str(tmp_path / "gpt2"), str(tmp_path / "o")]):
        assert main(words) == DataError.code
        assert "weight 'lm_head.weight' is missing" in capsys.readouterr().err


def test_many_weights_are_counted_and_not_listed():
    names = [f"cls.predictions.{part}.{kind}" for part in "abc" for kind in ("weight", "bias")]
    loaded = Loaded(initialised=["heads.nsp.linear.weight", "heads.nsp.linear.bias"], unexpected=[*names, "cls.nsp.a"])
    assert loaded.messages() == [
        "newly initialized, not in the model's files: 2 weights (heads.nsp)",
        "not used of the model's files: 7 weights (cls.predictions, cls.nsp)",
    ]
    assert loaded.record()["not_used"] == [*names, "cls.nsp.a"]


def test_a_head_that_the_files_lack_has_no_labels_that_differ(tmp_path):
    save_bert(tmp_path / "bert", word_tokenizer())
    model = load_model(tmp_path / "bert", heads=["classification"], labels=["a", "b", "c"])
    assert not any("re-initialized" in note for note in model.loaded.messages())
