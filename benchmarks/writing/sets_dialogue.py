"""Dialogue in Chinese about films, music and travel: the reply to the turns before it, from random weights."""

from __future__ import annotations

import json
from functools import cache

from benchmarks.texts import text_file
from benchmarks.writing.sets import Parts, Record, WritingSet, nearest

_DOMAINS = ("film", "music", "travel")
_VALIDATION = 10  # dialogues of each domain
_ROLES = ("user", "assistant")


def _messages(dialogue: Record) -> list[dict[str, str]]:
    texts = [str(message["message"]) for message in dialogue["messages"]]
    return [{"role": _ROLES[n % 2], "content": text} for n, text in enumerate(texts)]


def _whole(dialogue: Record) -> Record:
    """A dialogue up to its last reply, every reply of which is learned."""
    messages = _messages(dialogue)
    return {"messages": messages[: len(messages) // 2 * 2]}


def _turns(dialogue: Record) -> list[Record]:
    """Every reply of a dialogue with what is before it."""
    messages = _messages(dialogue)
    return [{"messages": messages[:n], "target": [messages[n]["content"]]} for n in range(1, len(messages), 2)]


@cache
def _kdconv() -> Parts:
    """Trained on dev, as train is not there; the knowledge behind the replies is not read."""
    train: list[Record] = []
    validation: list[Record] = []
    test: list[Record] = []
    for domain in _DOMAINS:
        dev, tested = (
            json.loads(text_file(f"generation/kdconv/{domain}/{part}.json").read_text(encoding="utf-8"))
            for part in ("dev", "test")
        )
        validation += map(_whole, dev[:_VALIDATION])
        train += map(_whole, dev[_VALIDATION:])
        test += [turn for dialogue in tested for turn in _turns(dialogue)]
    return Parts(train, validation, test)


def _nearest(parts: Parts) -> list[str]:
    """The reply to the most similar message that is trained on, by characters."""
    pairs = [
        (record["messages"][n - 1]["content"], record["messages"][n]["content"])
        for record in parts.train
        for n in range(1, len(record["messages"]), 2)
    ]
    queries = [record["messages"][-1]["content"] for record in parts.test]
    return [pairs[n][1] for n in nearest([query for query, _ in pairs], queries, analyzer="char", orders=(1, 3))]


SETS = (
    WritingSet(
        "kdconv",
        "chat",
        ("bleu", "distinct", "repetition"),
        "zh",
        _kdconv,
        lambda record: str(record["messages"][-1]["content"]),
        lambda record: list(record["target"]),
        _nearest,
        "reply to the nearest message, TF-IDF of characters",
        tokenizer={"kind": "bpe", "special_tokens": "gpt2", "vocab_size": 6000},
        fields={
            "model": {"family": "llama", "size": "mini", "dropout": 0.1},
            "data": {"length": 512, "batch_tokens": 4096},
            "task": {"chat": {"template": "chatml", "special_tokens": "add", "metric": "bleu"}},
            "optimizer": {"lr": 1e-3},
            "budget": {"minutes": 20},
        },
        note="read without the knowledge behind the replies; a retrieved reply always ends",
    ),
)
