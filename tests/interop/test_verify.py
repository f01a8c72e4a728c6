"""What `verify` finds and `accept` takes: runs, models, tokenizers, deltas, stores, checkpoints, files of others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pretune.api import load
from pretune.cli import main
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.interop.verify import accept, verify
from pretune.report.report import write_report
from pretune.seals import SEAL, read_seal, write_seal
from pretune.text.store import store as store_module
from pretune.text.store.store import TokenStore
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.train.run import finetune, pretrain
from tests.train.trainkit import WORDS, make_store, recipe


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store, a finished run with its report, and a run of deltas on it."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("verify")
    store = make_store(folder / "store")
    pretrain(recipe(folder / "run", store, track={"report": True}))
    write_report(folder / "run")
    rows = [{"text": f"{WORDS[n]} {WORDS[n + 1]}", "label": "ab"[n % 2]} for n in range(40)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tuned = recipe(folder / "tuned", store).model_dump(mode="json", exclude_unset=True)
    for name in ("objective", "evaluation"):
        tuned.pop(name)
    tuned |= {
        "model": {"init": str(folder / "run")},
        "data": {"train": [str(folder / "rows.jsonl")], "length": 16, "batch": 8},
        "task": {"classification": {}},
        "budget": {"steps": 4},
    }
    finetune(type(recipe(folder, store)).model_validate(tuned))
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made, tmp_path / "copy")
    return tmp_path / "copy"


def problems(path: Path) -> list[str]:
    return [each.path.relative_to(path).as_posix() for each in verify(path) if each.problem is not None]


def flip(path: Path, place: int | None = None, bit: int = 2) -> None:
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2 if place is None else place] ^= 1 << bit
    path.write_bytes(raw)


def test_all_that_a_run_writes_has_a_digest(made: Path) -> None:
    for name in ("run", "store", "tuned"):
        results = list(verify(made / name))
        assert [str(each.path) for each in results if each.problem is not None] == []
        assert [str(each.path) for each in results if not each.by] == []
    known = {each.path.relative_to(made / "run").as_posix() for each in verify(made / "run")}
    for file in ("model.safetensors", "run.json", "recipe.toml", "metrics.jsonl", "data_stats.json", "report.html"):
        assert file in known
    assert {"checkpoint-10", "initial/model.safetensors"} <= known


def test_a_flipped_bit_in_any_file_is_named(folder: Path) -> None:
    for name in ("run", "store", "tuned"):
        for path in sorted((folder / name).rglob("*")):
            if path.is_dir() or path.name.startswith("."):
                continue
            for place in (0, None, -1):
                flip(path, place)
                actual = problems(folder / name)
                expected = path.relative_to(folder / name).as_posix()
                assert actual, expected
                if path.name != SEAL:  # of a checkpoint, its folder is named
                    assert expected.startswith(actual[0]), (expected, actual)
                flip(path, place)
    assert problems(folder) == []


def test_an_edited_file_is_refused_until_it_is_accepted(folder: Path) -> None:
    run = folder / "run"
    config = json.loads((run / "config.json").read_bytes())
    (run / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.25}))
    with pytest.raises(DataError, match=rf"config\.json: is not as it was saved.*pretune verify --accept {run}"):
        load(run)
    assert accept(run) == [run / "config.json"]
    assert accept(run) == []
    assert load(run).network.config.hidden_dropout_prob == 0.25
    assert problems(run) == []
    (run / "tokenizer_config.json").write_text("{,")
    with pytest.raises(DataError, match=r"tokenizer_config\.json"):
        Tokenizer.load(run)
    with pytest.raises(DataError, match=r"tokenizer_config\.json: not JSON"):
        accept(run)


def test_a_model_is_read_without_the_records_of_its_run(folder: Path) -> None:
    """As where somebody copied the model alone, or made room."""
    run = folder / "run"
    for name in ("metrics.jsonl", "report.html"):
        (run / name).unlink()
    load(run)
    assert problems(run) == ["metrics.jsonl", "report.html"]
    (run / "model.safetensors").unlink()
    with pytest.raises(DataError, match=r"model\.safetensors: is missing"):
        load(run)


def test_accepting_one_file_accepts_no_damage_of_another(folder: Path) -> None:
    run = folder / "run"
    (run / "config.json").write_text((run / "config.json").read_text() + " ")
    flip(run / "model.safetensors")
    assert accept(run / "config.json") == [run / "config.json"]
    assert problems(run) == ["model.safetensors"]
    (run / "model.safetensors").unlink()
    assert accept(run / "tokenizer.json") == []
    assert problems(run) == ["model.safetensors"]
    assert accept(run) == [run / "model.safetensors"]
    assert problems(run) == []


def test_records_and_recipes_are_accepted(folder: Path) -> None:
    run = folder / "run"
    for name in ("run.json", "data_stats.json"):
        tree = json.loads((run / name).read_bytes())
        (run / name).write_text(json.dumps({**tree, "note": 1}, indent=4))
    (run / "recipe.toml").write_bytes((run / "recipe.toml").read_bytes() + b"# mine\n")
    shutil.rmtree(run / "1_Pooling", ignore_errors=True)
    assert sorted(path.name for path in accept(run)) == ["data_stats.json", "recipe.toml", "run.json"]
    assert problems(run) == []
    (run / SEAL).write_bytes((run / SEAL).read_bytes()[:-60])  # the names of the last two files are gone
    names = read_seal(folder / "tuned").keys() & {"config.json"}
    assert accept(run) == [run / SEAL]
    assert names <= read_seal(run).keys()


def test_stores_and_checkpoints_cannot_be_accepted(folder: Path) -> None:
    for path in (folder / "store/train-tokens-00000.npy", folder / "run/checkpoint-10/model.safetensors"):
        flip(path)
        with pytest.raises(DataError, match="cannot be accepted, only made again"):
            accept(path.parent)
        flip(path)
    flip(folder / "store/tokenizer/tokenizer_config.json")
    with pytest.raises(DataError):
        accept(folder / "store")


def test_a_run_that_goes_on_and_one_that_was_damaged(folder: Path) -> None:
    store, run = folder / "store", folder / "run"
    more = recipe(run, store, budget={"steps": 14}, track={"report": True})
    pretrain(more)
    write_report(run)
    assert problems(run) == []
    flip(run / "run.json", -9)
    with pytest.raises(DataError, match=r"run\.json: does not match its own SHA-256"):
        pretrain(recipe(run, store, budget={"steps": 16}))
    with pytest.raises(DataError, match=r"run\.json"):
        write_report(run)
    flip(run / "run.json", -9)
    threads = (run / "recipe.toml").read_bytes()
    (run / "recipe.toml").write_bytes(threads.replace(b"threads = 1", b"threads = 3"))
    with pytest.raises(DataError, match=r"recipe\.toml: does not match its own SHA-256"):
        pretrain(recipe(run, store, budget={"steps": 16}))
    (run / "recipe.toml").write_bytes(threads)
    pretrain(recipe(run, store, budget={"steps": 16}))
    assert problems(run) == []


def test_folders_of_others_and_single_files(folder: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign"
    shutil.copytree(
        folder / "run", foreign, ignore=lambda where, names: {SEAL} if Path(where) == folder / "run" else []
    )
    results = {each.path.name: each for each in verify(foreign)}
    assert results["model.safetensors"].by == ""
    assert results["run.json"].by == "SHA-256"
    load(foreign)
    (single,) = verify(folder / "run/model.safetensors")
    assert (single.by, single.problem) == ("XXH3-128", None)
    assert [each.by for each in verify(folder / "rows.jsonl")] == [""]
    (below,) = verify(folder / "store/tokenizer/tokenizer.json")
    assert (below.by, below.problem) == ("XXH3-128", None)
    for name, of in (("run/model.safetensors", SEAL), ("store/train-tokens-00000.npy", "manifest.json")):
        flip((folder / name).parent / of)
        (single,) = verify(folder / name)
        assert (single.path.name, single.problem is None) == (of, False), "not that it has no digest"
    with pytest.raises(MissingInputError):
        list(verify(folder / "none"))


def test_files_of_modules_are_in_the_seal_above(folder: Path) -> None:
    path = folder / "run/1_Pooling/config.json"
    path.parent.mkdir()
    path.write_text("{}")
    write_seal(folder / "run")
    assert [(each.path, each.by, each.problem) for each in verify(path)] == [(path, "XXH3-128", None)]
    flip(path)
    assert [each.path for each in verify(path) if each.problem] == [path]


def test_the_index_of_a_store_is_compared(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_MIN_KEPT", 0)
    TokenStore.open(folder / "store").split("train").index("test", lambda: iter([{"starts": np.arange(9)}]))
    assert [each.path.name for each in verify(folder / "store") if not each.by] == []
    flip(folder / "store/index/train-test/starts.npy", -1)
    assert problems(folder / "store") == ["index/train-test"]


def test_links_to_folders_around_them_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/file").touch()
    for name in ("a/x", "a/y", "z"):
        (tmp_path / name).symlink_to(tmp_path)
    assert [each.path for each in verify(tmp_path)] == [tmp_path / "a/file"]


def test_the_verb(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", str(folder / "run")]) == 0
    assert capsys.readouterr().out == ""
    flip(folder / "run/model.safetensors")
    assert main(["verify", str(folder / "run")]) == DataError.code
    out, err = capsys.readouterr()
    assert out.startswith(f"damaged: {folder / 'run/model.safetensors'}: is not as it was saved")
    assert "--accept" in err
    assert main(["predict", str(folder / "run"), "a"]) == DataError.code
    assert main(["verify", "--accept", str(folder / "run")]) == 0
    assert capsys.readouterr().out == f"accepted: {folder / 'run/model.safetensors'}\n"
    assert main(["verify", str(folder / "none")]) == MissingInputError.code
    assert main(["verify", str(folder), "--no-such-flag"]) == UsageError.code


def test_nothing_is_accepted_through_a_link(folder: Path, tmp_path: Path) -> None:
    run = folder / "run"
    seal = tmp_path / "elsewhere"
    (run / SEAL).rename(seal)
    (run / SEAL).symlink_to(seal)
    before = seal.read_bytes()
    path = run / "config.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(DataError, match=rf"{SEAL}: is a link to {seal}; accept the change in the folder of that file"):
        accept(run)
    assert seal.read_bytes() == before
