"""Regular expressions of tokenizers: published ones are taken, and those whose time nothing bounds are not."""

import time

import pytest
from tokenizers import Regex, pre_tokenizers

from pretune.text.tokenizer.pattern import MAX_LENGTH, check_pattern

_MARKS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _MARKS + "?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _MARKS + "?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PUBLISHED = {
    "gpt2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "llama3": _MARKS
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "cl100k": r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
    r"|\s*[\r\n]|\s+(?!\S)|\s",
    "o200k": _O200K,
    "kimi": r"[\p{Han}]+|" + _O200K.replace(r"\p{M}]", r"\p{M}&&[^\p{Han}]]"),
    "deepseek": "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    "bloom": r" ?[^(\s|[.,!?…。，、।۔،])]+",
    "clip": r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    "superbpe": r"(?=(\d{3})+(?!\d))",
    "galactica": r"[\(\)\[\]\{\}]|([!\"\#\$%\&'\*\+,\-\./:;<=>?\\\^_`\|\~])\1*",
    "t5": " {2,}",
    "thousands": r"(?<=\d)(?=(\d{3})+$)",
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_expressions_are_taken(name: str) -> None:
    pattern = PUBLISHED[name]
    assert check_pattern(pattern) == {"t5": 2, "superbpe": 0, "thousands": 0}.get(name, 1)
    Regex(pattern)


def seconds(cut: pre_tokenizers.PreTokenizer, text: str) -> float:
    times = []
    for _ in range(3):
        begin = time.thread_time()
        cut.pre_tokenize_str(text)
        times.append(time.thread_time() - begin)
    return min(times)


@pytest.mark.parametrize("name", ["gpt2", "llama3", "o200k", "deepseek", "bloom", "clip", "galactica"])
@pytest.mark.parametrize("unit", ["a", " ", "A1. b\n", "!", "7"])
def test_time_grows_with_the_text(name: str, unit: str) -> None:
    cut = pre_tokenizers.Split(Regex(PUBLISHED[name]), "isolated")
    short, long = unit * (3000 // len(unit)), unit * (30_000 // len(unit))
    assert seconds(cut, long) < 40 * seconds(cut, short) + 0.01


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(?:a+)+", "of what has no end"),
        ("(?:ab|c)+", "in several ways"),
        ("(?:ab?)+", "in several ways"),
        ("(?:ab?){5}", "in several ways"),
        ("(?:a{0,9}){9}", "in several ways"),
        ("a+b+c+d+", "more than 3 repetitions"),
        ("(?:a+b+)(?:c+d+)", "more than 3 repetitions"),
        ("a?" * 11, "more than 10 parts"),
        ("(?:a*)?b{1,2}+", "repetition of a repetition"),
        ("a{1001}", "up to 1,000"),
        (r"(a)\1", "a reference"),
        (r"(?<n>a)\k<n>", "a reference"),
        ("(?#note)a", "a kind that is not known"),
        ("(?x:a)", "a kind that is not known"),
        ("(?<=a+)b", "a look behind of several lengths"),
        ("(?:^)*", "matches no character|may match nothing"),
        ("(a", "a group without its end"),
        ("a)", r"unbalanced '\)'"),
        ("[a", "a set without its end"),
        ("+a", "nothing to repeat"),
        ("(" * 9 + "a" + ")" * 9, "nested deeper"),
        ("[" * 10 + "a" + "]" * 10, "nested deeper"),
        ("a" * (MAX_LENGTH + 1), "more than 4,096"),
    ],
)
def test_others_are_refused(pattern: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_pattern(pattern)


@pytest.mark.parametrize(
    ("pattern", "least"),
    [("ab|c", 1), ("(?:abc){2}d?", 6), (r"\p{L}{2,4}", 2), ("[a-z]*", 0), ("(?:ab){3}", 6), ("(?:a|bc){1,4}", 1),
     ("(?i)a+?", 1), (r"\x{1F600}\u0041\.[]a]", 4), ("a{,3}b", 1), ("a{b", 3), (r"\b\w+\b", 1),
     ("a" * MAX_LENGTH, MAX_LENGTH)],
)  # fmt: skip
def test_how_much_an_expression_matches_at_least(pattern: str, least: int) -> None:
    assert check_pattern(pattern) == least
