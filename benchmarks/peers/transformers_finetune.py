"""Fine-tuning a text classifier by `transformers.Trainer`, as `run_glue.py` of its examples does.

A run fine-tunes once, with a seed of its own: labelled texts and a model in files -> a fine-tuned model in files. Its
`seconds` end there; accuracy on the held-out texts is taken afterwards.
"""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor

Texts = tuple[list[str], list[int]]
_EVALUATED = 64  # texts of a forward


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a run is told.

    Attributes:
        model: folder of a classifier, its labels among its files.
        train, held_out: CSV files with the columns text and label.
        batch: texts of a step.
        rate: at the beginning; it falls linearly to 0.
        length: tokens of a text at most.
        precision: bf16 (autocast) or fp32.
        overrides: fields of the model's configuration, such as dropout rates.
        padding: `fixed` to `length` before training, or to the `longest` of a batch.
        order: `random` or `group_by_length`.
        save: a checkpoint at the end, as by default, or the model alone.
        attention: `sdpa` or `eager`.
        optimizer: as `TrainingArguments` calls it.
        compile: by torch.compile.
    """

    model: str
    train: str
    held_out: str
    batch: int
    rate: float
    epochs: float
    length: int
    precision: str
    overrides: dict[str, Any]
    padding: str = "longest"
    order: str = "random"
    save: bool = False
    attention: str = "sdpa"
    optimizer: str = "adamw_torch_fused"
    compile: bool = False


def setup(**options: Any) -> Callable[[], dict[str, Any]]:
    """Read the texts and take the first loss; every run another seed. Options: see `Setting`."""
    setting = Setting(**options)
    labels = transformers.AutoConfig.from_pretrained(setting.model).label2id
    texts, held = read(setting.train, labels), read(setting.held_out, labels)
    first = first_loss(setting.model, (texts[0][: setting.batch], texts[1][: setting.batch]), setting.length)
    seed = 0

    def run() -> dict[str, Any]:
        nonlocal seed
        with tempfile.TemporaryDirectory() as folder:
            seconds, network, tokenizer = finetune(setting, labels, seed, folder)
        score = evaluate(network, tokenizer, held, setting.length, setting.precision)
        seed += 1
        return {
            "seconds": seconds,
            "accuracy": score,
            "seed": seed - 1,
            "texts": len(texts[0]) * setting.epochs,
            "loss_fp32": first,
        }

    with tempfile.TemporaryDirectory() as folder:
        finetune(setting, labels, seed, folder, steps=2)  # what is imported late is imported now
    return run


def finetune(
    setting: Setting, labels: dict[str, int], seed: int, folder: str, steps: int = -1
) -> tuple[float, Any, Any]:
    """From files to files: seconds, network, tokenizer."""
    begin = time.perf_counter()
    arguments = transformers.TrainingArguments(
        folder,
        use_cpu=True,
        seed=seed,
        bf16=setting.precision == "bf16",
        per_device_train_batch_size=setting.batch,
        learning_rate=setting.rate,
        num_train_epochs=setting.epochs,
        max_steps=steps,
        optim=setting.optimizer,
        train_sampling_strategy=setting.order,
        torch_compile=setting.compile,
        save_strategy="steps" if setting.save else "no",
        report_to="none",
        disable_tqdm=True,
    )
    transformers.set_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(setting.model)
    network = classifier(setting.model, attn_implementation=setting.attention, **setting.overrides)
    fixed = setting.padding == "fixed"
    rows = tokenize(tokenizer, read(setting.train, labels), setting.length, fixed)
    collate = transformers.default_data_collator if fixed else transformers.DataCollatorWithPadding(tokenizer)
    trainer = transformers.Trainer(
        network, arguments, data_collator=collate, train_dataset=rows, processing_class=tokenizer
    )
    trainer.train()
    trainer.save_model()
    return time.perf_counter() - begin, network, tokenizer


def classifier(model: str, **options: Any) -> Any:
    """The network with its head."""
    return transformers.AutoModelForSequenceClassification.from_pretrained(model, **options)


def read(path: str, labels: dict[str, int]) -> Texts:
    """Texts and the numbers of their labels."""
    with open(path, encoding="utf-8", newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [row["text"] for row in rows], [labels[row["label"]] for row in rows]


def tokenize(tokenizer: Any, texts: Texts, length: int, fixed: bool) -> list[dict[str, Any]]:
    """What the example's `preprocess_function` makes, in one call: `datasets` would take longer."""
    encoding = tokenizer(texts[0], padding="max_length" if fixed else False, max_length=length, truncation=True)
    names = list(encoding)
    return [{**{name: encoding[name][n] for name in names}, "label": label} for n, label in enumerate(texts[1])]


def padded(tokenizer: Any, texts: Sequence[str], length: int) -> dict[str, Tensor]:
    """A batch of its own, to the longest."""
    return dict(tokenizer(list(texts), padding=True, max_length=length, truncation=True, return_tensors="pt"))


@torch.no_grad()
def first_loss(model: str, texts: Texts, length: int) -> float:
    """Mean over some texts before any step, in fp32 without dropout."""
    network = classifier(model).eval()
    inputs = padded(transformers.AutoTokenizer.from_pretrained(model), texts[0], length)
    return float(network(**inputs, labels=torch.tensor(texts[1])).loss)


@torch.no_grad()
def evaluate(network: Any, tokenizer: Any, held: Texts, length: int, precision: str) -> float:
    """Share of the held-out texts that get their label."""
    network.eval()
    order = sorted(range(len(held[0])), key=lambda n: len(held[0][n]))
    right = 0
    for start in range(0, len(order), _EVALUATED):
        chosen = order[start : start + _EVALUATED]
        inputs = padded(tokenizer, [held[0][n] for n in chosen], length)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            logits = network(**inputs).logits
        right += int((logits.argmax(1) == torch.tensor([held[1][n] for n in chosen])).sum())
    return right / len(order)
