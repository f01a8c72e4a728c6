"""Walk one batch through the house and print what it is at every station: what docs/flow.md is written from.

    python docs/flow.py

The text is made by a key from the sentences below, so the numbers are the same everywhere.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pretune.batch import Batch
from pretune.config import validate
from pretune.draw import Draw
from pretune.models import build
from pretune.objectives.mixture import build as build_objective
from pretune.optim import adamw
from pretune.optim.optimizer import build_optimizer, gradient_norm, update
from pretune.text.readers.corpus import CorpusConfig, DataStats, read_corpus
from pretune.text.samples.sampler import Sampler, partition
from pretune.text.samples.views.view import build_view
from pretune.text.store.prepare import PrepareConfig, prepare
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer
from pretune.train.step import TrainModule

LENGTH, BATCH, PARTS = 64, 8, 2
SENTENCES = (
    "A reader yields documents one at a time.",
    "Every document that comes in is counted.",
    "The tokenizer splits words into pieces.",
    "A store keeps the pieces of all documents in one long run.",
    "Windows are cut from the run by arithmetic.",
    "No window is read before it is needed.",
    "The order of the samples is a keyed permutation.",
    "A step takes the next samples of that order.",
    "Some words are hidden, and the model must guess them.",
    "Two texts follow each other, or the second comes from elsewhere.",
    "There is no padding anywhere in the batch.",
    "Attention looks at one sequence at a time.",
    "The loss is a sum, and its count is known before.",
    "A checkpoint is complete and verified, or not there.",
)


def main() -> None:
    """Every station, in order."""
    torch.manual_seed(0)
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        walk(Path(name))


def walk(folder: Path) -> None:
    """Text to weights, in `folder`."""
    write_corpus(folder / "corpus.txt")
    stats = DataStats()
    texts = [d.text for d in read_corpus(folder / "corpus.txt", CorpusConfig(), stats)]
    say("documents", f"{stats.documents}, {stats.bytes:,} bytes")

    settings = validate(TokenizerConfig, {"kind": "wordpiece", "vocab_size": 300}, "tokenizer")
    tokenizer = train_tokenizer(texts, settings)
    vocabulary = tokenizer.vocabulary
    ids = tokenizer.encode("The tokenizer splits words")
    say("tokenizer", f"{vocabulary.size} subwords; 'The tokenizer splits words' -> {shape(ids)}")

    config = validate(PrepareConfig, {"processes": 1, "validation": 0.1}, "prepare")
    store = prepare(folder / "corpus.txt", tokenizer, folder / "store", config)
    split = store.split("train")
    say("store", f"{split.token_count:,} tokens of {split.document_count} documents, uint16")
    say("", f"document_offsets {shape(split.document_offsets)}, sentence_offsets {shape(split.sentence_offsets)}")

    objective = build_objective({"mlm": 1.0, "nsp": 1.0}, vocabulary)
    view = build_view(split, objective.view, LENGTH - objective.overhead, objective.lookahead)
    say("view", f"{type(view).__name__}, {len(view)} windows of at most {LENGTH - objective.overhead} tokens")

    draw = Draw(0)
    sampler = Sampler([view], [1.0], draw, batch_samples=BATCH, overhead=objective.overhead)
    rows, cursor = sampler.next_batch(sampler.start)
    say("rows", f"{len(rows)}, of {', '.join(str(len(row.tokens)) for row in rows)} tokens; cursor {cursor.consumed}")
    parts = partition(rows, PARTS)
    say("micro-batches", f"{PARTS}, of {', '.join(str(sum(row.size for row in part)) for part in parts)} tokens")

    plain = [objective.prepare(part, draw) for part in parts]
    batches = [objective.corrupt(batch, draw) for batch in plain]
    show_batch(plain[0], batches[0], vocabulary.mask or 0)
    counts = [objective.counts(batch) for batch in batches]
    total = {name: sum(each[name] for each in counts) for name in counts[0]}
    say("counts", f"{', '.join(map(str, counts))}; together {total}")

    model = build("bert", "tiny", objective.heads, {"vocab_size": vocabulary.size})
    root = TrainModule(model, objective)
    optimizer = build_optimizer(root, adamw.Config(lr=1e-4))
    watch(model)
    for number, batch in enumerate(batches):
        terms = root(batch)
        if number == 0:
            for term in terms:
                say("term", f"{term.name}: sum {shape(term.sum)}, count {term.count}, weight {term.weight}")
        torch.stack([term.sum * (term.weight / total[term.name]) for term in terms]).sum().backward()
    norm = float(gradient_norm(optimizer))
    update(optimizer, 1.0, norm, 1.0)
    say("step", f"gradient norm over {len(list(root.parameters()))} parameters, one number read from the device")


def write_corpus(path: Path) -> None:
    """Forty documents of two to nine sentences."""
    draw = Draw(1)
    sizes = 2 + draw.at("size").below(np.arange(40), 8)
    chosen = [draw.at("document", n).below(np.arange(size), len(SENTENCES)) for n, size in enumerate(sizes.tolist())]
    path.write_text("\n\n".join(" ".join(SENTENCES[i] for i in document) for document in chosen) + "\n")


def show_batch(plain: Batch, batch: Batch, mask: int) -> None:
    """The first micro-batch before and after corruption."""
    lengths = batch.layout.lengths
    say("batch", f"tokens {shape(batch.tokens)}, segments {shape(batch.segments)}, lengths {lengths}")
    say("", f"layout.offsets {shape(batch.layout.offsets)}, layout.positions {shape(batch.layout.positions)}")
    changed = int((plain.tokens != batch.tokens).sum())
    say("corrupt", f"{changed} tokens changed, {int((batch.tokens == mask).sum())} of them to [MASK]")
    for name, (index, label) in batch.targets.items():
        say("", f"targets[{name!r}]: index {shape(index)}, label {shape(label)}")


def watch(model: torch.nn.Module) -> None:
    """Print what goes in and out of the interesting modules, the first time that each is called."""
    places = {
        "embedding": "embedding",
        "stack.blocks.0.attention.query": "attention.query",
        "stack.blocks.0.attention": "attention",
        "stack.blocks.0.feedforward.up": "feedforward.up",
        "stack.blocks.0": "block 0",
        "stack": "stack",
        "heads.mlm.transform": "heads.mlm",
        "heads.nsp": "heads.nsp",
    }
    for place, title in places.items():
        module = model.get_submodule(place)
        module.register_forward_hook(once(title))


def once(title: str) -> Callable[[Any, Any, Any], None]:
    """A hook that speaks the first time only."""
    seen: list[bool] = []

    def hook(module: Any, given: Any, out: Any) -> None:
        if not seen:
            say(title, f"{shape(given[0])} -> {shape(out)}")
        seen.append(True)

    return hook


def shape(tensor: Any) -> str:
    """A shape as it is written in docstrings."""
    return "None" if tensor is None else f"({', '.join(str(n) for n in tensor.shape)})"


def say(station: str, what: str) -> None:
    """One line of the walk."""
    print(f"{station:<18}{what}")


if __name__ == "__main__":
    main()
