"""No answer is NaN or infinite: weights that are finite and far too large end with an error that names the text."""

from __future__ import annotations

import io
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tinymodels import byte_tokenizer, save_bert, save_gpt2, save_t5, word_tokenizer

import pretune
from pretune.cli import main
from pretune.cli.outputs import RowWriter
from pretune.errors import DataError, NonFiniteError
from pretune.runtime.finite import first_non_finite, first_non_finite_row, is_finite
from pretune.text.readers.labelled import LabelledConfig
from pretune.text.store.prepare import PrepareConfig, prepare

VERBS = ("predict", "embed", "fill", "generate", "score", "beams")
HUGE = 3e38
PLACE = 20  # the position whose vector is damaged
SHORT = ["the cat ate a hat", "a dog"]
LONG = "the lazy dog jumps over the quick brown fox and the cat ate a hat " * 2


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each verb, in which every long text overflows, and no other."""
    root = tmp_path_factory.mktemp("models")
    words = word_tokenizer()
    save_bert(root / "fill", words)
    save_bert(root / "predict", words, transformers.BertForSequenceClassification, ["bad", "good"])
    save_gpt2(root / "generate", byte_tokenizer())
    save_t5(root / "t5", byte_tokenizer())
    damage(root / "fill", "bert.embeddings.position_embeddings.weight")
    damage(root / "predict", "bert.embeddings.position_embeddings.weight")
    damage(root / "generate", "transformer.wpe.weight")
    folders = {path.name: path for path in root.iterdir()}
    return {**folders, "score": root / "generate", "beams": root / "generate", "embed": root / "fill"}


def damage(folder: Path, name: str, place: int = PLACE) -> None:
    """Make a row of a tensor as large as flipped exponent bits make it: finite, with an infinite square."""
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name][place] = HUGE
    save_file(tensors, path, {"format": "pt"})


def run(*words: object) -> int:
    return main([*map(str, words), "--no-allocator", "--device", "cpu"])


def verb_of(name: str) -> tuple[str, ...]:
    more = {"beams": ("--beams", "2", "--max-new-tokens", "2"), "generate": ("--max-new-tokens", "2")}
    return ("generate" if name == "beams" else name, *more.get(name, ()))


@pytest.mark.parametrize("name", VERBS)
@pytest.mark.parametrize("suffix", ["jsonl", "csv"])
def test_a_verb_names_the_line_and_leaves_no_file(
    name: str, suffix: str, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"[MASK] {text}" if name == "fill" else text for text in (*SHORT, LONG)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    verb, *flags = verb_of(name)
    output = tmp_path / f"out.{suffix}"
    code = run(verb, models[name], "--input", tmp_path / "in.jsonl", "--output", output, *flags)
    message = capsys.readouterr().err.splitlines()[-1]
    assert code == 65, message
    assert f"{tmp_path}/in.jsonl:3" in message
    assert "not a finite number" in message
    assert "--step" in message
    assert not output.exists()
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts[:2]))
    assert run(verb, models[name], "--input", tmp_path / "in.jsonl", "--output", output, *flags) == 0
    capsys.readouterr()


def test_a_streamed_prompt_ends_with_the_error(models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("generate", models["generate"], LONG) == 65
    captured = capsys.readouterr()
    assert "text:1 ('the lazy" in captured.err.splitlines()[-1]
    assert not captured.out


@pytest.mark.parametrize("name", ["embed", "generate", "score", "beams"])
def test_the_api_names_the_text_by_its_number(name: str, models: dict[str, Path]) -> None:
    model = pretune.load(models[name], device="cpu", precision="fp32")
    texts = [SHORT[0], LONG, SHORT[1]]
    calls: dict[str, Callable[[], object]] = {
        "embed": lambda: model.embed(texts),
        "generate": lambda: model.generate(texts, max_new_tokens=3),
        "score": lambda: model.score(texts),
        "beams": lambda: model.generate(texts, max_new_tokens=3, beams=3),
    }
    with pytest.raises(NonFiniteError, match="2 of 3") as caught:
        calls[name]()
    assert caught.value.index == 1
    assert LONG.startswith(caught.value.excerpt)


def test_predict_and_evaluate_name_the_example(models: dict[str, Path], tmp_path: Path) -> None:
    model = pretune.load(models["predict"], device="cpu", precision="fp32")
    with pytest.raises(NonFiniteError, match=r"text:2.*a prediction"):
        model.predict(["a cat", LONG])
    (tmp_path / "data.csv").write_text(f"text,label\na cat,good\n{LONG},bad\n")
    with pytest.raises(NonFiniteError, match=r"data\.csv:3"):
        model.evaluate(tmp_path / "data.csv")


def test_evaluate_names_the_windows_of_a_store(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text(LONG)
    prepare(tmp_path / "corpus.txt", byte_tokenizer(), tmp_path / "store", PrepareConfig(processes=1, validation=0.0))
    model = pretune.load(models["generate"], device="cpu", precision="fp32")
    with pytest.raises(NonFiniteError, match=r"windows 0.*a loss of clm"):
        model.evaluate(tmp_path / "store", split="train", objective={"clm": 1.0})


def test_a_length_that_overflows_is_no_zero_vector(models: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = pretune.load(models["embed"], device="cpu", precision="fp32")
    huge = np.full((2, 4), 1e30, np.float32)
    monkeypatch.setattr("pretune.evaluate.prompted.Embedder.of", lambda *_: lambda texts: huge)
    with pytest.raises(NonFiniteError, match="length"):
        model.embed(["a cat", "a dog"], normalize=True)


def test_an_encoder_decoder_is_checked_too(models: dict[str, Path], tmp_path: Path) -> None:
    shutil.copytree(models["t5"], tmp_path / "t5")
    damage(tmp_path / "t5", "encoder.block.0.layer.0.layer_norm.weight", 0)
    model = pretune.load(tmp_path / "t5", device="cpu", precision="fp32")
    with pytest.raises(NonFiniteError, match="prompt 1 of 1"):
        model.generate("a cat")


@pytest.mark.filterwarnings("error:An input array is constant")
def test_scores_of_predictions_that_are_all_alike_are_no_nan(models: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("text,second,label\na cat,a hat,1\na cat,a hat,2\na cat,a hat,3\n")
    model = pretune.load(models["fill"], device="cpu", precision="fp32")
    with pytest.raises(DataError, match="spearman is nan"):
        model.evaluate(tmp_path / "pairs.csv", task="similarity", columns=LabelledConfig(second="second"))


def test_a_sum_that_overflows_is_not_taken_for_an_infinite_row() -> None:
    rows = torch.tensor([[HUGE, HUGE], [1.0, 2.0]])
    assert first_non_finite(rows) is None
    assert first_non_finite_row(rows.numpy()) is None
    assert first_non_finite(torch.tensor([[1.0, 2.0], [torch.inf, -torch.inf]])) == 1
    assert first_non_finite_row(np.array([[1.0, 2.0], [np.inf, -np.inf]])) == 1
    assert first_non_finite(torch.tensor([1.0, torch.nan])) == 1
    assert is_finite({"a": [1.0, ("b", 2)], "c": np.ones(2)})
    for bad in ({"a": [1.0, torch.nan]}, np.array([np.inf]), torch.tensor([torch.nan]), (1, float("-inf"))):
        assert not is_finite(bad)


@pytest.mark.parametrize("delimiter", [None, ","], ids=["lines", "table"])
@pytest.mark.parametrize(
    "answer",
    [{"score": math.nan}, {"scores": {"a": math.inf}}, {"vector": [0.5, math.nan]}, {"masks": [[{"p": -math.inf}]]}],
    ids=["number", "object", "vector", "nested"],
)
def test_no_row_is_written_that_json_has_no_word_for(answer: dict[str, object], delimiter: str | None) -> None:
    file = io.StringIO()
    (name,) = answer
    with pytest.raises(DataError, match=rf"field '{name}' of the answer for \{{'text': 'a'"):
        RowWriter(file, delimiter).write({"text": "a", **answer})
    assert file.getvalue() == ""
