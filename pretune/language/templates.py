"""Renders English screen text in another language: by which template was it made, and how is that one said?

A message reaches the screen as plain text, its values filled in. Which template made it is decided by its words: of all
templates that fit, the one whose words cover most of the text. What stood in the holes is rendered in the same way, as
messages are composed of others: `{path}: {problem}; {remedy}`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

_HOLE = re.compile(r"\{(\w+)(?::([nc]))?\}|\{\{|\}\}")
_NUMBER = r"\s*[-+]?(?:\d[\d,_]*(?:\.\d+)?|\.\d+|nan|inf)(?:e[-+]?\d+)?\s*%?"
_SIGNS = re.compile(r"[^\w\s]")
_TAIL = r"((?:[,:;] | \().*|)"  # the end of a sentence, or nothing
_WORD = re.compile(r"[A-Za-z]{2,}")
# Between two messages that stand side by side, the surest sign first.
_JOINTS = {"; ": "；", ". ": "。", ": ": "：", "  ": "  ", " -> ": " -> ", ", ": "，"}
_JOINT = re.compile("|".join(map(re.escape, _JOINTS)))
_ENCLOSED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`[^`]*`|\[[^\]]*\]|\{[^}]*\}|\([^()]*\)")
_TRAILING = re.compile(r"(.+?) ?\(([^()]*)\)", re.DOTALL)
_PROSE = re.compile(r"[A-Za-z]?[a-z]+(?: [a-z]+)+")
_FEW_LETTERS = 10  # of a template's own words, which fit much that is not of it
_CHINESE, _SIGN, _LATIN = re.compile(r"[一-鿿]"), re.compile(r"[，。：；（）？]"), re.compile(r"[A-Za-z0-9]")
_WORD_HOLES = ("action", "expected", "noun", "state", "status", "total_kind", "unit", "what", "where", "word")
_LONGEST = 4_000  # characters; what is longer is no message
_MOST_PARTS = 3_000  # of a line, which are rendered each: a message has some hundreds, a long list millions
_MOST_JOINTS = 24  # of a text; a long list has more, and is not split at its commas


@dataclass(frozen=True)
class Rendered:
    """A text in the other language.

    Attributes:
        text: what is shown.
        score: number of letters of the English text that templates cover; 0 if none fits.
        signs: that they cover too, where letters are as many.
    """

    text: str
    score: int
    signs: int = 0

    @property
    def rank(self) -> tuple[int, int]:
        """What two renderings of a text are compared by."""
        return self.score, self.signs


class Template:
    """A message with holes, and its translation.

    Args:
        message: English, with holes `{name}`, and `{name:n}` for numbers.
        translation: with the same holes, in any order.
    """

    def __init__(self, message: str, translation: str) -> None:
        self._translation = split_holes(translation)
        self._parts = split_holes(message)
        self.literals = [part for part in self._parts if isinstance(part, str)]
        self.score = sum(map(len, _WORD.findall(" ".join(self.literals))))
        signs = sum(len(_SIGNS.findall(literal)) for literal in self.literals)
        self.signs = signs + sum(isinstance(part, Hole) and bool(part.kind) for part in self._parts)

    @cached_property
    def _patterns(self) -> list[re.Pattern[str]]:
        """Holes as short as possible, and as long: where two stand side by side, their border is not certain."""
        texts = sum(isinstance(part, Hole) and not part.kind for part in self._parts)
        beside = any(isinstance(a, Hole) and isinstance(b, Hole) for a, b in pairwise(self._parts))
        holes = [("(.*?)", _TAIL)] if beside else []
        holes += [("(.*?)", "(.*?)"), ("(.*)", "(.*)")] if texts > 1 else [("(.*)", "(.*)")]
        return [re.compile(self._pattern(*each), re.DOTALL) for each in holes]

    def _pattern(self, hole: str, second: str) -> str:
        """A pattern of all texts of this template.

        Args:
            hole: pattern of what stands in a hole.
            second: of what stands in one that follows another at once.
        """
        pattern, last = "", ""
        for part in self._parts:
            if isinstance(part, str):
                pattern, last = pattern + re.escape(part), part
            else:
                kinds = {"n": f"({_NUMBER})", "c": f"({_NUMBER} .+?)"}
                pattern, last = pattern + kinds.get(part.kind, hole if last else second), ""
        return pattern

    @property
    def sure_words(self) -> set[str]:
        """The words that every text of this template has whole: those that touch no hole."""
        words: set[str] = set()
        for number, part in enumerate(self._parts):
            if isinstance(part, str):
                begin = 0 if number == 0 else 1
                end = len(part) if number == len(self._parts) - 1 else len(part) - 1
                inner = (match for match in _WORD.finditer(part) if match.start() >= begin and match.end() <= end)
                words |= {match[0] for match in inner}
        return words

    def values(self, text: str) -> Iterator[dict[str, str]]:
        """What may stand in the holes of a text; nothing if this template does not make it."""
        if not all(literal in text for literal in self.literals):
            return
        holes = [part for part in self._parts if isinstance(part, Hole)]
        for pattern in self._patterns:
            match = pattern.fullmatch(text)
            if match is not None and not any(map(_stands_apart, holes, match.groups())):
                yield {hole.name: value for hole, value in zip(holes, match.groups(), strict=True)}

    def fill(self, values: Mapping[str, Rendered]) -> str:
        """The translation with values in its holes."""
        text, is_ours = "", True  # what is of the catalogue; names and numbers of users keep the space beside them
        for part in self._translation:
            if isinstance(part, str):
                text, is_ours = _beside(text, part, is_ours), True
            else:
                value = values[part.name]
                text, is_ours = _beside(text, value.text, value.score > 0), value.score > 0
        return text


@dataclass(frozen=True)
class Hole:
    """A hole of a template.

    Attributes:
        name: of the value in it.
        kind: "n" for a number, "c" for a number and its noun, "" for any text.
    """

    name: str
    kind: str


def _stands_apart(hole: Hole, value: str) -> bool:
    """Whether a hole holds two texts, which two spaces part; what is quoted is one, and a number may be padded."""
    return hole.kind != "n" and "  " in _ENCLOSED.sub("_", value)


def _beside(left: str, right: str, is_ours: bool) -> str:
    """Puts two texts side by side: a space between Chinese and Latin letters, none among Chinese ones.

    Args:
        is_ours: whether both are of the catalogue.
    """
    last, first = left.rstrip(" ")[-1:], right.lstrip(" ")[:1]
    if _SIGN.match(last) or _SIGN.match(first) or (is_ours and _CHINESE.match(last) and _CHINESE.match(first)):
        return left.rstrip(" ") + right.lstrip(" ")
    before = _CHINESE.match(left[-1:]) and _LATIN.match(right)
    after = _LATIN.match(left[-1:]) and _CHINESE.match(right)
    return f"{left} {right}" if before or after else left + right


def split_holes(message: str) -> list[str | Hole]:
    """Splits a message into texts and holes."""
    parts: list[str | Hole] = []
    literal, position = "", 0
    for match in _HOLE.finditer(message):
        literal += message[position : match.start()]
        position = match.end()
        if match[1] is None:
            literal += match[0][0]
            continue
        parts += [literal] if literal else []
        parts.append(Hole(match[1], match[2] or ""))
        literal = ""
    literal += message[position:]
    return [*parts, literal] if literal else parts


class Renderer:
    """Renders texts by a catalogue.

    Args:
        catalogue: English messages and their translations.
    """

    def __init__(self, catalogue: Iterable[tuple[str, str]]) -> None:
        self._exact: dict[str, str] = {}
        self._words: dict[str, str] = {}  # single ones, which are names of files as well
        self._by_word: defaultdict[str, list[Template]] = defaultdict(list)
        self._without_word: list[Template] = []
        self._memory: dict[tuple[str, bool], Rendered] = {}
        self._parts_left = _MOST_PARTS
        templates = []
        for message, translation in catalogue:
            if any(isinstance(part, Hole) for part in split_holes(message)):
                templates.append(Template(message, translation))
            else:
                texts = self._exact if " " in message else self._words
                texts[_plain(message)] = _plain(translation)
        frequency = Counter(word for template in templates for word in template.sure_words)
        for template in templates:
            words = template.sure_words
            if words:
                self._by_word[min(words, key=lambda word: (frequency[word], word))].append(template)
            else:
                self._without_word.append(template)

    def line(self, text: str) -> Rendered:
        """Renders a line of the screen; one of which most stays English is left as it is."""
        self._parts_left = _MOST_PARTS
        if len(self._memory) > 10_000:
            self._memory.clear()
        rendered = self.render(text, is_word=True)
        if self._parts_left <= 0:
            self._memory.clear()  # of parts that stayed English for want of time
        prose = sum(map(len, _PROSE.findall(_ENCLOSED.sub("", rendered.text))))
        return Rendered(text, 0) if prose > 3 * rendered.score else rendered

    def render(self, text: str, *, is_word: bool = False) -> Rendered:
        """Renders a message or a part of one; what no template makes is given back as it is.

        Args:
            is_word: a single word is one of ours; elsewhere it is a name, such as a folder `model`.
        """
        bare = text.strip()
        if not bare or len(bare) > _LONGEST or not _WORD.search(bare):
            return Rendered(text, 0)
        key = bare, is_word
        if key not in self._memory:
            if self._parts_left <= 0:
                return Rendered(text, 0)
            self._parts_left -= 1
            self._memory[key] = self._render(bare, is_word)
        rendered = self._memory[key]
        start = text.index(bare)
        return Rendered(text[:start] + rendered.text + text[start + len(bare) :], *rendered.rank)

    def _render(self, text: str, is_word: bool) -> Rendered:
        exact = self._exact.get(text) or (self._words.get(text) if is_word else None)
        if exact is not None:
            return Rendered(exact, sum(map(len, _WORD.findall(text))))
        best = Rendered(text, 0)
        for template in self._candidates(text):
            for values in template.values(text):
                inner = {name: self.render(value, is_word=_holds_words(name)) for name, value in values.items()}
                rendered = _filled(template, inner)
                if rendered is not None and rendered.rank > best.rank:
                    best = rendered
        for joined in self._splits(text):
            best = joined if joined.rank > best.rank else best
        return best

    def _candidates(self, text: str) -> Iterator[Template]:
        for word in set(_WORD.findall(text)):
            yield from self._by_word.get(word, ())
        yield from self._without_word

    def _splits(self, text: str) -> Iterator[Rendered]:
        """Renders the text as two messages side by side, for each place where that may be."""
        enclosed = [match.span() for match in _ENCLOSED.finditer(text)]
        places = [match for match in _JOINT.finditer(text, 1) if not any(a <= match.start() < b for a, b in enclosed)]
        if len(places) > _MOST_JOINTS:
            places = [match for match in places if match[0] != ", "][:_MOST_JOINTS]
        for match in sorted(places, key=lambda match: [*_JOINTS].index(match[0])):
            border = match.start() + (match[0] == ". ")  # a sentence keeps its full stop
            first = self.render(text[:border])
            second = self.render(text[match.end() :])
            if (first.score and second.score) or ((first.score or second.score) and match[0] != ", "):
                joint = _joint(match[0], first, second)
                yield _sum(first.text + joint + second.text, first, second)
            tail = self.render(text[border:])  # such as ", the best so far"
            yield _sum(first.text + tail.text, first, tail)
        if trailing := _TRAILING.fullmatch(text):
            first, second = (self.render(part) for part in trailing.groups())
            if first.score or second.score:
                brackets = " ({})" if second.text.isascii() else "（{}）"
                yield _sum(first.text + brackets.format(second.text), first, second)


def _joint(english: str, first: Rendered, second: Rendered) -> str:
    """What stands between two texts: the sign of the other language, unless both stay English."""
    if english == ". ":
        return "" if first.score else " "
    return english if first.text.isascii() and second.text.isascii() else _JOINTS[english]


def _filled(template: Template, values: Mapping[str, Rendered]) -> Rendered | None:
    """Fills a template; None where it has few words and its holes hold more English prose: that is of another one."""
    text = template.fill(values)
    if template.score < _FEW_LETTERS and sum(map(len, _PROSE.findall(_ENCLOSED.sub("", text)))) > template.score:
        return None
    own = Rendered("", template.score, template.signs)
    return _sum(text, own, *values.values())


def _sum(text: str, *parts: Rendered) -> Rendered:
    """A text that is made of parts."""
    return Rendered(text, sum(part.score for part in parts), sum(part.signs for part in parts))


def _holds_words(name: str) -> bool:
    """Whether a hole holds words of ours, and no name of a user's."""
    return name in _WORD_HOLES or name.endswith("_or_none")


def _plain(message: str) -> str:
    return "".join(part for part in split_holes(message) if isinstance(part, str))
