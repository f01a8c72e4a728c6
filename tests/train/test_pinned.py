"""Ten steps of every objective, family and task on fixed data: what must not change while the code is redrawn.

Metrics and weights are compared with `pinned.json`: to the bit on the machine that wrote it, elsewhere to rounding.
`python tests/train/test_pinned.py` writes the file again, after a change that is meant to change results.
"""

from __future__ import annotations

import hashlib
import json
import platform
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

sys.path.insert(0, str(Path(__file__).parent))
from trainkit import TIMES, WORDS, home_recipe, lines, make_store, make_tokenizer, recipe, replaced

from pretune.config import validate
from pretune.find import variants
from pretune.train.recipe import Recipe
from pretune.train.run import finetune, pretrain

FILE = Path(__file__).parent / "pinned.json"
NOISE = 1e-5  # what rounding leaves of a key's bias, which no loss depends on
OBJECTIVES = variants("objectives")
FAMILIES = {
    **dict.fromkeys(("albert", "bert", "distilbert", "electra", "modernbert", "roberta", "xlnet"), "mlm"),
    **dict.fromkeys(("gpt", "gpt2", "gpt3", "llama", "qwen2", "qwen3"), "clm"),
    **dict.fromkeys(("bart", "bert2bert", "marian", "t5"), "prefix"),
}
OF_PAIRS = ("cert", "classification", "similarity")
WRITERS = {"generation": "bart", "chat": "gpt2"}  # tasks that a bidirectional encoder cannot do
TASKS = [
    *((task, family) for task in OF_PAIRS for family in ("bert", "gpt2")),
    *((task, WRITERS.get(task, "bert")) for task in variants("tasks") if task not in OF_PAIRS),
]
OVER: dict[str, Any] = {"checkpoint": {"every": 10}, "evaluation": {"samples": 8, "every": 5}}
CASES = [*OBJECTIVES, *(f"family-{name}" for name in FAMILIES), *(f"task-{t}-{f}" for t, f in TASKS)]


def machine() -> str:
    """What bits depend on: processors of several makers with the same instructions are given other products."""
    info = Path("/proc/cpuinfo")
    known = info.read_text().splitlines() if info.is_file() else []
    maker = next((line.partition(":")[2].strip() for line in known if line.startswith("vendor_id")), platform.machine())
    return f"{torch.__version__} {torch.backends.cpu.get_cpu_capability()} {maker}"


def run(case: str, folder: Path) -> dict[str, Any]:
    """Train a case for ten steps; its metrics and what its weights add up to."""
    if case.startswith("task-"):
        finetune(task_recipe(folder, *case.split("-")[1:]))
    elif case.startswith("family-"):
        store = make_store(folder / "store", sentinels=8)
        family = case.removeprefix("family-")
        objective = {"xlnet": "plm"}.get(family, FAMILIES[family])
        model = {"family": family, "size": "tiny"}
        pretrain(replaced(recipe(folder / "run", store, **OVER), model=model, objective={objective: 1.0}))
    else:
        pretrain(home_recipe(case, folder / "run", make_store(folder / "store", sentinels=8), **OVER))
    weights = load_file(folder / "run" / "model.safetensors")
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].numpy().tobytes())
    metrics = [{k: v for k, v in line.items() if k not in TIMES} for line in lines(folder / "run")]
    sums = {
        name: [tensor.double().sum().item(), tensor.double().abs().sum().item()] for name, tensor in weights.items()
    }
    return {"metrics": metrics, "weights": sums, "digest": digest.hexdigest()}


def task_recipe(folder: Path, task: str, family: str) -> Recipe:
    """Ten steps of fine-tuning on texts whose first word tells the label, the first two of them tell more."""
    rng = np.random.default_rng(0)
    rows = []
    for _ in range(60):
        words = [WORDS[int(n)] for n in rng.integers(0, 59, int(rng.integers(4, 12)))]
        other = [WORDS[int(n)] for n in rng.integers(0, 59, int(rng.integers(4, 12)))]
        pair = {"text": " ".join(words), "second": " ".join(other), "label": str(int(words[0][1:]) % 3)}
        rows.append(pair if task in OF_PAIRS else answered(task, pair))
    if task == "cert":  # its pairs are two views of one text each, whatever a label says
        rows[:48] = [{name: row[name] for name in ("text", "second")} for row in rows[:48]]
    for name, part in (("train", rows[:48]), ("validation", rows[48:])):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, part)) + "\n")
    make_tokenizer(folder / "tokenizer")
    tree = {
        "output": str(folder / "run"),
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "model": {"family": family, "size": "tiny"},
        "data": {
            "train": [str(folder / "train.jsonl")],
            "validation": [str(folder / "validation.jsonl")],
            "tokenizer": str(folder / "tokenizer"),
            "columns": {"second": "second"} if task in (*OF_PAIRS, "reranking", "sparse") else {},
            "length": 32,
            "batch": 8,
        },
        "task": {task: {"template": "chatml", "special_tokens": "add"} if task == "chat" else {}},
        "budget": {"steps": 10},
        "evaluation": {"every": 5, "keep": "last"},
        "track": {"every": 2, "progress": "quiet", "report": False},
    }
    return validate(Recipe, tree, "recipe")


def answered(task: str, row: dict[str, str]) -> dict[str, Any]:
    """A text with what a task asks of it: of the whole, or of its first words."""
    text, other, number = row["text"], row["second"], int(row["label"])
    first, second, *_ = words = text.split()
    kinds = ["AB"[int(word[1:]) % 2] for word in words]
    ends = [(0, len(first)), (len(first) + 1, len(first) + 1 + len(second))]
    spans = [{"start": start, "end": end, "label": kind} for (start, end), kind in zip(ends, kinds, strict=False)]
    linked = {"text": text, "spans": spans, "links": [{"head": 0, "tail": 1, "label": f"r{number}"}]}
    answers: dict[str, dict[str, Any]] = {
        "multilabel": {"text": text, "label": sorted({*kinds[:2]})},
        "ordinal": {"text": text, "label": number},
        "hierarchy": {"text": text, "label": ["a/b", "a/c", "d"][number]},
        "regression": {"text": text, "label": number / 2},
        "choice": {"text": text, "choices": [first, other, second][: 2 + number % 2], "label": number % 2},
        "tagging": {"tokens": words, "tags": [f"B-{kind}" for kind in kinds]},
        "nested": {"text": text, "spans": [*spans, {"start": 0, "end": ends[1][1], "label": "C"}]},
        "generation": {"text": text, "target": other},
        "prompted": {"text": text, "label": f"w{number}"},
        "reranking": {"text": text, "second": [other, f"{second} {first}", first], "label": [2, 0, 1]},
        "sparse": {"text": text, "second": other},
        "chat": {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": other}]},
        "reading": {"text": text, "question": other, "answers": [{"start": ends[1][0], "text": second}]},
    }
    return answers.get(task, linked)


def exact(pin: dict[str, Any]) -> dict[str, Any]:
    """With correlations to twelve digits: numpy's BLAS sums in another order on the next processor of one maker."""
    metrics = [
        {key: float(f"{v:.12g}") if key == "eval/pearson" else v for key, v in m.items()} for m in pin["metrics"]
    ]
    return {**pin, "metrics": metrics}


@pytest.mark.parametrize("case", CASES)
def test_ten_steps_are_what_they_were(case: str, tmp_path: Path) -> None:
    pinned = json.loads(FILE.read_text())
    expected, actual = pinned["cases"][case], run(case, tmp_path)
    if pinned["apart"].get(case, pinned["machine"]) == machine():
        assert exact(actual) == exact(expected)
        return
    assert [line.keys() for line in actual["metrics"]] == [line.keys() for line in expected["metrics"]]
    own = pinned["elsewhere"].get(machine(), {}).get(case, {})  # what was seen there of a metric, by its line
    for number, (ours, theirs) in enumerate(zip(actual["metrics"], expected["metrics"], strict=True)):
        for key, pin in theirs.items():  # a correlation of answers that are nearly equal magnifies rounding
            bound = 5e-4 if key in ("eval/pearson", "eval/spearman") else 1e-4
            value = own.get(key, {}).get(str(number), pin)
            assert ours[key] == pytest.approx(value, rel=1e-3, abs=bound), key
    assert actual["weights"].keys() == expected["weights"].keys()
    for name, (total, size) in expected["weights"].items():
        bound = 1e-3 * size + (NOISE if name.endswith("bias") else 0)
        assert actual["weights"][name] == pytest.approx([total, size], rel=1e-3, abs=bound), name


def test_every_objective_family_and_task_is_pinned() -> None:
    assert json.loads(FILE.read_text())["cases"].keys() == set(CASES)
    assert set(FAMILIES) == set(variants("models"))


def write(new: bool, again: Sequence[str] = ()) -> None:
    """Pin what the code gives now; of new cases alone and some that change, or of all.

    Args:
        again: cases that change; where the machine is another than that of the pins, they are exact on this one.
    """
    torch.set_num_threads(1)
    before = json.loads(FILE.read_text())
    some = new or bool(again)
    if new and before["machine"] != machine():
        raise SystemExit(f"the other cases are of {before['machine']}, and this is {machine()}")
    cases = {case: value for case, value in before["cases"].items() if some and case in CASES}
    for case in [case for case in CASES if case not in cases or case in again]:
        with tempfile.TemporaryDirectory() as folder:
            cases[case] = run(case, Path(folder))
    body = ",\n".join(f"{json.dumps(case)}: {json.dumps(value)}" for case, value in cases.items())
    apart = {case: name for case, name in before["apart"].items() if some and case not in again}
    apart |= {case: machine() for case in again if machine() != before["machine"]}
    head = {
        "machine": before["machine"] if some else machine(),
        "apart": apart,
        "elsewhere": before["elsewhere"] if some else {},
    }
    FILE.write_text(f'{json.dumps(head)[:-1]}, "cases": {{\n{body}\n}}}}\n')


if __name__ == "__main__":
    write("--new" in sys.argv[1:], [name for name in sys.argv[1:] if name in CASES])
