"""Reading from the command line: a file of SQuAD in, a model that answers questions about texts of any length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

import pretune
from pretune.batch import ragged
from pretune.cli import main
from pretune.model import Model
from tests.train.trainkit import SHAPE, WORDS, make_tokenizer


def questions(count: int, seed: int, length: tuple[int, int] = (6, 24)) -> list[dict[str, Any]]:
    """The answer is a word below 5 and the next one below 10, which one of four texts has not."""
    rng = np.random.default_rng(seed)
    out = []
    for n in range(count):
        words = [WORDS[number] for number in rng.integers(12, 59, int(rng.integers(*length))).tolist()]
        answers = []
        if n % 4:
            place = int(rng.integers(0, len(words) - 1))
            words[place : place + 2] = [WORDS[int(rng.integers(0, 5))], WORDS[int(rng.integers(5, 10))]]
            answers = [
                {
                    "answer_start": len("".join(word + " " for word in words[:place])),
                    "text": " ".join(words[place : place + 2]),
                }
            ]
        item = {"id": f"{seed}-{n}", "question": f"w10 {WORDS[int(rng.integers(12, 59))]}", "answers": answers}
        out.append({"context": " ".join(words), "qas": [item | {"is_impossible": not answers}]})
    return out


def squad(path: Path, paragraphs: list[dict[str, Any]]) -> Path:
    path.write_text(json.dumps({"version": "2.0", "data": [{"title": "a", "paragraphs": paragraphs}]}))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Model]:
    """A run from the command line."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("reading")
    make_tokenizer(folder / "tokenizer")
    squad(folder / "train.json", questions(160, 0))
    squad(folder / "held.json", questions(40, 1))
    words = ["finetune", "--task", "reading", "--data.columns.format", "squad", "--data.train", f"{folder}/train.json"]
    words += ["--data.validation", f"{folder}/held.json", "--data.tokenizer", f"{folder}/tokenizer"]
    words += ["--model.size", "tiny", "--data.length", "16", "--budget.steps", "100", "--optimizer.lr", "3e-3"]
    for name, value in SHAPE.items():
        words += [f"--model.overrides.{name}", str(value)]
    words += ["--device", "cpu", "--precision", "fp32", "--output", f"{folder}/run", "--quiet", "--no-allocator"]
    assert main(words) == 0
    return folder, pretune.load(folder / "run", device="cpu", precision="fp32")


def test_it_learns_where_answers_are_and_that_there_is_none(trained: tuple[Path, Model]) -> None:
    folder, model = trained
    scores = model.evaluate(folder / "held.json")
    assert scores["exact"] > 0.9
    assert scores["exact/unanswerable"] > 0.7
    assert scores["count/unanswerable"] == 10
    config: Any = model.task().config
    assert config.no_answer is True
    assert config.threshold is not None
    assert config.max_answer == 5


def test_a_text_is_read_to_its_end_and_one_that_fits_is_read_alike(trained: tuple[Path, Model]) -> None:
    _, model = trained
    words = ["w30", "w41", "w52"] * 500
    text = " ".join([*words, "w3", "w7", *words[:50]])
    question = "w10 w20"
    answer = model.predict([{"text": text, "question": question}])[0]
    assert answer["answer"] == "w3 w7"
    assert text[answer["start"] : answer["end"]] == "w3 w7"
    short = [{"text": "w30 w41 w3 w7 w52", "question": question}]
    assert model.predict(short, truncate="head") == model.predict(short)


def test_bare_texts_are_asked_by_their_second_text(
    trained: tuple[Path, Model], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, model = trained
    expected = model.predict([{"text": "w30 w41 w3 w7 w52", "question": "w10 w20"}])[0]
    assert model.predict(["w30 w41 w3 w7 w52"], ["w10 w20"]) == [expected]
    run = ["predict", f"{folder}/run", "--quiet", "--device", "cpu"]
    capsys.readouterr()
    assert main([*run, "--pair", "w30 w41 w3 w7 w52", "w10 w20"]) == 0, capsys.readouterr().err
    line = json.loads(capsys.readouterr().out)
    assert (line["text"], line["answer"]) == ("w30 w41 w3 w7 w52", "w3 w7")
    assert (line["start"], line["end"]) == (8, 13)
    assert main([*run, "--input", f"{folder}/held.json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 40
    assert {"id", "title", "text", "question", "answer", "start", "end", "candidates"} <= lines[0].keys()
    assert main([*run, "w30 w41 w3 w7 w52"]) == 65
    assert "no field 'question'; give the question too: --pair TEXT QUESTION" in capsys.readouterr().err


def test_the_head_is_that_of_transformers(trained: tuple[Path, Model], tmp_path: Path) -> None:
    _, model = trained
    model.export(tmp_path / "exported")
    theirs, info = transformers.BertForQuestionAnswering.from_pretrained(
        tmp_path / "exported", output_loading_info=True
    )
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    vocabulary = model.tokenizer.vocabulary
    tokens, segments = vocabulary.add_special_tokens(*map(model.tokenizer.encode, ("w10 w20", "w30 w3 w7 w52")))
    with torch.no_grad():
        output = theirs.eval()(torch.from_numpy(tokens)[None], token_type_ids=torch.from_numpy(segments)[None])
        hidden = model.network(ragged([tokens], [segments])).last_hidden_state
        ours = model.network.heads["question_answering"](hidden)
    expected = torch.stack([output.start_logits[0], output.end_logits[0]], dim=1)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)
