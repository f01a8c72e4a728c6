"""Answers a question from what a search finds: a reading model quotes, or a language model writes with its sources.

    question -> passages -> reader: the best part of all passages, with document and offsets, or no answer
                         -> writer: a text whose sentences name passages, [1], [2]; names of passages that it was not
                            given are told, and so are sentences without any

A reader's answers of different passages are compared by the mean of its probability and of the passage's score, both
between 0 and 1, as BERTserini does (Yang et al. 2019, arXiv 1902.01718).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

from pretune.errors import UsageError
from pretune.model import Model
from pretune.search.hits import Hit
from pretune.text.encode.sentences import sentence_starts
from pretune.text.language import language_of

_CITED = re.compile(r"[\[【]\s*(\d{1,3})\s*[\]】]")
_LEADING = re.compile(r"(?:\s*[\[【]\s*\d{1,3}\s*[\]】])+\s*[.。]?\s*")
_READER_WEIGHT = 0.5
_TEMPLATE = 64  # tokens that a chat template adds, at most as a rule
_PROMPTS = {
    "en": (
        "Answer the question from the numbered passages alone. Name the passage behind each sentence in brackets, such "
        "as [1]. If the passages do not hold the answer, write: no answer.\n\n{passages}\n\nQuestion: {question}"
    ),
    "zh": (
        "只根据下面编号的段落回答问题。每句话后用方括号注明所依据的段落，例如 [1]。如果段落中没有答案，请写：没有答案。"
        "\n\n{passages}\n\n问题：{question}"
    ),
}
_ANSWER = {"en": "\nAnswer:", "zh": "\n回答："}
_NONE = re.compile(r"\W*(no answer|没有答案)\W*", re.IGNORECASE)
NOTHING_FOUND = "nothing was found"
NO_ANSWER = "the passages that were found hold no answer"


@dataclass(frozen=True)
class Source:
    """A passage that an answer rests on.

    Attributes:
        number: by which a written answer names it, from 1.
        document, title, start, end, text: as of a hit.
    """

    number: int
    document: str
    title: str
    start: int
    end: int
    text: str


@dataclass(frozen=True)
class Sentence:
    """A sentence of a written answer.

    Attributes:
        sources: numbers that it names and that there are.
        unknown: numbers that it names and that there are not.
    """

    text: str
    sources: tuple[int, ...]
    unknown: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """What is said to a question.

    Attributes:
        text: empty where there is no answer.
        note: why there is none, or what is wrong with the sources; empty where all is well.
        document, start, end: where a quoted answer stands, in characters of the document's text.
        score: of a quoted answer, 0 to 1.
        sources: the passages that were read.
        sentences: of a written answer, with the sources that each names.
    """

    text: str
    note: str = ""
    document: str | None = None
    start: int | None = None
    end: int | None = None
    score: float | None = None
    sources: tuple[Source, ...] = ()
    sentences: tuple[Sentence, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def quote_answer(hits: Sequence[Hit], question: str, reader: Model | None) -> Answer:
    """The part of the best passages that answers a question, or that none does.

    Args:
        hits: the passages, best first.
        reader: a model that was fine-tuned on reading; without one the passages alone are given.

    Raises:
        UsageError: a model of another task.
    """
    if not hits:
        return Answer("", NOTHING_FOUND)
    sources = tuple(_source(number, hit) for number, hit in enumerate(hits, 1))
    if reader is None:
        return Answer("", "", sources=sources)
    remedy = "give one that was fine-tuned with --task reading"
    try:
        task = reader.task()
    except UsageError as error:
        raise UsageError(f"the reader answers no question ({error}); {remedy}") from None
    if task.name != "reading":
        raise UsageError(f"the reader was trained on {task.name}; {remedy}")
    text, query, *_ = task.columns(needs_labels=False)
    predictions = reader.predict([{text.name: hit.text, query.name: question} for hit in hits])
    weights = _between([hit.score for hit in hits])
    best: tuple[float, Hit, Any] | None = None
    for hit, prediction, weight in zip(hits, predictions, weights, strict=True):
        if prediction["answer"]:
            score = _READER_WEIGHT * prediction["probability"] + (1 - _READER_WEIGHT) * weight
            if best is None or score > best[0]:
                best = score, hit, prediction
    if best is None:
        return Answer("", NO_ANSWER, sources=sources)
    score, hit, prediction = best
    start, end = hit.start + prediction["start"], hit.start + prediction["end"]
    return Answer(prediction["answer"], "", hit.document, start, end, score, sources)


def write_answer(hits: Sequence[Hit], question: str, writer: Model, max_new_tokens: int = 128) -> Answer:
    """A text about the best passages that names them as its sources; every name is checked.

    Args:
        hits: the passages, best first; as many are read as there is room for.
        writer: a language model; one with a chat template is asked as a user would.
        max_new_tokens: tokens of the answer at most.

    Raises:
        UsageError: a model that does not generate, or one without room for a passage.
    """
    if not hits:
        return Answer("", NOTHING_FOUND)
    if "generate" not in writer.abilities:
        raise UsageError("the writer generates no text; give a language model")
    prompt, used = _fitting_prompt(question, hits, writer, max_new_tokens)
    is_chat = "chat" in writer.abilities
    text = writer.chat(prompt, max_new_tokens=max_new_tokens) if is_chat else _continued(writer, prompt, max_new_tokens)
    sources = tuple(_source(number, hit) for number, hit in enumerate(hits[:used], 1))
    if not text or _NONE.fullmatch(text):
        return Answer("", NO_ANSWER, sources=sources)
    sentences = check_sources(text, len(sources))
    return Answer(text, _problem(sentences, len(hits) - used), sources=sources, sentences=sentences)


def check_sources(text: str, count: int) -> tuple[Sentence, ...]:
    """The sentences of a text, each with the passages that it names; a name behind a sentence's end belongs to it.

    Args:
        count: passages that there are, numbered from 1.
    """
    starts = [*sentence_starts(text), len(text)]
    pieces: list[str] = []
    for start, end in pairwise(starts):
        piece = text[start:end]
        leading = _LEADING.match(piece)
        if leading is not None and pieces:
            pieces[-1] += leading.group()
            piece = piece[leading.end() :]
        if piece.strip():
            pieces.append(piece)
    out = []
    for piece in pieces:
        numbers = list(dict.fromkeys(int(match.group(1)) for match in _CITED.finditer(piece)))
        there = tuple(number for number in numbers if 1 <= number <= count)
        out.append(Sentence(piece.strip(), there, tuple(number for number in numbers if number not in there)))
    return tuple(out)


def _fitting_prompt(question: str, hits: Sequence[Hit], writer: Model, max_new_tokens: int) -> tuple[str, int]:
    """The prompt with as many passages as there is room for, the best first, and how many these are."""
    room = writer.length - max_new_tokens - (_TEMPLATE if "chat" in writer.abilities else 0)
    for used in range(len(hits), 0, -1):
        prompt = _prompt(question, hits[:used], "chat" not in writer.abilities)
        if len(writer.tokenizer.encode(prompt)) <= room:
            return prompt, used
    raise UsageError(
        f"the writer reads {writer.length} tokens, which is no room for a passage, the question and {max_new_tokens} "
        "new tokens; make the index with smaller passages (--size), or lower --max-new-tokens"
    )


def _continued(writer: Model, prompt: str, max_new_tokens: int) -> str:
    """What a model writes behind a prompt."""
    return str(writer.generate(prompt, max_new_tokens=max_new_tokens)).strip()


def _prompt(question: str, hits: Sequence[Hit], begins_answer: bool) -> str:
    """The passages and the question; for a model that goes on with a text, the answer's beginning too."""
    language = language_of(question)
    rows = [
        f"[{number}] {f'{hit.title}: ' if hit.title else ''}{' '.join(hit.text.split())}"
        for number, hit in enumerate(hits, 1)
    ]
    return _PROMPTS[language].format(passages="\n".join(rows), question=question) + (
        _ANSWER[language] if begins_answer else ""
    )


def _problem(sentences: Sequence[Sentence], left_out: int) -> str:
    """What is wrong with the sources of an answer, in words."""
    unknown = sorted({number for sentence in sentences for number in sentence.unknown})
    bare = sum(not sentence.sources for sentence in sentences)
    notes = [f"no such passage: {', '.join(f'[{number}]' for number in unknown)}"] if unknown else []
    notes += [f"sentences that name no passage: {bare} of {len(sentences)}"] if bare else []
    notes += [f"passages left out, as the writer has no room for them: {left_out}"] if left_out else []
    return "; ".join(notes)


def _source(number: int, hit: Hit) -> Source:
    return Source(number, hit.document, hit.title, hit.start, hit.end, hit.text)


def _between(scores: Sequence[float]) -> list[float]:
    """Scores brought to 0 ... 1 by the smallest and the largest; all 1 where they are equal."""
    low, high = min(scores), max(scores)
    return [(score - low) / (high - low) if high > low else 1.0 for score in scores]
