"""Finds the numbers of a text and gives each one spelling: 1,234.5; 1.234,5 in German; 三百二十; 3万; twenty-one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from decimal import Decimal

from pretune.metrics.words import base_language

_COMMA_DECIMAL = ("de", "fr", "es", "it", "pt", "nl", "da", "sv", "no", "fi", "pl", "cs", "ru", "tr", "ro", "hu")
_DIGITS = re.compile(r"(?<![\w.,])\d[\d.,'\u00a0\u202f]*(?:(?<=\d))|\d+(?:[.,]\d+)*")
_SPACES = re.compile("['\u00a0\u202f\u2009]")
_CHINESE_DIGITS = {char: n for n, char in enumerate("零一二三四五六七八九")} | {
    "〇": 0,
    "两": 2,
    "壹": 1,
    "贰": 2,
    "叁": 3,
}
_SMALL_UNITS = {"十": 10, "百": 100, "千": 1000, "拾": 10, "佰": 100, "仟": 1000}
_LARGE_UNITS = {"万": 10**4, "亿": 10**8}
_UNITS = {**_SMALL_UNITS, **_LARGE_UNITS}
_MAX_UNITS, _MAX_CHINESE = 3, 30  # characters: longer runs are no numbers
_CHINESE = "".join([*_CHINESE_DIGITS, *_SMALL_UNITS, *_LARGE_UNITS])
_CHINESE_NUMBER = re.compile(f"[{_CHINESE}]+(?:点[{''.join(_CHINESE_DIGITS)}]+)?")
_NO_NUMBERS = ("万一", "千万", "十分", "一一", "万万", "百万富翁", "千千万万", "三三两两", "七八", "一二")
_MEASURES = "个名位年月日号天次元岁人家种只条件本台辆部层倍度成分秒点周季届期章米斤吨升里公块"
_ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen"
)
_TENS = "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
_VALUES = [*range(20), *range(20, 100, 10)]
_ENGLISH = dict(zip([*_ONES.split(), *_TENS.split()], _VALUES, strict=True))
_ENGLISH_UNITS = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
_ENGLISH_WORD = re.compile(r"[A-Za-z]+")


def find_numbers(text: str, language: str = "en") -> list[str]:
    """The numbers of a text in their order, each as digits with at most one point: `1234.5`.

    What is a word more often than a number is none: a lone `one`, `一` or `十分`, and a lone Chinese digit before
    anything but a measure word. Signs and percent marks are left out.

    Args:
        language: says whether a comma or a point begins the decimals, where a number alone does not.
    """
    plain = unicodedata.normalize("NFKC", text)
    spans = [*_digit_numbers(plain, base_language(language)), *_chinese_numbers(plain), *_english_numbers(plain)]
    taken: list[tuple[int, int]] = []
    out: list[tuple[int, str]] = []
    for start, stop, value in sorted(spans, key=lambda span: (span[0], -span[1])):
        if not taken or start >= taken[-1][1]:
            taken.append((start, stop))
            out.append((start, _spell(value)))
    return [number for _, number in out]


def _spell(value: Decimal) -> str:
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _digit_numbers(text: str, language: str) -> Iterator[tuple[int, int, Decimal]]:
    for match in _DIGITS.finditer(text):
        raw = match[0].rstrip(".,'\u00a0\u202f")
        stop = match.start() + len(raw)
        for start, part in _parts(match.start(), raw, language):
            end = start + len(part[0])
            is_last = end == stop
            factor, length = _unit_after(text[end:]) if is_last else (1, 0)
            yield start, end + length, part[1] * factor


def _parts(start: int, raw: str, language: str) -> Iterator[tuple[int, tuple[str, Decimal]]]:
    """A number, or several where its marks are those of a date or a version: 12.11.2020."""
    plain = _SPACES.sub("", raw)
    value = parse_digits(plain, language)
    if value is not None:
        yield start, (raw, value)
        return
    for piece in re.finditer(r"\d+", raw):
        yield start + piece.start(), (piece[0], Decimal(piece[0]))


def parse_digits(raw: str, language: str) -> Decimal | None:
    """The value of digits with points and commas; None where these group nothing."""
    marks = [char for char in raw if char in ".,"]
    if not marks:
        return Decimal(raw)
    decimal = "," if language in _COMMA_DECIMAL else "."
    if len(set(marks)) == 2:
        decimal = marks[-1]
        if marks.count(decimal) > 1:
            return None
    elif len(marks) > 1:
        decimal = "." if marks[0] == "," else ","  # one mark several times groups thousands
    elif len(raw) - raw.index(marks[0]) != 4 or raw.index(marks[0]) > 3 or raw.startswith("0"):
        decimal = marks[0]  # no group of three follows
    whole, _, fraction = raw.partition(decimal)
    groups = re.split("[.,]", whole)
    if any(len(group) != 3 for group in groups[1:]) or not 1 <= len(groups[0]) <= (3 if len(groups) > 1 else 400):
        return None
    return Decimal("".join(groups) + (f".{fraction}" if fraction else ""))


def _unit_after(text: str) -> tuple[int, int]:
    """What follows digits and multiplies them, and how long it is: 3万, 1.5 million."""
    factor, length = 1, 0
    while length < _MAX_UNITS and text[length : length + 1] in _UNITS:
        factor *= _UNITS[text[length]]
        length += 1
    if length:
        return factor, length
    word = re.match(r"[ -]?(hundred|thousand|million|billion|trillion)\b", text, re.IGNORECASE)
    return (_ENGLISH_UNITS[word[1].lower()], word.end()) if word else (1, 0)


def _chinese_numbers(text: str) -> Iterator[tuple[int, int, Decimal]]:
    for match in _CHINESE_NUMBER.finditer(text):
        raw, before, after = match[0], text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
        if before.isdigit() or raw in _NO_NUMBERS or raw == "十" == after:
            continue
        if (raw + after) in _NO_NUMBERS:
            continue
        is_lone = len(raw) == 1 and before != "第"
        if is_lone and (raw in "一零〇千万亿百" or after not in _MEASURES or not after):
            continue
        value = parse_chinese(raw)
        if value is not None:
            yield match.start(), match.end(), value


def parse_chinese(raw: str) -> Decimal | None:
    """The value of a Chinese number, by units (三百二十) or digit by digit (二〇二三); None if it is neither."""
    whole, _, fraction = raw.partition("点")
    if len(raw) > _MAX_CHINESE:
        return None
    decimals = "".join(str(_CHINESE_DIGITS[char]) for char in fraction)
    if all(char in _CHINESE_DIGITS for char in whole):
        digits = "".join(str(_CHINESE_DIGITS[char]) for char in whole)
        return Decimal(f"{digits}.{decimals}" if decimals else digits)
    total, section, digit = 0, 0, None
    smallest = 0  # the unit before, by which a last digit without one counts: 三百二 is 320
    for char in whole:
        if char in _CHINESE_DIGITS:
            if digit and _CHINESE_DIGITS[char]:
                return None
            smallest = 0 if char in "零〇" else smallest
            digit = _CHINESE_DIGITS[char]
        elif char in _SMALL_UNITS:
            section += (1 if digit is None else digit) * _SMALL_UNITS[char]
            digit, smallest = None, _SMALL_UNITS[char]
        else:
            total = (
                (total + section + (digit or 0) or 1) * _LARGE_UNITS[char]
                if char == "亿"
                else (total + (section + (digit or 0) or 1) * _LARGE_UNITS[char])
            )
            section, digit, smallest = 0, None, _LARGE_UNITS[char]
    if digit:
        section += digit * (smallest // 10 if smallest >= 100 else 1)
    return Decimal(f"{total + section}.{decimals}" if decimals else total + section)


def _english_numbers(text: str) -> Iterator[tuple[int, int, Decimal]]:
    run: list[re.Match[str]] = []
    for match in _ENGLISH_WORD.finditer(text):
        word = match[0].lower()
        is_number = word in _ENGLISH or word in _ENGLISH_UNITS
        joins = bool(run) and text[run[-1].end() : match.start()] in (" ", "-")
        if not (joins and (is_number or (word == "and" and run[-1][0].lower() in _ENGLISH_UNITS))):
            yield from _english_run(run)
            run = []
        if is_number or (run and word == "and"):
            run.append(match)
    yield from _english_run(run)


def _english_run(run: list[re.Match[str]]) -> Iterator[tuple[int, int, Decimal]]:
    """The numbers of words in succession; a word that cannot join the number before it begins another."""
    while run and run[-1][0].lower() == "and":
        run = run[:-1]
    words = [match[0].lower() for match in run]
    first = 0
    while first < len(words):
        stop, value = _english_value(words, first)
        is_lone_one = words[first:stop] in (["one"], ["zero"], ["and"])
        if not is_lone_one and words[first] not in _ENGLISH_UNITS:  # "hundreds", "a million": no amount is said
            yield run[first].start(), run[stop - 1].end(), Decimal(value)
        first = stop


def _english_value(words: list[str], first: int) -> tuple[int, int]:
    total, section, last = 0, 0, 0
    n = first
    while n < len(words):
        word = words[n]
        if word == "and":
            n += 1
            continue
        if word in _ENGLISH:
            value = _ENGLISH[word]
            if n > first and last and not (last >= 100 or (20 <= last < 100 and 0 < value < 10)):
                break
            if n > first and last == 0:
                break
            section, last = section + value, value
        elif word == "hundred":
            section, last = max(section, 1) * 100, 100
        else:
            total, section, last = total + max(section, 1) * _ENGLISH_UNITS[word], 0, _ENGLISH_UNITS[word]
        n += 1
    return n, total + section
