"""The field `pretune` of `config.json`: written beside what `transformers` reads, and believed only so far."""

import contextlib
import json
import os
from pathlib import Path

import pytest
import transformers

from pretune.disk import sha256
from pretune.errors import DataError, MissingInputError
from pretune.interop.huggingface import load_model, save_model
from pretune.interop.metadata import VERSION, Metadata, TaskRecord, VariantRecord, parse, read_metadata, resolve
from pretune.models import build

CODE = "X = 1\n"


def own_file(tmp_path: Path, name: str = "own.py") -> Path:
    path = tmp_path / name
    path.write_text(CODE)
    return path


def test_what_is_written_is_read_again_and_transformers_reads_the_rest(tmp_path):
    model = build("bert", "tiny", ["classification"], {"vocab_size": 50}, labels=["a", "b"])
    task = TaskRecord.of(f"{own_file(tmp_path)}:Focal", {"labels": ["a", "b"], "gamma": None})
    model.metadata = Metadata(
        objectives=(VariantRecord.of("mlm", {"rate": 0.2}),),
        task=task.model_copy(update={"columns": {"text": "text", "second": None}, "length": 64}),
    )
    save_model(model, tmp_path / "model")
    metadata = read_metadata(tmp_path / "model")
    assert metadata == load_model(tmp_path / "model").metadata
    assert metadata == model.metadata.model_copy(update={"heads": {"classification": "standard"}})
    assert metadata.task is not None
    assert metadata.task.sha256 == sha256(tmp_path / "own.py")
    assert metadata.task.name == f"{tmp_path / 'own.py'}:Focal"
    config = transformers.AutoConfig.from_pretrained(tmp_path / "model")
    assert config.id2label == {0: "a", 1: "b"}
    theirs, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "model", output_loading_info=True
    )
    assert not any(info.values())
    theirs.save_pretrained(tmp_path / "theirs")
    assert load_model(tmp_path / "theirs").metadata == metadata


def test_columns_that_were_recorded_by_their_old_names_are_read():
    record = {"name": "classification", "columns": {"text_column": "title", "second_column": None, "format": "csv"}}
    assert TaskRecord.model_validate(record).columns == {"text": "title", "second": None, "format": "csv"}


def test_a_folder_without_the_field_says_nothing(tmp_path):
    assert parse(tmp_path / "config.json", {"model_type": "bert"}) == Metadata()


HOSTILE = {
    "not an object": ["x"],
    "no version": {"task": None},
    "a version that is no number": {"version": "1"},
    "a version that is a truth": {"version": True},
    "version 0": {"version": 0},
    "unknown field": {"version": 1, "auto_map": {"AutoModel": "evil.Model"}},
    "a name that is a list": {"version": 1, "task": {"name": ["mlm"]}},
    "an empty name": {"version": 1, "task": {"name": ""}},
    "a name of a megabyte": {"version": 1, "task": {"name": "x" * (1 << 20)}},
    "a digest that is none": {"version": 1, "task": {"name": "/x.py", "sha256": "abc"}},
    "settings that are text": {"version": 1, "task": {"name": "classification", "config": "labels"}},
    "a length of a terabyte": {"version": 1, "task": {"name": "classification", "length": 1 << 40}},
    "a negative length": {"version": 1, "task": {"name": "classification", "length": -1}},
    "a thousand objectives": {"version": 1, "objectives": [{"name": "mlm"}] * 1000},
    "a thousand heads": {"version": 1, "heads": {f"h{n}": "task" for n in range(1000)}},
    "a head with a path for a name": {"version": 1, "heads": {"../x": "task"}},
    "a head of nobody": {"version": 1, "heads": {"x": "evil"}},
    "too large": {"version": 1, "task": {"name": "classification", "config": {"labels": "x" * (5 << 20)}}},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_fields_are_refused(name, tmp_path):
    path = tmp_path / "config.json"
    with pytest.raises(DataError, match=r"config\.json") as caught:
        parse(path, {"pretune": HOSTILE[name]})
    assert len(str(caught.value)) < 2000


def test_deep_settings_are_refused_or_read_but_never_crash(tmp_path):
    deep: object = 1
    for _ in range(900):
        deep = [deep]
    with contextlib.suppress(DataError):
        parse(tmp_path / "config.json", {"pretune": {"version": 1, "task": {"name": "x", "config": {"a": deep}}}})


def test_a_newer_version_is_refused_with_the_remedy(tmp_path):
    with pytest.raises(DataError, match=rf"newer pretune \(version {VERSION + 1} .* update pretune"):
        parse(tmp_path / "config.json", {"pretune": {"version": VERSION + 1, "task": {"name": "classification"}}})


def test_own_files_are_used_only_from_where_they_stood_and_unchanged(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    path = own_file(tmp_path)
    record = VariantRecord.of(str(path))
    assert resolve(record, "tasks", folder, "task") == str(path)
    path.write_text(CODE + "Y = 2\n")
    with pytest.raises(DataError, match=r"pretune.task.name' = .*own.py.* has changed .* write [0-9a-f]{64} into"):
        resolve(record, "tasks", folder, "task")
    path.unlink()
    with pytest.raises(MissingInputError, match=r"pretune.task.name' = .*own.py.* is gone .* write its new place"):
        resolve(record, "tasks", folder, "task")


def test_code_inside_the_models_folder_is_never_run(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    inside = own_file(folder, "inside.py")
    link = tmp_path / "link.py"
    link.symlink_to(inside)
    for path in (inside, link):
        with pytest.raises(DataError, match="never run"):
            resolve(VariantRecord.of(str(path)), "models", folder, "family")


@pytest.mark.parametrize(
    "name", ["evil.py", "../evil.py", "./evil.py:X", "~/evil.py", "/evil", "file:///evil.py", "bert"]
)
def test_a_name_that_is_no_path_and_no_module_is_not_opened(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_file(tmp_path, "evil.py")
    with pytest.raises(DataError, match="not opened"):
        resolve(VariantRecord(name=name, sha256="0" * 64), "models", tmp_path / "model", "family")


@pytest.mark.parametrize("name", ["nothing", "evil.py", "/evil.py", "os.path", "__init__", "model", "../bert"])
def test_a_name_without_a_digest_is_of_the_tree(name, tmp_path):
    with pytest.raises(DataError, match=r"pretune.family.name' = .*no such variant"):
        resolve(VariantRecord(name=name), "models", tmp_path, "family")


def test_a_pipe_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe.py")
    with pytest.raises(MissingInputError, match="is gone"):
        resolve(VariantRecord(name=str(tmp_path / "pipe.py"), sha256="0" * 64), "models", tmp_path / "m", "family")


def test_a_module_is_found_without_importing_its_package(tmp_path, monkeypatch):
    package = tmp_path / "user_package"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('imported')\n")
    (package / "family.py").write_text(CODE)
    monkeypatch.syspath_prepend(tmp_path)
    record = VariantRecord.of("user_package.family:Family")
    assert record.sha256 == sha256(package / "family.py")
    assert resolve(record, "models", tmp_path / "model", "family") == "user_package.family:Family"
    with pytest.raises(DataError, match="never run"):
        resolve(record, "models", tmp_path, "family")
    with pytest.raises(MissingInputError, match="no such module"):
        resolve(VariantRecord(name="user_package.gone", sha256="0" * 64), "models", tmp_path / "m", "family")


def test_the_field_is_json_that_others_can_read(tmp_path):
    save_model(build("gpt2", "tiny", ["clm"], {"vocab_size": 50}), tmp_path / "model")
    tree = json.loads((tmp_path / "model" / "config.json").read_text())
    assert tree["pretune"] == {"version": VERSION, "objectives": [], "heads": {"clm": "standard"}}
