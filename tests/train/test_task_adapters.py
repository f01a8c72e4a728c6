"""Several tasks with an adapter each: trained in one forward of their base, and each as if it were trained alone."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import pretune
from pretune.adapted_model import AdaptedModel
from pretune.batch import Batch
from pretune.cli import main
from pretune.config import validate
from pretune.errors import IdleMethodError, MissingInputError, UsageError
from pretune.interop.deltas import read_record
from pretune.interop.huggingface import save_model
from pretune.models import build
from pretune.models.model import LanguageModel
from pretune.nn.model_protocol import ModelOutput
from pretune.runtime.signals import SignalError
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.train import task_adapters
from pretune.train.automatic import resolve_automatic
from pretune.train.plan import make_plan
from pretune.train.recipe import Recipe
from pretune.train.run import finetune, pretrain
from tests.train.trainkit import WORDS, lines, make_store, recipe, replaced, shas, stop_at, untimed

OUTSIDE = Path(__file__).parents[1] / "outside"
CLIP = 0.05  # below all norms of these runs
ROWS = {"intent": 40, "topic": 56, "near": 48}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base, and rows of three tasks: more of the second than of the others."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("adapters")
    make_store(root / "store", documents=20)
    pretrain(recipe(root / "base", root / "store", budget={"steps": 3}, optimizer={"lr": 3e-3}))
    for name, count in ROWS.items():
        for split, first in (("train", 0), ("dev", 5)):
            rows = [
                {
                    "text": " ".join(WORDS[(n * 7 + k * len(name)) % 59] for k in range(2 + n % 5)),
                    "second": WORDS[n * 3 % 59],
                    "label": n % 4 / 3 if name == "near" else "abc"[n // len(name) % 3],
                }
                for n in range(first, first + (count if split == "train" else 12))
            ]
            (root / f"{name}-{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def task(folder: Path, name: str) -> dict[str, Any]:
    data: dict[str, Any] = {part: [str(folder / f"{name}-{split}.jsonl")] for part, split in SPLITS.items()}
    if name == "near":
        return {"task": "similarity", "data": {**data, "columns": {"second": "second"}}}
    return {"task": "classification", "data": data}


SPLITS = {"train": "train", "validation": "dev"}


def together(
    folder: Path, run: Path, tune: dict[str, Any], names: tuple[str, ...] = ("intent", "topic"), **over: Any
) -> Recipe:
    """A run of eight steps."""
    tables: dict[str, Any] = {
        "model": {"init": str(folder / "base"), "dropout": 0.1},
        "tune": tune,
        "objective": {},
        "task": {name: task(folder, name) for name in names},
        "adapter_per_task": True,
        "data": {"length": 16, "batch": 8},
        "budget": {"steps": 8},
        "optimizer": {"lr": 1e-2, "clip": CLIP},
        "evaluation": {"every": 4, "samples": None},
        "checkpoint": {"every": 4},
    }
    tree = recipe(run, folder / "store").model_dump(mode="json")
    return validate(Recipe, {**tree, **tables, **over}, "recipe")


def alone(folder: Path, run: Path, tune: dict[str, Any], name: str, **over: Any) -> Recipe:
    """The run of one of the tasks, as a recipe without adapters of each task has it."""
    table = task(folder, name)
    data = {**together(folder, run, tune).data.model_dump(mode="json"), **table["data"], **over.pop("data", {})}
    tables = {"task": {table["task"]: {}}, "adapter_per_task": False, "data": data, "output": str(run)}
    return replaced(together(folder, run, tune), **tables, **over)


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    assert one.keys() == other.keys()
    return max(float((one[name] - other[name]).abs().max()) for name in one)


def deltas(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "delta.safetensors")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.*")}


@pytest.mark.parametrize(
    "tune",
    [
        {"lora": {"rank": 2, "dropout": 0.2, "places": ["attention", "feedforward", "vocabulary"]}},
        {"lora": {"rank": 2, "places": ["layers[-1:].attention", "head"]}},
        {"lora": {"rank": 3, "weight_decomposed": True}},
        {"ia3": {}},
        {"adapter": {"form": "houlsby"}},
        {"adapter": {"form": "parallel"}},
    ],
    ids=str,
)
def test_each_is_what_a_run_of_its_own_would_give(folder: Path, tmp_path: Path, tune: dict[str, Any]) -> None:
    """With other numbers of rows, dropout of base, adapter and head, and gradients that are clipped."""
    before = digests(folder / "base")
    finetune(together(folder, tmp_path / "run", tune))
    for name in ("intent", "topic"):
        finetune(alone(folder, tmp_path / name, tune, name))
        own, wanted = tmp_path / "run" / name, tmp_path / name
        assert difference(deltas(own), deltas(wanted)) < 1e-5
        assert record_of(own) == record_of(wanted), "the same record: method, base, labels, task"
    assert difference(*(deltas(tmp_path / "run" / name) for name in ("intent", "topic"))) > 1e-3
    assert digests(folder / "base") == before


def record_of(delta: Path) -> dict[str, Any]:
    return {**read_record(delta).model_dump(mode="json"), "relative": None}


@pytest.fixture(scope="module")
def run(folder: Path) -> Path:
    """A run of tasks of two sorts, whose losses and heads differ."""
    finetune(together(folder, folder / "run", {"lora": {"rank": 2}}, ("topic", "near")))
    return folder / "run"


def test_tasks_of_other_sorts(folder: Path, run: Path) -> None:
    finetune(alone(folder, folder / "near", {"lora": {"rank": 2}}, "near"))
    assert difference(deltas(run / "near"), deltas(folder / "near")) < 1e-5
    last = [row for row in lines(run) if "eval/loss" in row][-1]
    wanted = [row for row in lines(folder / "near") if "eval/loss" in row][-1]
    assert last["eval/near/spearman"] == pytest.approx(wanted["eval/spearman"], abs=1e-5)
    assert last["eval/mean_score"] == pytest.approx((last["eval/near/spearman"] + last["eval/topic/accuracy"]) / 2)
    trained = [row for row in lines(run) if "loss/topic" in row]
    assert trained
    assert all("loss/near" in row for row in trained), "each step trains both"


def test_micro_batches_change_nothing(folder: Path, run: Path, tmp_path: Path) -> None:
    data = {"length": 16, "batch": 8, "accumulate": 3}
    names = ("topic", "intent")
    finetune(together(folder, tmp_path / "parts", {"lora": {"rank": 2}}, names, data=data))
    assert difference(deltas(tmp_path / "parts" / "topic"), deltas(run / "topic")) < 1e-5


def test_the_results_are_used_alone_and_together(folder: Path, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["w4 w7 w9", "w8", "w1 w2"]
    model = pretune.load(folder / "base", "cpu", "fp32", adapters={name: run / name for name in ("topic", "near")})
    assert isinstance(model, AdaptedModel)
    assert not model.apart
    single = pretune.load(run / "topic", "cpu", "fp32")
    for answer, wanted in zip(model.predict(texts, adapter=["topic"] * 3), single.predict(texts), strict=True):
        assert answer.probabilities == pytest.approx(wanted.probabilities, abs=1e-5)
    scores = single.evaluate(folder / "topic-dev.jsonl")
    assert scores["accuracy"] == [row for row in lines(run) if "eval/loss" in row][-1]["eval/topic/accuracy"]
    with pytest.raises(MissingInputError, match=f"each task of this run has a model of its own; name .*{run}/topic"):
        pretune.load(run)
    assert main(["predict", str(run / "topic"), "w4 w7", "--device", "cpu", "--quiet"]) == 0
    assert main(["verify", str(run), "--quiet"]) == 0
    assert main(["report", str(run), "--quiet"]) == 0
    page = (run / "report.html").read_text()
    assert "<h3>topic</h3>" in page
    assert f"pretune predict {folder / 'base'} " in page
    assert f"--adapters topic={run}/topic,near={run}/near --adapter topic" in page
    assert capsys.readouterr().out


def test_python_gets_the_base_with_all_adapters(folder: Path, tmp_path: Path) -> None:
    model = pretune.finetune(together(folder, tmp_path / "run", {"ia3": {}}, budget={"steps": 2}))
    assert isinstance(model, AdaptedModel)
    assert model.adapters == ("intent", "topic")
    assert {answer.label for answer in model.predict(["w4", "w7"], adapter=["intent", "topic"])} <= {"a", "b", "c"}


def test_the_base_reads_all_sequences_of_a_step_at_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []
    forward = LanguageModel.forward

    def watched(self: LanguageModel, batch: Batch, **options: Any) -> ModelOutput:
        if torch.is_grad_enabled():
            seen.append(tuple(batch.layout.group or ())[: batch.layout.count - batch.dummies])
        return forward(self, batch, **options)

    monkeypatch.setattr(LanguageModel, "forward", watched)
    finetune(together(folder, tmp_path / "run", {"lora": {"rank": 2}}))
    assert seen == [(0,) * 8 + (1,) * 8] * 8


def test_the_proof_of_each_adapter(run: Path) -> None:
    adapters = json.loads((run / "run.json").read_text())["adapters"]
    assert list(adapters) == ["topic", "near"]
    for name, each in adapters.items():
        proof = each["proof"]
        assert proof["acted"] == [f"stack.blocks.{n}.attention.{role}: rank 2" for n in (0, 1) for role in ROLES]
        assert set(proof["changes"]) == set(deltas(run / name))
        assert proof["frozen_before"] == proof["frozen_after"]
        assert proof["frozen"] > 20
        assert proof["idle"] == proof["moved"] == []


ROLES = ("query", "value")


def test_an_adapter_that_did_not_act_fails_the_run(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one whose task's gradient ends at its head is named; the other one acted."""
    model_of_task = task_adapters._ModelOfTask

    def cut(network: Any, form: LanguageModel, number: int, batch: Any = None, output: Any = None) -> Any:
        if number == 1 and isinstance(output, ModelOutput):
            output = replace(output, last_hidden_state=output.last_hidden_state.detach())
        return model_of_task(network, form, number, batch, output)

    monkeypatch.setattr(task_adapters, "_ModelOfTask", cut)
    with pytest.raises(IdleMethodError) as failure:
        finetune(together(folder, tmp_path / "run", {"lora": {"rank": 2}}))
    message = str(failure.value)
    assert message.startswith("topic: tune.lora: 4 parts of the method did not act: stack.blocks.0.attention.query: ")
    assert "intent" not in message
    assert f"No model was written; the weights of the last step are in {tmp_path / 'run' / 'checkpoint-8'}" in message
    assert not [*(tmp_path / "run").glob("*/delta.json")]


def test_it_resumes_bit_for_bit(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tune = {"lora": {"rank": 2, "dropout": 0.2}}
    finetune(together(folder, tmp_path / "whole", tune))
    with monkeypatch.context() as patch:
        stop_at(patch, 5)
        with pytest.raises(SignalError):
            finetune(together(folder, tmp_path / "parts", tune))
    assert not [*(tmp_path / "parts").glob("*/delta.json")]
    finetune(together(folder, tmp_path / "parts", tune))
    assert shas(tmp_path / "whole", 8) == shas(tmp_path / "parts", 8)
    assert untimed(tmp_path / "whole") == untimed(tmp_path / "parts")
    for name in ("intent", "topic"):
        assert difference(deltas(tmp_path / "whole" / name), deltas(tmp_path / "parts" / name)) == 0
    kept = load_file(tmp_path / "parts" / "checkpoint-8" / "model.safetensors")
    assert all(".members." in name for name in kept), "what learns, and nothing of the base"


def test_each_adapter_has_the_weights_of_its_own_best_evaluation(folder: Path, tmp_path: Path) -> None:
    """The best steps differ, and a checkpoint that was damaged since gives way to the last one."""
    tune, evaluation = {"lora": {"rank": 2}}, {"every": 1, "keep": "best", "samples": None}
    fast = {"evaluation": evaluation, "optimizer": {"lr": 3e-2}}
    over = together(folder, tmp_path / "run", tune, **fast, checkpoint={"keep": 1})
    finetune(over)
    finished = json.loads((tmp_path / "run" / "run.json").read_text())["finished"]
    steps = finished["adapter_steps"]
    assert steps["intent"] < steps["topic"], "else this proves little"
    for name in ("intent", "topic"):
        finetune(alone(folder, tmp_path / name, tune, name, **fast))
        single = json.loads((tmp_path / name / "run.json").read_text())["finished"]
        assert single["weights_of_step"] == steps[name]
        assert difference(deltas(tmp_path / "run" / name), deltas(tmp_path / name)) < 1e-5
        assert finished["adapter_scores"][f"{name}/accuracy"] == pytest.approx(single["best"])
    (tmp_path / "run" / f"checkpoint-{steps['intent']}" / "model.safetensors").write_bytes(b"")
    finetune(over)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["finished"]["adapter_steps"] == {"intent": 8, "topic": steps["topic"]}
    warning = f"intent: the best weights (step {steps['intent']}) cannot be read"
    assert any(each.startswith(warning) for each in facts["warnings"])
    assert difference(deltas(tmp_path / "run" / "topic"), deltas(tmp_path / "topic")) < 1e-5
    assert difference(deltas(tmp_path / "run" / "intent"), deltas(tmp_path / "intent")) > 1e-3
    one = together(folder, tmp_path / "one", tune, evaluation={**evaluation, "metric": "mean_score"})
    finetune(one)
    assert "adapter_steps" not in json.loads((tmp_path / "one" / "run.json").read_text())["finished"]


def test_epochs_are_those_of_the_largest_task(folder: Path, tmp_path: Path) -> None:
    over = together(folder, tmp_path / "run", {"lora": {"rank": 2}}, budget={"epochs": 2})
    facts = make_plan(over).facts
    assert "an epoch: 7.0 steps, " in "\n".join(facts)
    assert any(fact.startswith("a step: 16 sequences") for fact in facts)
    finetune(over)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["finished"]["steps"] == 14
    automatic = replaced(over, automatic=["budget"])
    (note,) = resolve_automatic(automatic).notes
    (single,) = resolve_automatic(alone(folder, tmp_path, {"lora": {}}, "topic", automatic=["budget"])).notes
    steps = [text.partition(": ")[2].partition(" steps")[0] for text in (note, single)]
    assert steps[0].split()[-1] == steps[1].split()[-1]


def test_a_run_goes_on_from_what_an_adapter_learned(folder: Path, run: Path, tmp_path: Path) -> None:
    """Each task begins with the same one, and stands on the same base."""
    model = {"init": str(run / "topic")}
    finetune(together(folder, tmp_path / "more", {"lora": {"rank": 2}}, model=model, budget={"steps": 1}))
    for name in ("intent", "topic"):
        assert read_record(tmp_path / "more" / name).base == str((folder / "base").resolve())
        change = {n: t - deltas(run / "topic")[n] for n, t in deltas(tmp_path / "more" / name).items() if "stack" in n}
        assert 0 < max(float(each.abs().max()) for each in change.values()) < 0.03


BAD: list[tuple[dict[str, Any], str]] = [
    *[
        ({"tune": {name: {}}}, f"tune.{name} adds nothing to the model that a task could have; choose lora, adapter or")
        for name in ("full", "frozen", "top", "bitfit", "sparse")
    ],
    *[
        ({"tune": {name: {}}}, f"tune.{name} looks at the whole model while it trains .*{hook}.*; choose lora")
        for name, hook in (("adalora", "after_step"), ("prefix", "after_step"), ("prompt", "after_step"))
    ],
    ({"tune": {str(OUTSIDE / "lora.py"): {}}}, "tune.*lora.py looks at the whole model .*terms, after_step"),
    (
        {"data": {"temperature": 2.0}},
        "each step trains all tasks, and data.temperature = 2 says how often each is drawn",
    ),
    ({"objective": {"mlm": 1.0}, "data": {"stores": ["store"]}}, "objective = mlm has none; leave one of the two out"),
    ({"distil": {"teacher": "elsewhere"}}, "distil.teacher teaches one model; leave one of the two out"),
    ({"model": {"family": "bert", "size": "tiny"}}, "adapters stand on a model that has files; name one with --model"),
]


@pytest.mark.parametrize(("over", "message"), BAD, ids=[str(next(iter(over.values()))) for over, _ in BAD])
def test_what_cannot_be_done_is_refused_before_the_first_step(
    folder: Path, tmp_path: Path, over: dict[str, Any], message: str
) -> None:
    tune = over.pop("tune", {"lora": {}})
    with pytest.raises(UsageError, match=f"recipe: field 'adapter_per_task' = true: {message}"):
        finetune(together(folder, tmp_path / "run", tune, **over))
    assert not [*(tmp_path / "run").glob("checkpoint-*")]


def test_one_task_is_refused_as_nothing_would_be_shared(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is one task \(topic\), whose run is the same without; leave it out"):
        finetune(together(folder, tmp_path / "run", {"lora": {}}, ("topic",)))


def test_tasks_that_compare_texts_of_all_micro_batches(folder: Path, tmp_path: Path) -> None:
    tasks = {"topic": task(folder, "topic"), "near": {**task(folder, "near"), "loss": "cosent"}}
    over: dict[str, Any] = {"data": {"length": 16, "batch": 8, "accumulate": 2}, "task": tasks}
    with pytest.raises(UsageError, match=r"task.near compares texts of all micro-batches .*, and data.accumulate = 2"):
        finetune(together(folder, tmp_path / "run", {"lora": {}}, **over))


def test_a_method_whose_parts_are_no_bricks_is_refused(folder: Path, tmp_path: Path) -> None:
    text = (OUTSIDE / "lora.py").read_text()
    (tmp_path / "own.py").write_text(text[: text.index("def terms")])
    with pytest.raises(UsageError, match=r"task intent: tune.*own.py: stack.*query is a LowRank, not a Projection"):
        finetune(together(folder, tmp_path / "run", {str(tmp_path / "own.py"): {}}))
    biases = (
        "def apply(model, config):\n    model.requires_grad_(False)\n    model.embedding.norm.bias.requires_grad_()\n"
    )
    (tmp_path / "base.py").write_text(f"from pretune.tune.frozen import Config\n\n\n{biases}    return model\n")
    with pytest.raises(
        UsageError, match=r"base.py trains weights of the base \(embedding.norm.bias\), which all tasks"
    ):
        finetune(together(folder, tmp_path / "run", {str(tmp_path / "base.py"): {}}))


def test_tasks_that_read_other_things_are_refused(folder: Path, tmp_path: Path) -> None:
    """A BART that writes reads a source; one that classifies reads a run alone."""
    bart = build("bart", "tiny", [], {"vocab_size": 64, "max_position_embeddings": 64})
    save_model(bart, tmp_path / "bart", Tokenizer.load(folder / "store" / "tokenizer"))
    writes = {"task": "generation", "data": {**task(folder, "intent")["data"], "columns": {"target": "second"}}}
    tables = {"model": {"init": str(tmp_path / "bart")}, "task": {"topic": task(folder, "topic"), "writes": writes}}
    with pytest.raises(
        UsageError, match="tasks topic, writes give this model other things to read, so that they have no"
    ):
        finetune(together(folder, tmp_path / "run", {"lora": {"rank": 2}}, **tables))
