"""English messages are recognised by the templates that made them, and said in another language."""

from __future__ import annotations

import time

import pytest

from pretune.language import current_language, translate, use_language, wanted_language, without_language
from pretune.language.extract import messages
from pretune.language.templates import Renderer

CATALOGUE = {
    "{path}: no such folder": "{path}：没有这个目录",
    "{path}: {name:n} rows": "{path}：{name:n} 行",
    "{place}: label {label} is not known": "{place}：未知的标签 {label}",
    "give one label": "请给出一个标签",
    "remove the row": "请删除该行",
    "remove the row, or {remedy}": "请删除该行，或{remedy}",
    "{number:n} of {total:n} texts": "{total:n} 条文本中的 {number:n} 条",
    "no {noun} {name}": "没有{noun} {name}",
    "{this} or {that}": "{this} 或 {that}",
    "model folder": "模型目录",
    "working folder: {path}": "工作目录：{path}",
    "written: {path}": "已写出：{path}",
    "with {metric} on {path}": "在 {path} 上用 {metric}",
    "the scores": "得分",
    "{clock} left": "剩余 {clock}",
    "loss {value:n}": "损失 {value:n}",
    "{documents:c} of {tokens:c}": "{documents:c}（{tokens:c}）",
    "{part:n} of {total} ({percent})": "{total}中的 {part:n} 个（{percent}）",
    "{number:n} tokens": "{number:n} 个词元",
    "step {number:n} {percent:n}": "步 {number:n} {percent:n}",
    "warning: {problem}": "警告：{problem}",
    "too few; lower {field} ({value}) or raise it": "太少；请调低 {field}（{value}）或调高",
    "with {model}{labels}": "用 {model}{labels}",
    ": {number:n} labels": "：{number:n} 个标签",
    "model": "模型",
    "column": "列",
}


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(CATALOGUE.items())


@pytest.mark.parametrize(
    ("text", "translation"),
    [
        ("a/b: no such folder", "a/b：没有这个目录"),
        ("a.csv:3: label 'x: y' is not known; remove the row", "a.csv:3：未知的标签 'x: y'；请删除该行"),
        ("remove the row, or give one label", "请删除该行，或请给出一个标签"),  # a hole is translated too
        ("3 of 1,000 texts", "1,000 条文本中的 3 条"),  # holes may change places
        ("a: 5 rows", "a：5 行"),
        ("a: five rows", None),  # the hole of a number fits nothing else
        ("no model folder xyz", "没有模型目录 xyz"),
        ("no column xyz", "没有列 xyz"),
        ("written: model", "已写出：model"),  # a single word is a name
        ("model", "模型"),
        ("  written: out.csv", "  已写出：out.csv"),  # space around a text stays
        ("pretune: x: no such folder (working folder: /tmp)", "pretune：x：没有这个目录（工作目录：/tmp）"),
        ("2 of 3 tokens (9%)", "3 个词元中的 2 个（9%）"),  # the template with more signs
        ("loss 0.5  2 tokens  0:02 left", "损失 0.5  2 个词元  剩余 0:02"),  # what stands apart is told apart
        ("step 1   2%  loss 0.5", "步 1   2%  损失 0.5"),  # a number that is padded
        ("warning: too few; lower batch (32) or raise it", "警告：太少；请调低 batch（32）或调高"),
        ("with m: 2 labels", "用 m：2 个标签"),  # where two holes meet, the second one begins with a sign
        ("['a: b', 'c; d']: no such folder", "['a: b', 'c; d']：没有这个目录"),  # what is quoted is data
        ("no idea what these many other words may say", None),  # a template of few words takes no strange prose
        ("no such file or folder", None),
        ("remove the row, or whatever a library says", "请删除该行，或 whatever a library says"),
        ("pretune predict model 'a text'", None),
        ("模型: no such folder", "模型：没有这个目录"),
        (
            "with the scores on 数据.csv",
            "在 数据.csv 上用得分",
        ),  # a name keeps the space beside it, a word of ours does not
        ("with f1 on x.csv", "在 x.csv 上用 f1"),
    ],
)
def test_a_text_is_said_by_its_template(renderer: Renderer, text: str, translation: str | None) -> None:
    rendered = renderer.line(text)
    assert rendered.text == (text if translation is None else translation)
    assert (rendered.score > 0) == (translation is not None)


@pytest.mark.parametrize(
    ("source", "extracted"),
    [
        ('raise E(f"{path}: no such {what}")', ["{path}: no such {what}"]),
        ('say(f"{n:,} rows of {len(texts)} texts")', ["{n:n} rows of {len_texts:n} texts"]),
        ('say(f"{n} {\'step\' if n == 1 else \'steps\'} done")', ["{n} step done", "{n} steps done"]),
        ('say(f"{a} is it; " + (f"give {b}" if b else "give none"))', ["{a} is it; give {b}", "{a} is it; give none"]),
        ('say(f"step {n:,} {part:4.0%} {size:8.3f}")', ["step {n:n} {part:n} {size:n}"]),
        ('say("one line\\nand another line")', ["one line", "and another line"]),
        ('log.info("%s of %d texts", a, b)', ["{v1} of {v2:n} texts"]),
        ('say(f"{f(f\'of {a} parts\')} were cut")', ["{f_f_of_a_parts} were cut", "of {a} parts"]),
        ('"""A docstring of a module."""', []),
        ('assert x, "not for the screen"', []),
        ('if "no space left" in text: pass', []),
        ('x["a key here"] = 1', []),
        ('open("some/path.py")', []),
        ('say("a number above {gt}".format(**limits))', ["a number above {gt:n}"]),
        ('print(translate("Flags" if many else "Flag"))', ["Flags", "Flag"]),
        ('N_("tokenizer", "[default: {x}]")', ["tokenizer", "[default: {x}]"]),
        ('def v(session: Common) -> None:\n "It does.\\n\\n Args:\\n  a: what it is."', ["It does.", "what it is."]),
        ('class MyConfig(Config):\n "What it holds.\\n\\n Attributes:\\n  a: what it is."', ["what it is."]),
        ('def f(a: int) -> None:\n "What it does."', []),
    ],
)  # fmt: skip
def test_what_is_shown_is_extracted(source: str, extracted: list[str]) -> None:
    assert [text for _, text in messages(source)] == extracted


@pytest.mark.parametrize(
    ("args", "environment", "language"),
    [
        ([], {}, "en"),
        (["predict", "--lang", "zh"], {}, "zh"),
        (["--lang=zh", "predict"], {}, "zh"),
        (["--lang", "en"], {"LANG": "zh_CN.UTF-8"}, "en"),
        (["--lang"], {"LANG": "zh_CN.UTF-8"}, "en"),
        ([], {"LANG": "zh_CN.UTF-8"}, "zh"),
        ([], {"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ([], {"LC_MESSAGES": "zh_TW", "LANG": "en_US.UTF-8"}, "zh"),
        ([], {"LANGUAGE": "zh:en", "LANG": "en_US.UTF-8"}, "zh"),
        ([], {"LANG": "", "LC_ALL": ""}, "en"),
    ],
)
def test_flag_and_locale_decide(args: list[str], environment: dict[str, str], language: str) -> None:
    assert wanted_language(args, environment) == language


@pytest.mark.parametrize(
    ("args", "rest"),
    [
        (["--lang", "zh", "predict", "m"], ["predict", "m"]),
        (["--lang=zh", "predict"], ["predict"]),
        (["--lang", "zh"], []),
        (["predict", "--lang", "zh"], ["predict", "--lang", "zh"]),
        ([], []),
    ],
)
def test_the_language_may_stand_before_the_verb(args: list[str], rest: list[str]) -> None:
    assert without_language(args) == rest


def test_a_language_ends_with_its_block() -> None:
    with use_language("zh"):
        assert current_language() == "zh"
        assert translate("give at least one record") == "请至少给出一条记录"
    assert translate("give at least one record") == "give at least one record"


def test_a_long_list_of_names_takes_no_time() -> None:
    """Labels that hold signs between sentences were taken apart at each of them: a message took many minutes."""
    labels = ", ".join(f"label {number}: the one. that is; so" for number in range(90))
    began = time.process_time()
    with use_language("zh"):
        assert labels in translate(f"dev.csv:3: no label like this; known: {labels}")
        assert translate("give at least one record") == "请至少给出一条记录"
    assert time.process_time() - began < 5
