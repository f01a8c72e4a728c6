"""Tasks of lm-eval over local files of choices, in the prompts of its own tasks, which need the hub."""

from __future__ import annotations

from pathlib import Path

_HEAD = """task: local_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
"""
_CHOICES = """doc_to_text: "{text}"
doc_to_choice: choices
doc_to_target: gold
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
_PARTIAL = """doc_to_text: gold
doc_to_choice: context_options
doc_to_target: "{{continuation}}"
metric_list: [{metric: acc}]
"""
_QUESTION = "{{query.rstrip()}}\\nAnswer:"
SETS = {
    "piqa": _CHOICES.format(text=_QUESTION),
    "arc_easy": _CHOICES.format(text=_QUESTION),
    "copa": _CHOICES.format(text="{{query}}"),
    "winogrande": _PARTIAL,
}
"""What the task of each set says beside its head: prompts of lm-eval 0.4.13."""


def write_tasks(data: Path, folder: Path) -> None:
    """Writes a task for each set.

    Args:
        data: folder of `piqa.jsonl` and the others.
        folder: of the tasks, handed to lm-eval as `--include_path`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in SETS.items():
        text = _HEAD.format(name=name, file=(data / f"{name}.jsonl").resolve()) + lines
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
