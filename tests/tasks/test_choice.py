"""Multiple choice: how records are read, sequences built and scored, and files read by `transformers`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from tinymodels import byte_tokenizer, save_bert, save_gpt2, word_tokenizer
from torch import nn

import pretune
from pretune.cli import main
from pretune.draw import Draw
from pretune.errors import DataError, UsageError
from pretune.tasks.choice import Choice, ChoiceExample
from pretune.tasks.shared.records import read_examples
from pretune.text.samples.examples import ExampleView
from pretune.text.samples.rows import data_stats

WORDS = word_tokenizer()
NOUNS = ["fox", "dog", "cat", "hat"]
FIELDS: dict[str, Any] = {
    "steps": 25,
    "batch": 8,
    "length": 24,
    "lr": 5e-3,
    "device": "cpu",
    "precision": "fp32",
    "threads": 1,
    "evaluation": {"every": 25},
    "track": {"report": False, "progress": "quiet"},
}


def records() -> list[dict[str, object]]:
    """Which choice names what the text names; two or three choices."""
    out: list[dict[str, object]] = []
    for n in range(24):
        choices = [f"a {NOUNS[(n + k) % 4]}" for k in range(2 + n % 2)]
        right = n % len(choices)
        out.append({"text": f"the {choices[right][2:]} jumps", "choices": choices, "label": right})
    return out


def task() -> Choice:
    return Choice(Choice.Config(), WORDS.vocabulary)


def read(**record: object) -> ChoiceExample:
    (example,) = read_examples(task(), [{"text": "a hat", "choices": ["fox", "dog", "3"], "label": 0, **record}])
    return example


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("choice")
    save_bert(folder / "bert", WORDS)
    model = str(folder / "bert")
    pretune.finetune(
        model=model, task="choice", train=records(), validation=records(), output=str(folder / "run"), **FIELDS
    )
    return folder / "run"


@pytest.mark.parametrize(
    ("label", "number"), [(1, 1), ("1", 1), ("B", 1), ("dog", 1), ("3", 2), (np.int64(2), 2), (None, None)]
)
def test_a_label_is_a_number_a_letter_or_a_text(label: object, number: int | None) -> None:
    reader = task()
    (example,) = read_examples(
        reader, [{"text": "a", "choices": ["fox", "dog", "3"], "label": label}], needs_labels=label is not None
    )
    assert example.label == number


def test_a_question_stands_before_each_choice() -> None:
    assert read(question="who jumps?").choices == ("who jumps? fox", "who jumps? dog", "who jumps? 3")
    assert read(question="谁跳？", choices=["狐狸", "狗"]).choices == ("谁跳？狐狸", "谁跳？狗")
    assert read(question="").choices == ("fox", "dog", "3")
    assert read(choices='["fox", "dog"]').choices == ("fox", "dog")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"label": 3}, r"list\[0\]: label '3' names none of the 3 choices; write 0 to 2, A to C, or the text of one"),
        ({"label": "D"}, r"list\[0\]: label 'D' names none of the 3 choices"),
        ({"label": -1}, r"list\[0\]: label '-1' names none"),
        ({"label": "fish"}, r"list\[0\]: label 'fish' names none"),
        (
            {"choices": ["fox", "dog", "fox"], "label": "fox"},
            r"list\[0\]: label 'fox' is the text of 2 choices; write the",
        ),
        ({"choices": ["fox"]}, r"list\[0\]: field 'choices' has 1 choices; give at least two"),
        ({"choices": ["fox", " "]}, r"list\[0\]: field 'choices\[1\]' = ' ' is empty"),
        ({"choices": "fox"}, r"list\[0\]: field 'choices' holds str fox, not a list"),
        ({"choices": "[fox"}, r"list\[0\]: field 'choices' is no JSON list"),
        ({"text": ""}, r"list\[0\]: field 'text' = '' is empty"),
    ],
)
def test_bad_records(record: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(**record)


def test_windows_are_refused() -> None:
    reader = Choice(Choice.Config(truncate="windows"), WORDS.vocabulary)
    with pytest.raises(UsageError, match="a choice has one score"):
        reader.resolve_config(read_examples(reader, records()))


class Scores(nn.Module):
    """A model whose head gives set scores."""

    def __init__(self, scores: torch.Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(scores)
        self.heads = {"multiple_choice": lambda hidden, layout: self.scores}

    def forward(self, batch: object) -> object:
        return type("Output", (), {"last_hidden_state": None, "layout": None})()


def test_the_loss_is_among_the_choices_of_an_example() -> None:
    reader = task()
    examples = read_examples(reader, records()[:2])  # of two and three choices
    rows = ExampleView(reader.encode(examples, WORDS, 24)).read(np.arange(2), 0, 0, Draw(0))
    batch = reader.prepare(rows, Draw(0))
    assert batch.layout.count == 5
    assert batch.samples[:, 2].tolist() == [0, 0, 1, 1, 1]
    model = Scores(torch.randn(5, generator=torch.Generator().manual_seed(0)))
    (term,) = reader(model, batch)
    wanted = F.cross_entropy(model.scores[None, :2], torch.tensor([0]))
    wanted = wanted + F.cross_entropy(model.scores[None, 2:], torch.tensor([1]))
    assert torch.allclose(term.sum, wanted)
    term.sum.backward()
    assert model.scores.grad is not None
    assert bool(model.scores.grad.isfinite().all())


def test_each_token_is_counted_once() -> None:
    reader = task()
    example = read(text="the quick brown fox jumps " * 5)
    (row,) = reader.encode([example], WORDS, 16)
    stats = data_stats([row])
    whole = len(WORDS.encode(example.text)) + sum(len(WORDS.encode(choice)) for choice in example.choices)
    assert stats["tokens"] == whole
    assert stats["tokens_cut"] > 0
    assert len(row.tokens) + max(map(len, row.choices)) + WORDS.vocabulary.overhead(True) == 16


def test_it_learns_and_transformers_reads_it(trained: Path) -> None:
    model = pretune.load(trained, device="cpu", precision="fp32")
    scores = model.evaluate(records())
    assert scores["accuracy"] > scores["chance"]
    assert scores["chance"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    peer = transformers.AutoModelForMultipleChoice.from_pretrained(trained).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(trained)
    for record, prediction in zip(records()[:4], model.predict(records()[:4]), strict=True):
        choices = record["choices"]
        encoded = tokenizer([record["text"]] * len(choices), choices, return_tensors="pt", padding=True)
        logits = peer(**{name: value[None] for name, value in encoded.items()}).logits[0]
        assert prediction["probabilities"] == pytest.approx(logits.softmax(0).tolist(), abs=1e-5)


@pytest.mark.slow
def test_a_gpt_chooses_by_a_head_of_our_own(tmp_path: Path) -> None:
    save_gpt2(tmp_path / "gpt2", byte_tokenizer())
    fields = {**FIELDS, "steps": 2, "length": 60, "model": str(tmp_path / "gpt2"), "output": str(tmp_path / "run")}
    model = pretune.finetune(task="choice", train=records(), **fields)
    (prediction,) = model.predict(records()[:1])
    assert sum(prediction["probabilities"]) == pytest.approx(1.0)


def test_a_run_names_the_command_that_reads_its_records(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, out = tmp_path / "data.jsonl", tmp_path / "run"
    path.write_text("\n".join(map(json.dumps, records())))
    flags = ["--steps", "1", "--length", "24", "--device", "cpu", "--threads", "1"]
    model = str(trained.parent / "bert")
    assert (
        main(["finetune", "--model", model, "--task", "choice", "--train", str(path), "--output", str(out), *flags])
        == 0
    )
    assert f"next:\n  pretune predict {out} {path}\n" in capsys.readouterr().err
    assert "pretune predict" in (out / "report.html").read_text()


def test_predict_writes_plain_fields(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, records()[:3])))
    assert main(["predict", str(trained), str(path)]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3
    assert all(line["predicted_text"] == line["choices"][line["choice"]] for line in lines)
