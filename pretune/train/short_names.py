"""The short names of a recipe's fields on the command line, and what other tools call them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from pretune.config.overrides import as_choice
from pretune.train.task_tables import TaskDataConfig, are_named, file_of

SHORT_NAMES: dict[str, str] = {
    "model": "model.init",
    "train": "data.train",
    "validation": "data.validation",
    "text": "data.columns.text",
    "label": "data.columns.label",
    "second": "data.columns.second",
    "third": "data.columns.third",
    "target": "data.columns.target",
    "id": "data.columns.id",
    "columns": "data.columns.columns",
    "epochs": "budget.epochs",
    "steps": "budget.steps",
    "tokens": "budget.tokens",
    "minutes": "budget.minutes",
    "lr": "optimizer.lr",
    "batch": "data.batch",
    "batch_tokens": "data.batch_tokens",
    "length": "data.length",
    "stores": "data.stores",
    "optimizer": "optimizer.name",
    "schedule": "schedule.kind",
}
"""A short name and the field that it sets; the end of a field's name that no other field has is a name of it, too."""

FOREIGN_NAMES: dict[str, str] = {
    **dict.fromkeys(("learning_rate", "learningrate", "rate", "peak_lr"), "lr"),
    **dict.fromkeys(("batch_size", "train_batch_size", "per_device_train_batch_size", "bs"), "batch"),
    **dict.fromkeys(("max_length", "max_seq_length", "max_len", "seq_len", "seq_length", "block_size"), "length"),
    **dict.fromkeys(("num_epochs", "num_train_epochs", "n_epochs", "max_epochs", "epoch"), "epochs"),
    **dict.fromkeys(("max_steps", "num_steps", "n_steps", "iterations", "max_iters"), "steps"),
    **dict.fromkeys(("output_dir", "out_dir", "out", "save_dir", "run_dir"), "output"),
    **dict.fromkeys(("train_file", "training", "train_data", "train_path", "data", "dataset", "input"), "train"),
    **dict.fromkeys(
        ("validation_file", "validation_data", "valid", "val", "dev", "eval", "eval_file", "test"), "validation"
    ),
    **dict.fromkeys(("model_name", "model_name_or_path", "model_path", "pretrained", "checkpoint_path"), "model"),
    **dict.fromkeys(("text_column", "text_field", "text_column_name", "sentence"), "text"),
    **dict.fromkeys(("label_column", "label_column_name", "labels"), "label"),
    **dict.fromkeys(("target_column", "summary_column", "response_column", "target_field"), "target"),
    **dict.fromkeys(("second_column", "text_pair", "second_text"), "second"),
    **dict.fromkeys(("third_column", "negative"), "third"),
    "id_column": "id",
    "store": "stores",
    "random_seed": "seed",
    **dict.fromkeys(("gradient_accumulation_steps", "grad_accum", "gradient_accumulation"), "accumulate"),
    **dict.fromkeys(("max_grad_norm", "grad_clip", "gradient_clip_val", "clip_norm"), "clip"),
    **dict.fromkeys(("warmup_steps", "warmup_ratio", "num_warmup_steps"), "warmup"),
    **dict.fromkeys(("lr_scheduler", "lr_scheduler_type", "scheduler"), "schedule"),
    **dict.fromkeys(("fp16", "bf16", "dtype", "mixed_precision"), "precision"),
    **dict.fromkeys(("early_stopping", "early_stopping_patience"), "patience"),
    **dict.fromkeys(("method", "peft", "adapter"), "tune"),
    "gradient_checkpointing": "checkpointing",
    **dict.fromkeys(("eval_steps", "eval_every"), "evaluation.every"),
    **dict.fromkeys(("save_steps", "save_every"), "checkpoint.every"),
    **dict.fromkeys(("logging_steps", "log_every"), "track.every"),
    **dict.fromkeys(("report_to", "logger"), "to"),
    "resume_from_checkpoint": "resume",
}
"""What transformers and other tools call a field, and our name of it."""


def variant_configs(tree: Mapping[str, Any]) -> dict[str, type[BaseModel]]:
    """The configurations of the task, objectives, tuning method and optimizer that a recipe chooses, by their table.

    Raises:
        UsageError: one that does not exist.
        MissingInputError: a user's own file that does not exist.
    """
    from pretune.find import find
    from pretune.optim.optimizer import DEFAULT, find_optimizer

    optimizer = tree.get("optimizer", {})
    name = optimizer.get("name", DEFAULT) if isinstance(optimizer, Mapping) else DEFAULT
    configs = {**_task_configs(_tables(tree, "task")), **_objective_configs(_chosen(tree, "objective"))}
    configs |= {f"tune.{method}": find("tune", method).Config for method in _chosen(tree, "tune")}
    return configs | {"optimizer": find_optimizer(name).Config}


def _task_configs(tables: Mapping[str, object]) -> dict[str, type[BaseModel]]:
    if not tables:
        return {}  # and torch is not imported
    from pretune.find import find_class
    from pretune.tasks.task import Task

    base: type[Any] = Task
    files = {name: file_of(name, table) for name, table in tables.items()}
    configs: dict[str, type[BaseModel]] = {
        f"task.{name}": find_class("tasks", file, base).Config for name, file in files.items()
    }
    return configs | ({f"task.{name}.data": TaskDataConfig for name in files} if are_named(tables) else {})


def _objective_configs(names: list[str]) -> dict[str, type[BaseModel]]:
    if not names:
        return {}
    from pretune.find import find_class
    from pretune.objectives.objective import Objective

    base: type[Any] = Objective
    return {f"objective.{name}": find_class("objectives", name, base).Config for name in names}


def _chosen(tree: Mapping[str, Any], axis: str) -> list[str]:
    """The variants of an axis that a tree names."""
    return list(_tables(tree, axis))


def _tables(tree: Mapping[str, Any], axis: str) -> Mapping[str, object]:
    """The variants of an axis that a tree names, and what it says of each."""
    chosen = as_choice(tree.get(axis))
    return chosen if isinstance(chosen, Mapping) else {}
