"""Finds where sentences begin, in English and Chinese, by rules: linear in the text, whatever it is.

A sentence ends at `. ! ? …` before white space and something that can begin one, and at `。！？；` anywhere, each with
the quotes and brackets that close after them; at a blank line or one that underlines a heading; and at a line break
before the item of a list or a line that is indented less. It does not end after an abbreviation (`e.g.`, `Mr.`), an
initial, the number of an item or inside 3.14.
"""

from __future__ import annotations

import re

_MARKS = ".!?…。！？；｡"
_CJK = "\u2e80-\u2fdf\u3040-\u9fff\uf900-\ufaff\uff10-\uff5a“‘「『（《【\U00020000-\U0003ffff"
_NO_START = "a-z，、,;；：:)）】」』》"  # what follows the end of a sentence never begins with these

# A run of marks and closing quotes, before white space or a Chinese character. The look-behind starts runs at their
# first mark alone, and nothing backtracks: both keep the search linear.
_END = re.compile(
    rf"[{_MARKS}](?<![{_MARKS}].)[{_MARKS}]*+[\"'”’」』）》】〉\])}}*`»]*+"
    rf"(?:(?<=[。！？；｡])|(?<=[。！？；｡][\"'”’」』）》】〉\])}}*`»])|\s|(?=[{_CJK}]))\s*+(?![{_NO_START}])(?=\S)",
    re.DOTALL,
)
_ITEM = (
    r"[-*+•·‣◦▪|]\s|#++\s|>>>\s|\.\.\s|:\w|\(?(?:\d{1,3}|[ivx]{1,4})[.)]\s|\(?[A-Za-z]\)\s"
    r"|(?:\d{1,3}|[一二三四五六七八九十]{1,3})、|[(（][一二三四五六七八九十\d]{1,3}[)）]"
)
_LINE = re.compile(rf"\n[^\S\n]*+(?:\n\s*+|(?=(?:{_ITEM}))|(?<=\u3000)(?=\S)|([-=~^*])\1\1++[^\S\n]*+\n\s*+)")
_DEDENT = re.compile(r"\n([ \t]++)[^\n]++(?=\n(?!\1)([ \t]*+)\S)")

_SHORT = re.compile(
    "mrs?|ms|dr|prof|sr|jr|st|mt|rev|hon|gov|gen|col|capt|lt|sgt|maj|rep|sen|pres|inc|ltd|corp|dept|univ|assn|bros|ave"
    "|blvd|jan|feb|apr|aug|sept|oct|nov|dec|eg|ie|cf|vs|viz|al|resp|approx|ca|esp|incl|figs?|eqs?|eqn|refs?|secs?|sect"
    "|ch|chap|vol|pp|eds?|tab|thm|lem|def|prop|cor|ex"
)
_NUMBERED = frozenset(["no", "nos", "p", "art", "op"])  # abbreviations before a number, words elsewhere


def sentence_starts(text: str) -> list[int]:
    """Character offsets at which the sentences of a text begin, in order; the first is 0.

    White space between two sentences belongs to the earlier one.
    """
    starts = {0}
    starts.update([match.end() for match in _END.finditer(text) if _ends(text, match)])
    if "\n" in text:
        starts.update([match.end() for match in _LINE.finditer(text)])
        starts.update([match.end(2) for match in _DEDENT.finditer(text)])
    starts.discard(len(text) or -1)
    return sorted(starts)


def _ends(text: str, match: re.Match[str]) -> bool:
    """Whether the run of marks that was found ends a sentence: the word before a single dot decides."""
    start, after = match.span()
    if text[start] != "." or text[start + 1] in ".!?…":
        return not text[after].islower()
    if start + 1 == after:  # a dot between characters: only between Chinese ones
        return start > 0 and text[start - 1] >= "\u2e80"
    words = text[max(0, start - 12) : start].split()
    word = words[-1].lstrip("([{\"'“‘`*_").lower() if words else ""
    if _SHORT.fullmatch(word) or (len(word) == 1 and word.isalpha() and word.isascii() and text[start - 1].isupper()):
        return False
    if word.isdigit() and len(word) <= 3:
        return bool(text[max(0, start - len(word) - 40) : start - len(word)].rpartition("\n")[2].strip())
    if word in _NUMBERED:
        return not text[after].isdigit()
    parts = word.split(".")
    return not text[after].islower() and (len(parts) == 1 or any(len(part) != 1 for part in parts))
