"""What is exported is read again and compared before it is called done."""

from __future__ import annotations

import json
from pathlib import Path

import parity
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tinymodels import byte_tokenizer, save_bert, word_tokenizer

from pretune import api
from pretune.cli import main
from pretune.errors import CannotCreateError, DataError
from pretune.find import variants
from pretune.interop import export as module
from pretune.interop.export import export_model
from pretune.interop.huggingface import load_model, save_model
from pretune.models import build
from pretune.models.model import LanguageModel, get_family

SMALL = {"vocab_size": 300}


def make(family: str) -> LanguageModel:
    roles = list(max(get_family(family).ARCHITECTURES.values(), key=len))
    labels = ["a", "b"] if "classification" in roles else None
    model = build(family, "tiny", roles, SMALL, labels=labels).eval()
    parity.randomise(model)
    return model


@pytest.mark.parametrize("family", variants("models"))
def test_every_family_is_written_and_found_the_same(family: str, tmp_path: Path) -> None:
    model = make(family)
    actual = export_model(model, tmp_path / "out", byte_tokenizer(), max_shard_bytes=200_000)
    assert actual.difference == 0
    assert actual.weights == sum(p.numel() for p in model.parameters())
    assert len(list((tmp_path / "out").glob("*.safetensors"))) > 1
    auto = transformers.AutoModelForSeq2SeqLM if family == "bert2bert" else transformers.AutoModel  # it has no other
    theirs = auto.from_pretrained(tmp_path / "out")
    assert theirs.config.model_type == get_family(family).__dict__.get("MODEL_TYPE", family)


@pytest.mark.parametrize("format", ["bf16", "fp16"])
def test_a_smaller_format(format: module.Format, tmp_path: Path) -> None:
    model = make("bert")
    actual = export_model(model, tmp_path / "out", format=format)
    assert 0 < actual.difference < 0.1
    again = load_model(tmp_path / "out", dtype=torch.bfloat16 if format == "bf16" else torch.float16)
    assert transformers.AutoConfig.from_pretrained(tmp_path / "out").dtype == again.embedding.word.weight.dtype


def test_a_weight_that_comes_back_as_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing is left where the check fails, and what was there before stays."""

    def spoiled(*args: object, **kwargs: object) -> LanguageModel:
        again = load_model(*args, **kwargs)  # type: ignore[arg-type]
        with torch.no_grad():
            again.stack.blocks[0].feedforward.up.bias[3] += 1e-6  # type: ignore[union-attr,index,operator]
        return again

    model = make("bert")
    export_model(model, tmp_path / "out")
    before = (tmp_path / "out" / "model.safetensors").read_bytes()
    monkeypatch.setattr(module, "load_model", spoiled)
    with pytest.raises(DataError, match=r"weight 'stack.blocks.0.feedforward.up.bias' is another"):
        export_model(model, tmp_path / "out")
    with pytest.raises(DataError, match="is another"):
        export_model(model, tmp_path / "new")
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_gpt2_has_the_older_name_of_its_length(tmp_path: Path) -> None:
    """llama.cpp's converter stops at a GPT-2 without `n_ctx`."""
    export_model(make("gpt2"), tmp_path / "out", byte_tokenizer())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["n_ctx"] == config["n_positions"]


def test_a_configuration_that_does_not_say_all(tmp_path: Path) -> None:
    """Equal weights are not enough: the model computes with something that its configuration does not hold."""
    model = make("bert")
    model.embedding.norm.eps = 0.5  # type: ignore[union-attr,assignment]
    with pytest.raises(DataError, match=r"outputs of the model that was written differ"):
        export_model(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_verb_reads_in_the_precision_that_is_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The flag was dropped without a word; whatever it says, the weights that are written are not rounded."""
    save_bert(tmp_path / "model", word_tokenizer())
    for precision in ("bf16", "fp32"):
        words = ["export", str(tmp_path / "model"), str(tmp_path / precision), "--precision", precision]
        assert main([*words, "--no-allocator"]) == 0
        assert f"precision: {precision} (as chosen)" in capsys.readouterr().err
    actual, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("bf16", "fp32"))
    assert all(torch.equal(actual[name], tensor) for name, tensor in expected.items())


def test_verb_and_library(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_bert(tmp_path / "model", word_tokenizer())
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "out")]) == 0
    assert "done: read back and compared" in capsys.readouterr().err
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert main(["export", str(tmp_path / "model"), str(tmp_path / "out"), "--max-shard-gb", "0"]) == 64
    half = api.load(tmp_path / "model", precision="bf16")
    half.export(tmp_path / "half")  # what was rounded is read again: the README's own example on a CPU with bf16
    for name in ("model.safetensors", "config.json"):
        assert (tmp_path / "half" / name).read_bytes() == (tmp_path / "out" / name).read_bytes()
    weights = tmp_path / "model" / "model.safetensors"
    save_file({name: tensor + 1 for name, tensor in load_file(weights).items()}, weights, {"format": "pt"})
    with pytest.raises(DataError, match="is another than when the model was loaded"):
        half.export(tmp_path / "third")


def test_another_model_is_not_written_over(tmp_path: Path) -> None:
    """A classifier became a BertForPreTraining."""
    save_bert(tmp_path / "labels", word_tokenizer(), transformers.BertForSequenceClassification, ["a", "b"])
    save_bert(tmp_path / "mlm", word_tokenizer())
    before = {path.name: path.read_bytes() for path in (tmp_path / "labels").iterdir()}
    model = api.load(tmp_path / "mlm", "cpu", "fp32")
    with pytest.raises(CannotCreateError, match="holds another model"):
        model.export(tmp_path / "labels")
    assert main(["export", str(tmp_path / "mlm"), str(tmp_path / "labels")]) == CannotCreateError.code
    assert {path.name: path.read_bytes() for path in (tmp_path / "labels").iterdir()} == before
    model.export(tmp_path / "out")
    model.export(tmp_path / "out", format="bf16")  # the same one may be written again
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "config.json").write_text("{}")
    with pytest.raises(CannotCreateError, match="holds another model"):
        model.export(tmp_path / "odd")


def test_a_folder_that_holds_something_else_is_not_written_into(tmp_path: Path) -> None:
    """A store, and the directory of a run of the same model, got its files among theirs."""
    save_bert(tmp_path / "mlm", word_tokenizer())
    model = api.load(tmp_path / "mlm", "cpu", "fp32")
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "manifest.json").write_text("{}")
    with pytest.raises(CannotCreateError, match=r"store: holds 'manifest.json' and no model"):
        model.export(tmp_path / "store")
    model.export(tmp_path / "out", pooling="mean")
    model.export(tmp_path / "out", max_shard_bytes=10_000)
    model.export(tmp_path / "out")  # what an export of the same model left is its own
    (tmp_path / "out" / "recipe.toml").touch()
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(CannotCreateError, match=r"out: holds 'recipe.toml' beside this model"):
        model.export(tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_sentence_transformers_gives_the_same_vectors(pooling: str, tmp_path: Path) -> None:
    import sentence_transformers

    save_bert(tmp_path / "bert", word_tokenizer())
    model = api.load(tmp_path / "bert", "cpu", "fp32")
    again = tmp_path / "out"
    model.export(again)
    assert not (again / "modules.json").exists()
    for _ in range(2):  # over what is there
        model.export(again, pooling=pooling)  # type: ignore[arg-type]
    theirs = sentence_transformers.SentenceTransformer(str(again), device="cpu")
    texts = ["the quick brown fox", "a hat", "the lazy dog jumps over the cat " * 40]
    ours = model.embed(texts, pooling)  # type: ignore[arg-type]
    torch.testing.assert_close(torch.from_numpy(theirs.encode(texts)), torch.from_numpy(ours), rtol=1e-4, atol=1e-5)
    assert theirs.max_seq_length == model.length
    assert theirs.get_embedding_dimension() == ours.shape[1]
    messages = api.load(again, "cpu", "fp32")
    assert messages.network.vectors is not None
    assert messages.network.vectors.pooling == pooling
    assert (messages.embed(texts) == messages.embed(texts, pooling)).all()  # type: ignore[arg-type]
    messages.export(tmp_path / "once more")
    assert (tmp_path / "once more" / "1_Pooling" / "config.json").is_file()


def test_the_verb_writes_the_pooling(tmp_path: Path) -> None:
    save_bert(tmp_path / "bert", word_tokenizer())
    assert main(["export", str(tmp_path / "bert"), str(tmp_path / "out"), "--pooling", "cls", "--quiet"]) == 0
    config = json.loads((tmp_path / "out" / "1_Pooling" / "config.json").read_text())
    assert (config["pooling_mode_cls_token"], config["pooling_mode_mean_tokens"]) == (True, False)


def test_a_body_without_its_pooler_is_read_again(tmp_path: Path) -> None:
    """The class BertModel has a pooler, which files of a body alone lack."""
    save_model(build("bert", "tiny", [], SMALL), tmp_path / "body")
    assert load_model(tmp_path / "body").heads.keys() == set()
