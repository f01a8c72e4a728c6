"""Solved examples drawn several times, whose answers are averaged, and in the channel of a prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tinymodels import byte_tokenizer, save_gpt2

import pretune
from pretune.evaluate.channel import channel_scores
from pretune.generate.choices import score_choices
from pretune.prompts.prompt import Solved, find_prompt
from pretune.tasks.shared.prompt_rows import PromptedExample

PROMPT = 'pattern = "{text} and the {label}"\nchannel = "a {label}: {text}"\n[words]\nx = "fox"\ny = "dog"\n'
ASKED = ["the quick brown fox", "a hat", "the cat ate the lazy dog"]
SHOTS = [{"text": "a lazy cat", "label": "x"}, {"text": "the hat", "label": "y"}, {"text": "a quick dog", "label": "y"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    save_gpt2(folder / "gpt2", byte_tokenizer())
    (folder / "first.toml").write_text(PROMPT)
    return folder


def load(folder: Path) -> pretune.Model:
    return pretune.load(folder / "gpt2", device="cpu", precision="fp32")


def probabilities(model: pretune.Model, prompt: Any, **options: Any) -> Any:
    predictions = model.predict(ASKED, prompt=prompt, **options)
    return np.array([list(prediction.probabilities.values()) for prediction in predictions])


def test_several_draws_of_examples_are_the_geometric_mean_of_each(folder: Path) -> None:
    model, path = load(folder), folder / "first.toml"
    options: dict[str, Any] = {"shots": SHOTS, "shot_count": 1, "choose": "random"}
    each = [probabilities(model, path, seed=seed, **options) for seed in (4, 5, 6)]
    wanted = np.exp(np.log(each).mean(axis=0))
    wanted /= wanted.sum(axis=1, keepdims=True)
    found = probabilities(model, path, seed=4, shot_draws=3, **options)
    assert found == pytest.approx(wanted, rel=1e-5)
    assert not np.allclose(each[0], wanted, rtol=1e-3)
    assert list(model.predict([], prompt=path, seed=4, shot_draws=3, **options)) == []
    prompts = model.prompted(prompt=path, seed=4, shot_draws=3, **options).render(["a hat"])
    assert prompts == [model.prompted(prompt=path, seed=n, **options).render(["a hat"])[0] for n in (4, 5, 6)]


def test_solved_examples_stand_in_the_channel_too(folder: Path, tmp_path: Path) -> None:
    """The text behind its word, with the examples before it, is what a continuation of the whole gives."""
    model, path = load(folder), folder / "first.toml"
    options: dict[str, Any] = {"shots": SHOTS, "shot_count": 2, "choose": "balanced"}
    direct = probabilities(model, path, **options)
    (rendered,) = model.prompted(prompt=path, **options).render(["a hat"])
    solved = [shot for text in rendered.split("\n\n")[:-1] for shot in SHOTS if text.startswith(shot["text"])]
    assert len(solved) == 2
    before = "\n\n".join(f"a {({'x': 'fox', 'y': 'dog'})[shot['label']]}: {shot['text']}" for shot in solved)
    contexts = [f"{before}\n\na {word}:" for word in ("fox", "dog")]
    scores = [score_choices(model.network, model.tokenizer, contexts, [[f" {text}"]] * 2) for text in ASKED]
    channel = np.array([[own[0].log_prob for own in each] for each in scores])
    wanted = direct * np.exp(0.3 * channel)
    found = probabilities(model, path, channel=0.3, **options)
    assert found == pytest.approx(wanted / wanted.sum(axis=1, keepdims=True), rel=1e-4)


def test_examples_leave_a_long_channel_the_least_similar_first(folder: Path, caplog: Any) -> None:
    model, form = load(folder), find_prompt(str(folder / "first.toml"))
    solved = tuple(Solved(shot["text"], form.words_of(shot["label"])[0]) for shot in SHOTS)

    def scores(examples: tuple[Solved, ...], length: int) -> Any:
        asked = [PromptedExample("a hat " * 5, solved=examples)]
        return channel_scores(model.network, model.tokenizer, form, ["x", "y"], asked, length)

    assert np.array_equal(scores(solved, 48), scores(solved[1:], 64))
    assert "longer than the 48 tokens that the model reads, so solved examples were left out of it" in caplog.text
    assert "before 1 text, the least similar first" in caplog.text
    caplog.clear()
    assert np.array_equal(scores(solved, 34), scores(solved[2:], 64))
    assert np.array_equal(scores(solved, 24), scores((), 64))
    caplog.clear()
    assert not np.allclose(scores(solved, 64), scores(solved[1:], 64))
    assert not caplog.text
    assert not np.allclose(scores(solved[2:], 64), scores((), 64))
