"""Fine-tuning a text classifier by `transformers.Trainer`, as `run_glue.py` of its examples does; also by `peft`.

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
        method: `full`; of the Trainer alone `frozen` and `top` (2 layers); of peft `lora-qv`, `lora-everywhere` and
            `prefix`; of adapters `adapter`.
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
    method: str = "full"


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
            seconds, _, network, tokenizer = finetune(setting, labels, seed, folder)
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


def steps(**options: Any) -> Callable[[], dict[str, Any]]:
    """The same; a run is timed in its steps alone. Options: see `Setting`."""
    setting = Setting(**options)
    labels = transformers.AutoConfig.from_pretrained(setting.model).label2id
    texts = read(setting.train, labels)
    first = first_loss(
        setting.model, (texts[0][: setting.batch], texts[1][: setting.batch]), setting.length, setting.method
    )

    def run() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            _, seconds, network, _ = finetune(setting, labels, 0, folder)
        learned = sum(weight.numel() for weight in network.parameters() if weight.requires_grad)
        count = len(texts[0]) * setting.epochs
        return {
            "seconds": seconds,
            "steps": -(-len(texts[0]) // setting.batch) * setting.epochs,
            "texts": count,
            "learned": learned,
            "loss_fp32": first,
        }

    with tempfile.TemporaryDirectory() as folder:
        finetune(setting, labels, 0, folder, steps=2)
    return run


def finetune(
    setting: Setting, labels: dict[str, int], seed: int, folder: str, steps: int = -1
) -> tuple[float, float, Any, Any]:
    """From files to files: seconds, those of them in the Trainer's loop, network, tokenizer."""
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
        **_sampling(setting.order),
        torch_compile=setting.compile,
        save_strategy="steps" if setting.save else "no",
        report_to="none",
        disable_tqdm=True,
    )
    transformers.set_seed(seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(setting.model)
    network = tuned(
        classifier(setting.model, attn_implementation=setting.attention, **setting.overrides), setting.method
    )
    fixed = setting.padding == "fixed"
    rows = tokenize(tokenizer, read(setting.train, labels), setting.length, fixed)
    collate = transformers.default_data_collator if fixed else transformers.DataCollatorWithPadding(tokenizer)
    trainer = transformers.Trainer(
        network, arguments, data_collator=collate, train_dataset=rows, processing_class=tokenizer
    )
    loop = time.perf_counter()
    trainer.train()
    trained = time.perf_counter()
    trainer.save_model()
    return time.perf_counter() - begin, trained - loop, network, tokenizer


def _sampling(order: str) -> dict[str, Any]:
    """The field of `TrainingArguments` that says in which order texts come; version 5 has another than 4."""
    if int(transformers.__version__.partition(".")[0]) < 5:
        return {"group_by_length": order == "group_by_length"}
    return {"train_sampling_strategy": order}


def tuned(network: Any, method: str) -> Any:
    """The network with a method, as its library's documentation puts it there."""
    if method == "full":
        return network
    if method in ("frozen", "top"):
        network.base_model.requires_grad_(False)
        network.base_model.pooler.requires_grad_(True)  # it is a part of the head on our side
        if method == "top":
            for layer in network.base_model.encoder.layer[-2:]:
                layer.requires_grad_(True)
        return network
    if method == "adapter":
        import adapters

        adapters.init(network)
        network.add_adapter("own", config="seq_bn")
        network.train_adapter("own")
        return network
    import peft

    kept = {"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "pooler"]}
    configs = {
        "lora-qv": lambda: peft.LoraConfig(r=8, lora_alpha=16, target_modules=["query", "value"], **kept),
        "lora-everywhere": lambda: peft.LoraConfig(
            r=8, lora_alpha=16, target_modules=r".*encoder.*\.(query|key|value|dense)", **kept
        ),
        "prefix": lambda: peft.PrefixTuningConfig(num_virtual_tokens=20, task_type="SEQ_CLS"),
    }
    return peft.get_peft_model(network, configs[method]())


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
def first_loss(model: str, texts: Texts, length: int, method: str = "full") -> float:
    """Mean over some texts before any step, in fp32 without dropout."""
    network = tuned(classifier(model), method).eval()
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
