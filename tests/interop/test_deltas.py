"""Deltas: put on their base alone; damaged, hostile or newer files are refused with what to do."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import pretune
from pretune.errors import DataError, MissingInputError
from pretune.interop.deltas import DeltaRecord, is_delta, learned, read_record, save_delta
from pretune.interop.fingerprint import body_fingerprint, fingerprint_of_files
from pretune.interop.huggingface import load_model, model_folder, save_model, write_model
from pretune.interop.recorded_heads import head_sources
from pretune.interop.tuned_model import load_delta, tune
from pretune.models import build
from pretune.models.metadata import VariantRecord
from pretune.models.model import LanguageModel, get_family
from pretune.models.text_vectors import TextVectors
from pretune.tune.method import find_method
from tests.train.trainkit import SHAPES, make_tokenizer

pytestmark = pytest.mark.usefixtures("unsealed")

LORA = str(Path(__file__).parents[1] / "outside" / "lora.py")
SHAPE = {
    "num_hidden_layers": 1,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "vocab_size": 64,
}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A base, and deltas of another value than 0 beside it."""
    save_model(build("bert", "tiny", ["mlm"], SHAPE), tmp_path / "base")
    model = load_model(tmp_path / "base")
    record = {"base": body_fingerprint(model), "heads": head_sources(model)}
    model.metadata = model.metadata.model_copy(update=record)
    method = find_method(LORA, {"places": ["attention"]})
    model = method.apply(model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(".up"):
                parameter.fill_(0.1)
    model.vectors = TextVectors.pooled("mean")
    model.extra_weights = {"objective.own.scale": torch.ones(2)}
    save_delta(model, tmp_path / "delta", method, str(tmp_path / "base"))
    return tmp_path / "delta"


def test_what_learned_comes_back(saved: Path) -> None:
    assert is_delta(saved)
    assert not is_delta(saved.parent / "base")
    model = load_delta(saved)
    values = {name: tensor for name, tensor in learned(model).items() if name.endswith(".up")}
    assert len(values) == 4
    assert all(torch.equal(tensor, torch.full_like(tensor, 0.1)) for tensor in values.values())
    assert model.vectors is not None
    assert model.vectors.pooling == "mean"
    assert torch.equal(model.extra_weights["objective.own.scale"], torch.ones(2))
    assert [name for name, p in model.named_parameters() if p.requires_grad and ".base." in name] == []


def change(folder: Path, **fields: object) -> None:
    path = folder / "delta.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_bad_files(saved: Path) -> None:
    tensors = load_file(saved / "delta.safetensors")
    name = next(name for name in tensors if name.endswith(".up"))
    for bad, message in (
        ({**tensors, name: torch.full_like(tensors[name], torch.nan)}, r"delta\.safetensors: .* NaN or infinity; copy"),
        ({**tensors, name: tensors[name][:1]}, "has shape"),
        ({key: value for key, value in tensors.items() if key != name}, rf"not the tensors.*'{name}' is missing; copy"),
        ({**tensors, "stack.more": torch.ones(1)}, r"not the tensors.*'stack\.more' has no place there; copy"),
    ):
        save_file({key: value.contiguous() for key, value in bad.items()}, saved / "delta.safetensors")
        with pytest.raises(DataError, match=message):
            load_delta(saved)
    (saved / "delta.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(DataError):
        load_delta(saved)
    (saved / "delta.safetensors").unlink()
    with pytest.raises(MissingInputError, match=r"incomplete: copy or fetch"):
        load_delta(saved)


def test_a_head_that_the_deltas_hold_is_not_called_new(tmp_path: Path) -> None:
    """Its values are read from them; every verb said that it began from random ones."""
    save_model(build("bert", "tiny", ["mlm"], SHAPE), tmp_path / "base")
    model = load_model(tmp_path / "base", heads=["classification"], labels=["no", "yes"])
    assert any("newly initialized" in message for message in model.loaded.messages())
    record = {"base": body_fingerprint(model), "heads": head_sources(model)}
    model.metadata = model.metadata.model_copy(update=record)
    method = find_method("lora", {})
    save_delta(tune(model, method), tmp_path / "delta", method, str(tmp_path / "base"))
    again = load_delta(tmp_path / "delta")
    assert again.loaded is not None
    assert not again.loaded.initialised
    assert not any("newly initialized" in message for message in again.loaded.messages())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"version": 2}, "newer pretune"),
        ({"fingerprint": "none"}, "fingerprint"),
        ({"fingerprint": "0" * 64}, "not the weights that"),
        ({"base": None}, "never saved"),
        ({"more": 1}, "more"),
        ({"method": {"name": "none"}}, "no such variant of tune"),
    ],
)
def test_bad_records(saved: Path, fields: dict[str, object], message: str) -> None:
    change(saved, **fields)
    with pytest.raises(DataError, match=message):
        load_delta(saved)


def test_a_base_that_is_gone(saved: Path) -> None:
    (saved.parent / "base").rename(saved.parent / "moved")
    with pytest.raises(MissingInputError, match="give its new place"):
        load_delta(saved)
    assert load_delta(saved, saved.parent / "moved")


def test_a_fingerprint_must_be_taken_before_surgery(tmp_path: Path) -> None:
    method = find_method(LORA, {})
    with pytest.raises(ValueError, match="before surgery"):
        save_delta(method.apply(build("bert", "tiny", ["mlm"], SHAPE)), tmp_path / "delta", method, None)
    assert not (tmp_path / "delta").exists()


def lora(base: Path, path: Path, roles: list[str], labels: list[str] | None = None, **config: object) -> LanguageModel:
    """Deltas of LoRA; a head that the base lacks begins from random values."""
    model = load_model(base, heads=roles, labels=labels, seed=7)
    record = {"base": body_fingerprint(model), "heads": head_sources(model)}
    model.metadata = model.metadata.model_copy(update=record)
    method = find_method("lora", config)
    model = tune(model, method)
    save_delta(model, path, method, str(base), make_tokenizer(path.with_name("tokenizer")))
    return model


def test_the_frozen_weights_of_a_new_head_come_back(saved: Path, tmp_path: Path) -> None:
    """Under a low-rank change they do not learn, and no file of the base has them."""
    roles, places = ["classification"], ("heads",)
    model = lora(saved.parent / "base", tmp_path / "new", roles, ["a", "b"], places=places, rank=1)
    assert model.kept == {name for name in model.kept if ".base." in name}
    assert len(model.kept) > 0
    again = load_delta(tmp_path / "new")
    theirs, ours = dict(again.named_parameters()), dict(model.named_parameters())
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    assert read_record(tmp_path / "new").heads is None, "none of the head's weights are the base's"


def test_the_frozen_weights_of_an_old_head_are_the_base_s(saved: Path, tmp_path: Path) -> None:
    base = saved.parent / "base"
    lora(base, tmp_path / "old", ["mlm"], places=("heads",), rank=2)
    record = read_record(tmp_path / "old")
    assert record.heads is not None
    load_delta(tmp_path / "old")
    weights = load_file(base / "model.safetensors")
    weights["cls.predictions.transform.dense.weight"][0, 0] += 1
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match="not the heads of the model"):
        load_delta(tmp_path / "old")


def test_hostile_records(saved: Path, tmp_path: Path) -> None:
    """Nothing of a hostile size is allocated, nothing is run, and no base is looked for in a circle."""
    lora(saved.parent / "base", tmp_path / "rank", ["mlm"])
    change(tmp_path / "rank", method={"name": "lora", "config": {"rank": 10**9}})
    with pytest.raises(DataError, match="rank 1000000000 is above the 32"):
        load_delta(tmp_path / "rank")
    config = {"places": ["attention"], "rank": 10**9}
    record = json.loads((saved / "delta.json").read_text())
    change(saved, method={**record["method"], "config": config})
    with pytest.raises(DataError, match="the method asks for"):  # a method that does not look itself
        load_delta(saved)
    change(saved, method={**record["method"], "config": {"rank": "many"}})
    with pytest.raises(DataError, match=r"field 'method.config'.*rank"):
        load_delta(saved)
    change(saved, method={"name": "../../lora"})
    with pytest.raises(DataError, match="no such variant of tune"):
        load_delta(saved)
    (saved / "own.py").write_text("raise SystemExit")
    change(saved, method={"name": str(saved / "own.py"), "sha256": "0" * 64})
    with pytest.raises(DataError, match="code inside the model's own folder"):
        load_delta(saved)
    change(saved, method=record["method"], base=str(saved), relative=None)
    with pytest.raises(DataError, match="its base is itself"):
        load_delta(saved)
    (saved / "delta.json").write_text("{" * 10_000)
    with pytest.raises(DataError):
        load_delta(saved)


def test_labels_in_another_order_than_the_task_has_are_refused(saved: Path, tmp_path: Path) -> None:
    """The scores would go to other labels than those that were learned."""
    lora(saved.parent / "base", tmp_path / "classifier", ["classification"], labels=["no", "yes"])
    metadata = json.loads((tmp_path / "classifier" / "delta.json").read_text())["metadata"]
    task = {"name": "classification", "sha256": None, "config": {"labels": ["no", "yes"]}}
    change(tmp_path / "classifier", metadata={**metadata, "task": task})
    load_delta(tmp_path / "classifier")
    change(tmp_path / "classifier", labels=["yes", "no"])
    with pytest.raises(DataError, match="field 'labels': yes, no; the task's are no, yes, in this order"):
        load_delta(tmp_path / "classifier")


def test_hostile_tensors(saved: Path) -> None:
    path = saved / "delta.safetensors"
    whole = path.read_bytes()
    for raw in (whole[:-3], whole[:4], b"", pickle.dumps({"a": 1}), b"\x80\x02" + whole):
        path.write_bytes(raw)
        with pytest.raises(DataError):
            load_delta(saved)
    tensors = load_file(saved.parent / "base" / "model.safetensors")
    save_file({"../../escape": tensors["cls.predictions.bias"]}, path)
    with pytest.raises(DataError, match="not the tensors of this method"):
        load_delta(saved)
    path.write_bytes(whole)
    own = load_file(path)
    name = next(name for name in own if name.endswith(".up"))
    save_file({**own, name: own[name].int()}, path)
    with pytest.raises(DataError, match=r"is torch\.int32"):
        load_delta(saved)


def test_another_tokenizer_is_refused(saved: Path, tmp_path: Path) -> None:
    lora(saved.parent / "base", tmp_path / "run", ["mlm"])
    assert pretune.load(tmp_path / "run", device="cpu", precision="fp32").fill("w1 [MASK]")
    make_tokenizer(tmp_path / "other", sentinels=2)
    with pytest.raises(DataError, match="is not the one that it was tuned with"):
        pretune.load(tmp_path / "run", device="cpu", precision="fp32", tokenizer=tmp_path / "other")
    shutil.copy(tmp_path / "other" / "tokenizer.json", tmp_path / "run")
    with pytest.raises(DataError, match="is not the one that it was tuned with"):
        pretune.load(tmp_path / "run", device="cpu", precision="fp32")


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "albert", "llama", "bart"])
def test_a_fingerprint_is_of_names_and_values_whatever_the_files(family: str, tmp_path: Path) -> None:
    """Streamed from files it is the same: of one file, of shards, in another dtype that holds the same numbers."""
    shapes = {**SHAPES, "llama": {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64}}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1} if family == "llama" else {}
    size = next(iter(get_family(family).SIZES))
    model = build(
        family,
        size,
        ["mlm"] if family in ("bert", "albert") else ["clm"],
        {**shapes[family], **heads, "vocab_size": 64},
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(weight.bfloat16())
    want = body_fingerprint(model)
    save_model(model, tmp_path / "one")
    save_model(model, tmp_path / "shards", max_shard_bytes=20_000)
    with model_folder(tmp_path / "half") as folder:
        write_model(model, folder, None, max_shard_bytes=10**9, dtype=torch.bfloat16)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    for name in ("one", "shards", "half"):
        assert fingerprint_of_files(tmp_path / name) == want
        assert body_fingerprint(load_model(tmp_path / name, heads=[])) == want
    with torch.no_grad():
        next(iter(model.stack.parameters())).flatten()[0] += 1
    assert body_fingerprint(model) != want


def test_a_record_is_read_as_it_was_written() -> None:
    record = DeltaRecord(method=VariantRecord(name="lora"), base=None, fingerprint="0" * 64, overrides={"a": 0.1})
    assert DeltaRecord.model_validate(json.loads(record.model_dump_json())) == record
