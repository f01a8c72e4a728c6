"""Pretrain by each objective for the same time, then judge what the weights are worth.

    corpora -> documents -> tokenizer, store -> minutes of each trial -> weights -> linear probe, fine-tuning -> results

Everything stands in a folder and is made once, so that a comparison goes on where it was stopped; only a trial that was
being pretrained begins again, and scores count for the weights that they were made of alone. Scores are accuracies on
the test file, 2000 texts at most; each seed draws another part of the training file, of 1000 at most. The probe is a
logistic regression on the mean of the last layer's rows, of a pair on both means, their difference and their product.
Fine-tuning is three epochs over all weights.
"""

from __future__ import annotations

import csv
import json
import logging
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import tomli_w
from numpy.typing import NDArray

from benchmarks.measurements import machine, rounded, today, write
from benchmarks.quality.trials import COMMON, Labels, Language, Trial
from benchmarks.texts import text_file
from pretune.api import Model, finetune, load
from pretune.config import merge
from pretune.draw import Draw, Permutation
from pretune.errors import BenchError
from pretune.text.readers.corpus import CorpusConfig, read_corpus
from pretune.text.readers.labelled import LabelledConfig, LabelledText, read_labelled
from pretune.text.store.prepare import PrepareConfig, prepare
from pretune.text.tokenizer.tokenizer import Tokenizer
from pretune.text.tokenizer.train import TokenizerConfig, train_tokenizer

log = logging.getLogger(__name__)
_PARAGRAPHS = 20  # of a document
_EXAMPLES = 1000
_HELD_OUT = 2000
_TOLD = ("objective", "model", "data", "optimizer", "schedule", "budget")  # of a recipe, in the results
FINE_TUNING: Mapping[str, Any] = {
    "task": {"classification": {}},
    "data": {"batch": 32},
    "optimizer": {"lr": 2e-4},
    "schedule": {"kind": "linear", "warmup": 0.1},
    "budget": {"epochs": 3},
    "evaluation": {"samples": 0, "keep": "last"},
    "checkpoint": {"best": False, "keep": 1},
    "track": {"report": False, "progress": "quiet"},
}


@dataclass(frozen=True)
class Comparison:
    """What is compared, and where.

    Attributes:
        folder: of everything that is made on the way.
        results: the file of the scores.
        minutes: of each trial.
        seeds: of each score.
        precision: dtype of matmuls in every run.
    """

    folder: Path
    results: Path
    minutes: float
    seeds: int
    precision: Literal["bf16", "fp32"]

    def run(self, languages: Sequence[Language], trials: Sequence[Trial]) -> Path:
        """Pretrain every trial that was not, then score every one that was not, set after set.

        Raises:
            BenchError: texts are missing, or a run failed.
        """
        chosen = [(language, trial) for language in languages for trial in trials]
        for language, trial in chosen:
            self.pretrain(language, trial)
        for language in languages:
            for labels in language.sets:  # the outer loop, so that what was stopped has whole columns
                for trial in trials:
                    self._judge(language, trial, labels)
        return self.results

    def _judge(self, language: Language, trial: Trial, labels: Labels) -> None:
        """Record the scores of a trial on a set, if not all seeds of both kinds are known of these weights."""
        trained = self._trained(language, trial)
        known = self._known().get(language.name, {}).get(trial.name, {})
        sets = known.get("sets", {}) if known.get("stages") == trained["stages"] else {}
        known = sets.get(labels.name, {"probe": ()})
        if any(len(scores) < self.seeds for scores in known.values()):
            log.info(f"{language.name}/{trial.name}: {labels.name}")
            scores = self.score(language, trial, labels)
            log.info(f"  {scores}")
            self._record(language, trial, {**trained, "sets": {**sets, labels.name: scores}})

    def pretrain(self, language: Language, trial: Trial) -> None:
        """The stages of a trial, each by `pretune pretrain` in a process of its own."""
        folder = self.folder / language.name
        store = prepare_language(language, folder)
        before: Path | None = None
        for number, stage in enumerate(trial.stages):
            output = self._place(language, trial, number)
            recipe = merge(merge(dict(COMMON), {"model": trial.model}), stage.recipe)
            if before is not None:  # it brings its own family and size
                kept = {name: value for name, value in recipe["model"].items() if name == "dropout"}
                recipe["model"] = {**kept, "init": str(before)}
            place = {"output": str(output), "precision": self.precision, "data": {"stores": [str(store)]}}
            time = {"budget": {"minutes": self.minutes * stage.fraction}}
            log.info(f"{language.name}/{trial.name}: {self.minutes * stage.fraction:g} minutes -> {output}")
            pretrain_in_process(merge(recipe, merge(place, time)))
            before = output

    def _place(self, language: Language, trial: Trial, stage: int) -> Path:
        return self.folder / language.name / "runs" / f"{trial.name}-{self.minutes:g}-{stage}"

    def _trained(self, language: Language, trial: Trial) -> dict[str, Any]:
        """What the stages of a trial read in their time, and by which recipe, as the file of results has it."""
        stages = [read_run(self._place(language, trial, number)) for number in range(len(trial.stages))]
        tree: dict[str, Any] = rounded({"label": trial.label, "stages": stages})
        return tree

    def score(self, language: Language, trial: Trial, labels: Labels) -> dict[str, list[float]]:
        """Accuracies of a probe and of fine-tuning on a set, one for each seed."""
        place = self._place(language, trial, len(trial.stages) - 1) if trial.stages else None
        base = place or self._fresh(language, trial)
        model = load(base, precision=self.precision)
        train, test = _examples(labels, labels.train), _examples(labels, labels.test)[:_HELD_OUT]
        parts = [_shuffled(train, Draw(seed).at("part"))[:_EXAMPLES] for seed in range(self.seeds)]
        return {
            "probe": probes(model, parts, test),
            "fine-tuning": [self._fine_tune(base, part, test, seed) for seed, part in enumerate(parts)],
        }

    def _fresh(self, language: Language, trial: Trial) -> Path:
        """A model that has learned nothing."""
        from pretune.interop.huggingface import save_model
        from pretune.models import build

        place = self.folder / language.name / "runs" / trial.name
        if not (place / "config.json").is_file():
            tokenizer = Tokenizer.load(self.folder / language.name / "tokenizer")
            model = merge(dict(COMMON["model"]), trial.model)
            shape = {**model.get("overrides", {}), "vocab_size": tokenizer.vocabulary.size}
            save_model(build(model["family"], model["size"], [], shape), place, tokenizer)
        return place

    def _fine_tune(self, base: Path, train: list[LabelledText], test: list[LabelledText], seed: int) -> float:
        pair = train[0].second is not None
        columns = {"second": "second"} if pair else {}
        with TemporaryDirectory(prefix="fine-tuning-", dir=self.folder) as name:  # so that two may score at once
            folder = Path(name)
            files = [_write(folder / f"{part}.csv", rows) for part, rows in (("train", train), ("test", test))]
            changes = {
                "output": str(folder / "run"),
                "seed": seed,
                "precision": self.precision,
                "model": {"init": str(base)},
                "data": {"train": [str(files[0])], "columns": columns, "holdout": 0.0},
            }
            model = finetune(merge(dict(FINE_TUNING), changes))
            return model.evaluate(files[1], columns=LabelledConfig(**columns))["accuracy"]

    def _known(self) -> dict[str, Any]:
        if not self.results.is_file():
            return {}
        tree = json.loads(self.results.read_text(encoding="utf-8"))
        if (tree["machine"], tree["minutes"], tree["precision"]) != (machine(), self.minutes, self.precision):
            raise BenchError(
                f"{self.results} is of another machine, of other minutes or precision; give another --output"
            )
        languages: dict[str, Any] = tree["languages"]
        return languages

    def _record(self, language: Language, trial: Trial, result: Mapping[str, Any]) -> None:
        known = self._known()
        known[language.name] = {**known.get(language.name, {}), trial.name: result}
        tree = {
            "benchmark": "objectives",
            "machine": machine(),
            "minutes": self.minutes,
            "seeds": self.seeds,
            "precision": self.precision,
        }
        write(self.results, {**tree, "date": today(), "languages": known})


def pretrain_in_process(recipe: Mapping[str, Any]) -> None:
    """`pretune pretrain` in a process of its own; a finished run is kept, what is left of another is thrown away.

    Raises:
        BenchError: it failed, and its log stands beside its folder; or the finished run is of another recipe.
    """
    output = Path(recipe["output"])
    path = output.with_name(f"{output.name}.toml")
    if (output / "config.json").is_file():
        if _ran(output) != recipe:
            raise BenchError(f"{output} was made by another recipe, {path}; remove it, or give another --folder")
        return
    shutil.rmtree(output, ignore_errors=True)
    output.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps(recipe), encoding="utf-8")
    with output.with_name(f"{output.name}.log").open("w", encoding="utf-8") as file:
        words = [sys.executable, "-m", "pretune", "pretrain", str(path)]
        done = subprocess.run(words, stdout=file, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise BenchError(f"{' '.join(words)} failed with {done.returncode}; see {file.name}")


def read_run(output: Path) -> dict[str, Any]:
    """What a finished run read, its last loss, and its recipe without the places of this machine."""
    last = json.loads((output / "metrics.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    recipe = _ran(output)
    recipe["model"].pop("init", None)
    recipe["data"].pop("stores")
    figures = {name: last[name] for name in ("step", "tokens", "loss") if name in last}
    return {**figures, "recipe": {name: recipe[name] for name in _TOLD}}


def _ran(output: Path) -> dict[str, Any]:
    """The recipe that made a run's folder; it stands beside it."""
    return tomllib.loads(output.with_name(f"{output.name}.toml").read_text(encoding="utf-8"))


def prepare_language(language: Language, folder: Path) -> Path:
    """Documents of a few paragraphs, a tokenizer and a store of them; what is there is kept."""
    documents, words, store = folder / "documents.jsonl", folder / "tokenizer", folder / "store"
    if not (store / "manifest.json").is_file():
        paths = [text_file(name) for name in language.corpora]
        folder.mkdir(parents=True, exist_ok=True)
        with documents.open("w", encoding="utf-8") as file:
            for text in _documents(paths):
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        config = TokenizerConfig(kind="wordpiece", vocab_size=language.vocabulary)
        tokenizer = train_tokenizer((document.text for document in read_corpus(documents)), config)
        tokenizer.save(words)
        prepare(documents, tokenizer, store, PrepareConfig(segmenter=language.segmenter, overwrite=True))
    return store


def _documents(paths: Sequence[Path]) -> Iterator[str]:
    for path in paths:
        lines = [d.text.strip() for d in read_corpus(path, CorpusConfig(documents="line", on_error="skip"))]
        for start in range(0, len(lines), _PARAGRAPHS):
            yield "\n".join(lines[start : start + _PARAGRAPHS])


def probes(model: Model, parts: Sequence[list[LabelledText]], test: list[LabelledText]) -> list[float]:
    """Accuracies of a logistic regression on a model's vectors, for each part of the training texts."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    vectors, truth = _features(model, test), [example.label for example in test]
    out = []
    for part in parts:
        judge = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        judge.fit(_features(model, part), [example.label for example in part])
        out.append(float(judge.score(vectors, truth)))
    return out


def _features(model: Model, examples: list[LabelledText]) -> NDArray[np.float32]:
    """Shape: (n, width) of texts, (n, 4 width) of pairs."""
    first = model.embed([example.text for example in examples])
    if examples[0].second is None:
        return first
    second = model.embed([example.second or "" for example in examples])
    return np.concatenate([first, second, np.abs(first - second), first * second], axis=1)


def _examples(labels: Labels, name: str) -> list[LabelledText]:
    """A file's examples in an order by key, without those that have no agreed label."""
    examples = [e for e in read_labelled(text_file(name), LabelledConfig(**labels.columns)) if e.label != "-"]
    return _shuffled(examples, Draw(0).at("order", name))


def _shuffled(examples: list[LabelledText], draw: Draw) -> list[LabelledText]:
    return [examples[n] for n in Permutation(len(examples), draw)(np.arange(len(examples)))]


def _write(path: Path, examples: list[LabelledText]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "second", "label"))
        writer.writerows((example.text, example.second or "", example.label) for example in examples)
    return path
