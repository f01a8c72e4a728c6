"""What fine-tuning chooses from its data, and that it leaves alone what is given."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import pretune
from pretune.cli import main
from pretune.config import load, validate
from pretune.errors import UsageError
from pretune.train.automatic import Choice, RunFacts, choose, resolve_automatic
from pretune.train.open_fields import open_fields
from pretune.train.recipe import Recipe
from pretune.train.tokens_read import tokens_per_parameter
from tests.tinymodels import save_bert, word_tokenizer

ROWS = [("the quick brown fox", "fox"), ("the lazy dog", "dog"), ("a cat ate a hat", "cat")] * 4
FACTS = RunFacts(
    examples=300,
    validation=30,
    labels=6,
    tokens=20.0,
    of_texts=True,
    fits_head=True,
    is_paired=False,
    width=384,
    vectors=None,
    is_frozen=False,
)


def recipe(**fields: Any) -> Recipe:
    return validate(Recipe, {"task": "classification", "model": {"init": "base"}} | fields, "recipe")


def choice(**facts: Any) -> Choice:
    return choose(RunFacts(**{**vars(FACTS), **facts}))


def test_fields_are_open_that_nobody_gave() -> None:
    fields = {"budget", "optimizer.lr", "schedule.warmup", "data.batch", "task.head", "task.fit_head"}
    assert fields <= set(recipe().automatic)
    assert "optimizer.lr" not in recipe(optimizer={"lr": 1e-3}).automatic
    assert "task.head" not in recipe(task={"classification": {"head": "standard"}}).automatic
    assert "data.batch" not in recipe(data={"batch_tokens": 100}).automatic
    assert recipe(automatic=()).automatic == ()


@pytest.mark.parametrize(
    "fields",
    [
        {"budget": {"steps": 3}},
        {"model": {"family": "bert"}},
        {"model": {"init": "tfidf"}},
        {"tune": "lora"},
        {"objective": {"mlm": 1.0}, "budget": {"steps": 1}},
    ],
)
def test_the_fixed_defaults_hold_elsewhere(fields: dict[str, Any]) -> None:
    tree = {"task": "classification", "model": {"init": "base"}} | fields
    assert open_fields(tree) == ()
    assert validate(Recipe, tree, "recipe").automatic == ()


def test_the_rule_grows_with_the_data_and_slows_with_the_width() -> None:
    steps = [choice(examples=n).steps for n in (16, 100, 300, 1000, 10_000)]
    assert steps == sorted(steps)
    assert choice(examples=10_000).steps * choice(examples=10_000).batch >= 3 * 10_000
    tagging = [choice(examples=n, of_texts=False, fits_head=False) for n in (100, 1000, 20_000)]
    assert [round(each.steps * each.batch / n) for each, n in zip(tagging, (100, 1000, 20_000), strict=True)] == [
        30,
        12,
        3,
    ]
    assert tagging[0].rate == pytest.approx(3e-4)
    assert choice(width=768).rate < choice().rate
    assert choice(examples=8).batch <= 8
    assert choice(vectors="mean").head == "mean"
    assert choice(vectors="mean", fits_head=False).head is None
    assert choice(vectors=None).head is None
    assert choice(vectors="mean", is_frozen=True).steps == 1
    assert not choice(vectors="mean", is_paired=True).contrast
    assert choice(vectors="mean", is_paired=True, is_frozen=True).apart
    pairs = [choice(vectors="mean", is_paired=True, examples=n) for n in (48, 300, 2500)]
    assert all(each.apart and each.rate < choice().rate / 2 for each in pairs)
    assert [each.steps for each in pairs] == [19, 38, 313]
    assert not choice(vectors="mean", is_paired=True, examples=20_000).apart
    assert choice(vectors="mean", labels=77).batch == 64


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    save_bert(folder, word_tokenizer())
    return folder


def test_what_was_chosen_is_said_recorded_and_repeated(
    base: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS))
    fields: dict[str, Any] = {"model": str(base), "task": "classification", "length": 16, "track.report": False}
    pretune.finetune(train=str(rows), output=str(tmp_path / "one"), lr=2e-4, **fields)
    assert "chosen from 12 examples of 3 labels" in capfd.readouterr().err
    chosen = json.loads((tmp_path / "one" / "run.json").read_text())["chosen"]
    assert chosen["from"]["examples"] == 12
    assert "budget" in chosen["fields"]
    assert "optimizer.lr" not in chosen["fields"]
    recorded = load(Recipe, tmp_path / "one" / "recipe.toml", ["--output", str(tmp_path / "two")])
    again = pretune.finetune(recorded)
    assert "chosen from" not in capfd.readouterr().err, "the recipe of a run leaves nothing open"
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("one", "two"))
    assert first == second
    assert again.predict(["the lazy dog"])


def test_a_recipe_without_open_fields_is_not_looked_at() -> None:
    closed = recipe(automatic=())
    assert resolve_automatic(closed).recipe is closed


def test_texts_that_are_read_in_windows_are_read_far_at_once(base: Path) -> None:
    rows = [{"text": "the quick brown fox", "question": "a fox", "answers": ["brown fox"]}] * 12
    tree: dict[str, Any] = {"task": "reading", "model": {"init": str(base)}}
    resolved = resolve_automatic(validate(Recipe, tree, "recipe"), rows)
    positions = pretune.load(base).network.max_length
    assert positions is not None
    assert resolved.recipe.data.length == min(384, positions)
    assert f"windows of {resolved.recipe.data.length} tokens" in resolved.notes[0]
    for fields in ({"data": {"length": 20}}, {"task": {"reading": {"truncate": "head"}}}):
        resolved = resolve_automatic(validate(Recipe, tree | fields, "recipe"), rows)
        assert resolved.recipe.data.length == (20 if "data" in fields else 128)


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose files say that the vector of a text is the mean of its rows."""
    folder = tmp_path_factory.mktemp("embedder")
    save_bert(folder, word_tokenizer())
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    width = json.loads((folder / "config.json").read_text())["hidden_size"]
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


@pytest.mark.parametrize(
    ("fields", "head"),
    [
        ({}, "mean"),
        ({"task": {"classification": 0.5}}, "mean"),
        ({"task": {"classification": {"head": "standard"}}}, "standard"),
        ({"task": {"classification": {"fit_head": False}}}, "standard"),
        ({"evaluation": {"patience": 2}}, "standard"),  # it would wait for scores of a head that is not fitted yet
        ({"evaluation": {"keep": "best"}}, "standard"),
    ],
)
def test_what_is_chosen_fits_what_is_given(embedder: Path, fields: dict[str, Any], head: str) -> None:
    tree = {"task": "classification", "model": {"init": str(embedder)}} | fields
    chosen = resolve_automatic(validate(Recipe, tree, "recipe"), [*ROWS]).recipe
    settings = chosen.task["classification"]
    assert isinstance(settings, dict)
    assert settings.get("head", "standard") == head
    assert settings.get("weight", 1.0) == (0.5 if fields.get("task") == {"classification": 0.5} else 1.0)
    assert bool(settings.get("contrast")) == (head == "mean")
    if fields.get("evaluation"):
        assert chosen.evaluation.every is None, "evaluations are what the run is stopped by"


def test_a_field_that_is_never_chosen_is_refused() -> None:
    with pytest.raises(UsageError, match=r"automatic: 'optimizer\.rate' is not chosen from the data; did you mean"):
        recipe(automatic=["optimizer.rate"])


def test_a_model_whose_head_scores_vectors_is_compared_and_used(
    embedder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [f"{text} {n},{label}\n" for n in range(10) for text, label in ROWS[:3]]
    Path("rows.csv").write_text("text,label\n" + "".join(rows))
    flags = ["--model", str(embedder), "--task", "classification", "--train", "rows.csv", "--holdout", "0.3"]
    assert main(["finetune", *flags, "--length", "16", "--output", "run", "--no-allocator"]) == 0
    said = capsys.readouterr().err
    assert "contrast, then a head fitted to mean vectors" in said
    assert "logistic regression on TF-IDF reaches" in said
    assert "logistic regression on the model's vectors before training reaches" in said
    assert 'pretune predict run "a text"' in said
    model = pretune.load("run")
    assert (model.labels, model.abilities) == (["cat", "dog", "fox"], {"classify"})
    assert "cat, dog, fox" in str(model)


def test_a_model_that_has_read_little_learns_faster() -> None:
    assert choice(is_undertrained=True).rate == pytest.approx(4e-4)
    assert choice(is_undertrained=True, width=128).rate == pytest.approx(1e-3)
    assert choice(is_undertrained=True, width=32).rate == choice(width=32).rate > 1e-3
    assert choice(is_undertrained=True, is_frozen=True).rate == choice(is_frozen=True).rate
    facts = RunFacts(**{**vars(FACTS), "is_undertrained": True})
    assert "300 examples of 6 labels, 20 tokens each for a model that has read little text" in facts.describe()


def record(folder: Path, tokens: int, init: object, parameters: int = 1000) -> Path:
    folder.mkdir()
    facts = {"parameters": parameters, "settings": {"model.init": init}, "finished": {"tokens": tokens}}
    (folder / "run.json").write_text(json.dumps(facts))
    return folder


def test_tokens_are_those_of_all_runs_behind_a_model(tmp_path: Path) -> None:
    first = record(tmp_path / "first", 3000, None)
    second = record(tmp_path / "second", 1000, str(first), parameters=2000)
    assert tokens_per_parameter(first) == 3.0
    assert tokens_per_parameter(second) == 2.0
    (tmp_path / "foreign").mkdir()
    for number, init in enumerate((tmp_path / "foreign", tmp_path / "gone", first / "run.json")):
        assert tokens_per_parameter(record(tmp_path / f"of {number}", 10, str(init))) is None
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "run.json").write_text(json.dumps({"settings": {"model.init": None}, "parameters": 9}))
    assert tokens_per_parameter(tmp_path / "unfinished") is None
    circle = record(tmp_path / "circle", 10, str(tmp_path / "circle"))
    assert tokens_per_parameter(circle) is None
    (first / "run.json").write_text("{")
    assert tokens_per_parameter(second) is None


def test_our_own_bases_are_told_from_published_ones(tmp_path: Path) -> None:
    save_bert(tmp_path / "published", word_tokenizer())
    tree = {"task": "classification", "model": {"init": str(tmp_path / "published")}, "data": {"holdout": 0}}

    def note() -> str:
        return resolve_automatic(validate(Recipe, tree, "recipe"), [*ROWS]).notes[0]

    assert "has read little text" not in note()
    for tokens, is_undertrained in ((10**6, True), (10**9, False)):
        facts = {"parameters": 10**6, "settings": {"model.init": None}, "finished": {"tokens": tokens}}
        (tmp_path / "published" / "run.json").write_text(json.dumps(facts))
        assert ("has read little text" in note()) == is_undertrained
