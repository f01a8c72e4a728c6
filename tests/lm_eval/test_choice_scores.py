"""Scores of sets against lm-eval's own tasks with its own `hf` model; and records that cannot be scored."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tinymodels import TEXTS, byte_tokenizer, save_bert, save_gpt2, word_tokenizer

from pretune.cli import main
from pretune.errors import DataError, NonFiniteError, UsageError
from pretune.evaluate.choice_scores import score_set
from pretune.evaluate.choice_sets import BETWEEN, read_set
from pretune.interop.huggingface import load_model

lm_eval = pytest.importorskip("lm_eval")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
from lm_eval.models.huggingface import HFLM  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

HEAD = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
"""
CHOICE = "output_type: multiple_choice\n"
TASKS = {
    "piqa": CHOICE
    + 'doc_to_text: "{{query}}\\nAnswer:"\ndoc_to_choice: choices\ndoc_to_target: gold\n'
    + "metric_list: [{metric: acc}, {metric: acc_norm}, {metric: acc_bytes}]\n",
    "winogrande": CHOICE
    + 'doc_to_text: gold\ndoc_to_choice: context_options\ndoc_to_target: "{{continuation}}"\n'
    + "metric_list: [{metric: acc}]\n",
    "blimp": CHOICE
    + 'doc_to_text: ""\ndoc_to_choice: "{{[sentence_good, sentence_bad]}}"\ndoc_to_target: 0\n'
    + 'target_delimiter: ""\nmetric_list: [{metric: acc}]\n',
    "lambada": "output_type: loglikelihood\n"
    + "doc_to_text: \"{{text.split(' ')[:-1]|join(' ')}}\"\ndoc_to_target: \"{{' '+text.split(' ')[-1]}}\"\n"
    + "metric_list: [{metric: perplexity}, {metric: acc}]\n",
}
WORDS = [*TEXTS[0].split(), "模型", "learns", "语言"]


def write(path: Path, *rows: Mapping[str, object]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def words(draw: np.random.Generator, least: int, most: int) -> str:
    return " ".join(draw.choice(WORDS, draw.integers(least, most)))


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, draw = tmp_path_factory.mktemp("sets"), np.random.default_rng(0)
    rows: dict[str, list[dict[str, object]]] = {name: [] for name in TASKS}
    for _ in range(30):
        several = [words(draw, 1, 6) for _ in range(3)]
        rows["piqa"].append({"query": words(draw, 2, 6), "choices": several, "gold": int(draw.integers(3))})
        options = [words(draw, 2, 4) for _ in range(2)]
        rows["winogrande"].append(
            {"context_options": options, "continuation": words(draw, 1, 4), "gold": int(draw.integers(2))}
        )
        rows["blimp"].append({"sentence_good": words(draw, 2, 6), "sentence_bad": words(draw, 2, 6)})
        rows["lambada"].append({"text": words(draw, 3, 8)})
    for name, some in rows.items():
        write(folder / f"{name}.jsonl", *some)
    save_gpt2(folder / "model", byte_tokenizer())
    return folder


def test_all_forms_have_the_scores_of_lm_eval(sets: Path, tmp_path: Path) -> None:
    for name, lines in TASKS.items():
        (tmp_path / f"{name}.yaml").write_text(HEAD.format(name=name, file=sets / f"{name}.jsonl") + lines)
    manager = TaskManager(include_path=str(tmp_path), include_defaults=False)
    theirs = HFLM(pretrained=str(sets / "model"), device="cpu", batch_size=8)
    results = lm_eval.simple_evaluate(model=theirs, tasks=list(TASKS), task_manager=manager, bootstrap_iters=10)
    assert results is not None
    model, tokenizer = load_model(sets / "model").eval(), byte_tokenizer()
    accuracies = set()
    for name in TASKS:
        expected = results["results"][name]
        actual = score_set(model, tokenizer, read_set(sets / f"{name}.jsonl"))
        assert actual.items == 30
        for score, value in actual.scores.items():
            assert value == pytest.approx(expected[f"{score},none"], rel=1e-4)
            if score in actual.stderr:
                assert actual.stderr[score] == pytest.approx(expected[f"{score}_stderr,none"], abs=1e-9)
            accuracies.add(value)
    assert len(accuracies) > 4


def test_shots_are_solved_examples_that_are_not_scored(sets: Path) -> None:
    plain, shot = read_set(sets / "piqa.jsonl"), read_set(sets / "piqa.jsonl", shots=3, limit=5)
    assert (len(plain.items), len(shot.items), shot.shots) == (30, 5, 3)
    (prefix,) = {pair[0].rpartition(BETWEEN)[0] for item in shot.items for pair in item.pairs}
    shots = prefix.split(BETWEEN)
    assert len(shots) == 3
    assert set(shots) <= {item.solved for item in plain.items}
    assert not set(shots) & {item.solved for item in read_set(sets / "piqa.jsonl", shots=3).items}
    assert (
        shots[0].partition("\nAnswer: ")[2]
        in plain.items[[item.solved for item in plain.items].index(shots[0])].choices
    )
    other = read_set(sets / "piqa.jsonl", shots=3, seed=1)
    assert other.items[0].pairs[0][0] != shot.items[0].pairs[0][0]
    with pytest.raises(UsageError, match=r"--shots 1: .*blimp.jsonl compares sentences"):
        read_set(sets / "blimp.jsonl", shots=1)
    with pytest.raises(UsageError, match=r"--shots 30: .* has 30 records, and one has to be left; lower it"):
        read_set(sets / "piqa.jsonl", shots=30)


def test_a_masked_model_is_scored_by_pseudo_likelihood(sets: Path, tmp_path: Path) -> None:
    save_bert(tmp_path, word_tokenizer())
    model = load_model(tmp_path).eval()
    for name in ("blimp", "lambada"):
        score = score_set(model, word_tokenizer(), read_set(sets / f"{name}.jsonl", limit=4))
        assert score.measure == "pseudo-likelihood"
        assert math.isfinite(score.scores["acc"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"query": "a", "choices": ["b"], "gold": 0}, "field 'choices' has 1 texts; write two or more"),
        ({"query": "a", "choices": ["b", " "], "gold": 0}, "field 'choices': text 2 is empty; fill it in or remove it"),
        ({"query": "a", "choices": ["b", 3], "gold": 0}, "field 'choices' holds no list of texts"),
        ({"query": "a", "choices": ["b", "c"], "gold": 2}, "field 'gold' is 2; write the number of the right one of"),
        ({"query": "a", "choices": ["b", "c"], "gold": True}, "field 'gold' is True; write"),
        ({"query": 3, "choices": ["b", "c"], "gold": 0}, "field 'query' holds no text; write the question"),
        ({"query": "a", "choices": ["b", "c"]}, "field 'gold' is missing, which the first record has; fill it in"),
    ],
)
def test_a_bad_record_is_named(row: Mapping[str, object], message: str, tmp_path: Path) -> None:
    good = {"query": "a", "choices": ["b", "c"], "gold": 0}
    path = write(tmp_path / "set.jsonl", good, row)
    with pytest.raises(DataError) as caught:
        read_set(path)
    assert str(caught.value).startswith(f"{path}:2: {message}")


def test_a_table_may_hold_sentences(tmp_path: Path) -> None:
    path = tmp_path / "agreement.csv"
    path.write_text("sentence_good,sentence_bad\nThe cats sleep.,The cats sleeps.\n")
    (item,) = read_set(path).items
    assert item.choices == ("The cats sleep.", "The cats sleeps.")


def test_what_is_no_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"x.jsonl:1: has the fields question, answer; expected those of one form: query"
    ):
        read_set(write(tmp_path / "x.jsonl", {"question": "a", "answer": "b"}))
    with pytest.raises(DataError, match=r"y.jsonl:1: text 'word' has no last word after others"):
        read_set(write(tmp_path / "y.jsonl", {"text": "word"}))
    with pytest.raises(DataError, match=r"z.jsonl: .*"):
        read_set(write(tmp_path / "z.jsonl"))


def test_a_choice_that_cannot_be_scored_is_named_by_its_line(sets: Path, tmp_path: Path) -> None:
    model = load_model(sets / "model").eval()
    long = {"query": "a", "choices": ["b", "the quick cat " * 90], "gold": 0}
    path = write(tmp_path / "set.jsonl", {"query": "a", "choices": ["b", "c"], "gold": 0}, long)
    with pytest.raises(DataError, match=rf"{path}:2: choice 2 has \d+ tokens, and the model's context takes 64"):
        score_set(model, byte_tokenizer(), read_set(path))
    with torch.no_grad():
        model.embedding.word.weight.fill_(math.nan)
    with pytest.raises(NonFiniteError, match=rf"{path}:1: choice 1 .*not a finite number"):
        score_set(model, byte_tokenizer(), read_set(path, limit=1))


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, Any, str]:
    code = main(["evaluate", "lm", *map(str, args)])
    out, err = capsys.readouterr()
    return code, json.loads(out) if out else None, err


def test_the_verb_scores_all_sets_of_a_folder_and_goes_on(
    sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(sets / "gsm8k.jsonl", {"context": "a", "answer": "b"})
    output = tmp_path / "scores.json"
    folder = ("--model", sets / "model", "--limit", 6, "--output", output)
    code, one, _ = run(capsys, sets / "piqa.jsonl", *folder)
    assert (code, list(one["sets"])) == (0, ["piqa"])
    code, every, err = run(capsys, sets / "blimp.jsonl", sets / "lambada.jsonl", sets / "piqa.jsonl", *folder)
    assert code == 0
    assert every["sets"]["piqa"] == one["sets"]["piqa"]  # the seconds too: it was not scored again
    assert "piqa (3 of 3): scored before" in err
    assert {name: each["items"] for name, each in every["sets"].items()} == {"piqa": 6, "blimp": 6, "lambada": 6}
    assert json.loads(output.read_text()) == every
    code, _, err = run(capsys, sets / "piqa.jsonl", "--model", sets / "model", "--limit", 7, "--output", output)
    assert code == 64
    assert "holds scores with settings" in err
    (sets / "model2").mkdir(exist_ok=True)
    code, _, err = run(capsys, sets / "model2", "--model", sets / "model")
    assert code == 65
    assert "no file with records of a form is here" in err
    write(sets / "model2" / "piqa.jsonl", {"text": "a b"})
    code, _, err = run(capsys, sets / "piqa.jsonl", sets / "model2", "--model", sets / "model")
    assert (code, "sets have the same name; rename one of them" in err) == (65, True)
    code, _, err = run(capsys, sets / "piqa.jsonl", "--model", sets / "model", "--output", "scores.txt")
    assert (code, "expected a name that ends in .json" in err) == (64, True)
    code, _, err = run(capsys, "--model", sets / "model")
    assert (code, "name a file or a folder of sets" in err) == (64, True)


def test_a_bad_set_does_not_stop_the_others(sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "sets"
    folder.mkdir()
    write(folder / "a.jsonl", {"text": "word"})
    (folder / "b.jsonl").write_text("{broken\n")
    (folder / "c.csv").write_text("question,answer\nx,y\n")
    (folder / "d.jsonl").write_bytes((sets / "blimp.jsonl").read_bytes())
    (folder / "e.txt").write_text("plain words\n")
    flags = ("--model", sets / "model", "--limit", 3, "--output", tmp_path / "scores.json")
    code, scores, err = run(capsys, folder, *flags)
    assert (code, list(scores["sets"])) == (65, ["d"])
    assert json.loads((tmp_path / "scores.json").read_text()) == scores
    last = err.strip().splitlines()[-1]
    assert "2 of 3 sets not scored" in last
    assert "a.jsonl:1: text 'word' has no last word" in last
    assert "b.jsonl:1: " in last
    assert "c.csv: left out" in err
    assert "e.txt: left out" in err
    code, _, err = run(capsys, folder / "c.csv", *flags[:4])
    assert code == 65
    assert "c.csv:1: has the fields question, answer; expected those of one form: query, choices, gold;" in err
