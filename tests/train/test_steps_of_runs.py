"""The weights of a step of a run, finished or interrupted: loaded, used, exported."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from test_run import task_recipe
from tinymodels import word_tokenizer
from trainkit import recipe, replaced, stop_at

from pretune.api import load
from pretune.cli import main
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.runtime.signals import SignalError
from pretune.train.run import finetune, pretrain


def weights(path: Path, step: str | int | None = None) -> dict[str, torch.Tensor]:
    model = load(path, "cpu", "fp32", step=step)
    return {**dict(model.network.named_parameters()), **model.network.extra_weights}


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def interrupted(store, tmp_path_factory):
    """A run that was to take ten steps and got SIGTERM in its seventh, after an evaluation at step 5."""
    path = tmp_path_factory.mktemp("interrupted") / "run"
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 6)
        with pytest.raises(SignalError):
            pretrain(recipe(path, store))
    return path


def test_a_run_that_did_not_finish_says_what_there_is(interrupted, capsys):
    """`fill run` said "no tokenizer.json"."""
    with pytest.raises(MissingInputError, match=r"has not finished.*steps 5, 7: use --step best, last or N, name "):
        load(interrupted)
    assert main(["fill", str(interrupted), "w1 [MASK]"]) == 66
    assert "use --step best, last or N" in capsys.readouterr().err


def test_an_interrupted_run_is_used_and_exported(interrupted, store, tmp_path, capsys):
    whole = tmp_path / "whole"
    pretrain(recipe(whole, store, budget={"steps": 10}))
    assert same(weights(interrupted, 5), weights(whole, 5))
    assert same(weights(interrupted, "best"), weights(interrupted, 5))
    assert same(weights(interrupted, "last"), weights(interrupted / "checkpoint-7"))
    assert not same(weights(interrupted, "last"), weights(interrupted, 5))
    quick = ("--device", "cpu", "--no-allocator")
    assert main(["fill", str(interrupted), "w1 [MASK]", "--step", "last", *quick]) == 0
    assert "weights of step 7" in capsys.readouterr().err
    assert main(["export", str(interrupted), str(tmp_path / "out"), "--step", "5", *quick]) == 0
    load(interrupted, "cpu", "bf16", step=5).export(tmp_path / "rounded")
    assert same(weights(tmp_path / "rounded"), weights(interrupted, 5))
    assert same(weights(tmp_path / "out"), weights(interrupted, 5))


def test_whole_models_are_wanted_where_a_run_begins(interrupted, store, tmp_path):
    for init, command in ((interrupted, "--step last"), (interrupted / "checkpoint-5", "--step 5")):
        run = replaced(recipe(tmp_path / "next", store), model={"init": str(init)})
        with pytest.raises(MissingInputError, match=f"write its model first: pretune export .*run MODEL {command}"):
            pretrain(run)
        words = [
            "tokenizer",
            "extend",
            str(tmp_path / "text.txt"),
            "--model",
            str(init),
            "--output",
            str(tmp_path / "t"),
        ]
        assert main(words) == 66


def test_deltas_are_no_whole_model(store, tmp_path, capsys):
    """The tokenizer beside them was extended alone, without a word of the model; a run goes on from sound ones."""
    deltas = tmp_path / "delta"
    word_tokenizer().save(deltas)
    (deltas / "delta.json").write_text("{}")
    (tmp_path / "text.txt").write_text("w1 w2")
    words = ["tokenizer", "extend", str(tmp_path / "text.txt"), "--model", str(deltas), "--output", str(tmp_path / "t")]
    assert main(words) == 66
    assert "write one first: pretune merge" in capsys.readouterr().err
    assert not (tmp_path / "t").exists()
    run = replaced(recipe(tmp_path / "next", store), model={"init": str(deltas)})
    with pytest.raises(DataError, match=r"delta\.json"):
        pretrain(run)


def test_a_finished_run_has_its_steps_too(store, tmp_path):
    path = tmp_path / "run"
    pretrain(recipe(path, store, budget={"steps": 4}))
    assert same(weights(path), weights(path, "last"))
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 6)
        with pytest.raises(SignalError):
            pretrain(recipe(path, store, budget={"steps": 10}))
    assert same(weights(path), weights(path, 4))


def test_an_embedding_of_some_tokens_is_whole_again(store, tmp_path):
    pretrained = pretrain(recipe(tmp_path / "base", store))
    over = {"evaluation": {"keep": "best", "every": 1}, "budget": {"epochs": 1}, "model": {"init": str(pretrained)}}
    path = finetune(task_recipe(tmp_path / "run", tmp_path, store, **over))
    shutil.rmtree(pretrained)
    assert same(weights(path), weights(path, "best"))
    texts = ["w0 w9 w8", "w5 w7 w7"]
    assert load(path, "cpu", "fp32").predict(texts) == load(path, "cpu", "fp32", step="best").predict(texts)


def test_the_first_model_is_written_again_where_it_is_gone(store, tmp_path):
    path = tmp_path / "run"
    pretrain(recipe(path, store, budget={"steps": 2}))
    before = weights(path, 2)
    shutil.rmtree(path / "initial")
    with pytest.raises(MissingInputError, match="initial: not there"):
        load(path, step=2)
    pretrain(recipe(path, store, budget={"steps": 2}))
    assert same(weights(path, 2), before)


def test_steps_that_are_not_there(interrupted, store, tmp_path, capsys):
    with pytest.raises(MissingInputError, match="has no checkpoint of step 3; its checkpoints are of the steps 5, 7"):
        load(interrupted, step=3)
    with pytest.raises(UsageError, match="is a checkpoint; a step is chosen of its run"):
        load(interrupted / "checkpoint-5", step="last")
    with pytest.raises(UsageError, match="is not the directory of a run"):
        load(store, step="last")
    assert main(["fill", str(interrupted), "w1 [MASK]", "--step", "newest"]) == 64
    copy = tmp_path / "copy"
    shutil.copytree(interrupted, copy)
    with (copy / "checkpoint-7/model.safetensors").open("r+b") as file:
        file.seek(-3, 2)
        file.write(b"x")
    with pytest.raises(DataError, match="does not match its SHA-256; choose another step"):
        load(copy, step=7)
    assert same(weights(copy, "last"), weights(copy, 5))
    (copy / "run.json").write_text("{")
    with pytest.raises(DataError, match=r"run.json: not JSON any more: it was damaged or edited"):
        load(copy, step=5)
