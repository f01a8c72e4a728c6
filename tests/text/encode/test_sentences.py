"""Sentences of English, Chinese and documentation; and time that grows with the text alone."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest

from pretune.text.encode.sentences import sentence_starts


def cut(text: str) -> list[str]:
    starts = [*sentence_starts(text), len(text)]
    return [text[a:b] for a, b in pairwise(starts)]


@pytest.mark.parametrize(
    "marked",  # "/" where a sentence begins
    [
        "It rains. /We stay in! /Why? /No idea... /Let us see.",
        "Pi is 3.14 and e is 2.72. /See numpy.linalg.norm for more.",
        "Some, e.g. this one, i.e. mine, are short. /Others are not.",
        "Mr. Smith met Dr. J. R. Jones in Fig. 3 of vol. 2. /They spoke.",
        "In the U.S. Army it is so. /Right etc. in the end, too.",
        "See No. 5 first. /He said no. /Then he left.",
        "He said so (really.) /She did not. /“Never!” /So he went.",
        '"Is it?" she asked. /"It is." /That was all. /[Note.] /End',
        "Wait... what? /Yes! /2 apples. /Good.",
        "今天天气很好。/我们走吧！/你去吗？/我去；/他不去。",
        "他说：“你好！”/然后走了……/后来呢？！/没有了。”/完",
        "价格是3.14元。/版本v2.0很好,不错!/下次再来./服务好?/是",
        "（他来了。）/她走了。 /好",
        "很好！，真的。/是",
        "一段\n接着写。\n\n/二段\n\u3000\u3000/三段",
        "A heading\n\n/A line that is\nwrapped here. /Then\nmore.",
        "Things:\n/- one\n/- two\n  and more\n/1. First. /Second.\n/2. Third\n/(a) x\n/b) y\n/>>> code()",
        "x : array\n    Input data. \n/y : int\n    Number\n    of things\n/Returns",
        "Parameters\n----------\n/x : array",
        "第一，\n/1、苹果\n/二、梨\n/（三）桃",
        "  leading space. /Then",
        "One sentence",
        "Ends. ",
        "",
        "\n",
    ],
)
def test_sentences_begin_where_they_should(marked: str) -> None:
    text = marked.replace("/", "")
    expected = [part for part in marked.split("/") if part] or [""]
    assert cut(text) == expected


def test_starts_are_sorted_distinct_and_inside() -> None:
    text = "A.\n\n  b. C。”\n- d!? E\n\n\n" * 50
    starts = sentence_starts(text)
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert starts[-1] < len(text)
    assert all(not text[start].isspace() for start in starts)


@pytest.mark.parametrize(
    "unit",
    [
        ".",
        ". ",
        "\n",
        " ",
        "a.\n",
        "”。",
        "a.",
        "\n ",
        "1. ",
        "e.g. ",
        "。”",
        "\n-",
        "\n a",
        "\n (1",
        "\u3000",
        "\n#",
        "…",
    ],
)
@pytest.mark.parametrize(("head", "tail"), [("", ""), (".", "a"), ("\n", "x\ny")])
def test_time_is_linear(unit: str, head: str, tail: str) -> None:
    def seconds(size: int) -> float:
        text = head + (unit * size)[:size] + tail
        best = 1e9
        for _ in range(3):
            start = time.process_time()
            sentence_starts(text)
            best = min(best, time.process_time() - start)
        return best

    assert seconds(100_000) < 20 * seconds(10_000) + 0.02  # quadratic: 100 times
