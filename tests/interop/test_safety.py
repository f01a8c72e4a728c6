"""Hostile model folders: refused quickly, by name, before anything is allocated or run."""

import json
import os
import pickle
import struct
import time
import tracemalloc
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from pretune.errors import DataError, MissingInputError
from pretune.interop.huggingface import load_model, save_model
from pretune.interop.safety import read_bin, read_header
from pretune.models import build

pytestmark = pytest.mark.usefixtures("unsealed")

SMALL = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}


@pytest.fixture
def folder(tmp_path) -> Path:
    save_model(build("bert", "tiny", ["mlm"], SMALL), tmp_path / "model")
    return tmp_path / "model"


@contextmanager
def refused_cheaply(message):
    """The block is refused within a second of this thread's time and 80 MB."""
    tracemalloc.start()
    started = time.thread_time()
    try:
        with pytest.raises(DataError, match=message):
            yield
        assert time.thread_time() - started < 1
        assert tracemalloc.get_traced_memory()[1] < 80 << 20
    finally:
        tracemalloc.stop()


def header(path: Path, raw: bytes, data: bytes = b"") -> Path:
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + data)
    return path


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/passwd",
        "..",
        "a/b.safetensors",
        "http://x/y.safetensors",
        ".hidden.bin",
        "x",
        7,
        None,
    ],
)
def test_shard_names_with_paths(folder, name):
    (folder / "model.safetensors").rename(folder.parent / "model.safetensors")
    index = {"weight_map": {"bert.pooler.dense.bias": name}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=r"weight_map names .* plain name inside the folder"):
        load_model(folder)


def test_index_and_shards_that_do_not_belong_together(folder):
    index = folder / "model.safetensors.index.json"
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index.write_text("[]")
    with pytest.raises(DataError, match="expected a JSON object"):
        load_model(folder)
    index.write_text('{"weight_map": []}')
    with pytest.raises(DataError, match="'weight_map'"):
        load_model(folder)
    index.write_text('{"weight_map": {"x": "model-2.safetensors"}}')
    with pytest.raises(MissingInputError, match=r"model-2\.safetensors"):
        load_model(folder)
    (folder / "model-2.safetensors").write_bytes((folder / "model-1.safetensors").read_bytes())
    index.write_text('{"weight_map": {"x": "model-2.safetensors", "y": "model-1.safetensors"}}')
    with pytest.raises(DataError, match="in another shard too"):
        load_model(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 2**31}, "'hidden_size' = 2147483648"),
        ({"num_hidden_layers": 10**9}, "'num_hidden_layers'"),
        ({"num_hidden_layers": -1}, "'num_hidden_layers' = -1"),
        ({"vocab_size": 10**12}, "'vocab_size'"),
        ({"vocab_size": 2**22}, r"word_embeddings.* shape \[61, 32\], config.json asks for \[4194304, 32\]"),
        ({"hidden_size": "32; rm"}, "'hidden_size'"),
        ({"hidden_size": [32]}, "'hidden_size'"),
        ({"hidden_size": None}, "'hidden_size'"),
        ({"num_attention_heads": 0}, "'num_attention_heads'"),
        ({"num_attention_heads": 5}, "not a multiple"),
        ({"hidden_dropout_prob": 1.5}, "'hidden_dropout_prob'"),
        ({"layer_norm_eps": -1}, "'layer_norm_eps'"),
        ({"num_hidden_layers": 2}, "layer.1.* is missing"),
        ({"hidden_act": "__import__('os')"}, "unknown activation"),
        ({"model_type": "bertt"}, "did you mean 'bert'"),
        ({"model_type": "../bert"}, "no such family"),
        ({"model_type": ["bert"]}, "no such family"),
        ({"is_decoder": True}, "'is_decoder'"),
        ({"position_embedding_type": "relative_key"}, "'position_embedding_type'"),
        ({"quantization_config": {"bits": 4}}, "'quantization_config'"),
        ({"pruned_heads": {"0": [1]}}, "'pruned_heads'"),
        ({"id2label": {"a": "b"}}, "'id2label'"),
        ({"id2label": {"0": "a", "2": "b"}}, "without a gap"),
        ({"id2label": [1]}, "'id2label'"),
    ],
)
def test_absurd_configurations(folder, fields, message):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))
    with refused_cheaply(message):
        load_model(folder)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b'{"model_type": "bert", "layer_norm_eps": NaN}', "NaN is not JSON"),
        (b'{"model_type": "bert", "layer_norm_eps": 1e999}', "'layer_norm_eps'"),
        (b"[" * 200_000, "nested too deep"),
        (b'{"model_type": "bert"', "not valid JSON"),
        (b"\xff\xfe{}", "not valid JSON"),
        (b"[1]", "expected a JSON object"),
        (b'{"hidden_size": ' + b"9" * 5000 + b"}", "config.json"),
    ],
)
def test_configurations_that_are_not_json(folder, raw, message):
    (folder / "config.json").write_bytes(raw)
    with pytest.raises(DataError, match=message):
        load_model(folder)


def test_a_configuration_of_200_megabytes_is_not_read(folder):
    with (folder / "config.json").open("wb") as file:
        file.truncate(200 << 20)
    with refused_cheaply("209,715,200 bytes, more than"):
        load_model(folder)


def test_files_that_are_no_files(folder):
    os.remove(folder / "config.json")
    os.mkfifo(folder / "config.json")
    with pytest.raises(MissingInputError, match="not a regular file"):
        load_model(folder)
    os.remove(folder / "model.safetensors")
    os.mkfifo(folder / "model.safetensors")
    with pytest.raises(MissingInputError, match="not a regular file"):
        load_model(folder)


def test_300_000_tensors(tmp_path):
    raw = b"{" + b",".join(b'"t%d":{"dtype":"F32","shape":[],"data_offsets":[0,0]}' % n for n in range(300_000)) + b"}"
    header(tmp_path / "m.safetensors", raw)
    with refused_cheaply("header"):
        read_header(tmp_path / "m.safetensors")
    raw = b"{" + b",".join(b'"%x":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}' % n for n in range(120_000)) + b"}"
    assert len(raw) < 16 << 20
    header(tmp_path / "m.safetensors", raw)
    with refused_cheaply("120,000 tensors"):
        read_header(tmp_path / "m.safetensors")


@pytest.mark.parametrize(
    ("raw", "data", "message"),
    [
        (b"", b"", "not valid JSON"),
        (b"[]", b"", "expected a JSON object"),
        (b"{", b"", "not valid JSON"),
        (json.dumps({"a": 3}).encode(), b"", "expected dtype, shape"),
        (json.dumps({"a": entry([1], 0, 4, "F31")}).encode(), b"1234", "dtype 'F31'"),
        (json.dumps({"a": entry([1], 0, 4, ["F32"])}).encode(), b"1234", "dtype"),
        (json.dumps({"a": entry([0, 2**62], 0, 0)}).encode(), b"", "does not fit"),
        (json.dumps({"a": entry([2**62, 2**62], 0, 4)}).encode(), b"1234", "does not fit"),
        (json.dumps({"a": entry([-1], 0, 4)}).encode(), b"1234", "list of at most"),
        (json.dumps({"a": entry([True], 0, 4)}).encode(), b"1234", "list of at most"),
        (json.dumps({"a": entry([1.0], 0, 4)}).encode(), b"1234", "list of at most"),
        (json.dumps({"a": entry([1] * 9, 0, 4)}).encode(), b"1234", "at most 8"),
        (json.dumps({"a": entry([2], 0, 4)}).encode(), b"1234", "does not fit"),
        (json.dumps({"a": entry([1], 4, 0)}).encode(), b"1234", "range of bytes"),
        (json.dumps({"a": entry([1], 4, 8)}).encode(), b"12345678", "begins at byte"),
        (json.dumps({"a": entry([1], 0, 4), "b": entry([1], 0, 4)}).encode(), b"1234", "begins at byte"),
        (json.dumps({"a": entry([2], 0, 8)}).encode(), b"1234", "truncated"),
        (json.dumps({"a": entry([1], 0, 4)}).encode(), b"12345678", "trailing bytes"),
    ],
)
def test_headers_that_lie(tmp_path, raw, data, message):
    with pytest.raises(DataError, match=message):
        read_header(header(tmp_path / "m.safetensors", raw, data))


@pytest.mark.parametrize("length", [0, 1 << 40, 2**64 - 1, 17 << 20])
def test_headers_of_absurd_length(tmp_path, length):
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", length) + b"{}")
        if length == 17 << 20:
            file.truncate(40 << 20)
    with pytest.raises(DataError):
        read_header(path)


def test_truncated_at_every_kind_of_place(folder):
    whole = (folder / "model.safetensors").read_bytes()
    for size in (0, 5, 8, 100, len(whole) // 2, len(whole) - 1):
        (folder / "model.safetensors").write_bytes(whole[:size])
        with pytest.raises(DataError, match="truncated"):
            load_model(folder)


class Gadget:
    def __reduce__(self):
        return os.system, ("touch executed",)


def gadgets():
    yield "reduce", {"w": Gadget()}
    yield "nested", {"w": torch.zeros(2), "x": [{"y": (Gadget(),)}]}
    yield "plain", Gadget()


@pytest.mark.parametrize("payload", [p for _, p in gadgets()], ids=[n for n, _ in gadgets()])
@pytest.mark.parametrize("form", ["zip", "legacy", "pickle"])
def test_pickles_do_not_run(folder, payload, form, monkeypatch):
    monkeypatch.chdir(folder)
    (folder / "model.safetensors").unlink()
    if form == "pickle":
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps(payload, protocol=2))
    else:
        torch.save(payload, folder / "pytorch_model.bin", _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(DataError, match=r"pytorch_model\.bin"):
        load_model(folder)
    assert not (folder / "executed").exists()
    pickle.loads((folder / "pytorch_model.bin").read_bytes()) if form == "pickle" else None  # noqa: S301
    assert (folder / "executed").exists() == (form == "pickle"), "the control: this payload does run where nobody looks"


def test_the_message_says_what_the_pickle_wanted(folder):
    torch.save({"w": Gadget()}, folder / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"posix\.system.*not executed.*for model\.safetensors"):
        read_bin(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1, 2], "expected a table"),
        ({"a": 3}, "not a dense tensor"),
        ({3: torch.zeros(1)}, "not a dense tensor"),
        ({"a": torch.zeros(2, 2).to_sparse()}, "not a dense tensor"),
        ({"a": torch.zeros(1).expand(2**31, 2**20)}, "bytes in a file of"),
    ],
)
def test_bins_of_other_things(tmp_path, value, message):
    torch.save(value, tmp_path / "m.bin")
    with pytest.raises(DataError, match=message):
        read_bin(tmp_path / "m.bin")


def test_bin_bombs_and_damage(tmp_path):
    path = tmp_path / "m.bin"
    torch.save({"a": torch.zeros(10_000)}, path)
    whole = path.read_bytes()
    for cut in (10, 200, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError):
            read_bin(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("m/data/0", bytes(50 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(DataError, match="compressed or outside"):
        read_bin(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("../../x", b"")
    with pytest.raises(DataError, match="compressed or outside"):
        read_bin(path)


def test_mutated_headers_never_crash(tmp_path):
    """Random bytes changed in a good file: refused as bad data, or read as what it says."""
    from pretune.draw import Draw
    from pretune.interop.weights import write_safetensors

    path = tmp_path / "m.safetensors"
    write_safetensors(path, {"a": torch.zeros(3, 4), "b": torch.zeros(7), "c": torch.zeros(0, 5)})
    good = path.read_bytes()
    refused = 0
    for n in range(1000):
        draw = Draw(n)
        data = bytearray(good)
        for k in range(1 + n % 4):
            data[draw.at("place", k).key % 230] = draw.at("byte", k).key % 256
        path.write_bytes(data)
        try:
            read_header(path)
        except DataError:
            refused += 1
    assert 700 < refused < 1000


def test_an_empty_bin(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(DataError, match=r"pytorch_model\.bin: truncated: 0 bytes"):
        read_bin(tmp_path / "pytorch_model.bin")


@pytest.mark.parametrize(("name", "value"), [("hidden_size", "32"), ("layer_norm_eps", "1e-12")])
def test_numbers_in_quotes_in_a_configuration(folder, name, value):
    fields = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**fields, name: value}))
    with pytest.raises(DataError, match=f"field '{name}' = \"{value}\": expected a number"):
        load_model(folder)
