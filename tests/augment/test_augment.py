"""Methods of augmentation: keyed, exact in their rate, and with spans that keep their text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pretune.augment.augmenter import Augmenter, Edit, Tools, build, read_groups, rewrite
from pretune.augment.files import AugmentConfig, AugmentStats, augment_examples
from pretune.cli import main
from pretune.draw import Draw
from pretune.errors import DataError, MissingInputError, UsageError
from pretune.find import variants
from pretune.text.readers.labelled import LabelledConfig, LabelledText, read_labelled

TEXT = "The good film made Anna Smith of Paris happy, and she saw 12 bad ones quickly."
CHINESE = "我们在北京看了一部很好的电影"
SPANS = [(TEXT.index("Anna"), TEXT.index("Anna") + 10), (TEXT.index("Paris"), TEXT.index("Paris") + 5)]


class Guesses(Tools):
    mask = "[MASK]"

    def fill(self, texts: Sequence[str], top: int) -> list[list[tuple[str, float]]]:
        assert all(text.count("[MASK]") == 1 for text in texts)
        return [[("the", 0.5), ("nice", 0.3), ("##ing", 0.1), ("odd", 0.1)][:top] for _ in texts]

    def translate(self, texts: Sequence[str], seed: int) -> list[str]:
        return [f"{text} again {seed % 5}" for text in texts]


@pytest.fixture
def lists(tmp_path: Path) -> dict[str, Path]:
    words, chars = tmp_path / "synonyms.tsv", tmp_path / "alike.txt"
    words.write_text(
        "# mine\ngood\tfine\tnice\nfilm, movie, picture\nhappy, glad\nbad\tpoor\n好\t棒\n", encoding="utf-8"
    )
    chars.write_text("在,再\n京,惊,晶\n部\t步\n", encoding="utf-8")
    return {"words": words, "chars": chars}


def make(name: str, made: dict[str, Path], **fields: object) -> Augmenter:
    own = {"list": str(made["words"])} if name in ("synonym", "insertion") else {}
    (actual,) = build({name: {**own, **fields}}, Guesses())
    return actual


@pytest.mark.parametrize("name", variants("augment"))
def test_a_key_decides_and_nothing_else(name: str, lists: dict[str, Path]) -> None:
    method = make(name, lists, rate=0.4)
    assert method.augment(TEXT, Draw(1)) == make(name, lists, rate=0.4).augment(TEXT, Draw(1))
    assert len({method.augment(TEXT, Draw(n)).text for n in range(40)}) > 4
    assert method.augment("", Draw(1)).text == ""
    assert method.augment(" .. ", Draw(1)).text == " .. "


@pytest.mark.parametrize("name", [name for name in variants("augment") if name != "translation"])
def test_spans_keep_their_text_wherever_they_go(name: str, lists: dict[str, Path]) -> None:
    method = make(name, lists, rate=1.0)
    kept = [TEXT[a:b] for a, b in SPANS]
    moved = 0
    for n in range(200):
        actual = method.augment(TEXT, Draw(n), SPANS)
        assert [actual.text[a:b] for a, b in actual.spans] == kept
        moved += actual.spans != SPANS
    assert moved or name == "swap"
    whole = method.augment(TEXT, Draw(0), [(0, len(TEXT))])
    assert (whole.text, whole.spans) == (TEXT, [(0, len(TEXT))])
    with pytest.raises(DataError, match="outside a text"):
        method.augment("short", Draw(0), [(2, 9)])


def test_translation_cannot_follow_spans(lists: dict[str, Path]) -> None:
    method = make("translation", lists)
    assert method.augment(TEXT, Draw(3)).text.startswith(f"{TEXT} again")
    with pytest.raises(UsageError, match="spans"):
        method.augment(TEXT, Draw(3), SPANS)


def test_words_give_way_to_their_synonyms(lists: dict[str, Path]) -> None:
    method = make("synonym", lists, rate=1.0)
    for n in range(30):
        actual = method.augment("Good and BAD, happy.", Draw(n)).text
        assert actual in {f"{a} and POOR, glad." for a in ("Fine", "Nice")}
    assert {method.augment(CHINESE, Draw(n)).text for n in range(5)} == {CHINESE.replace("好", "棒")}
    one = [make("synonym", lists, rate=0.1).augment("good happy bad", Draw(n)).text for n in range(3000)]
    changed = [[a != b for a, b in zip(text.split(), ["good", "happy", "bad"], strict=True)] for text in one]
    assert (np.sum(changed, axis=1) == 1).all()
    assert stats.chisquare(np.sum(changed, axis=0)).pvalue > 1e-4


def test_insertion_swap_and_deletion_do_what_eda_says(lists: dict[str, Path]) -> None:
    words = TEXT.split()
    inserted = make("insertion", lists, rate=0.2).augment(TEXT, Draw(1)).text.split()
    assert len(inserted) == len(words) + round(0.2 * 16)
    assert set(inserted) - set(words) <= {"fine", "nice", "glad", "poor", "movie", "picture"}
    for n in range(50):
        swapped = make("swap", lists, rate=0.5).augment("a b c d e f g h", Draw(n)).text.split()
        assert sorted(swapped) == list("abcdefgh")
        assert sum(a != b for a, b in zip(swapped, "abcdefgh", strict=True)) == 4
        deleted = make("deletion", lists, rate=0.5).augment("a b c d e f g h", Draw(n)).text
        assert len(deleted.split()) == 4
        assert "  " not in deleted
        assert make("deletion", lists, rate=1.0).augment("one two three", Draw(n)).text.strip() != ""
    assert make("deletion", lists, rate=1.0).augment("one", Draw(0)).text == "one"
    assert len(make("deletion", lists, rate=0.3).augment(CHINESE, Draw(0)).text) == len(CHINESE) - 4


def test_noise_takes_characters_for_others(lists: dict[str, Path]) -> None:
    method = make("noise", lists, rate=1.0, lists=[str(lists["chars"])])
    actual = {method.augment(CHINESE, Draw(n)).text for n in range(60)}
    assert actual == {CHINESE.replace("在", "再").replace("部", "步").replace("京", c) for c in "惊晶"}
    letters = make("noise", lists, rate=1.0)
    for n in range(60):
        one = letters.augment("an example", Draw(n)).text
        assert one.startswith("an e")
        assert len(one) in (9, 10, 11)
    assert letters.augment("it is so", Draw(1)).text == "it is so"


def test_a_model_s_guesses_are_drawn_by_their_probability(lists: dict[str, Path]) -> None:
    method = make("substitution", lists)
    actual = [method.augment("x", Draw(n)).text for n in range(4000)]
    counts = [actual.count(word) for word in ("the", "nice", "odd")]
    assert sum(counts) == 4000  # a piece of a word is none
    assert stats.chisquare(counts, np.array([5, 3, 1]) / 9 * 4000).pvalue > 1e-4
    assert method.augment("The", Draw(1)).text in ("Nice", "Odd")
    for name in ("substitution", "translation"):
        with pytest.raises(UsageError, match="needs"):
            build({name: {}})[0].augment(TEXT, Draw(0))


@given(st.text("ab 好。", max_size=20), st.integers(0, 1 << 20), st.integers(0, 20), st.integers(0, 20))
@settings(max_examples=200, deadline=None)
def test_any_text_and_span(text: str, seed: int, a: int, b: int) -> None:
    a, b = sorted((min(a, len(text)), min(b, len(text))))
    for method in build({"swap": {"rate": 0.8}, "deletion": {"rate": 0.8}, "noise": {"rate": 1.0}}):
        actual = method.augment(text, Draw(seed), [(a, b)])
        ((c, d),) = actual.spans
        assert actual.text[c:d] == text[a:b]


def test_edits_that_overlap_are_an_error() -> None:
    assert rewrite("abc", [Edit(3, 3, "d"), Edit(0, 1, ""), Edit(1, 1, "x")], [(1, 3)]) == rewrite(
        "abc", [Edit(0, 1, "x"), Edit(3, 3, "d")], [(1, 3)]
    )
    with pytest.raises(ValueError, match="overlap"):
        rewrite("abc", [Edit(0, 2, ""), Edit(1, 3, "")])
    for edit in (Edit(0, 2, ""), Edit(2, 2, "x")):
        with pytest.raises(ValueError, match="span"):
            rewrite("abc", [edit], [(1, 3)])


def test_bad_lists_are_named(tmp_path: Path) -> None:
    path = tmp_path / "list.tsv"
    for content, match in [("good\n", r"list\.tsv:1: 'good' is alone"), ("# none\n", "no groups")]:
        path.write_text(content)
        with pytest.raises(DataError, match=match):
            read_groups(path, "synonyms")
    path.write_bytes("é\tè".encode("latin-1"))
    with pytest.raises(DataError, match="not UTF-8"):
        read_groups(path, "synonyms")
    with pytest.raises(MissingInputError, match="cannot read the synonyms"):
        read_groups(tmp_path / "none", "synonyms")
    with pytest.raises(UsageError, match="did you mean 'swap'"):
        build({"swpa": {}})
    with pytest.raises(UsageError, match=r"augment\.swap"):
        build({"swap": {"rate": 2.0}})
    with pytest.raises(UsageError, match="no augmentation method"):
        build({})


def test_a_file_grows_with_its_labels(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "rows.csv", tmp_path / "more.jsonl"
    source.write_text("text,label,also\na b c d,x,e f g\nh,y,i\n", encoding="utf-8")
    words = ["augment", str(source), "--methods", "swap,deletion", "--copies", "6", "--columns.second", "also"]
    assert main([*words, "--output", str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert rows[0] == {"text": "a b c d", "also": "e f g", "label": "x"}
    assert {row["label"] for row in rows if row.get("origin") == 1} == {"x"}
    assert len({(row["text"], row["also"]) for row in rows}) == len(rows)
    examples = read_labelled(output, LabelledConfig(second="also"))
    assert len(examples) == len(rows)
    assert "2 rows" in capsys.readouterr().err
    assert main([*words, "--output", str(output)]) == 73
    stats = AugmentStats()
    config = AugmentConfig(methods={"swap": {}}, copies=3, keep=False)
    actual = list(augment_examples(examples[:2], build(config.methods), config, stats))
    assert stats.requested == stats.written + stats.unchanged + stats.duplicates
    assert len(actual) == stats.written
    again = list(augment_examples(examples[1:2], build(config.methods), config, AugmentStats()))
    assert [row["text"] for row in again] == [row["text"] for row in actual if row["origin"] == 2]


def test_pairs_are_texts_beside_what_became_of_them(examples_of: list[LabelledText]) -> None:
    config, stats = AugmentConfig(methods={"swap": {"rate": 0.5}}, copies=2, pairs=True), AugmentStats()
    actual = list(augment_examples(examples_of, build(config.methods), config, stats))
    assert len(actual) == stats.written > 0
    for row in actual:
        origin = examples_of[row["origin"] - 1]
        assert (row["text"], row.get("label")) == (origin.text, origin.label)
        assert row["second"] != row["text"]
        assert sorted(row["second"].split()) == sorted(row["text"].split())
    with pytest.raises(UsageError, match="single texts"):
        list(augment_examples([LabelledText("a b", None, "c d")], build(config.methods), config, AugmentStats()))


@pytest.fixture
def examples_of() -> list[LabelledText]:
    return [LabelledText(f"one two three four five {n}", str(n % 2)) for n in range(6)]
