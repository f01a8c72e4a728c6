"""Sets of writing: functions of a library by module, what is free of training, what is kept, and one tiny run."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import page
from benchmarks.writing import consistency, functions, measure, one, sets_dialogue, sets_summaries, sets_translation
from benchmarks.writing.measure import Measurement
from benchmarks.writing.one import Order
from benchmarks.writing.sets import Parts, WritingSet, all_sets, nearest
from benchmarks.writing.table import table

pytest.importorskip("sacrebleu")

LIBRARY = '''
def add(first, second):
    """Returns the sum of two numbers, whatever they are."""
    total = first + second  # a comment
    return total

class Box:
    @property
    async def value(self, *, deep=False):
        """Returns what is in the box, or
        what is in the boxes in it."""
        if deep: return await self.inner.value
        return self.content

def short():
    """Too short."""
    return 1

def undocumented(x):
    y = x
    return y

def only_docstring():
    """This function has a docstring and no body at all."""
'''


def test_functions_are_read_from_syntax_trees() -> None:
    records = list(functions.functions_of(LIBRARY, "library"))
    assert [record["source"].split("\n")[0] for record in records] == [
        "def add(first, second):",
        "async def value(self, *, deep=False):",
    ]
    assert records[0]["target"] == "def add(first, second):\n    total = first + second\n    return total"
    assert "boxes in it." in records[1]["source"]
    for record in records:
        ast.parse(record["target"])
        assert '"""' not in record["target"]
    assert list(functions.functions_of("def broken(:", "library")) == []


def test_functions_are_split_by_module(tmp_path: Path) -> None:
    names = [f"module{n}" for n in range(60)]
    for n, name in enumerate(names):
        text = LIBRARY.replace("total", f"total{n}").replace("content", f"content{n}")
        (tmp_path / f"{name}.py").write_text(text)
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "test_module.py").write_text(LIBRARY)
    (tmp_path / "copy.py").write_text((tmp_path / "module0.py").read_text())
    parts = functions.read_functions(tmp_path)
    modules = {part: {record["module"] for record in records} for part, records in parts.items()}
    assert sum(map(len, parts.values())) == 2 * len(names)  # the copy is one of them
    assert all(modules.values())
    assert not modules["train"] & modules["test"]
    assert {functions.part_of(module) for module in modules["test"]} == {"test"}
    assert functions.write_functions(tmp_path / "out", tmp_path) == {name: len(each) for name, each in parts.items()}
    assert json.loads((tmp_path / "out" / "test.jsonl").read_text().splitlines()[0]) == parts["test"][0]


def test_the_nearest_text() -> None:
    assert nearest(["a dog runs", "the cat sat"], ["cat", "dogs and a dog"]) == [1, 0]
    assert nearest(["我们去北京", "今天下雨"], ["下雨了"], analyzer="char", orders=(1, 3)) == [1]


def test_parts_of_sets_share_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRETUNE_DATA", str(tmp_path))

    def put(name: str, text: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")

    pairs = [(f"Sentence {n % 90}.", f"句子{n}。") for n in range(120)]
    put("translation/tatoeba-en-zh/cmn.txt", "".join(f"{en}\t{zh}\n" for en, zh in pairs))
    sets_translation._tatoeba.cache_clear()
    parts = sets_translation._tatoeba()
    sources = [{record["source"] for record in part} for part in (parts.train, parts.validation, parts.test)]
    assert all(sources)
    assert len(set().union(*sources)) == sum(map(len, sources))
    assert sum(len(record["target"]) for part in (parts.train, parts.validation, parts.test) for record in part) == 120
    assert max(len(record["target"]) for record in [*parts.test, *parts.validation]) == 2
    sets_translation._tatoeba.cache_clear()

    talk = {"messages": [{"message": text} for text in ("你好", "你好呀", "再见", "再见啦", "嗯")]}
    for domain in ("film", "music", "travel"):
        for part, count in (("dev", 12), ("test", 2)):
            put(f"generation/kdconv/{domain}/{part}.json", json.dumps([talk] * count))
    sets_dialogue._kdconv.cache_clear()
    parts = sets_dialogue._kdconv()
    assert (len(parts.train), len(parts.validation), len(parts.test)) == (6, 30, 12)
    assert [message["role"] for message in parts.train[0]["messages"]] == ["user", "assistant"] * 2
    assert [turn["target"] for turn in parts.test[:2]] == [["你好呀"], ["再见啦"]]
    assert parts.test[1]["messages"][-1] == {"role": "user", "content": "再见"}
    assert sets_dialogue._nearest(parts)[:2] == ["你好呀", "再见啦"]
    sets_dialogue._kdconv.cache_clear()


def test_first_turns_and_first_sentences() -> None:
    dialogue = Parts([], [], [{"dialogue": "#Person1#: Hi.\n#Person2#: Hello.\n#Person1#: Bye."}])
    assert sets_summaries._lead_two(dialogue) == ["#Person1#: Hi.\n#Person2#: Hello."]
    assert sets_summaries._lead_one(Parts([], [], [{"abstract": "目的:了解应用.方法:分析"}])) == ["目的:了解应用."]


def test_every_set_names_what_there_is() -> None:
    recipes = Path(measure.__file__).parents[2] / "recipes"
    for name, writing in all_sets().items():
        assert writing.name == name
        assert writing.recipe is None or (recipes / writing.recipe).is_file()
        assert bool(writing.tokenizer) != (writing.wheel is not None)
        assert writing.metrics[0] in ("bleu", "rouge", "edit")


WORDS = ["one", "two", "three", "four", "five", "six"]
RECORDS = [{"source": f"{a} {b}", "target": [f"{b} {a}"]} for a in WORDS for b in WORDS]
TINY = WritingSet(
    "tiny",
    "generation",
    ("bleu", "exact"),
    "en",
    lambda: Parts(RECORDS[6:], RECORDS[:3], RECORDS[:6]),
    lambda record: str(record["source"]),
    lambda record: list(record["target"]),
    lambda parts: [record["source"] for record in parts.test],
    "the source",
    tokenizer={"kind": "bpe", "special_tokens": "roberta", "vocab_size": 300},
    fields={"model": {"family": "bart", "size": "tiny"}, "data": {"length": 16, "batch": 4}, "device": "cpu"},
)


def test_what_is_done_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[Order] = []

    def pretend(order: Order, minutes: float, module: str) -> dict[str, Any]:
        done.append(order)
        if order.seed == 1 and len(done) < 3:
            return {"error": "no memory"}
        scores = {"bleu": 30.0 + order.seed, "ended": 1.0}
        sizes = {"train_seconds": 90.0, "test_seconds": 1.0, "megabytes": 900.0, "train": 30, "test": 6}
        return {"score": 30.0 + order.seed, "scores": scores, **sizes}

    monkeypatch.setattr(measure, "run_apart", pretend)
    measurement = Measurement(tmp_path / "writing.json", tmp_path, seeds=2, minutes=1)
    measurement.baseline(TINY)
    measurement.run([TINY])
    assert "no memory" in table(measurement.tree(), ["tiny"])
    measurement.run([TINY])
    assert [order.seed for order in done] == [0, 1, 1]  # what failed is tried again
    text = table(measurement.tree(), ["tiny"])
    assert "| tiny | the source | bleu 0.0" in text
    assert "| tiny | trained, 1 minutes | bleu 30.5 ± 0.707, ended 1.000 ± 0.000 | 6 | 2 | 1.5 | 900 |" in text
    assert text in page.section(measurement.tree())
    other = Measurement(tmp_path / "writing.json", tmp_path, seeds=1, minutes=2)
    other.run([TINY])
    assert len(done) == 4
    assert done[3].folder != done[0].folder  # other settings go into another folder


def test_a_run_trains_writes_and_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(one, "find_set", lambda name: TINY)
    recipe = {"budget": {"steps": 2}, "precision": "fp32", "threads": 1}
    order = Order("tiny", 0, str(tmp_path), 0.0, 5, recipe)
    result = one.run(order)
    assert result["test"] == 5
    assert {"bleu", "exact", "ended"} == set(result["scores"])
    written = tmp_path / "tiny" / "seed-0" / "written-5.jsonl"
    lines = written.read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5
    written.write_text("\n".join([*lines[:2], lines[2][:9]]))  # a run that was ended while it wrote
    again = one.run(order)
    assert written.read_text(encoding="utf-8").splitlines() == lines
    assert again["scores"] == result["scores"]
    assert one.without_target(RECORDS[0]) == {"source": "one one"}


def test_judges_tell_true_summaries_from_wrong_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {"dialogue": "#Person1#: Tom paid 12 dollars.", "summary1": "We hear that Tom paid 12 dollars to #Person2#."},
        {"dialogue": "#Person1#: Mary slept.", "summary1": "We hear that Mary slept."},
    ]
    pairs = consistency.wrong_summaries(rows)
    assert [wrong for _, _, wrong in pairs["another name"]] == [
        "We hear that Mary paid 12 dollars to #Person2#.",
        "We hear that Tom slept.",
    ]
    assert [wrong for _, _, wrong in pairs["another number"]] == ["We hear that Tom paid 13 dollars to #Person2#."]
    assert pairs["another dialogue"][0][2] == rows[1]["summary1"]
    path = tmp_path / "generation" / "dialogsum" / "dialogsum.test.jsonl"
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("PRETUNE_DATA", str(tmp_path))
    consistency.measure()
    assert "| another name | 2 | 1.000 | 0.500 |" in capsys.readouterr().out
