"""Several tasks on one backbone: each with its data, head, scores and name; saved, read and used by name."""

from __future__ import annotations

import json
import re
import shutil
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from safetensors.torch import load_file
from test_pinned import task_recipe
from tinymodels import save_bert, word_tokenizer
from trainkit import WORDS, lines, replaced, shas, stop_at, untimed

import pretune
from pretune.cli import main
from pretune.config import load, validate
from pretune.errors import UsageError
from pretune.find import find_class, variants
from pretune.interop.metadata import read_metadata
from pretune.objectives.mixture import mix
from pretune.report.next_commands import named_tasks, next_commands
from pretune.runtime.signals import SignalError
from pretune.tasks.classification import Classification
from pretune.tasks.shared.named import name_tasks
from pretune.tasks.similarity import Similarity
from pretune.tasks.task import Task
from pretune.text.tokenizer.vocabulary import numbered
from pretune.train.automatic import resolve_automatic
from pretune.train.plan import make_plan
from pretune.train.recipe import Recipe
from pretune.train.recipe_changes import compare
from pretune.train.run import finetune
from pretune.train.several_tasks import draw_weights, tasks_of


def several(folder: Path, run: Path, **over: Any) -> Recipe:
    """Forty steps: the first word tells the label, the second one the topic; a file for each, of other sizes."""
    base = task_recipe(folder, "classification", "bert")
    rng = np.random.default_rng(1)
    for name, count in (("topics", 120), ("topics-dev", 20)):
        rows = [[WORDS[int(n)] for n in rng.integers(0, 59, 6)] for _ in range(count)]
        labelled = [{"text": " ".join(words), "topic": ["even", "odd"][int(words[1][1:]) % 2]} for words in rows]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, labelled)) + "\n")
    tree = base.model_dump(mode="json", exclude_unset=True)
    tree["data"].pop("columns")
    tree["task"] = {
        "topic": {
            "task": "classification",
            "data": {
                "train": [str(folder / "topics.jsonl")],
                "validation": [str(folder / "topics-dev.jsonl")],
                "columns": {"label": "topic"},
            },
        },
        "pairs": {"task": "similarity", "loss": "contrast", "data": {"columns": {"second": "second"}, "holdout": 0.2}},
        "group": {"task": "classification", "labels": ["2", "1", "0"]},
    }
    for name in ("train", "validation"):  # pairs are scored by labels that differ
        path = folder / f"{name}.jsonl"
        assert {"text", "second", "label"} <= json.loads(path.read_text().splitlines()[0]).keys()
    tree |= {"output": str(run), "budget": {"steps": 40}, "evaluation": {"every": 20, "keep": "last"}}
    return replaced(validate(Recipe, tree, "recipe"), **over)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("several")


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    finetune(several(folder, folder / "run"))
    return folder / "run"


def test_each_is_trained_and_scored_under_its_name(run: Path) -> None:
    rows = lines(run)
    assert {"loss/topic", "loss/pairs", "loss/group"} <= {name for row in rows for name in row}
    last = [row for row in rows if "eval/loss" in row][-1]
    main_scores = [last["eval/topic/accuracy"], last["eval/pairs/spearman"], last["eval/group/accuracy"]]
    assert last["eval/mean_score"] == pytest.approx(sum(main_scores) / 3)
    facts = json.loads((run / "run.json").read_text())
    assert facts["metric"] == "mean_score"
    assert facts["tasks"]["group"]["labels"] == ["2", "1", "0"]
    assert facts["tasks"]["pairs"]["held_out"]["of"] == 48


def test_the_files_record_all_and_the_first_head_is_that_of_transformers(run: Path) -> None:
    metadata = read_metadata(run)
    assert metadata.tasks is not None
    assert list(metadata.tasks) == ["topic", "pairs", "group"]
    assert metadata.tasks["topic"].columns["label"] == "topic"
    assert metadata.heads == {"classification": "standard", "task_group": "task"}
    names = set(load_file(run / "model.safetensors"))
    assert {"classifier.weight", "bert.pooler.dense.weight", "heads.task_group.linear.weight"} <= names
    theirs = transformers.pipeline("text-classification", str(run), device="cpu")
    text = "w4 w7 w9"
    (answer,) = theirs([text])
    ours = pretune.load(run, "cpu", "fp32").predict(text, task="topic")
    assert (ours.label, ours.probability) == (answer["label"], pytest.approx(answer["score"], abs=1e-5))


def test_a_loaded_model_predicts_and_evaluates_by_name(run: Path, folder: Path) -> None:
    model = pretune.load(run, "cpu", "fp32")
    assert set(model.predict("w4 w7", task="group").probabilities) == {"0", "1", "2"}
    assert set(model.predict([{"text": "w4 w7"}], task="topic")[0].probabilities) == {"even", "odd"}
    assert -1 <= model.predict(["w4"], ["w5"], task="pairs")[0] <= 1
    scores = model.evaluate(folder / "topics-dev.jsonl", task="topic")
    saved = [row for row in lines(run) if "eval/loss" in row][-1]
    assert scores["accuracy"] == saved["eval/topic/accuracy"]
    with pytest.raises(UsageError, match="several tasks; name one with --task: topic, pairs, group"):
        model.predict("w4 w7")


def test_the_verbs_name_a_task(run: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(run), "w4 w7", "--task", "group", "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] in {"0", "1", "2"}
    output = run.parent / "answers.csv"
    flags = ["--task", "topic, group", "--device", "cpu"]
    assert main(["predict", str(run), "w4 w7", "w5", *flags]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [list(answer) for answer in answers] == [["text", "topic", "group"]] * 2
    assert answers[0]["topic"]["label"] in {"even", "odd"}
    assert main(["predict", str(run), "w4 w7", *flags, "--output", str(output)]) == 0
    assert {"topic.label", "group.label"} <= set(output.read_text().splitlines()[0].split(","))
    capsys.readouterr()
    assert main(["predict", str(run), "w4 w7", "--device", "cpu"]) == 64
    assert "--task: topic, pairs, group" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--device", "cpu", "--precision", "fp32"]) == 0
    scores = json.loads(capsys.readouterr().out)
    saved = [row for row in lines(run) if "eval/loss" in row][-1]
    assert scores["mean_score"] == pytest.approx(saved["eval/mean_score"], abs=1e-6)
    assert main(["evaluate", str(run), "--task", "topic", "--device", "cpu"]) == 0
    assert "accuracy" in json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(run), str(folder / "topics-dev.jsonl"), "--task", "topic", "--device", "cpu"]) == 0
    assert "accuracy" in json.loads(capsys.readouterr().out)


def test_each_task_has_its_own_threshold(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """That of the first was laid on all, and refused by a task without labels."""
    shutil.copytree(run, tmp_path / "run")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    config["pretune"]["tasks"]["topic"]["config"]["threshold"] = 1.0
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    assert main(["verify", "--accept", str(tmp_path / "run")]) == 0
    capsys.readouterr()
    flags = ["--device", "cpu", "--no-allocator"]
    data = tmp_path / "pairs.jsonl"
    data.write_text(json.dumps({"text": "w4 w7", "second": "w5"}))
    assert main(["predict", str(tmp_path / "run"), str(data), "--task", "topic,group,pairs", *flags]) == 0
    out, err = capsys.readouterr()
    (answer,) = map(json.loads, out.splitlines())
    assert answer["topic"]["label"] is None
    assert answer["group"]["label"] in {"0", "1", "2"}
    assert "topic: no label is as probable as the model's threshold of 1: 1 of 1" in err
    assert "group: no label" not in err


def test_it_resumes_bit_for_bit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    over = {"checkpoint": {"every": 8}, "budget": {"steps": 16}}
    finetune(several(folder, tmp_path / "whole", **over))
    with monkeypatch.context() as patch:
        stop_at(patch, 7)
        with pytest.raises(SignalError):
            finetune(several(folder, tmp_path / "parts", **over))
    finetune(several(folder, tmp_path / "parts", **over))
    assert shas(tmp_path / "whole", 16) == shas(tmp_path / "parts", 16)
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "parts")


def test_epochs_are_passes_over_all_examples_together(folder: Path, tmp_path: Path) -> None:
    data = several(folder, tmp_path / "run").data.model_dump(mode="json", exclude_unset=True)
    recipe = several(folder, tmp_path / "run", budget={"epochs": 2}, data={**data, "temperature": 3.0})
    plan = make_plan(recipe)
    assert [line.partition(":")[0] for line in plan.data] == [f"examples of {n}" for n in ("topic", "pairs", "group")]
    assert any("drawn by their examples" in fact for fact in plan.facts)
    assert any("= 2.0" in fact and "epochs" in fact for fact in plan.facts)


@pytest.mark.parametrize(
    ("temperature", "expected"), [(1.0, [0.9, 0.1]), (2.0, [0.75, 0.25]), (1e9, [0.5, 0.5])], ids=str
)
def test_steps_are_drawn_by_size_to_a_temperature(temperature: float, expected: list[float]) -> None:
    vocabulary = numbered(100, 5)
    tasks = [Classification(Classification.Config(), vocabulary), Similarity(Similarity.Config(), vocabulary)]
    weights = np.array(draw_weights(tasks, [900, 100], temperature))
    assert weights.sum() == pytest.approx(2.0)
    assert (weights / weights.sum()).tolist() == pytest.approx(expected, abs=1e-6)


def test_the_model_and_its_page_name_the_tasks(run: Path) -> None:
    assert ["task", "topic, pairs, group"] in [list(row) for row in pretune.load(run, "cpu").facts.rows]
    tasks = named_tasks(json.loads((run / "run.json").read_text()))
    assert tasks == {"topic": False, "pairs": True, "group": False}
    assert next_commands("run", {"classify"}, "", tasks=tasks) == [
        'pretune predict run --task topic "a text"',
        'pretune predict run --task pairs --pair "a text" "a second text"',
        'pretune predict run --task group "a text"',
    ]


def test_the_first_classifier_keeps_its_head() -> None:
    named = name_tasks({"pairs": Similarity, "intent": Classification, "topic": Classification})
    assert [(name, task.name, task.role) for name, task in named.items()] == [
        ("intent", "intent", "classification"),
        ("pairs", "pairs", ""),
        ("topic", "topic", "task_topic"),
    ]
    assert Classification.name == "classification"


@pytest.mark.parametrize("task", variants("tasks"))
def test_every_task_may_be_there_twice(task: str) -> None:
    """Its heads go by its role, so that the second one's are others, unless they are what the model has anyway."""
    task_class: type[Any] = find_class("tasks", task, Task)  # type: ignore[type-abstract]
    first, second = name_tasks({"first": task_class, "second": task_class}).values()
    assert (first.name, second.name) == ("first", "second")
    assert (second.role == first.role) == (not task_class.role or task_class.shares_head)


def test_two_tasks_with_one_head_are_refused(run: Path) -> None:
    network = pretune.load(run, "cpu", "fp32").network
    vocabulary = numbered(100, 5)
    config = Classification.Config(labels=("a", "b"))
    other: type[Classification] = type("Other", (Classification,), {"name": "other"})
    with pytest.raises(UsageError, match="classification and other have one head, 'classification'"):
        mix([Classification(config, vocabulary), other(config, vocabulary)]).heads(network)


def test_a_run_goes_on_with_files_of_a_task_elsewhere() -> None:
    began = {"task.topic.data.train": ["a.csv"], "task.topic.task": "classification", "seed": 0}
    assert len(compare(began, {**began, "task.topic.data.train": ["b.csv"]})) == 1
    with pytest.raises(UsageError, match=r"task\.topic\.task"):
        compare(began, {**began, "task.topic.task": "tagging"})


def test_flags_change_the_settings_of_named_tasks(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        """data.train = ["a.csv"]\n[task.intent]\ntask = "classification"\n[task.slots]\ntask = "tagging"\n"""
    )
    flags = [
        "--task.intent.label-smoothing",
        "0.1",
        "--task.slots.data.train",
        "b.conll,c.conll",
        "--data.temperature",
        "2",
    ]
    intent, slots = tasks_of(load(Recipe, path, [*flags, "--task.slots.data.columns.format", "conll"]))
    assert intent.recipe.task == {"classification": {"label_smoothing": 0.1}}
    assert (slots.recipe.data.train, slots.recipe.data.columns.format) == (("b.conll", "c.conll"), "conll")


def test_the_recipes_of_the_guide_are_read(tmp_path: Path) -> None:
    guide = (Path(__file__).parents[2] / "docs/guide/tasks/several-tasks.md").read_text(encoding="utf-8")
    recipes = re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    named = [[task.name for task in tasks_of(validate(Recipe, tomllib.loads(each), "guide"))] for each in recipes]
    assert named == [["intent", "slots"], ["topic", "urgent", "duplicates"]]


def test_rows_in_memory_go_by_the_names_of_tasks(folder: Path, tmp_path: Path) -> None:
    recipe = several(folder, tmp_path / "run")
    tree = recipe.model_dump(mode="json", exclude_unset=True)
    tree["task"] = {"one": {"task": "classification"}, "two": {"task": "classification"}}
    tree["data"] = {name: value for name, value in tree["data"].items() if name not in ("train", "validation")}
    tree["budget"] = {"steps": 4}
    rows = {
        "one": [("w1 w2", "a"), ("w3 w4", "b")] * 8,
        "two": [("w1 w2", "c"), ("w3 w4", "d"), ("w5", "e")] * 8,
    }
    model = pretune.finetune(tree, rows, rows)
    assert set(model.predict("w1", task="two").probabilities) == {"c", "d", "e"}
    with pytest.raises(UsageError, match="no rows for the task 'two'"):
        pretune.finetune({**tree, "output": str(tmp_path / "other")}, {"one": rows["one"]})


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"a b": {"task": "classification"}, "similarity": {}}, "'a b' names a task"),
        ({"intent": {"task": "clasification"}}, "no variant 'clasification'"),
        ({"intent": {}, "similarity": {}}, "no variant 'intent'"),
        ({"intent": {"task": "classification", "data": {"trian": "a.csv"}}}, "task.intent.data.*trian"),
        ({"intent": {"task": "classification", "label_smothing": 0.1}}, "task.intent.*label_smothing"),
    ],
    ids=str,
)
def test_bad_tables_are_refused(folder: Path, tmp_path: Path, tasks: dict[str, Any], message: str) -> None:
    tree = several(folder, tmp_path / "run").model_dump(mode="json", exclude_unset=True)
    with pytest.raises(UsageError, match=message):
        finetune(validate(Recipe, {**tree, "task": tasks}, "recipe"))


def test_a_task_without_training_files_is_named(folder: Path, tmp_path: Path) -> None:
    tree = several(folder, tmp_path / "run").model_dump(mode="json", exclude_unset=True)
    tree["data"].pop("train")
    with pytest.raises(UsageError, match=r"'task\.pairs\.data\.train' is missing"):
        finetune(validate(Recipe, tree, "recipe"))


def test_a_task_reads_the_data_of_the_run_where_it_names_none(folder: Path, tmp_path: Path) -> None:
    topic, pairs, group = (task.recipe.data for task in tasks_of(several(folder, tmp_path / "run")))
    assert (topic.train, topic.columns.label, topic.validation) == (
        (str(folder / "topics.jsonl"),),
        "topic",
        (str(folder / "topics-dev.jsonl"),),
    )
    assert (pairs.train, pairs.validation, pairs.holdout) == ((str(folder / "train.jsonl"),), (), 0.2)
    assert (group.train, group.columns.label) == ((str(folder / "train.jsonl"),), "label")


def test_intent_and_slots_read_one_file(folder: Path, tmp_path: Path) -> None:
    """The intent is the first word's, a slot every word that ends in 7; both are learned by heart."""
    task_recipe(folder, "classification", "bert")  # writes the tokenizer
    rng = np.random.default_rng(3)
    records = []
    for _ in range(64):
        words = [WORDS[int(n)] for n in rng.integers(0, 20, 5)]
        starts = np.cumsum([0, *(len(word) + 1 for word in words)]).tolist()
        spans = [
            {"start": start, "end": start + len(word), "label": "seven"}
            for start, word in zip(starts, words, strict=False)
            if word.endswith("7")
        ]
        records.append({"text": " ".join(words), "label": "low" if int(words[0][1:]) < 10 else "high", "spans": spans})
    path = folder / "orders.jsonl"
    path.write_text("\n".join(map(json.dumps, records)) + "\n")
    tree = several(folder, tmp_path / "run").model_dump(mode="json", exclude_unset=True)
    tree["task"] = {"intent": {"task": "classification"}, "slots": {"task": "tagging"}}
    tree["data"] |= {"train": [str(path)], "validation": [str(path)]}
    tree |= {"budget": {"steps": 80}, "optimizer": {"lr": 3e-3}, "evaluation": {"every": 40, "keep": "best"}}
    model = pretune.finetune(tree)
    last = [row for row in lines(tmp_path / "run") if "eval/loss" in row][-1]
    assert last["eval/slots/f1"] == 1.0, last
    assert last["eval/mean_score"] == (1.0 + last["eval/intent/accuracy"]) / 2
    assert model.predict("w3 w17 w5", task="intent").label in {"low", "high"}
    (span,) = model.predict("w3 w17 w5", task="slots")["spans"]
    assert (span["start"], span["end"], span["label"], span["text"]) == (3, 6, "seven", "w17")
    assert read_metadata(tmp_path / "run").heads == {"classification": "standard", "task_slots": "task"}


def test_what_is_open_is_chosen_from_the_data_of_all(tmp_path: Path) -> None:
    save_bert(tmp_path / "base", word_tokenizer())
    rows = [("the quick brown fox", "fox"), ("the lazy dog", "dog"), ("a cat ate a hat", "cat")] * 6
    tree = {
        "model": {"init": str(tmp_path / "base")},
        "task": {"one": {"task": "classification"}, "two": {"task": "classification"}},
        "output": str(tmp_path / "run"),
        "evaluation": {"samples": 0},
        "track": {"progress": "quiet", "report": False},
    }
    recipe = validate(Recipe, tree, "recipe")
    assert not any(field.startswith("task.") for field in recipe.automatic)
    chosen = resolve_automatic(recipe, {"one": rows, "two": rows[:9]})
    (note,) = chosen.notes
    assert note.startswith("chosen from 18 examples of 3 labels")
    assert "and 9 examples of 3 labels" in note
    assert list(chosen.facts["chosen"]["from"]) == ["one", "two"]
    single = validate(Recipe, {**tree, "task": "classification"}, "recipe")
    steps = [resolve_automatic(single, part).recipe.budget.steps for part in (rows, rows[:9])]
    assert chosen.recipe.budget.steps == sum(step or 0 for step in steps)
    assert set(chosen.recipe.task["one"]) == {"task"}  # the settings of tasks are as they were
    with pytest.raises(UsageError, match="for a single task"):
        finetune(recipe.model_copy(update={"search": 1.0}), {"one": rows, "two": rows})
