"""Runs with a teacher: bit for bit, small on disk, with any objective and task, and refused before they begin."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import pretune
from pretune.config import merge, validate
from pretune.errors import DataError, PretuneError, UsageError
from pretune.interop.huggingface import load_model
from pretune.runtime.signals import SignalError
from pretune.train.recipe import Recipe
from pretune.train.run import finetune, pretrain
from tests.train.trainkit import (
    SHAPE,
    WORDS,
    clm_recipe,
    home_recipe,
    lines,
    make_store,
    make_tokenizer,
    recipe,
    replaced,
    shas,
    stop_at,
    untimed,
)

DEEP = {**SHAPE, "num_hidden_layers": 4}
QUIET = {"progress": "quiet", "report": False, "every": 2}


def examples(path: Path, labels: tuple[str, ...] = ("low", "high"), count: int = 48) -> Path:
    """Texts whose label says whether their first word is among the first ones; a field for pairs beside it."""
    rng = np.random.default_rng(len(labels))
    rows = []
    for n in range(count):
        label = n % len(labels)
        numbers = [label * 20 + int(rng.integers(0, 20)), *rng.integers(0, 59, int(rng.integers(2, 7))).tolist()]
        rows.append({"text": " ".join(WORDS[number] for number in numbers), "label": labels[label]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store and its teacher of four layers; labelled texts and a teacher of their task."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("distil")
    make_store(root / "store", documents=30, sentinels=3)
    make_tokenizer(root / "tokenizer")
    deep = {"model": {"overrides": DEEP}}
    pretrain(recipe(root / "teacher", root / "store", budget={"steps": 6}, optimizer={"lr": 3e-3}, **deep))
    finetune(classified(root, root / "judge", examples(root / "train.jsonl"), budget={"steps": 90}))
    return root


def classified(folder: Path, run: Path, train: Path, **over: Any) -> Recipe:
    """Classification from random weights, or from a model that `over` names."""
    tree = {
        "output": str(run),
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "model": {"family": "bert", "size": "tiny", "overrides": DEEP},
        "task": {"classification": {}},
        "automatic": [],
        "data": {"train": [str(train)], "tokenizer": str(folder / "tokenizer"), "length": 16, "batch": 8},
        "optimizer": {"lr": 3e-3},
        "budget": {"steps": 12},
        "checkpoint": {"every": 4},
        "evaluation": {"samples": None, "every": 6, "keep": "last"},
        "track": QUIET,
    }
    return validate(Recipe, {**tree, **over}, "recipe")


def student(folder: Path, run: Path, **distil: Any) -> Recipe:
    """Two of the teacher's four layers, taught by it."""
    base = recipe(run, folder / "store", checkpoint={"every": 5}, evaluation={"samples": 8, "every": 10})
    table = {"teacher": str(folder / "teacher"), "student": {"layers": 2}, **distil}
    return replaced(base, model={"init": str(folder / "teacher")}, distil=table)


def judged(folder: Path, run: Path, **distil: Any) -> Recipe:
    """A student of the classifier."""
    table = {"teacher": str(folder / "judge"), "student": {"layers": 2}, **distil}
    return classified(folder, run, folder / "train.jsonl", model={"init": str(folder / "judge")}, distil=table)


ALL = {"hidden": 1.0, "attention": 0.5, "relations": 1.0, "vectors": 0.5}


def test_a_killed_run_goes_on_bit_for_bit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All terms of a wider teacher, whose projections are in checkpoints and not in the model."""
    shape = {**SHAPE, "hidden_size": 16, "intermediate_size": 32}

    def narrow(run: Path) -> Recipe:
        table = {"student": {}, "relation_heads": 4, **ALL}
        return replaced(student(folder, run, **table), model={"family": "bert", "size": "tiny", "overrides": shape})

    pretrain(narrow(tmp_path / "whole"))
    with monkeypatch.context() as patch:
        stop_at(patch, 4)
        with pytest.raises(SignalError):
            pretrain(narrow(tmp_path / "parts"))
    pretrain(narrow(tmp_path / "parts"))
    assert shas(tmp_path / "whole", 10) == shas(tmp_path / "parts", 10)
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "parts")
    kept = load_file(tmp_path / "whole" / "checkpoint-10" / "model.safetensors")
    assert [name for name in kept if "projections" in name]
    assert not [name for name in kept if "teacher" in name]
    saved = load_file(tmp_path / "whole" / "model.safetensors")
    assert not [name for name in saved if "projection" in name or "teacher" in name]
    assert {len(row) for name, row in saved.items() if name.endswith("attention.self.query.weight")} == {16}


def test_another_head_is_another_teacher(folder: Path, tmp_path: Path) -> None:
    """Its body is the same, and its answers are not."""
    shutil.copytree(folder / "judge", tmp_path / "judge")
    table = {"teacher": str(tmp_path / "judge"), "student": {"layers": 2}}
    base = judged(folder, tmp_path / "run")
    begun = replaced(base, distil=table, budget={"steps": 4})
    finetune(begun)
    (tmp_path / "judge" / "pretune.xxh128").unlink()
    weights = load_file(tmp_path / "judge" / "model.safetensors")
    weights["classifier.weight"] = -weights["classifier.weight"]
    save_file(weights, tmp_path / "judge" / "model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match=r"frozen model .*judge: the data changed since this run began"):
        finetune(replaced(begun, budget={"steps": 8}))


def test_without_weights_it_is_the_run_without_a_teacher(folder: Path, tmp_path: Path) -> None:
    """To the last bit of every metric and weight."""
    pretrain(student(folder, tmp_path / "plain", soft=0.0))
    base = student(folder, tmp_path / "base")
    pretrain(replaced(base, distil={"student": {"layers": 2}}))
    assert shas(tmp_path / "plain", 10) == shas(tmp_path / "base", 10)
    assert untimed(tmp_path / "plain") == untimed(tmp_path / "base")


def test_what_the_teacher_says_changes_the_student_and_not_the_labels_loss(folder: Path, tmp_path: Path) -> None:
    """A tiny weight gives the metrics of labels as they are; the first step has not changed anything yet."""
    runs = {}
    for name, distil in {"none": {"soft": 0.0}, "all": ALL, "soft": {}}.items():
        base = student(folder, tmp_path / name, **distil)
        pretrain(replaced(base, track={**QUIET, "every": 1}, budget={"steps": 2}))
        runs[name] = lines(tmp_path / name)
    first = [run[0]["loss/mlm"] for run in runs.values()]
    second = [run[1]["loss/mlm"] for run in runs.values()]
    assert first[0] == pytest.approx(first[1], rel=1e-6) == pytest.approx(first[2], rel=1e-6)
    assert len(set(second)) == 3
    names = {"soft_mlm", "soft_nsp", "distil_hidden", "distil_attention", "distil_relations", "distil_vectors"}
    assert {f"loss/{name}" for name in names} <= runs["all"][0].keys()


def test_the_student_is_a_plain_model(folder: Path, tmp_path: Path) -> None:
    pretrain(student(folder, tmp_path / "run", **ALL))
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["num_hidden_layers"] == 2
    model = load_model(tmp_path / "run")
    assert len(model.stack.order) == 2
    loaded = pretune.load(tmp_path / "run", device="cpu", precision="fp32")
    assert len(loaded.fill("w1 w2 [MASK] w4", top=3)[0]) == 3
    model_of_run = load_file(tmp_path / "run" / "initial" / "model.safetensors")
    teacher = load_file(folder / "teacher" / "model.safetensors")
    layer = "bert.encoder.layer.{}.attention.self.query.weight"
    assert torch.equal(model_of_run[layer.format(1)], teacher[layer.format(3)])  # the last one of four


def test_answers_that_are_kept_are_the_same(folder: Path, tmp_path: Path) -> None:
    """With and without a file of the teacher's answers a run computes the same, and the file goes in the end."""
    notes = {}
    for cache in ("always", "never"):
        finetune(judged(folder, tmp_path / cache, cache=cache))
        notes[cache] = untimed(tmp_path / cache)
        assert not (tmp_path / cache / "teacher-answers").exists()
    assert notes["always"] == notes["never"]
    assert shas(tmp_path / "always", 12) == shas(tmp_path / "never", 12)


def test_kept_answers_survive_a_kill(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finetune(judged(folder, tmp_path / "whole", cache="always"))
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        with pytest.raises(SignalError):
            finetune(judged(folder, tmp_path / "parts", cache="always"))
    assert list((tmp_path / "parts" / "teacher-answers").glob("*.hidden"))
    finetune(judged(folder, tmp_path / "parts", cache="always"))
    assert shas(tmp_path / "whole", 12) == shas(tmp_path / "parts", 12)


def test_what_changes_each_epoch_is_not_kept(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"distil.cache = always: mlm.* changes in each epoch"):
        pretrain(student(folder, tmp_path / "run", cache="always"))


def test_a_teacher_of_another_order_of_labels_teaches_the_same(folder: Path, tmp_path: Path) -> None:
    """Labels are matched by their names."""
    turned = {"classification": {"labels": ["low", "high"]}}  # the teacher has them sorted: high, low
    truth = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    base = judged(folder, tmp_path / "run", student={"layers": 3}, labels=0.0, temperature=1.0)
    finetune(validate(Recipe, {**base.model_dump(mode="json"), "task": turned, "budget": {"steps": 40}}, "recipe"))
    model = pretune.load(tmp_path / "run", device="cpu")
    assert model.labels == ["low", "high"]
    answers = [answer["label"] for answer in model.predict([row["text"] for row in truth])]
    taught = [answer["label"] for answer in pretune.load(folder / "judge").predict([row["text"] for row in truth])]
    assert np.mean([a == b for a, b in zip(answers, taught, strict=True)]) > 0.85


def test_texts_without_labels_are_learned_from_the_teacher_alone(folder: Path, tmp_path: Path) -> None:
    truth = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in truth))
    table = {"teacher": str(folder / "judge"), "unlabelled": True, "temperature": 1.0}
    shape = {"family": "bert", "size": "tiny", "overrides": SHAPE}
    base = classified(folder, tmp_path / "run", texts, model=shape, distil=table, budget={"steps": 90})
    finetune(base)
    model = pretune.load(tmp_path / "run", device="cpu")
    answers = [answer["label"] for answer in model.predict([row["text"] for row in truth])]
    assert np.mean([a == row["label"] for a, row in zip(answers, truth, strict=True)]) > 0.85
    with pytest.raises(UsageError, match=r"distil.unlabelled: texts without labels are not held out.*--validation"):
        finetune(
            validate(
                Recipe,
                merge(base.model_dump(mode="json"), {"data": {"holdout": 0.2}, "output": str(tmp_path / "held")}),
                "recipe",
            )
        )
    with pytest.raises(UsageError, match=r"unlabelled texts are learned from a teacher alone"):
        classified(folder, tmp_path / "run", texts, distil={**table, "labels": 1.0})
    with pytest.raises(DataError, match=r"was not trained for classification"):
        finetune(classified(folder, tmp_path / "other", texts, model=shape,
                            distil={**table, "teacher": str(folder / "teacher")}))  # fmt: skip


def test_a_baseline_is_trained_beside_it(folder: Path, tmp_path: Path) -> None:
    base = judged(folder, tmp_path / "run", baseline=True)
    with pytest.raises(UsageError, match=r"distil.baseline.*--validation"):
        finetune(base)
    finetune(validate(Recipe, merge(base.model_dump(mode="json"), {"data": {"holdout": 0.25}}), "recipe"))
    record = json.loads((tmp_path / "run" / "run.json").read_text())["teacher"]
    assert record["metric"] == "accuracy"
    assert {"scores", "student", "without_teacher"} <= record.keys()
    assert (tmp_path / "run" / "without-teacher" / "model.safetensors").exists()
    assert pretune.load(tmp_path / "run", device="cpu").predict(["w1 w2"])


def test_clm_and_an_encoder_decoder(folder: Path, tmp_path: Path) -> None:
    """Decoders of two sorts: a causal one with all terms, one behind an encoder."""
    deep = {"n_layer": 4, "n_embd": 32, "n_head": 2, "n_inner": 64, "n_positions": 64}
    pretrain(replaced(clm_recipe(tmp_path / "gpt", folder / "store", budget={"steps": 2}),
                      model={"family": "gpt2", "size": "tiny", "overrides": deep}))  # fmt: skip
    pretrain(home_recipe("denoise", tmp_path / "bart", folder / "store", budget={"steps": 2}))
    for name, objective in (("gpt", "clm"), ("bart", "denoise")):
        base = recipe(tmp_path / f"{name}-student", folder / "store", budget={"steps": 2})
        table = {"teacher": str(tmp_path / name), "student": {"layers": 1}, "hidden": 1.0, "relations": 1.0}
        table |= {"attention": 1.0} if name == "gpt" else {}
        init = {"init": str(tmp_path / name)}
        pretrain(replaced(base, objective={objective: 1.0}, model=init, distil=table))
        last = lines(tmp_path / f"{name}-student")[-1]
        assert {"eval/loss/soft_clm", "eval/loss/distil_relations"} <= last.keys()
        assert len(load_model(tmp_path / f"{name}-student").stack.order) == 1


@pytest.mark.parametrize(
    ("distil", "message"),
    [
        ({"student": {"layers": 5}}, r"distil.student.layers = 5: the model has 4 layers"),
        ({"student": {"keep": [2, 1]}}, r"distil.student.keep = \[2, 1\].*ascending"),
        ({"student": {"keep": [0, 4]}}, r"distil.student.keep = \[0, 4\].*layers 0 to 3"),
        ({"student": {"keep": [0], "layers": 2}}, r"give one of them"),
        ({"student": {}}, r"is the model that the run starts from.*--student.layers"),
        ({"hidden": 1.0, "layer_map": [[3, 4]]}, r"distil.layer_map = \[3, 4\]: the student has layers 0 to 2"),
        ({"attention": 1.0, "layer_map": [[0, 0]]}, r"distil.layer_map = \[0, 0\]: the student has layers 1 to 2"),
        ({"relations": 1.0, "relation_layer": 5}, r"distil.relation_layer = 5: the teacher has layers 1 to 4"),
        ({"relations": 1.0, "relation_heads": 5}, r"distil.relation_heads = 5: .*32 wide.*divisor of 32"),
        ({"labels": 0.0, "soft": 0.0}, r"all weights are 0"),
        ({"temperature": 0.0}, r"temperature"),
        ({"layer_map": [[1, 1]]}, r"layer_map is for hidden and attention"),
    ],
)
def test_what_cannot_be_had_is_refused(folder: Path, tmp_path: Path, distil: dict[str, Any], message: str) -> None:
    with pytest.raises(PretuneError, match=message):
        pretrain(student(folder, tmp_path / "run", **distil))
    assert not (tmp_path / "run" / "config.json").exists()
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_teacher_with_other_labels_or_without_the_head_is_refused(folder: Path, tmp_path: Path) -> None:
    shape = {"family": "bert", "size": "tiny", "overrides": SHAPE}
    other = examples(tmp_path / "other.jsonl", ("low", "middle"))
    table = {"teacher": str(folder / "judge")}
    with pytest.raises(DataError, match=r"lacks middle, and has besides high; name a teacher that was trained with"):
        finetune(classified(folder, tmp_path / "run", other, model=shape, distil=table))
    pretrain(recipe(tmp_path / "plain", make_store(tmp_path / "store", documents=8), budget={"steps": 1}))
    table = {"teacher": str(tmp_path / "plain")}
    with pytest.raises(DataError, match=r"no head 'classification', which classification asks"):
        finetune(classified(folder, tmp_path / "run", folder / "train.jsonl", model=shape, distil=table))
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_another_tokenizer_is_refused_with_the_remedy(folder: Path, tmp_path: Path) -> None:
    shape = {"family": "bert", "size": "tiny", "overrides": SHAPE}
    table = {"teacher": str(folder / "teacher")}  # of 67 tokens
    with pytest.raises(DataError, match=r"tokenizer.*is not that of the data.*--student.layers|too large"):
        finetune(classified(folder, tmp_path / "run", folder / "train.jsonl", model=shape, distil=table))


def test_a_teacher_with_nan_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "teacher", tmp_path / "broken")
    weights = load_file(tmp_path / "broken" / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"][7, 3] = float("nan")
    save_file(weights, tmp_path / "broken" / "model.safetensors", {"format": "pt"})
    (tmp_path / "broken" / "seal.json").unlink(missing_ok=True)
    base = student(folder, tmp_path / "run")
    with pytest.raises(PretuneError, match=r"not numbers|NaN|SHA-256|nan"):
        pretrain(replaced(base, distil={"teacher": str(tmp_path / "broken"), "student": {"layers": 2}}))


def test_another_teacher_in_the_middle_of_a_run_is_refused(folder: Path, tmp_path: Path) -> None:
    """It is known by its weights."""
    over = replaced(recipe(tmp_path / "teacher", folder / "store"), budget={"steps": 1})
    pretrain(over)
    run = replaced(student(folder, tmp_path / "run"), distil={"teacher": str(tmp_path / "teacher")},
                   model={"family": "bert", "size": "tiny", "overrides": SHAPE})  # fmt: skip
    pretrain(replaced(run, budget={"steps": 5}))
    shutil.rmtree(tmp_path / "teacher")
    pretrain(replaced(over, seed=5))
    with pytest.raises(DataError, match=r"frozen model .*teacher: the data changed since this run began"):
        pretrain(run)
