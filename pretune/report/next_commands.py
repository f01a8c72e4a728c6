"""The commands that use a finished model: of its language, its task and its path, so that each runs as printed."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

from pretune.config import Config
from pretune.wording import quoted


class Examples(NamedTuple):
    """Texts of a language that stand for the user's own."""

    beginning: str
    sentence: str
    text: str
    second: str


EXAMPLES = {
    "en": Examples("Once upon a time", "It was a {mask} day.", "a text", "a second text"),
    "zh": Examples("从前", "今天天气很{mask}。", "一段文字", "另一段文字"),
}


def next_commands(
    model: str,
    abilities: Collection[str],
    mask: str,
    *,
    is_paired: bool = False,
    language: str = "en",
    tasks: Mapping[str, bool] = MappingProxyType({}),
    records: str | None = None,
    base: str | None = None,
) -> list[str]:
    """Returns the commands that use a model.

    Args:
        model: its folder.
        abilities: of `generate`, `fill`, `classify`, `write`, `chat`, `sparse`.
        mask: the mask token of its tokenizer.
        is_paired: it was trained on pairs of texts.
        language: of the data that it was trained on: `en` or `zh`.
        tasks: names of its tasks, where they have names, and whether each was trained on pairs of texts.
        records: a file that its task reads, where a text alone does not say all that the task must know.
        base: folder of the model that the adapters of its tasks stand on, where each has its own.
    """
    path, examples = shlex.quote(model), EXAMPLES.get(language, EXAMPLES["en"])
    text, second = quoted(examples.text), quoted(examples.second)
    if base is not None:
        return _adapter_commands(model, tasks, base, text, second)
    lines = []
    if "chat" in abilities:
        lines.append(f"pretune chat {path} {text}")
    elif "generate" in abilities and "write" not in abilities:
        lines.append(f"pretune generate {path} {quoted(examples.beginning)}")
    if "fill" in abilities and "write" not in abilities:
        lines.append(f"pretune fill {path} {quoted(examples.sentence.format(mask=mask))}")
    for name, is_task_paired in tasks.items():
        lines.append(f"pretune predict {path} --task {name} " + (f"--pair {text} {second}" if is_task_paired else text))
    if tasks:
        return lines
    if records is not None:
        return [*lines, f"pretune predict {path} {shlex.quote(records)}"]
    if "write" in abilities:
        return [*lines, f"pretune predict {path} {text}"]
    if "classify" in abilities:
        lines.append(f"pretune predict {path} " + (f"--pair {text} {second}" if is_paired else text))
    elif not is_paired:
        fields = "--task classification --train labelled.csv --output classifier"
        lines.append(f"pretune finetune --model {path} {fields}")
    texts = f"{text} {second}" if is_paired else text
    return [*lines, f"pretune embed {path} {texts}" + ("" if "sparse" in abilities else " --output vectors.npy")]


def _adapter_commands(run: str, tasks: Mapping[str, bool], base: str, text: str, second: str) -> list[str]:
    """The commands that use the adapters of a run: each alone, then all of them on one base."""
    texts = {name: f"--pair {text} {second}" if is_paired else text for name, is_paired in tasks.items()}
    lines = [f"pretune predict {shlex.quote(f'{run}/{name}')} {given}" for name, given in texts.items()]
    adapters = shlex.quote(",".join(f"{name}={run}/{name}" for name in tasks))
    first = next(iter(tasks))
    return [*lines, f"pretune predict {shlex.quote(base)} {texts[first]} --adapters {adapters} --adapter {first}"]


def adapters_base(facts: Mapping[str, object]) -> str | None:
    """The folder of the model that a run's adapters stand on; None where its tasks have none of their own.

    Args:
        facts: of the run.
    """
    adapters = facts.get("adapters")
    return str(next(iter(adapters.values()))["base"]) if isinstance(adapters, dict) else None


def run_abilities(heads: Collection[str], facts: Mapping[str, object]) -> set[str]:
    """What a run's model can do: what its heads can, and what it was trained for beside: labels, texts, sparse vectors.

    Args:
        heads: what the heads that are common to tasks can do.
        facts: of the run.
    """
    trained = facts.get("abilities")
    writes = isinstance(trained, dict) and "write" in trained.values()
    trained_for = {"classify": facts.get("labels"), "write": writes, "sparse": facts.get("is_sparse")}
    return {*heads, *(name for name, is_so in trained_for.items() if is_so)}


def named_tasks(facts: Mapping[str, object]) -> dict[str, bool]:
    """The names of a run's tasks, and whether each was trained on pairs of texts; none where they have no names.

    Args:
        facts: of the run.
    """
    tasks = facts.get("tasks")
    return {name: bool(record.get("is_paired")) for name, record in tasks.items()} if isinstance(tasks, dict) else {}


def field_flags(config: Config, prefix: str = "") -> list[str]:
    """The flags that set what is not the default of some fields, for a command that reads the same files.

    Args:
        prefix: before the names of the fields, such as "corpus.".
    """
    flags = []
    for name, value in config.model_dump(mode="json", exclude_defaults=True).items():
        text = ",".join(value) if isinstance(value, list) else str(value)
        flags += [f"--{prefix}{name}", text.lower() if isinstance(value, bool) else text]
    return flags
