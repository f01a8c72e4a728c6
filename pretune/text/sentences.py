"""Where sentences begin, in English and Chinese, by rules: linear in the text, whatever it is.

A sentence ends at `. ! ? …` before white space and something that can begin one, and at `。！？；` anywhere, each with
the quotes and brackets that close after them; at a blank line; and at a line break before a list item or a line
that is indented less. It does not end after an abbreviation (`e.g.`, `Mr.`), an initial, a list number or inside 3.14.
"""

from __future__ import annotations

import re

_CLOSERS = "\"'”’」』）》】〉\\])}*`»"
_END = re.compile(rf"(?P<end>[.!?…。！？；｡]++[{_CLOSERS}]*+)(?P<space>\s*+)|(?P<line>\n)\s*+")
_ITEM = re.compile(  # what a line begins with that is not the continuation of a sentence
    r"[-*+•·‣◦▪|]\s|#+\s|>>>\s|\.\.\s|:\w+"
    r"|\(?(?:\d{1,3}|[ivx]{1,4})[.)]\s|\(?[A-Za-z]\)\s|(?:\d{1,3}|[一二三四五六七八九十]{1,3})、|[(（][一二三四五六七八九十\d]{1,3}[)）]"
)
_CJK = re.compile(r"[\u2e80-\u9fff\uf900-\ufaff\uff00-\uff65“‘「『（《【\U00020000-\U0003ffff]")
_WIDE = re.compile("[。！？；｡]")
_TITLE = re.compile(
    "Mr|Mrs|Ms|Dr|Prof|Sr|Jr|St|Mt|Rev|Hon|Gov|Gen|Col|Capt|Lt|Sgt|Maj|Rep|Sen|Pres"
    "|Jan|Feb|Apr|Aug|Sept|Oct|Nov|Dec|Inc|Ltd|Corp|Dept|Univ|Assn|Bros|Ave|Blvd"
)
_SHORT = re.compile(
    "eg|ie|cf|vs|viz|al|resp|approx|ca|esp|incl|figs?|eqs?|eqn|refs?|secs?|sect|ch|chap|vol|pp|eds?|tab|thm|lem|def"
    "|prop|cor|ex",
    re.IGNORECASE,
)
_NUMBERED = re.compile("nos?|p|art|op", re.IGNORECASE)  # abbreviations before a number, words elsewhere


def sentence_starts(text: str) -> list[int]:
    """Character offsets at which the sentences of a text begin; the first is 0.

    White space between two sentences belongs to the earlier one.
    """
    starts, line = [0], 0
    for match in _END.finditer(text):
        after = match.end()
        if after == len(text):
            break
        broken = "\n" in match.group()
        if (broken and _breaks(text, line, match)) or (match.group("end") and _ends(text, starts[-1], match)):
            starts.append(after)
        if broken:
            line = text.rfind("\n", match.start(), after) + 1
    return starts


def _breaks(text: str, line: int, match: re.Match[str]) -> bool:
    """Whether a line break ends a sentence: blank, before an item or a line further left, after an underline."""
    start, after = match.span()
    if match.group().count("\n") > 1 or text[after - 1] == "\u3000" or _ITEM.match(text, after):
        return True
    first = line
    while first < start and text[first] in " \t":
        first += 1
    if after - text.rfind("\n", start, after) - 1 < first - line:
        return True
    return start - first >= 3 and text[start - 1] in "-=~^" and text[start - 3 : start] == text[start - 1] * 3


def _ends(text: str, last: int, match: re.Match[str]) -> bool:
    """Whether a run of end marks ends a sentence here."""
    start, after = match.start(), text[match.end()]
    marks = match.group("end")
    if after in "，、,;；：:)）】」』》" or after.islower():
        return False
    if _WIDE.search(marks):
        return True
    if not match.group("space"):
        return bool(_CJK.match(after)) and (marks[0] != "." or (start > 0 and bool(_CJK.match(text[start - 1]))))
    return marks[0] != "." or marks[:2] == ".." or not _abbreviates(text, last, start, after)


def _abbreviates(text: str, last: int, dot: int, after: str) -> bool:
    """Whether the word that ends at `dot` is an abbreviation, an initial or the number of an item."""
    first = dot
    while first > max(last, dot - 12) and (text[first - 1].isalnum() or text[first - 1] == "."):
        first -= 1
    word = text[first:dot]
    if not word.isascii() or not word:
        return False
    if word.isdigit():
        return first == last and len(word) <= 3
    if len(word) == 1:
        return word.isupper() and word != "I"
    if _TITLE.fullmatch(word) or _SHORT.fullmatch(word):
        return True
    if _NUMBERED.fullmatch(word):
        return after.isdigit()
    return "." in word and all(len(part) == 1 for part in word.split("."))
