"""Prompts: those of the tree, and what is wrong with a user's own file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from pretune.draw import Draw
from pretune.errors import MissingInputError, UsageError
from pretune.find import find, variants
from pretune.prompts.pool import Pool
from pretune.prompts.prompt import Rendered, Solved, find_prompt, prompt_names
from pretune.prompts.similarity import by_tfidf, by_vectors


@pytest.mark.parametrize("name", prompt_names())
def test_a_prompt_of_the_tree_reads_and_asks(name: str) -> None:
    prompt = find_prompt(name)
    rendered = prompt.render("a text", "another")
    assert prompt.about
    assert "a text" in rendered.before + rendered.after
    assert prompt.is_paired == ("another" in rendered.before + rendered.after)
    assert prompt.asks_at_end or name == "entailment_cloze"
    words = [word for label in prompt.words for word in prompt.words_of(label)]
    assert len(set(words)) == len(words)


def test_names_of_the_tree_are_in_two_languages() -> None:
    names = prompt_names()
    for name in ("plain", "sentiment", "topic", "question_type", "entailment", "intent"):
        assert {name, f"{name}_zh"} <= set(names)


def test_what_a_prompt_renders(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        'instruction = "Say {{which}}."\npattern = "{{T}}: {text} / {second} -> {label}."\nseparator = "\\n"\n'
        '[words]\ngood = ["fine", "well"]\nbad = "poor"\n'
    )
    prompt = find_prompt(str(path))
    rendered = prompt.render("{label}", "b", [Solved("c", "fine", "d")])
    assert rendered.before == "Say {{which}}.\n{T}: c / d -> fine.\n{T}: {label} / b -> "  # texts are no patterns
    assert rendered.after == "."
    assert prompt.premise() == Rendered("-> ", ".")
    assert prompt.words_of("good") == ("fine", "well")
    path.write_text('pattern = "{text} {label}"\nchannel = "{{T}} {second}, {label}: {text}!"')
    assert find_prompt(str(path)).in_channel("fine", "{label}", "d") == ("{T} d, fine: ", "{label}!")


BAD = [
    ('pattern = "{text}"', r"pattern: \{label\} stands in it 0 times; write it once"),
    ('pattern = "{text} {label} {label}"', r"pattern: \{label\} stands in it 2 times; write it once"),
    ('pattern = "{label} {text"', "pattern: .*; write a brace that is no field twice"),
    ('pattern = "{text} {mask}"', r"pattern: \{mask\} is no field; the fields are \{text\}, \{second\} and \{label\}"),
    ('pattern = "{text!r} {label}"', r"pattern: \{text\} is no field"),
    ('pattern = "{text.__class__} {label}"', r"pattern: \{text.__class__\} is no field"),
    ('pattern = "{text} {label}"\nchannel = "{text}"', r"channel: \{label\} stands in it 0 times; write it once"),
    ('pattern = "{text} {label}"\nchannel = "{label"', "channel: .*; write a brace that is no field twice"),
    ('pattern = "{text} {label}"\nchannel = "{text} {label}"', r"channel: \{text\} stands before \{label\}; write the"),
    ('pattern = "{text} {label}"\nchannel = "{{label}} {text} {label}"', r"channel: \{text\} stands before \{label\}"),
    ("words = 3", "field 'pattern' is missing"),
    ('pattern = "{text} {label}"\nwords = {a = ""}', "words.a: an empty word"),
    ('pattern = "{text} {label}"\nwords = {a = []}', "words.a: an empty word"),
    ('patern = "{text} {label}"', "unknown field 'patern'; did you mean 'pattern'"),
    ('pattern = "{text} {label}', "not valid TOML: Unterminated string"),
]


@pytest.mark.parametrize(("content", "message"), BAD, ids=[content[:30] for content, _ in BAD])
def test_a_bad_file_is_said_with_its_field(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(content)
    with pytest.raises(UsageError, match=message) as caught:
        find_prompt(str(path))
    assert str(path) in str(caught.value)


def test_what_is_not_there_and_what_is_too_large(tmp_path: Path) -> None:
    with pytest.raises(
        MissingInputError, match=r"none\.toml: no such file; name a prompt \(entailment, .*\) or a \.toml"
    ):
        find_prompt(str(tmp_path / "none.toml"))
    path = tmp_path / "large.toml"
    path.write_text("#" * (2 << 20))
    with pytest.raises(UsageError, match=r"large\.toml: more than 1,048,576 bytes"):
        find_prompt(str(path))


TEXTS = ["a red apple", "a green apple", "a fast car", "a slow car", "an old car"]
LABELS = np.array([0, 0, 1, 1, 1])
POOL = Pool(TEXTS, LABELS, by_tfidf(TEXTS))


def choose(name: str, texts: list[str], count: int, seed: int = 0) -> list[list[int]]:
    chosen: np.ndarray = find("prompts.choosing", name).choose(POOL, texts, count, Draw(seed))
    return chosen.tolist()  # type: ignore[no-any-return]


def test_similar_examples_come_last_and_are_never_the_text_itself() -> None:
    (row, own) = choose("similar", ["the red apple", "a fast car"], 2)
    assert row[-1] == 0
    assert set(own) <= {3, 4}
    (balanced,) = choose("similar_balanced", ["the red apple"], 4)
    assert sorted(LABELS[balanced].tolist()) == [0, 0, 1, 1]
    assert balanced[-1] == 0
    (own,) = choose("similar_balanced", ["a red apple"], 4)  # two of each label, and one of these is the text itself
    assert sorted(own) == [1, 2, 3, 4]


def test_drawn_examples_are_the_same_for_all_texts_and_follow_the_seed() -> None:
    for name in ("random", "balanced"):
        (row,) = choose(name, ["x", "y"], 4)
        assert [row] == choose(name, ["z"], 4)
        assert len(set(row)) == 4
        assert any([row] != choose(name, ["z"], 4, seed) for seed in range(1, 6))
    (row,) = choose("balanced", ["x"], 4)
    assert sorted(LABELS[row].tolist()) == [0, 0, 1, 1]


def test_every_way_gives_all_that_there_are() -> None:
    for name in variants("prompts.choosing"):
        for row in choose(name, ["a boat"], 9):
            assert sorted(row) == [0, 1, 2, 3, 4], name


def test_vectors_are_compared_by_their_cosine() -> None:
    table = {"a": [1.0, 0.0], "b": [0.0, 3.0], "c": [2.0, 2.0]}
    similarity = by_vectors(["a", "b"], lambda texts: np.array([table[text] for text in texts]))
    assert np.allclose(similarity(["c", "a"]), [[0.5**0.5, 0.5**0.5], [1.0, 0.0]])


def test_the_files_of_the_page_on_own_ones_work(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "add" / "prompt.md").read_text(encoding="utf-8")
    for block in re.findall(r"```(?:python|toml)\n(.*?)```", page, re.DOTALL):
        (tmp_path / block.split("\n", 1)[0].removeprefix("# ")).write_text(block, encoding="utf-8")
    prompt = find_prompt(str(tmp_path / "urgency.toml"))
    assert list(prompt.words) == ["now", "later"]
    chosen = find("prompts.choosing", str(tmp_path / "shortest.py")).choose(POOL, ["x"], 2, Draw(0))
    assert [TEXTS[n] for n in chosen[0]] == ["a slow car", "a fast car"]
    calibration = find("prompts.calibration", str(tmp_path / "empty.py"))
    (reference,) = calibration.references(prompt, ())
    assert reference.before == "Message: \nPriority: "
    assert np.allclose(calibration.calibrate(np.log([[0.5, 0.5]]), np.log([[[0.8, 0.2]]])), np.log([[0.625, 2.5]]))
