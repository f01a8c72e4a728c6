"""Checks that the time of a tokenizer's regular expression grows with a low power of the text, and not exponentially.

The `tokenizers` library runs the expressions of a file by backtracking: with some, a text of fifty letters takes years,
or ends the process. What makes that possible is a repetition of what itself can match one text in several ways, many
repetitions beside each other, and references to what was matched. Expressions that have none of these are taken, as
published ones, whose time grows with the text; a few repetitions beside each other can still cost a power of it. This
reads the syntax that published tokenizers use (Oniguruma's, as Ruby has it) and refuses what it does not know.

Source: Davis et al. 2018, "The impact of regular expression denial of service"; Weideman et al. 2016.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_LENGTH = 4096
"""Characters of an expression."""
MAX_REPEAT = 1000
MAX_UNBOUNDED = 3
"""Repetitions without an end in one alternative."""
MAX_VARIABLE = 10
"""Parts of one alternative that match more than one length, or one of several things."""
_MAX_DEPTH = 8
_FEW = 4  # times that a part may be repeated which itself can match in several ways
_GALACTICA = r"[\(\)\[\]\{\}]|([!\"\#\$%\&'\*\+,\-\./:;<=>?\\\^_`\|\~])\1*"  # Nougat's too
_CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]"
    r"|\s+(?!\S)|\s"
)
_KNOWN = frozenset((_GALACTICA, _CL100K))
_INTERVAL = re.compile(r"\{(?:(\d{1,6})(,(\d{0,6}))?|,(\d{1,6}))\}")
_GROUP = re.compile(r"\?(?:(?P<look><?[=!])|[im]*(?:-[im]*)?(?P<end>[:)])|>|<[A-Za-z]\w*>)")
_CLASS_ESCAPE = re.compile(r"[dDwWsShH]|[pP]\{\^?[A-Za-z_ -]{1,40}\}")
_CHARACTER_ESCAPE = re.compile(
    r"x\{[0-9A-Fa-f]{1,6}\}|x[0-9A-Fa-f]{1,2}|u[0-9A-Fa-f]{4}|[nrtfvae]|[^A-Za-z0-9]", re.DOTALL
)
_POSIX = re.compile(r":\^?[a-z]{3,8}:\]")
_BACKSPACE = re.compile("b")
_PLACE_ESCAPE = re.compile(r"[bBAzZG]")


@dataclass(frozen=True)
class _Shape:
    """What a part of an expression matches.

    Attributes:
        least, most: characters; None for no end.
        unbounded, variable: how many of its parts are so, at most in one alternative.
        is_place: it matches no character.
    """

    least: int = 0
    most: int | None = 0
    unbounded: int = 0
    variable: int = 0
    is_place: bool = False


_CHARACTER = _Shape(1, 1)
_PLACE = _Shape(is_place=True)


def check_pattern(text: str) -> int:
    """Refuses an expression whose time nothing bounds.

    Returns:
        How many characters it matches at least.

    Raises:
        ValueError: with the reason.
    """
    if text in _KNOWN:
        return 1
    if len(text) > MAX_LENGTH:
        raise ValueError(f"an expression of {len(text):,} characters, more than {MAX_LENGTH:,}")
    reader = _Reader(text)
    shape = reader.alternatives(0)
    if reader.place < len(text):
        raise ValueError(f"an unbalanced ')' at character {reader.place + 1}")
    return shape.least


class _Reader:
    """Reads an expression from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.place = 0

    def _next(self) -> str:
        return self.text[self.place : self.place + 1]

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        match = pattern.match(self.text, self.place)
        self.place = self.place if match is None else match.end()
        return match

    def _bad(self, what: str) -> ValueError:
        return ValueError(f"{what} at character {self.place + 1}")

    def alternatives(self, depth: int) -> _Shape:
        """Parts with `|` between them, up to the end or a closing bracket."""
        if depth > _MAX_DEPTH:
            raise self._bad(f"groups nested deeper than {_MAX_DEPTH}")
        shapes = [self._sequence(depth)]
        while self._next() == "|":
            self.place += 1
            shapes.append(self._sequence(depth))
        least = min(shape.least for shape in shapes)
        most = None if any(shape.most is None for shape in shapes) else max(shape.most or 0 for shape in shapes)
        variable = max(shape.variable for shape in shapes) + (len(shapes) > 1)
        return _Shape(least, most, max(shape.unbounded for shape in shapes), variable)

    def _sequence(self, depth: int) -> _Shape:
        whole = _Shape()
        while self._next() not in ("", "|", ")"):
            part = self._repeated(self._atom(depth))
            most = None if whole.most is None or part.most is None else whole.most + part.most
            whole = _Shape(
                whole.least + part.least, most, whole.unbounded + part.unbounded, whole.variable + part.variable
            )
            if depth == 0:
                self._check(whole)
        self._check(whole)
        return whole

    def _check(self, shape: _Shape) -> None:
        if shape.unbounded > MAX_UNBOUNDED:
            raise self._bad(f"more than {MAX_UNBOUNDED} repetitions without an end in one alternative,")
        if shape.variable > MAX_VARIABLE:
            raise self._bad(f"more than {MAX_VARIABLE} parts of several lengths in one alternative,")

    def _atom(self, depth: int) -> _Shape:
        character = self._next()
        self.place += 1
        if character == "(":
            return self._group(depth)
        if character == "[":
            self._class(0)
            return _CHARACTER
        if character == "\\":
            if self._match(_CLASS_ESCAPE) or self._match(_CHARACTER_ESCAPE):
                return _CHARACTER
            if self._match(_PLACE_ESCAPE):
                return _PLACE
            raise self._bad("a reference, or an escape that is not known here,")
        if character in "*+?":
            raise self._bad("nothing to repeat")
        return _PLACE if character in "^$" else _CHARACTER

    def _group(self, depth: int) -> _Shape:
        kind = self._match(_GROUP) if self._next() == "?" else None
        if self._next() == "?" and kind is None:
            raise self._bad("a group of a kind that is not known here")
        if kind is not None and kind["end"] == ")":
            return _PLACE  # flags from here on
        inner = self.alternatives(depth + 1)
        if self._next() != ")":
            raise self._bad("a group without its end")
        self.place += 1
        if kind is None or kind["look"] is None:
            return inner
        if kind["look"].startswith("<") and inner.least != inner.most:
            raise self._bad("a look behind of several lengths")
        return _Shape(0, 0, inner.unbounded, inner.variable, is_place=True)

    def _class(self, depth: int) -> None:
        """The rest of a set of characters, which may hold others."""
        if depth > _MAX_DEPTH:
            raise self._bad(f"sets nested deeper than {_MAX_DEPTH}")
        if self._next() == "^":
            self.place += 1
        is_first = True
        while (character := self._next()) != "]" or is_first:
            if not character:
                raise self._bad("a set without its end")
            is_first = False
            self.place += 1
            if character == "\\":
                if not (self._match(_CLASS_ESCAPE) or self._match(_CHARACTER_ESCAPE) or self._match(_BACKSPACE)):
                    raise self._bad("an escape that is not known here")
            elif character == "[" and not self._match(_POSIX):
                self._class(depth + 1)
        self.place += 1

    def _repeated(self, part: _Shape) -> _Shape:
        bounds = self._bounds()
        if bounds is None:
            return part
        least, most = bounds
        if self._next() in ("*", "+", "?", "{") and (self._next() != "{" or _INTERVAL.match(self.text, self.place)):
            raise self._bad("a repetition of a repetition")
        if part.is_place:
            raise self._bad("a repetition of what matches no character")
        is_varied = part.variable > 0 or part.least != part.most
        if part.unbounded and (most is None or most > 1):
            raise self._bad("a repetition of what has no end")
        if is_varied and (most is None or most > _FEW):
            raise self._bad("a repetition of what can match in several ways")
        if most is None and part.least == 0:
            raise self._bad("a repetition of what may match nothing")
        times = 1 if most is None else max(1, most)
        upper = None if most is None or part.most is None else part.most * most
        is_wide = most is None or most - least > 16
        return _Shape(
            part.least * least, upper, part.unbounded * times + is_wide, part.variable * times + (least != most)
        )

    def _bounds(self) -> tuple[int, int | None] | None:
        """The least and the largest number of repetitions; None where nothing is repeated."""
        sign = self._next()
        if sign and sign in "*+?":
            self.place += 1
            if self._next() in ("?", "+"):  # as few as possible, or as many and no fewer
                self.place += 1
            return {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        interval = self._match(_INTERVAL)
        if interval is None:
            return None
        least = int(interval[1] or 0)
        upper = interval[3] if interval[2] else interval[4] or interval[1]
        most = int(upper) if upper else None
        if (most if most is not None else least) > MAX_REPEAT or (most is not None and most < least):
            raise self._bad(f"a repetition of {least:,} to {most or 0:,}; up to {MAX_REPEAT:,} are known here,")
        if self._next() == "?":
            self.place += 1
        return least, most
