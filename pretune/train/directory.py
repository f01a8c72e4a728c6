"""Manages the directory of a run: one owner at a time, the recipe, how it was made, the finished model.

recipe.toml            the resolved recipe
run.json               versions, machine, fingerprints of the data, what changed on the way, how it ended
validation.json        what a finished classifier answers on its validation data (report/validation.py)
metrics.jsonl          one line for every few steps and every evaluation
data_stats.json           documents and tokens in, used, cut ...
initial/               the model before the first step, on which checkpoints are read (interop/run_folder.py)
checkpoint-<step>/     see checkpoint/
config.json, model.safetensors, tokenizer.json ...   the finished model
"""

from __future__ import annotations

import logging
import os
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any, Self

from pretune.config import to_toml
from pretune.config.field_names import matches
from pretune.disk import make_folders, remove_empty, replace_file, storage_errors
from pretune.errors import CannotCreateError, DataError, PretuneError, UsageError, first_line
from pretune.find import source_digests
from pretune.interop.run_names import FACTS, GROWING, RECIPE
from pretune.new_folder import contents, sweep, try_saving
from pretune.seals import SEAL, check_text, read_facts, seal_files, sealed_bytes, sealed_json, unseal_files
from pretune.train.budget import Spent
from pretune.train.checkpoint.store import CheckpointStore
from pretune.train.ownership import LOCK, Ownership
from pretune.train.recipe import Recipe, own_names, plain, read_recorded
from pretune.train.recipe_changes import compare
from pretune.wording import counted

DATA_STATS = "data_stats.json"
_log = logging.getLogger(__name__)
_OLDER = re.compile(r"\.(recipe\.toml|run\.json|account\.json|data_stats\.json|samples\.json|report\.html)\.\d+")
"""What killed processes of older versions left in a run directory."""

# What is still obeyed once the last step is done; with another value of anything else, the recipe would state what was
# not done.
_OBEYED_AT_THE_END = (
    "output",
    "resume",
    "data.verify",
    "data.stores",
    "data.tokenizer",
    "data.train",
    "data.validation",
    "evaluation.keep",
    "track",
)


class RunDirectory:
    """A run directory that this process owns until it is closed.

    Args:
        path: created where it does not exist.
        resume: a run that is there may go on.

    Attributes:
        notes: what its file system cannot do.
        has_finished: the run is there, and nothing is left to train of the recipe that it is to go on with: the
            checkpoint of its last step is there and intact, and the budget is used up.

    Raises:
        CannotCreateError: another process trains there, it holds something else than a run, it cannot be made or
            nothing saved in it, or it holds a run and `resume` is off.
        StorageError: the disk is full or fails.
    """

    def __init__(self, path: Path, resume: bool = True) -> None:
        self.path, self.notes = path, list[str]()
        self._written: dict[str, bytes] = {}
        self._is_running = False
        try:
            self._new = make_folders(Path(os.path.realpath(path)))
            foreign = [entry.name for entry in contents(path) if not entry.name.startswith(".")]
        except OSError as error:
            raise CannotCreateError(f"{path}: cannot make the run directory: {error.strerror}") from None
        self.begun = RECIPE in foreign
        self.has_finished = False
        if foreign and not self.begun:
            raise CannotCreateError(
                f"{path}: holds {sorted(foreign)[0]!r} but no run; give an empty or new directory as --output"
            )
        if self.begun and not resume:
            raise CannotCreateError(f"{path}: holds a run already; give another --output, or leave --no-resume out")
        self._owner: Ownership | None = Ownership(path, _log.info)
        self.checkpoints = CheckpointStore(path, keep=self.keep)
        try:
            self.checkpoints.remove_incomplete()
            _sweep(path)
            self.notes += try_saving(path)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the directory up; one that was made for this and in which nothing was begun is removed."""
        if self._owner is None:
            return
        if not (self.path / RECIPE).exists():
            (self.path / LOCK).unlink(missing_ok=True)
            remove_empty(self._new)
        self._owner.release()
        self._owner = None

    def keep(self) -> str | None:
        """Look whether the directory is still there and this process's, before something is saved in it.

        Returns:
            What to say of a directory, or of its lock, that was removed and is made again.

        Raises:
            CannotCreateError: another process took it, or it cannot be made again.
            StorageError: the disk is full or fails.
        """
        if self._owner is None:
            return None
        if self._owner.is_there or (self.path / LOCK).exists():
            self._owner.check()
            return None
        lock_alone = (self.path / RECIPE).exists()
        with storage_errors(self.path, "make the run directory again, which was removed while training"):
            make_folders(Path(os.path.realpath(self.path)))
        again = Ownership(self.path, _log.info)
        self._owner.release()
        self._owner = again
        if lock_alone:
            return (
                f"warning: {self.path / LOCK} was removed while training; it is made again. It keeps a second process "
                "out of this directory: leave it there"
            )
        for name, content in self._written.items():
            replace_file(self.path / name, content)
        self.checkpoints.verified.clear()
        return (
            f"warning: {self.path} was removed while training; it is made again, and training continues. Earlier "
            "checkpoints are lost"
        )

    def resolve_recipe(self, recipe: Recipe) -> Recipe:
        """The recipe with what the run decided before: precision and threads.

        Raises:
            UsageError: the run in this directory has another recipe, or it has finished and nothing would be trained
                with what changed; the fields are named.
            CannotCreateError: it is to go on, or to end once more, and its checkpoints are gone.
        """
        if not self.begun:
            return recipe
        began = self._recorded_recipe()
        kept: dict[str, Any] = {}
        if recipe.precision == "auto":
            kept["precision"] = began.precision
        if recipe.threads is None:
            kept["threads"] = began.threads
        resolved = recipe.model_copy(update=kept)
        self._refuse_untrained(resolved, compare(plain(began), plain(resolved)))
        return resolved

    def _refuse_untrained(self, recipe: Recipe, changes: list[str]) -> None:
        """Refuse to put into the recipe of a finished run what was not done."""
        finished = self.facts().get("finished")
        if not finished:
            return
        if not self.checkpoints.steps():
            raise CannotCreateError(
                f"{self.path}: this run has finished, and its checkpoints are gone, so it cannot be resumed; its model "
                "is there as it was; give another --output to train again"
            )
        spent = Spent(*(finished[name] for name in ("steps", "tokens", "epochs", "seconds")))
        patience = recipe.evaluation.patience
        out_of_patience = patience is not None and finished.get("stale_evaluations", 0) >= patience
        if not (out_of_patience or recipe.budget.done(spent)):
            return
        newest, _ = self.checkpoints.newest()  # an older one is gone on from, and what comes after it trained again
        self.has_finished = newest == self.checkpoints.path(finished["steps"])
        untrained = [change for change in changes if not matches(change.partition(":")[0], _OBEYED_AT_THE_END)]
        if self.has_finished and untrained:
            raise UsageError(
                f"{self.path}: this run has finished ({counted(finished['steps'], 'step')}), and nothing would be "
                f"trained with what changed: {'; '.join(untrained)}. Raise the budget to train on with it, put the old "
                "values back, or give another --output"
            )

    def begin(self, recipe: Recipe, facts: Mapping[str, Any]) -> list[str]:
        """Write recipe and facts.

        Args:
            facts: `data` among them holds fingerprints, by field of the recipe, that must not change.

        Returns:
            what changed in the recipe since the last time, a line each.

        Raises:
            UsageError: the recipe changed in a field that makes it another run.
            DataError: data changed since the run began, or nothing says what they were.
        """
        known = self.facts()
        code = source_digests(own_names(recipe))
        changes: list[str] = []
        if self.begun:
            changes = compare(plain(self._recorded_recipe()), plain(recipe))
            if known:
                _same_data(known.get("data", {}), facts.get("data", {}))
                changes += _changed_code(known.get("code", {}), code)
            elif self.checkpoints.steps():  # else it was killed before it wrote its facts
                raise DataError(
                    f"{self.path / FACTS}: the file is missing, and nothing else says on which data this run began; "
                    "bring it back, or give another --output"
                )
        now = datetime.now(UTC).isoformat(timespec="seconds")
        step = next(iter(self.checkpoints.steps()), 0)
        history = [*known.get("history", []), {"time": now, "step": step, "changes": changes}]
        if not self.has_finished and (finished := known.pop("finished", None)):
            known["finished_before"] = finished  # the model that is there until this run ends
        known.pop("failed", None)
        text = _comments(history) + to_toml(recipe)
        unseal_files(self.path, GROWING)
        self._replace(RECIPE, sealed_bytes(text.encode()))  # first: it makes the directory a run
        self.begun = True
        self.write(
            FACTS,
            {**known, **environment(), **facts, "code": code, "began": known.get("began", now), "history": history},
        )
        self._is_running = True
        return changes

    def record_failure(self, error: Exception) -> None:
        """Write why a run that began has failed, if its directory can still be written; the error itself goes on."""
        if not self._is_running or self._owner is None or not self._owner.is_there:
            return
        failed = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "reason": first_line(error)}
        with suppress(PretuneError, OSError):
            self._owner.check()
            self.write(FACTS, {**self.facts(), "failed": failed})

    def record_warnings(self, warnings: Sequence[str]) -> None:
        """Write what the run has warned of, beside what it warned of before."""
        facts = self.facts()
        known = facts.get("warnings", [])
        if new := [warning for warning in dict.fromkeys(warnings) if warning not in known]:
            self.write(FACTS, {**facts, "warnings": [*known, *new]})

    def facts(self) -> dict[str, Any]:
        """What `run.json` says; nothing before the run began."""
        try:
            return read_facts(self.path / FACTS)
        except FileNotFoundError:
            return {}

    def _recorded_recipe(self) -> Recipe:
        """The recipe that the run recorded.

        Raises:
            DataError: it was changed since.
        """
        check_text(self.path / RECIPE)
        return read_recorded(self.path / RECIPE)

    def write(self, name: str, tree: Mapping[str, Any]) -> None:
        """Write a JSON file in one move."""
        self._replace(name, sealed_json(tree))

    def _replace(self, name: str, content: bytes) -> None:
        replace_file(self.path / name, content)
        self._written[name] = content

    def finish(self, facts: Mapping[str, Any], data_stats: Mapping[str, Any]) -> None:
        """Write how the run ended."""
        self.write(DATA_STATS, data_stats)
        self.write(FACTS, {**self.facts(), "finished": dict(facts)})
        if (self.path / SEAL).is_file():
            seal_files(self.path, GROWING)


def _sweep(path: Path) -> None:
    """Clear away what killed processes left in a run directory and, of older versions, beside it."""
    sweep(path)
    real = Path(os.path.realpath(path))
    for entry in real.iterdir():
        if _OLDER.fullmatch(entry.name):
            entry.unlink()
    with suppress(OSError):
        copy = re.compile(rf"\.{re.escape(real.name)}\.[0-9a-f]{{12}}\.partial")
        for entry in real.parent.iterdir():
            if copy.fullmatch(entry.name) and not entry.is_symlink():
                shutil.rmtree(entry)


@cache
def _version(package: str) -> str:
    """The version of an installed package, whose metadata takes a millisecond to read."""
    return metadata.version(package)


def environment() -> dict[str, Any]:
    """Versions and machine, for the record. No process is started: it would inherit the lock until it runs."""
    return {
        "pretune": _version("pretune"),
        "versions": {name: _version(name) for name in ("torch", "numpy", "tokenizers", "safetensors")},
        "python": platform.python_version(),
        "git": _git(Path.cwd()),
        "machine": {
            "system": f"{platform.system()} {platform.release()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        },
    }


def _git(directory: Path) -> str | None:
    """The commit of the repository around a directory, if there is one."""
    folder = next((parent / ".git" for parent in (directory, *directory.parents) if (parent / ".git").is_dir()), None)
    if folder is None:
        return None
    try:
        head = (folder / "HEAD").read_text().strip()
        name = head.removeprefix("ref: ")
        if name == head:
            return head
        if (folder / name).is_file():
            return (folder / name).read_text().strip()
        packed = (line.split() for line in (folder / "packed-refs").read_text().splitlines())
        return next((words[0] for words in packed if words[-1:] == [name]), None)
    except OSError:
        return None


def _processor() -> str:
    """Name of the CPU, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _comments(history: list[dict[str, Any]]) -> str:
    """What the recipe did not say from the first step on, as comments of its file."""
    lines = [f"# from step {each.get('step', 0)} on, {change}\n" for each in history for change in each["changes"]]
    return "".join(lines)


def _changed_code(began: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """Which of the user's own files changed, a line each; one that moved has another name in the recipe too."""
    both = sorted(began.keys() & now.keys())
    return [f"{name}: {began[name][:12]} -> {now[name][:12]}" for name in both if began[name] != now[name]]


def _same_data(began: Mapping[str, str], now: Mapping[str, str]) -> None:
    for name in sorted({*began, *now}):
        if began.get(name) != now.get(name):
            raise DataError(
                f"{name}: the data changed since this run began (fingerprint {str(began.get(name))[:12]} -> "
                f"{str(now.get(name))[:12]}); bring the old data back, or give another --output"
            )
