"""The tour of the README in Chinese: no English sentence on the screen, in help or in errors."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from pretune import language
from pretune.cli import main
from pretune.report.words import words
from pretune.train.recipe import Recipe

WORDS = ["函数", "返回", "数组", "的", "值", "排序", "沿着", "最后", "一个", "轴"]
SMALL = "--budget.steps 2 --batch 4 --length 64 --evaluation.samples 4 --device cpu --no-allocator"
LIFE = (
    "tokenizer train 语料.txt --output 分词器 --vocab-size 60",
    "prepare 语料.txt --tokenizer 分词器 --output 词元库 --processes 1",
    f"pretrain --objective mlm,sop --stores 词元库 --model.size tiny --output 模型 --track.report false {SMALL}",
    f"finetune --task classification --model 模型 --train 标签.csv --output 分类 {SMALL}",
    f"finetune --task classification --model 模型 --train 标签.csv --output 分类 {SMALL}",
    "evaluate 分类 标签.csv",
    "evaluate 模型 词元库",
    "predict 分类 数组返回一个值",
    "predict 分类 标签.csv --output 预测.csv",
    "fill 模型 函数返回[MASK]的值",
    "score 模型 函数返回数组",
    "embed 模型 函数返回数组 --output 向量.npy",
    "report 分类",
    "runs",
    "verify 分类",
    "show 分类/recipe.toml",
    "show tasks",
    "show classification",
)
HELP = ("--help", "tokenizer train --help", "prepare --help", "pretrain --help", "finetune --help", "predict --help")
MISTAKES = (
    "nosuch",
    "predict",
    "prepare 没有.txt --tokenizer 分词器 --output 另一个",
    "prepare 语料.txt --tokenizer 没有 --output 另一个",
    "prepare 语料.txt --tokenizer 分词器 --output 另一个 --validation 2",
    "finetune --task classification --model bert-base-uncased --train 标签.csv",
    "finetune --task classification --model 模型 --train 没有.csv",
    "finetune --task nosuch --model 模型 --train 标签.csv",
    "finetune --task classification --model 模型 --train 标签.csv --learning-rate 1e-3",
    "finetune --task classification --model 模型 --train 标签.csv --lr abc --output 另一个",
    "finetune --task classification --model 模型 --train 标签.csv --text title --output 另一个",
    f"finetune --task classification --model 模型 --train 标签.csv --output 分类 --lr 1e-3 {SMALL}",
    "pretrain --objective clm --stores 词元库 --output 另一个",
    "generate 模型 函数",
    "tokenizer train 语料.txt --output 分词器",
    "predict 模型 函数",
    "export 模型 分类",
)
FIELDS = {words(name) for name in Recipe.model_fields}  # stay as they are written
PROSE = re.compile(r"[A-Za-z]{2,}(?: [a-z]{2,}){2,}")
DATA = re.compile(r"`[^`]*`|\"[^\"]*\"|'[^']*'|来源：.*|pretune \w.*", re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a corpus and a labelled file."""
    folder = tmp_path_factory.mktemp("tour")
    draw = np.random.default_rng(0)
    texts = ["".join(draw.choice(WORDS, 12)) + "。" for _ in range(800)]
    (folder / "语料.txt").write_text("\n\n".join("".join(texts[n : n + 8]) for n in range(0, 800, 8)), encoding="utf-8")
    rows = [f"{text},{'甲' if '数组' in text else '乙'}" for text in texts[:160]]
    (folder / "标签.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    return folder


def say(line: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """The exit code of a command, and the lines of its output that hold English prose."""
    code = main([*line.split(), "--lang", "zh"])
    captured = capsys.readouterr()
    lines = (captured.err + captured.out).splitlines()
    return code, [f"{line}: {text}" for text in lines if PROSE.search(DATA.sub("", text))]


class PageTexts(HTMLParser):
    """The texts of a page, but for its style and for what is quoted from files."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._skipped = 0
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._skipped += tag in ("style", "pre")

    def handle_endtag(self, tag: str) -> None:
        self._skipped -= tag in ("style", "pre")

    def handle_data(self, data: str) -> None:
        if not self._skipped:
            self.texts.append(data)


@pytest.mark.parametrize(("lines", "code"), [(LIFE, {0}), (HELP, {0}), (MISTAKES, {64, 65, 66, 73})])
def test_no_english_is_said(
    folder: Path,
    lines: tuple[str, ...],
    code: set[int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "80")
    if lines is MISTAKES and not Path("分词器").exists():  # another process made what they are made with
        for line in LIFE:
            say(line, capsys)
    monkeypatch.setattr(language, "unknown", [])
    answers = {line: say(line, capsys) for line in lines}
    assert {line: answer for line, (answer, _) in answers.items() if answer not in code} == {}
    assert [text for _, english in answers.values() for text in english] == []
    assert language.unknown == []
    if lines is LIFE:
        page = PageTexts((folder / "分类" / "report.html").read_text(encoding="utf-8"))
        assert "混淆矩阵" in page.texts
        texts = [text for text in page.texts if " · " not in text]  # names of fields
        assert [text for text in texts if text not in FIELDS and PROSE.search(DATA.sub("", text))] == []
