"""What the drill runs: each verb that writes, on material so small that a run takes a fraction of a second."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drillkit import HERE, Ended, Fault, Zygote, snapshot

from pretune.config import to_toml
from pretune.train.recipe import Recipe

sys.path.insert(0, str(HERE / "train"))
from trainkit import WORDS, clm_recipe, home_recipe, make_store, make_tokenizer, recipe, replaced

TRAINING = (
    *("mlm-nsp", "clm-accumulate", "rtd", "plm", "cert", "simcse", "denoise", "span", "sop-muon"),
    *("classification", "similarity", "frozen"),
)
FOLDERS = (
    *("prepare", "tokenizer-wordpiece", "tokenizer-bpe", "tokenizer-unigram", "extend-tokenizer", "extend-model"),
    "export",
)
FILES = ("embed", "predict", "score", "generate", "augment")
STEPS = 6
OUTPUT = "out"
OVER: dict[str, Any] = {
    "budget": {"steps": STEPS},
    "checkpoint": {"every": 2},
    "evaluation": {"every": 3, "samples": 4},
    "model": {"dropout": 0.1},
    "data": {"batch": 4},
}
KEEP_BEST = {"evaluation": {"every": 3, "samples": 4, "keep": "best"}}
MUON = {"optimizer": {"name": "muon"}}


@dataclass(frozen=True)
class Case:
    """A command whose result is `OUTPUT` (with a suffix, for files) in the folder where it runs.

    Attributes:
        arguments: of the command line, but for the output.
        suffix: of the output's name.
        flag: what the output stands behind; empty where it is an argument.
        script: a Python file that runs the verb.
    """

    name: str
    arguments: Sequence[str]
    suffix: str = ""
    flag: str = "--output"
    script: Path | None = None

    @property
    def trains(self) -> bool:
        """Whether it leaves checkpoints and goes on from them."""
        return self.arguments[0] in ("pretrain", "finetune")

    def run(self, zygote: Zygote, folder: Path, fault: Fault | None = None, output: str = OUTPUT) -> Ended:
        """Run it to its end."""
        return self.start(zygote, folder, fault, output).wait(120.0)

    def start(self, zygote: Zygote, folder: Path, fault: Fault | None = None, output: str = OUTPUT) -> Any:
        """Begin it."""
        place = [self.flag, output + self.suffix] if self.flag else [output + self.suffix]
        return zygote.start(*self.arguments, *place, folder=folder, fault=fault, script=self.script)


@dataclass
class Material:
    """Files that cases read, made once in a session.

    Attributes:
        folder: holds a tokenizer, a store with sentinels, a corpus, a labelled file, and what `model` made.
    """

    folder: Path
    zygote: Zygote
    _results: dict[str, Path] = field(default_factory=dict)
    _calls: dict[str, int] = field(default_factory=dict)
    _cases: dict[str, Case] = field(default_factory=dict)
    _whole: dict[str, tuple[dict[str, str], Ended]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        make_store(self.folder / "store", documents=24, sentinels=8)
        make_tokenizer(self.folder / "tokenizer")
        chance = random.Random(0)
        lines = [" ".join(chance.choices(WORDS, k=8)) for _ in range(60)]
        (self.folder / "corpus.txt").write_text("\n\n".join(lines) + "\n")
        rows: list[dict[str, Any]] = [
            {"text": line, "label": "ab"[n % 2], "second": lines[n - 1], "score": n % 5} for n, line in enumerate(lines)
        ]
        (self.folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        words = ["".join(chance.choices(("ka", "lo", "mi", "ru", "te"), k=chance.randint(1, 3))) for _ in range(600)]
        (self.folder / "letters.txt").write_text("\n\n".join(" ".join(words[n::60]) for n in range(60)) + "\n")
        (self.folder / "domain.txt").write_text("kalomirute temiloka\n" * 20)

    def path(self, name: str) -> str:
        """Of a file of the material."""
        return str(self.folder / name)

    def recipe(self, name: str, made: Recipe) -> list[str]:
        """A recipe's file, as an argument."""
        path = self.folder / f"{name}.toml"
        path.write_text(to_toml(made.model_copy(update={"output": OUTPUT})))
        return [str(path), "--quiet"]

    def pretraining(self, name: str, objective: str = "", **over: Any) -> Case:
        """A case that pretrains; without an objective, BERT by MLM and NSP."""
        place, store = Path(OUTPUT), self.folder / "store"
        if objective == "clm":
            made = clm_recipe(place, store, **{**OVER, **over})
        else:
            make: Callable[..., Recipe] = recipe if not objective else lambda *p, **o: home_recipe(objective, *p, **o)
            made = make(place, store, **{**OVER, **over})
        return Case(name, ["pretrain", *self.recipe(name, made)])

    def finetuning(self, name: str, task: dict[str, Any], columns: dict[str, str] | None = None, **over: Any) -> Case:
        """A case that fine-tunes the model that MLM made."""
        rows = [self.path("rows.jsonl")]
        labelled = {"train": rows, "validation": rows, "length": 16, "batch": 8, "columns": columns or {}}
        base = recipe(Path(OUTPUT), self.folder / "store", **{**OVER, **over})
        made = replaced(base, model={"init": str(self.model("mlm"))}, data=labelled, objective={}, task=task)
        return Case(name, ["finetune", *self.recipe(name, made)])

    def model(self, name: str) -> Path:
        """What a case made: mlm, clm, classification, pieces (MLM on the tokenizer `wordpiece`)."""
        return self._made(
            f"model-{name}",
            {
                "mlm": lambda: self.pretraining("model-mlm"),
                "clm": lambda: self.pretraining("model-clm", "clm"),
                "classification": lambda: self.finetuning("model-classification", {"classification": {}}),
                "pieces": lambda: self.pretraining(
                    "model-pieces", "mlm", data={"stores": [str(self._pieces())], "length": 16, "batch": 4}
                ),
            }[name],
        )

    def wordpiece(self) -> Path:
        """A tokenizer that splits words."""
        command = ["tokenizer", "train", self.path("letters.txt"), "--quiet", "--vocab_size", "40"]
        return self._made("wordpiece", lambda: Case("wordpiece", command))

    def _pieces(self) -> Path:
        command = ["prepare", self.path("letters.txt"), "--quiet", "--processes", "1", "--validation", "0.1"]
        return self._made("pieces", lambda: Case("pieces", [*command, "--tokenizer", str(self.wordpiece())]))

    def _made(self, name: str, make: Callable[[], Case]) -> Path:
        if name not in self._results:
            case, folder = make(), self.folder / name
            folder.mkdir()
            ended = case.run(self.zygote, folder)
            assert ended.code == 0, ended.err
            self._results[name] = folder / OUTPUT
        return self._results[name]

    def case(self, name: str) -> Case:
        """A case by its name."""
        if not self._cases:
            self._cases.update({case.name: case for case in (*self.training(), *self.others())})
        return self._cases[name]

    def calls(self, case: Case, operations: Sequence[str]) -> int:
        """How many such calls an undisturbed run makes; it is run once more for that, once in a session."""
        key = f"{case.name}-{'-'.join(operations)}"
        if key not in self._calls:
            folder = self.folder / f"calls-{key}"
            folder.mkdir()
            self._calls[key] = case.run(self.zygote, folder, Fault("count", operations=operations)).operations
        return self._calls[key]

    def whole(self, case: Case) -> tuple[dict[str, str], Ended]:
        """What an undisturbed run leaves, and how it ended; run once in a session."""
        if case.name not in self._whole:
            folder = self.folder / f"whole-{case.name}"
            folder.mkdir()
            ended = case.run(self.zygote, folder, Fault("count"))
            assert ended.code == 0, f"{case.name}: {ended.err}"
            self._whole[case.name] = snapshot(folder), ended
        return self._whole[case.name]

    def training(self) -> list[Case]:
        """Objectives, families, optimizers and tasks."""
        return [
            self.pretraining("mlm-nsp", **KEEP_BEST),
            self.pretraining("clm-accumulate", "clm", data={"batch": 4, "accumulate": 2}),
            self.pretraining("rtd", "rtd"),
            self.pretraining("plm", "plm"),
            self.pretraining("cert", "cert"),
            self.pretraining("simcse", "simcse"),
            self.pretraining("denoise", "denoise"),
            self.pretraining("span", "span"),
            self.pretraining("sop-muon", "sop", **KEEP_BEST, **MUON),
            self.finetuning("classification", {"classification": {}}, **KEEP_BEST),
            self.finetuning("similarity", {"similarity": {}}, columns={"second": "second", "label": "score"}),
            self.finetuning("frozen", {"classification": {}}, tune={"frozen": {}}, track={"report": True}),
        ]

    def others(self) -> list[Case]:
        """All other verbs that write."""
        rows, texts = ["--input", self.path("rows.jsonl")], ["--quiet", "--precision", "fp32"]
        mlm, clm, labels = str(self.model("mlm")), str(self.model("clm")), str(self.model("classification"))
        words = [self.path("corpus.txt"), "--quiet"]
        extend = ["tokenizer", "extend", self.path("domain.txt"), "--quiet", "--tokens", "4", "--min_count", "2"]
        return [
            Case("prepare", ["prepare", *words, "--tokenizer", self.path("tokenizer"), "--processes", "1"]),
            Case("tokenizer-wordpiece", ["tokenizer", "train", *words, "--vocab_size", "80"]),
            Case("tokenizer-bpe", ["tokenizer", "train", *words, "--kind", "bpe", "--vocab_size", "280"]),
            Case("tokenizer-unigram", ["tokenizer", "train", *words, "--kind", "unigram", "--vocab_size", "60"]),
            Case("extend-tokenizer", [*extend, "--model", str(self.wordpiece())]),
            Case("extend-model", [*extend, "--model", str(self.model("pieces"))]),
            Case("export", ["export", mlm, "--quiet"], flag="", script=HERE / "drill" / "exporter.py"),
            Case("embed", ["embed", mlm, *rows, *texts], ".npy"),
            Case("predict", ["predict", labels, *rows, *texts], ".jsonl"),
            Case("score", ["score", clm, *rows, "--quiet"], ".csv"),
            Case("generate", ["generate", clm, *rows, *texts, "--max-new-tokens", "2"], ".jsonl"),
            Case("augment", ["augment", self.path("rows.jsonl"), "--methods", "swap,deletion", "--quiet"], ".jsonl"),
        ]
