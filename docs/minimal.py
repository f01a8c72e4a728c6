"""Train a BERT end to end with pretune's parts, one after the other, and open it with transformers.

    python docs/minimal.py [TEXT ...] [--steps 300] [--output minimal-bert]

Without files of text of your own, it learns the capitals of a few countries. What `pretune pretrain`
does beyond this: checkpoints and resuming, several GPUs, mixed precision, validation, mixtures, trackers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from pretune.draw import Draw
from pretune.interop.huggingface import save_model
from pretune.models import build
from pretune.models.model import LanguageModel
from pretune.objectives.mlm import MaskedLanguageModelling
from pretune.optim import adamw
from pretune.optim.optimizer import build_optimizer
from pretune.optim.schedule import ScheduleConfig, schedule_factor
from pretune.text.readers.corpus import read_corpus
from pretune.text.samples.sampler import Sampler, partition
from pretune.text.samples.views.view import build_view
from pretune.text.store.prepare import PrepareConfig, prepare
from pretune.text.store.store import TokenStore
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

LENGTH, BATCH, ACCUMULATE, SEED = 32, 48, 2, 0
CAPITALS = {
    "France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Norway": "Oslo", "Austria": "Vienna", "Greece": "Athens",
    "Japan": "Tokyo", "China": "Beijing", "Egypt": "Cairo", "Kenya": "Nairobi", "Peru": "Lima", "Cuba": "Havana",
}  # fmt: skip


def main() -> None:
    """From text to a model that transformers opens."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="*", type=Path, help="files or folders of text")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--output", type=Path, default=Path("minimal-bert"))
    arguments = parser.parse_args()

    arguments.output.mkdir(parents=True, exist_ok=True)
    paths = arguments.text or [write_capitals(arguments.output / "text.txt")]
    tokenizer, store = read_text(paths, arguments.output)
    model = train(tokenizer, store, arguments.steps)
    save_model(model, arguments.output / "model", tokenizer)
    open_with_transformers(arguments.output / "model")


def write_capitals(path: Path) -> Path:
    """A document for every two countries; equal ones would count once."""
    sentences = [f"The capital of {country} is {city}." for country, city in CAPITALS.items()]
    path.write_text("\n\n".join(f"{one} {two}" for one in sentences for two in sentences) + "\n", encoding="utf-8")
    return path


def read_text(paths: list[Path], folder: Path) -> tuple[Tokenizer, TokenStore]:
    """A tokenizer of the text, and the text as tokens on the disk."""
    documents = read_corpus(paths)
    tokenizer = train_tokenizer((document.text for document in documents), TokenizerConfig(vocab_size=2000))
    store = prepare(paths, tokenizer, folder / "store", PrepareConfig(processes=1, validation=0.0, overwrite=True))
    tokens = store.split("train").token_count
    print(f"tokenizer: {tokenizer.vocabulary.size} subwords; store: {tokens:,} tokens")
    return tokenizer, store


def train(tokenizer: Tokenizer, store: TokenStore, steps: int) -> LanguageModel:
    """A BERT trained by masked language modelling.

    Every random decision is a function of `draw` and of the sample, so the same seed gives the same masks, however a
    step is divided into micro-batches.
    """
    draw, vocabulary = Draw(SEED), tokenizer.vocabulary
    objective = MaskedLanguageModelling(MaskedLanguageModelling.Config(rate=0.15), vocabulary)
    width = LENGTH - objective.overhead  # [CLS] and [SEP] stand around each window
    view = build_view(store.split("train"), objective.view, width, objective.lookahead, objective.pack)
    sampler = Sampler([view], [1.0], draw, batch_samples=BATCH, overhead=objective.overhead)

    model = build("bert", "tiny", objective.heads, {"vocab_size": vocabulary.size}, seed=SEED)
    objective.setup(model, draw)
    optimizer = build_optimizer(model, adamw.Config(lr=3e-3))
    schedule = ScheduleConfig(warmup=0.1)  # rises for a tenth of the run, then falls

    model.train()
    cursor = sampler.start
    for step in range(steps):
        rows, cursor = sampler.next_batch(cursor)
        batches = [objective.build_batch(part, draw, step) for part in partition(rows, ACCUMULATE)]
        predictions = sum(objective.counts(batch)[objective.name] for batch in batches)  # known before any forward
        total = torch.zeros(())
        for batch in batches:
            (term,) = objective(model, batch)  # Term: a sum, how many predictions it is over, and its weight
            loss = term.sum * (term.weight / predictions)  # so the loss is the mean over the step, not of means
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * schedule_factor(schedule, (step + 0.5) / steps)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0 or step == steps - 1:
            print(f"step {step}: loss {total:.3f}, epoch {sampler.epoch(cursor):.1f}")
    return model.eval()


def open_with_transformers(folder: Path) -> None:
    """Ask the saved model for a masked word, by the library that everybody has."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder).eval()
    text = f"The capital of Norway is {tokenizer.mask_token}."
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, inputs["input_ids"][0] == tokenizer.mask_token_id]
    print(f"transformers fills {text!r} with {tokenizer.decode(logits.argmax(dim=-1))!r}")


if __name__ == "__main__":
    main()
