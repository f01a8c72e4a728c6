"""Scores answers to questions as the official scripts of SQuAD 1.1, SQuAD 2.0 and CMRC 2018 do; equal numbers.

    squad   lower case, no ASCII punctuation, no a, an, the; F1 of the words that both have
    cmrc    lower case, no punctuation of its list; F1 of the longest run of tokens that both have: Chinese characters
            one by one, anything else as NLTK cuts it

Where an example has several answers, the best score counts.

Source: Rajpurkar et al. 2016 (arXiv 1606.05250), evaluate-v1.1.py; 2018 (arXiv 1806.03822), evaluate-v2.0.py; Cui et
al. 2019 (arXiv 1810.07366), cmrc2018_evaluate.py.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

Scorer = Literal["squad", "cmrc"]
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_CMRC_PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
_HAN = re.compile("[\u4e00-\u9fa5]")


class AnswerScore(NamedTuple):
    """How good an answer is: whether it is one of the right ones, and its overlap with the nearest of them."""

    exact: float
    f1: float


def score_answer(answer: str, truth: Sequence[str], scorer: Scorer, *, may_be_empty: bool = False) -> AnswerScore:
    """The score of an answer.

    Args:
        answer: empty for none.
        truth: all right answers; none where the text has no answer.
        may_be_empty: as SQuAD 2.0 scores, where texts may have no answer: two empty answers agree.
    """
    if scorer == "cmrc":
        exact, f1 = _cmrc_exact, _cmrc_f1
    else:
        exact, f1 = _squad_exact, _squad2_f1 if may_be_empty else _squad_f1
    if may_be_empty and scorer == "squad":
        truth = [text for text in truth if normalize(text)] or [""]
    if not truth:
        return AnswerScore(float(not answer), float(not answer))
    return AnswerScore(_best(exact, answer, truth), _best(f1, answer, truth))


def find_threshold(
    gaps: Sequence[float], scores: Sequence[float], has_answer: Sequence[bool]
) -> tuple[float, float] | None:
    """The gap up to which answers are given, so that the mean score is highest; None where it is best to give none.

    Args:
        gaps: for each example, how much more the model speaks for no answer than for its best one.
        scores: of the best answer that is not empty.
        has_answer: whether the text has an answer; where it has none, only no answer scores.

    Returns:
        the largest gap of an answer that is given, and the mean score then.

    Source: evaluate-v2.0.py of SQuAD, `find_best_thresh`, which starts from all answers withheld.
    """
    total = best = float(sum(not known for known in has_answer))
    threshold: float | None = None
    for n in sorted(range(len(gaps)), key=lambda n: gaps[n]):
        total += scores[n] if has_answer[n] else -1.0
        if total > best:
            best, threshold = total, gaps[n]
    return None if threshold is None else (threshold, best / len(gaps))


def normalize(text: str) -> str:
    """A text as SQuAD compares it."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def _best(score: Callable[[str, str], float], answer: str, truth: Sequence[str]) -> float:
    return max(score(right, answer) for right in truth)


def _squad_exact(right: str, answer: str) -> float:
    return float(normalize(right) == normalize(answer))


def _squad_f1(right: str, answer: str) -> float:
    """Of two empty texts 0, as version 1.1 has it."""
    words, others = normalize(right).split(), normalize(answer).split()
    return _f1(sum((Counter(words) & Counter(others)).values()), len(words), len(others))


def _squad2_f1(right: str, answer: str) -> float:
    """Of two empty texts 1, as version 2.0 has it."""
    return _squad_f1(right, answer) if normalize(right) or normalize(answer) else 1.0


def _cmrc_exact(right: str, answer: str) -> float:
    return float(_bare(right) == _bare(answer))


def _cmrc_f1(right: str, answer: str) -> float:
    tokens, others = cmrc_tokens(right), cmrc_tokens(answer)
    return _f1(_longest_common_run(tokens, others), len(tokens), len(others))


def _f1(common: int, size: int, other_size: int) -> float:
    if not common:
        return 0.0
    precision, recall = common / other_size, common / size
    return 2 * precision * recall / (precision + recall)


def _bare(text: str) -> str:
    return "".join(character for character in text.lower().strip() if character not in _CMRC_PUNCTUATION)


def cmrc_tokens(text: str) -> list[str]:
    """The tokens of a text without punctuation: Chinese characters, and words of other scripts."""
    tokens: list[str] = []
    rest = ""
    for character in text.lower().strip():
        if character in _CMRC_PUNCTUATION:
            continue
        if _HAN.match(character):
            tokens += [*treebank_words(rest), character]
            rest = ""
        else:
            rest += character
    return tokens + treebank_words(rest)


def _longest_common_run(tokens: Sequence[str], others: Sequence[str]) -> int:
    """Tokens of the longest run that both have."""
    best, row = 0, [0] * (len(others) + 1)
    for token in tokens:
        row = [0, *(row[n] + 1 if token == other else 0 for n, other in enumerate(others))]
        best = max(best, *row)
    return best


_PAD = r" \g<0> "
_CUTS = tuple(
    (re.compile(pattern), by)
    for pattern, by in (
        ("[«‘„]", _PAD),
        ('^"', "``"),
        ("``", _PAD),
        (r"([ (\[{<])(\"|'')", r"\1 `` "),
        (r"(?<!\w)'(?!(?:re|ve|ll|m|t|s|d|n)\b)(?=\w)", "' "),
        (r"([^.])\.([\])}>\"'»”’ ]*)\s*$", r"\1 . \2 "),
        (r",(?=\D)", " , "),
        (",$", " , "),
        (r"\.{2,}", _PAD),
        ("[;@#$%&?!‒–—―]", _PAD),
        (r"([^.])\.([\])}>\"']*)\s*$", r"\1 .\2 "),
        (r"([^'])' ", r"\1 ' "),
        (r"[\]\[(){}<>]", _PAD),
        ("$", " "),
        ("[»”’]", _PAD),
        ("''|\"", " '' "),
        (r"\s+", " "),
        (r"([^' ])('s|'m|'d|') ", r"\1 \2 "),
        (r"([^' ])('ll|'re|'ve|n't) ", r"\1 \2 "),
        (r"\b(can)(not)\b|\b(d)('ye)\b|\b(gim)(me)\b|\b(gon)(na)\b|\b(got)(ta)\b|\b(lem)(me)\b|\b(more)('n)\b", None),
        (r"\b(wan)(na)(?=\s)|(?<= )('t)(is)\b|(?<= )('t)(was)\b", None),
    )
)
_BESIDE_WORDS = "()\"'[]{};*@"
_SENTENCE_END = re.compile(rf"[.?!](?=\s+\S|[{re.escape(_BESIDE_WORDS)}])(?!\s*[)\"'\]}}]*\s*$)")
_LAST_WORD = re.compile(rf"[^\s{re.escape(_BESIDE_WORDS)}]*$")
_ABBREVIATIONS = """
adm ala aug ave bros calif co col conn corp dec dr feb ft ga gen inc jan jr lt ltd maj mg mr mrs ms nov oct ok pa ph.d
prof rep sen sep sept sr st u.k u.n u.s u.s.a d.c n.y p.m a.m j.k j.r a.d s.a vs va wash yr
"""
_KNOWN = frozenset(_ABBREVIATIONS.split())


def treebank_words(text: str) -> list[str]:
    """The words of a text in lower case as NLTK's `word_tokenize` cuts them, after the Penn treebank's rules."""
    return [word for sentence in _sentences(text) for word in _cut_words(sentence)]


def _sentences(text: str) -> Iterator[str]:
    """The sentences of a text in lower case: a period ends none behind an abbreviation or a single letter."""
    start = 0
    for match in _SENTENCE_END.finditer(text):
        word = _LAST_WORD.findall(text[start : match.start()])[0]
        if match[0] != "." or not (word in _KNOWN or (len(word) == 1 and word.isalpha())):
            yield text[start : match.end()]
            start = match.end()
    yield text[start:]


def _cut_words(text: str) -> list[str]:
    """The words of a sentence."""
    for pattern, by in _CUTS:
        text = pattern.sub(_split_contraction if by is None else by, text)
    return text.split()


def _split_contraction(match: re.Match[str]) -> str:
    first, second = (group for group in match.groups() if group is not None)
    return f" {first} {second} "
