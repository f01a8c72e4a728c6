"""Names, 0 to 1: share of the names of the hypotheses that their source holds; names are runs of capitalised words.

A capital at the beginning of a sentence says nothing, so that word counts only where it stands inside a sentence of the
same text too. German writes all nouns with a capital, Chinese none: for these `--tagger` finds the names by a model
(`pretune/evaluate/judges/names.py`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from typing import ClassVar

from pretune import config as configuration
from pretune.errors import UsageError
from pretune.metrics.metric import Judgement, Metric, Texts, signature_of
from pretune.metrics.sentences import split_sentences
from pretune.metrics.support import support_judgement
from pretune.metrics.words import base_language

_NO_CAPITALS = ("zh", "ja", "ko", "th", "ar", "he", "hi", "lo", "my", "km")
_WORD = re.compile(r"[^\W\d_][\w'’.&-]*[\w]|[^\W\d_]")
_JOINS = re.compile(r"\s+(?:(?:of|the|de|la|van|von|der|&)\s+)?")
_ALWAYS = frozenset(["I", "I'm", "I'll", "I've", "I'd", "I’m", "I’ll", "I’ve", "I’d", "OK"])
_TITLES = frozenset(["Mr", "Mrs", "Ms", "Miss", "Dr", "Prof", "Sir", "Lord", "Lady", "St"])


class Names(Metric):
    """Names that the source holds."""

    main: ClassVar[str] = "names"
    needs_references: ClassVar[bool] = False
    needs_sources: ClassVar[bool] = True

    class Config(configuration.Config):
        """Nothing is to choose."""

    def judge(self, texts: Texts) -> Judgement:
        """The share, and the names of each text that its source does not hold.

        Raises:
            UsageError: the script of the language has no capitals, or all nouns have them.
        """
        language = base_language(texts.language)
        if language in _NO_CAPITALS or language == "de":
            why = "all nouns have capitals" if language == "de" else "its script has no capitals"
            raise UsageError(f"names: capitals show no names in the language {language!r}: {why}; use --tagger RUN")
        names = [capitalised_names(text) for text in texts.hypotheses]
        return judge_names(names, texts.sources, signature_of(self.config, language=texts.language, names="capitals"))


def judge_names(names: Sequence[Sequence[str]], sources: Sequence[str], signature: str) -> Judgement:
    """The judgement of the names of each hypothesis, by what its source holds.

    Args:
        names: of each hypothesis, each once.
    """
    claims = []
    for stated, source in zip(names, sources, strict=True):
        held = plain_name(source)
        claims.append((stated, [name for name in stated if not holds(held, name)]))
    return support_judgement("names", claims, signature)


def capitalised_names(text: str) -> list[str]:
    """Runs of capitalised words, each once; the first word of a sentence only if it stands inside one as well."""
    inside: set[str] = set()
    sentences = [_capitalised(sentence) for sentence in split_sentences(text)]
    for runs in sentences:
        inside |= {word for is_first, run in runs for word in (run[1:] if is_first else run)}
    names = []
    for runs in sentences:
        for is_first, run in runs:
            kept = run[1:] if is_first and run[0] not in inside else run
            while kept and not kept[0][0].isupper():
                kept = kept[1:]
            if kept:
                names.append(" ".join(kept))
    return list(dict.fromkeys(names))


def _capitalised(sentence: str) -> list[tuple[bool, list[str]]]:
    """Runs of capitalised words of a sentence, and whether the first of them begins it."""
    runs: list[tuple[bool, list[str]]] = []
    stop, last_stop = 0, -1
    for number, match in enumerate(_WORD.finditer(sentence)):
        word = match[0].removesuffix("'s").removesuffix("’s")
        if not word[0].isupper() or word in _ALWAYS or word in _TITLES:
            continue
        between = sentence[last_stop : match.start()] if last_stop >= 0 else None
        if runs and between is not None and _JOINS.fullmatch(between):
            middle = between.split()
            runs[-1][1].extend([*middle, word])
        else:
            runs.append((number == 0, [word]))
        stop = match.start() + len(word)
        last_stop = stop
    return runs


def plain_name(text: str) -> str:
    """A text for the comparison of names: one form of each character, lower case, single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def holds(source: str, name: str) -> bool:
    """Whether a source, made plain, holds a name as whole words, or else each word of it."""
    plain = plain_name(name)
    if _stands_in(source, plain):
        return True
    words = [word for word in re.findall(r"[\w'’-]+", plain) if word not in ("of", "the", "and")]
    return len(words) > 1 and all(_stands_in(source, word) for word in words)


def _stands_in(source: str, words: str) -> bool:
    spaced = words.isascii() or " " in words
    pattern = rf"(?<!\w){re.escape(words)}(?!\w)" if spaced else re.escape(words)
    return re.search(pattern, source) is not None
