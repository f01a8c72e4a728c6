"""Fine-tunes a model on each set of a suite with several seeds, scores it, and goes on where a call stopped."""

from __future__ import annotations

import logging
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pretune.api import Model, finetune
from pretune.baselines.tfidf import fit_tfidf
from pretune.config import merge
from pretune.disk import make_folders
from pretune.errors import DataError
from pretune.find import find
from pretune.interop.huggingface import read_body
from pretune.interop.run_folder import check_is_model
from pretune.seals import read_facts
from pretune.suites.found import FoundSet, Split, find_sets
from pretune.suites.results import RunResult, SetResult, SuiteResult
from pretune.suites.suite import SuiteSet
from pretune.text.readers.labelled import Data
from pretune.text.readers.records import Record
from pretune.wording import counted

_BASELINE_WORK = 100_000  # labels times training records: with more, logistic regression takes minutes
_DATA_STATS = "data_stats.json"  # of a run
_log = logging.getLogger("pretune")


@dataclass(frozen=True)
class SuiteRuns:
    """The runs of a suite.

    Attributes:
        suite: its file in `suites/`.
        folder: where its sets are.
        model: folder of the model that is fine-tuned.
        output: folder of the results, `SUITE.json`, and of the runs.
        seeds: runs of each set.
        sets: names of those that are run; all by default.
        fields: of the recipe, over what `finetune` chooses.
        keeps_models: keep the runs' directories with the fine-tuned models.
    """

    suite: str
    folder: Path
    model: Path
    output: Path
    seeds: int = 3
    sets: Sequence[str] = ()
    fields: Mapping[str, Any] | None = None
    keeps_models: bool = False

    def run(self) -> SuiteResult:
        """All runs that are not done yet; what is done is in the file at once.

        Raises:
            MissingInputError: no model, no folder, or none of the sets in it.
            UsageError: a set that is not there, or results of another model at the same place.
            DataError: a damaged file.
        """
        check_is_model(self.model, "--model")
        sets: Sequence[SuiteSet] = find("suites", self.suite).SETS
        present = find_sets(self.folder, sets, self.sets)
        result, path = (
            SuiteResult(self.suite, str(self.model), dict(self.fields or {})),
            self.output / f"{self.suite}.json",
        )
        make_folders(self.output)
        if path.exists():
            before = SuiteResult.read(path)
            result.check(before, path)
            result = before
        positions = read_body(self.model, {}).max_length
        for number, each in enumerate(present, 1):
            chosen = result.sets.get(each.name) or SetResult(each.suite_set.task, each.suite_set.metric)
            for seed in range(self.seeds):
                if str(seed) not in chosen.runs:
                    _log.info("%s (%d of %d), seed %d", each.name, number, len(present), seed)
                    chosen.runs[str(seed)] = self._run(each, seed, chosen, positions)
                    result.sets[each.name] = chosen
                    result.write(path)
        return result

    def _run(self, found: FoundSet, seed: int, result: SetResult, positions: int | None) -> RunResult:
        """Fine-tunes with one seed and scores the test texts."""
        begin, suite_set, split = time.perf_counter(), found.suite_set, found.split(seed)
        train, test = (_read(suite_set, files) for files in (split.train, split.test))
        if not result.baselines and suite_set.read is not None and suite_set.task == "classification":
            result.baselines.update(_baselines(_records(train), _records(test)))
        output = self.output / f"{found.name.replace('/', '-')}-{seed}"
        model = self._finetune(suite_set, split, train, seed, output, positions)
        evaluation = model.evaluate(test, columns=dict(suite_set.columns))
        scores = {name: value for name, value in evaluation.items() if "/" not in name}
        if "chance" in scores:
            result.baselines.setdefault("chance", scores.pop("chance"))
        if suite_set.metric not in scores:
            raise DataError(f"{found.name}: {suite_set.task} gives no score {suite_set.metric!r}; this is a bug")
        minutes = (time.perf_counter() - begin) / 60
        score = f"{suite_set.metric} {scores[suite_set.metric]:.4f}"
        _log.info("%s, seed %d: %s", found.name, seed, score)
        trained = read_facts(output / _DATA_STATS)["train"]["examples"]
        if not self.keeps_models:
            shutil.rmtree(output)
        return RunResult(scores, round(minutes, 3), trained, len(evaluation.examples))

    def _finetune(
        self, suite_set: SuiteSet, split: Split, train: Data, seed: int, output: Path, positions: int | None
    ) -> Model:
        tree: dict[str, Any] = {
            "model": {"init": str(self.model)},
            "task": {suite_set.task: {}},
            "data": {
                "columns": dict(suite_set.columns),
                "length": min(suite_set.length, positions or suite_set.length),
            },
            "track": {"progress": "quiet", "report": False},
            "output": str(output),
            "seed": seed,
        }
        validation = _read(suite_set, split.validation) if split.validation else None
        return finetune(merge(tree, dict(self.fields or {})), train, validation)


def _read(suite_set: SuiteSet, files: Sequence[Path]) -> Data:
    """Records of files, or the files themselves where a reader reads them.

    Raises:
        DataError: a file is damaged, or no record has a gold label.
    """
    if suite_set.read is None:
        return [str(file) for file in files]
    everything = [record for file in files for record in suite_set.read(file)]
    records = [record for record in everything if record.get("label", "") != suite_set.no_label]
    if left_out := len(everything) - len(records):
        _log.info("left out, without a gold label: %d of %s", left_out, counted(len(everything), "record"))
    if not records:
        raise DataError(f"{files[0]}: no record has a gold label; name a folder with labelled files")
    return records


def _records(data: Data) -> list[Record]:
    """What `_read` gave of files that it reads itself."""
    return [record for record in data if isinstance(record, Record)] if isinstance(data, Iterable) else []


def _baselines(train: Sequence[Record], test: Sequence[Record]) -> dict[str, float]:
    """The accuracy of the commonest label and, where it is a matter of seconds, of logistic regression on TF-IDF."""
    labels = [str(record["label"]) for record in train]
    gold = [str(record["label"]) for record in test]
    commonest = Counter(labels).most_common(1)[0][0]
    scores = {"majority": sum(label == commonest for label in gold) / len(gold)}
    if len(set(labels)) > 1 and len(set(labels)) * len(labels) <= _BASELINE_WORK:
        seconds = [[str(r["second"]) for r in part] if "second" in part[0] else None for part in (train, test)]
        fitted = fit_tfidf([str(record["text"]) for record in train], labels, seconds[0])
        chosen = fitted.probabilities([str(record["text"]) for record in test], seconds[1]).argmax(axis=1)
        scores["tf-idf"] = sum(fitted.labels[n] == label for n, label in zip(chosen.tolist(), gold, strict=True)) / len(
            gold
        )
    return scores
