"""What a hypothesis states and its source holds: numbers in any spelling, names by capitals, sentences."""

from __future__ import annotations

import math

import pytest

from pretune.errors import UsageError
from pretune.metrics.metric import Texts, build_metric, score
from pretune.metrics.names import capitalised_names
from pretune.metrics.number_words import find_numbers
from pretune.metrics.sentences import split_sentences


@pytest.mark.parametrize(
    ("text", "language", "numbers"),
    [
        ("It cost $1,234.50 and 3 people paid 1.5 million in 2023.", "en", ["1234.5", "3", "1500000", "2023"]),
        ("Es kostet 1.234,50 Euro, 3.000 Leute, 2,5 %", "de", ["1234.5", "3000", "2.5"]),
        ("1,234", "en", ["1234"]),
        ("1.234", "en", ["1.234"]),
        ("1.234", "de", ["1234"]),
        ("1,234,567.00", "en", ["1234567"]),
        ("0,5", "en", ["0.5"]),
        ("12.11.2020 at 10:30", "en", ["12", "11", "2020", "10", "30"]),
        ("２０ and 3-4", "en", ["20", "3", "4"]),
        ("三百二十人，二〇二三年3万元，10.5亿", "zh", ["320", "2023", "30000", "1050000000"]),
        ("一亿两千万，三点一四，百分之三十，三百二，两千零五", "zh", ["120000000", "3.14", "30", "320", "2005"]),
        ("第三名，一个人，十分好，万一，千万不要，三个", "zh", ["3", "3"]),
        ("twenty-one people, one hundred and five, two thousand twenty three", "en", ["21", "105", "2023"]),
        ("one of them, five six, hundreds of, two hundred thousand", "en", ["5", "6", "200000"]),
        ("", "en", []),
    ],
)
def test_numbers_have_one_spelling(text: str, language: str, numbers: list[str]) -> None:
    assert find_numbers(text, language) == numbers


def test_long_runs_of_digits_do_no_harm() -> None:
    assert len(find_numbers("9" * 100_000)) == 1
    find_numbers("3" + "亿" * 100_000, "zh")
    find_numbers("亿" * 100_000 + "一二" * 50_000, "zh")
    find_numbers("1,2." * 50_000)
    find_numbers("seven million " * 20_000)


def test_numbers_of_a_summary_that_its_source_holds() -> None:
    sources = ["The firm sold 1,234 cars to twenty-one shops.", "公司去年卖出三百二十辆车。", "no number here"]
    hypotheses = ["1234 cars in 21 shops and 7 towns", "卖出320辆，约500万元", "nothing"]
    judgement = build_metric("numbers").judge(Texts.of(hypotheses, None, sources))
    assert judgement.scores["numbers"] == pytest.approx(3 / 5)
    assert judgement.per_text["numbers"][:2].tolist() == [pytest.approx(2 / 3), 0.5]
    assert math.isnan(judgement.per_text["numbers"][2])
    assert judgement.details["numbers_not_in_source"] == [["7"], ["5000000"], []]


def test_no_numbers_at_all_are_said() -> None:
    judgement = build_metric("numbers").judge(Texts.of(["a"], None, ["b"]))
    assert judgement.scores["numbers"] == 1.0
    assert judgement.notes == ("numbers: the hypotheses state none, so that all of them hold",)


def test_names_are_runs_of_capitals_inside_sentences() -> None:
    text = "The man met Mr. Smith in New York. Smith said that Bank of America is big. Apple is good."
    assert capitalised_names(text) == ["Smith", "New York", "Bank of America"]
    assert capitalised_names("I'm OK, said Jo Li's wife and Ed. Bank of England and Jo Li left.") == [
        "Jo Li",
        "Ed",
        "England",
    ]
    assert capitalised_names("Mary left. Then Mary came back.") == ["Mary"]
    assert capitalised_names("") == []


def test_names_that_the_source_holds() -> None:
    source = "John Smith of Acme met Ann-Marie Doe in new york."
    got = build_metric("names").judge(
        Texts.of(["He saw Smith, Ann-Marie Doe and Acme in New York with Bob."], None, [source])
    )
    assert got.details["names_not_in_source"] == [["Bob"]]
    assert got.scores["names"] == pytest.approx(4 / 5)
    assert score("names", ["we saw Art"], None, ["a party of artists"])["names"] == 0.0  # whole words alone


@pytest.mark.parametrize(("text", "language"), [("我们在北京见了张三", "zh"), ("Der Hund im Haus", "de")])
def test_languages_whose_capitals_show_no_names_are_refused(text: str, language: str) -> None:
    with pytest.raises(UsageError, match="use --tagger RUN"):
        score("names", [text], None, [text], language=language)


def test_sources_are_needed() -> None:
    for name in ("names", "numbers"):
        with pytest.raises(UsageError, match=f"{name} compares with sources"):
            score(name, ["a"], ["a"])


def test_sentences() -> None:
    assert split_sentences("He met Dr. Smith. It was 3.5 m. J. Doe left!\nnew") == [
        "He met Dr. Smith.", "It was 3.5 m.", "J. Doe left!", "new",
    ]  # fmt: skip
    assert split_sentences("今天天气好。“走吧！”他说。") == ["今天天气好。", "“走吧！”", "他说。"]
    assert split_sentences("性能缺陷.该染料3.5米长.好") == ["性能缺陷.", "该染料3.5米长.", "好"]
    assert split_sentences(" \n ") == []
