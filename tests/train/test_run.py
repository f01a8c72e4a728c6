import json
import shutil
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from trainkit import SHAPE, WORDS, lines, make_store, recipe, replaced, stop_at

from pretune.api import load
from pretune.config import merge, validate
from pretune.errors import CannotCreateError, DataError, MissingInputError, UsageError
from pretune.nn.dropout import Dropout
from pretune.runtime.signals import SignalError
from pretune.train.recipe import ModelConfig, Recipe
from pretune.train.run import finetune, pretrain
from pretune.train.step import TrainModule


def labelled(path, count, seed):
    """Texts of ten words; the first word decides the label."""
    rng = np.random.default_rng(seed)
    rows = ["text,label"]
    for _ in range(count):
        words = [int(rng.integers(0, 6)), *rng.integers(6, len(WORDS), 9).tolist()]
        rows.append(f"{' '.join(WORDS[n] for n in words)},{'low' if words[0] < 3 else 'high'}")
    path.write_text("\n".join(rows) + "\n")
    return str(path)


def task_recipe(output, folder, store, **over: Any) -> Recipe:
    tree: dict[str, Any] = {
        "output": str(output),
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "task": "classification",
        "data": {
            "train": labelled(folder / "train.csv", 120, 0),
            "validation": labelled(folder / "validation.csv", 40, 1),
            "length": 16,
            "batch": 16,
        },
        "optimizer": {"lr": 3e-3},
        "budget": {"epochs": 12},
        "track": {"progress": "quiet", "report": False},
    }
    if "init" not in over.get("model", {}):
        tree["model"] = {"family": "bert", "size": "tiny", "overrides": SHAPE, "dropout": 0.0}
        tree["data"]["tokenizer"] = str(store / "tokenizer")
    return validate(Recipe, merge(tree, over), "recipe")


@pytest.fixture(scope="module")
def pretrained(store, tmp_path_factory):
    return pretrain(recipe(tmp_path_factory.mktemp("pretrained") / "run", store))


def test_the_run_directory_is_the_finished_model(pretrained):
    model = load(pretrained, "cpu", "fp32")
    assert model.fill("w1 [MASK] w3")
    names = {path.name for path in pretrained.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "recipe.toml", "run.json", "data_stats.json"} <= names
    stats = json.loads((pretrained / "data_stats.json").read_text())
    (windows,) = stats["windows"].values()
    assert windows["tokens"] == windows["used"] + windows["end"] + windows["cut"]
    assert stats["training"]["samples"] == 80
    assert 3 < json.loads((pretrained / "run.json").read_text())["unigram_entropy"] < np.log(64)


def test_fine_tuning_learns_and_reports(pretrained, tmp_path, store):
    run = finetune(task_recipe(tmp_path / "run", tmp_path, store, model={"init": str(pretrained), "dropout": 0.0}))
    actual = [line for line in lines(run) if "eval/accuracy" in line]
    assert len(actual) == 10
    assert actual[-1]["eval/accuracy"] == actual[-1]["eval/accuracy/classification"]
    assert actual[-1]["eval/accuracy"] > 0.7
    model = load(run, "cpu", "fp32")
    assert model.labels == ["high", "low"]
    facts = json.loads((run / "run.json").read_text())
    assert facts["finished"]["best"] == max(line["eval/accuracy"] for line in actual)
    assert facts["labels"] == ["high", "low"]
    stats = json.loads((run / "data_stats.json").read_text())
    expected = {"examples": 120, "rows": 120, "tokens": 1200, "examples_cut": 0, "tokens_cut": 0, "tokens_repeated": 0}
    expected["tokens_unknown"] = 0
    assert stats["train"] == expected


def test_fine_tuning_from_random_weights_and_cut_texts(tmp_path, store, capsys):
    over = {"data": {"length": 8}, "budget": {"epochs": 1}, "track": {"progress": "plain"}}
    run = finetune(task_recipe(tmp_path / "run", tmp_path, store, **over))
    assert json.loads((run / "data_stats.json").read_text())["train"]["tokens_cut"] == 120 * 4
    assert "120 of 120 training texts cut to 8 tokens" in capsys.readouterr().err


def test_fine_tuning_is_repeatable_without_validation(tmp_path, store):
    over = {"data": {"validation": [], "holdout": 0}, "budget": {"epochs": 1}}
    for name in ("a", "b"):
        finetune(task_recipe(tmp_path / name, tmp_path, store, **over))
    assert (tmp_path / "a/model.safetensors").read_bytes() == (tmp_path / "b/model.safetensors").read_bytes()
    assert not any("eval/loss" in line for line in lines(tmp_path / "a"))


def test_a_frozen_body_stays(pretrained, tmp_path, store):
    over = {"model": {"init": str(pretrained)}, "budget": {"epochs": 1}}
    run = finetune(replaced(task_recipe(tmp_path / "run", tmp_path, store, **over), tune="frozen"))
    before, after = load_file(pretrained / "model.safetensors"), load_file(run / "model.safetensors")
    shared = [name for name in before if name in after and "pooler" not in name]
    assert len(shared) > 30
    assert all(torch.equal(before[name], after[name]) for name in shared)


@pytest.mark.parametrize(("family", "objective"), [("gpt2", "clm"), ("bert", "simcse"), ("bert", "mlm")])
def test_a_run_that_would_train_nothing_is_refused(family, objective, tmp_path, store):
    """Torch said "element 0 of tensors does not require grad"; what only the objective has is not in the model."""
    gpt2 = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 32}
    model = ModelConfig(family=family, size="tiny", overrides=gpt2 if family == "gpt2" else SHAPE)
    over = replaced(recipe(tmp_path / "run", store), model=model, objective={objective: 1.0}, tune="frozen")
    if objective == "mlm":
        assert (pretrain(over) / "model.safetensors").exists()
        return
    for others in ({}, {"mlm": 5.0}) if family == "bert" else ({},):
        mixed = replaced(over, objective={objective: 1.0, **others})
        with pytest.raises(UsageError, match=f"tune.frozen: nothing of .* would learn, as {objective} has no head"):
            pretrain(mixed)
    assert not (tmp_path / "run/model.safetensors").exists()


def test_what_is_frozen_has_no_dropout_and_is_not_in_checkpoints(pretrained, tmp_path, store, monkeypatch):
    """Dropout was on below the heads, and a checkpoint held 44.7 MB for 0.27 MB that trained."""
    over = {"model": {"init": str(pretrained), "dropout": 0.5}, "budget": {"epochs": 0.75}, "checkpoint": {"every": 3}}
    tuned = replaced(task_recipe(tmp_path / "run", tmp_path, store, **over), tune="frozen")
    modes, forward = [], TrainModule.forward

    def watched(self, *args, **kwargs):
        if self.training:
            drops = {name: m.training for name, m in self.model.named_modules() if isinstance(m, Dropout)}
            modes.append({on for name, on in drops.items() if not name.startswith("heads.")})
            modes.append({on for name, on in drops.items() if name.startswith("heads.")})
        return forward(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TrainModule, "forward", watched)
        run = finetune(tuned)
    assert modes[:2] == [{False}, {True}]
    names = {name for path in run.glob("checkpoint-*/model.safetensors") for name in load_file(path)}
    assert names
    assert all(name.startswith("model.heads.") for name in names)
    again = replaced(tuned, output=str(tmp_path / "again"))
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(SignalError):
            finetune(again)
    warned = json.loads((tmp_path / "again/run.json").read_text())["warnings"]
    finetune(again)
    assert (run / "model.safetensors").read_bytes() == (tmp_path / "again/model.safetensors").read_bytes()
    finished, resumed = (json.loads((folder / "run.json").read_text()) for folder in (run, tmp_path / "again"))
    assert finished["warnings"] == resumed["warnings"]  # each once, though it was said twice
    assert resumed["warnings"][: len(warned)] == warned != []
    ours, theirs = load(run, "cpu", "fp32"), load(run, "cpu", "fp32", step="best")
    assert ours.predict(["w0 w9", "w5 w7 w7"]) == theirs.predict(["w0 w9", "w5 w7 w7"])


@pytest.mark.usefixtures("unsealed")
def test_a_frozen_base_that_changed_is_not_gone_on_with(pretrained, tmp_path, store, monkeypatch):
    base = tmp_path / "base"
    shutil.copytree(pretrained, base)
    over = {"model": {"init": str(base)}, "budget": {"epochs": 0.5}}
    tuned = replaced(task_recipe(tmp_path / "run", tmp_path, store, **over), tune="frozen")
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        with pytest.raises(SignalError):
            finetune(tuned)
    tensors = load_file(base / "model.safetensors")
    tensors["bert.embeddings.word_embeddings.weight"] += 1
    save_file(tensors, base / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"model.init \(weights that do not learn\): the data changed"):
        finetune(tuned)


def test_continued_pretraining_begins_where_the_model_ended(pretrained, tmp_path, store):
    base = recipe(tmp_path / "run", store, budget={"steps": 1}, optimizer={"lr": 1e-12})
    run = pretrain(replaced(base, model={"init": str(pretrained)}))
    before, after = load_file(pretrained / "model.safetensors"), load_file(run / "model.safetensors")
    assert set(before) == set(after)
    assert all(torch.allclose(before[name], after[name], atol=1e-9) for name in before)


def test_several_stores_are_mixed_by_weight(tmp_path, store):
    (tmp_path / "other").mkdir()
    other = make_store(tmp_path / "other", seed=1)
    over = {"data": {"stores": [str(store), str(other)], "weights": [3, 1]}, "evaluation": {"samples": 8}}
    run = pretrain(recipe(tmp_path / "run", store, **over))
    state = json.loads((run / "checkpoint-10/state.json").read_text())
    assert state["cursors"] == [[60, 20]]


# -- bad input ------------------------------------------------------------------------------------------------------


def refused(tmp_path, run_recipe, kind, said):
    """An error of the right kind that says the right thing, before the first step."""
    with pytest.raises(kind, match=said):
        (finetune if run_recipe.task else pretrain)(run_recipe)
    assert not list((tmp_path / "run").glob("checkpoint-*"))
    assert not (tmp_path / "run/metrics.jsonl").exists() or not lines(tmp_path / "run")


def test_a_truncated_shard(tmp_path, store):
    bad = shutil.copytree(store, tmp_path / "bad")
    shard = bad / "train-tokens-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-2])
    refused(tmp_path, recipe(tmp_path / "run", bad), DataError, r"train-tokens-00000\.npy: truncated")


def test_a_changed_byte_in_a_shard(tmp_path, store):
    bad = shutil.copytree(store, tmp_path / "bad")
    shard = bad / "train-tokens-00000.npy"
    raw = bytearray(shard.read_bytes())
    raw[-3] ^= 1
    shard.write_bytes(raw)
    refused(tmp_path, recipe(tmp_path / "run", bad), DataError, r"train-tokens-00000\.npy: content differs")


def test_a_store_changed_since_the_run_began(tmp_path, store):
    ours = shutil.copytree(store, tmp_path / "store")
    pretrain(recipe(tmp_path / "run", ours, budget={"steps": 2}))
    shutil.rmtree(ours)
    ours.mkdir()
    make_store(ours, seed=5)
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    with pytest.raises(DataError, match=r"data\.stores\[0\]: the data changed") as caught:
        pretrain(recipe(tmp_path / "run", ours, budget={"steps": 4}))
    assert caught.value.code == 65
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


def test_a_moved_store_is_the_same_store(tmp_path, store):
    first = shutil.copytree(store, tmp_path / "first")
    pretrain(recipe(tmp_path / "run", first, budget={"steps": 2}))
    first.rename(tmp_path / "second")
    pretrain(recipe(tmp_path / "run", tmp_path / "second", budget={"steps": 4}))
    assert lines(tmp_path / "run")[-1]["step"] == 4


def test_a_changed_labelled_file(tmp_path, store):
    run_recipe = task_recipe(tmp_path / "run", tmp_path, store, budget={"epochs": 1})
    finetune(run_recipe)
    path = tmp_path / "train.csv"
    path.write_text(path.read_text().replace(",low", ",high", 1))
    with pytest.raises(DataError, match=r"data\.train: the data changed"):
        finetune(run_recipe)


@pytest.mark.parametrize(
    ("over", "kind", "said"),
    [
        ({"data": {"stores": ["nowhere"]}}, MissingInputError, "nowhere"),
        ({"data": {"stores": []}}, UsageError, r"data\.stores"),
        ({"data": {"length": 65}}, UsageError, r"data\.length.*64 positions"),
        ({"objective": {"mlmm": 1.0}}, UsageError, "did you mean 'mlm'"),
        ({"model": {"size": "huge"}}, UsageError, r"model\.size"),
        ({"model": {"family": "brt"}}, UsageError, "did you mean 'bert'"),
        ({"model": {"overrides": {"vocab_size": 32}}}, DataError, "32 is too small"),
        ({"tune": {"fulll": {}}}, UsageError, "did you mean 'full'"),
        ({"device": "cuda:99"}, UsageError, "cuda"),
        ({"evaluation": {"metric": "loss/mln"}}, UsageError, r"evaluation\.metric.*did you mean 'loss/mlm'"),
    ],
)
def test_recipes_that_cannot_be_run(tmp_path, store, over, kind, said):
    refused(tmp_path, recipe(tmp_path / "run", store, **over), kind, said)


def test_a_tokenizer_that_is_not_the_models(tmp_path, store, pretrained):
    (tmp_path / "store").mkdir()
    other = make_store(tmp_path / "store", seed=1)
    text = (other / "tokenizer/tokenizer.json").read_text().replace('"w7"', '"other"')
    (other / "tokenizer/tokenizer.json").write_text(text)
    run_recipe = replaced(recipe(tmp_path / "run", other), model={"init": str(pretrained)})
    refused(tmp_path, run_recipe, DataError, "tokenizer")


def test_labels_are_checked(tmp_path, store):
    run_recipe = task_recipe(tmp_path / "run", tmp_path, store)
    (tmp_path / "validation.csv").write_text("text,label\nw1 w2,medium\n")
    refused(tmp_path, run_recipe, DataError, r"validation\.csv:2.*medium")
    (tmp_path / "train.csv").write_text("text,label\nw1 w2,low\nw3,low\n")
    refused(tmp_path, run_recipe, DataError, "low")


def test_a_directory_with_something_else_in_it(tmp_path, store):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/notes.txt").write_text("mine")
    with pytest.raises(CannotCreateError, match=r"notes\.txt"):
        pretrain(recipe(tmp_path / "run", store))
