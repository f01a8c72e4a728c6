"""The verb that compares what pretune wrote with its digests: verify."""

from __future__ import annotations

import shlex
from pathlib import Path

from pretune.cli.session import DEFAULT, Common
from pretune.errors import DataError
from pretune.language import translate
from pretune.wording import counted, listed

_LISTED = 8


def verify(path: Path, /, *, accept: bool = False, session: Common = DEFAULT) -> None:
    """Compare every file of a run, a model, a store, a tokenizer or a checkpoint with its digest.

    Prints a line for each damaged file, and says what has no digest, as files of others have none. Every verb does the
    same with the files that it uses.

    Args:
        path: a folder, with all below it, or a file.
        accept: files of models, tokenizers and runs that were edited on purpose are from now on what they shall be.
    """
    from pretune.interop import verify as verifying

    session.say(f"verifying {path}")
    if accept:
        changed = verifying.accept(path)
        print("".join(translate(f"accepted: {file}\n") for file in changed), end="")
        session.say(f"accepted as they are now: {counted(len(changed), 'file')}")
        return
    good, damaged = 0, 0
    unknown: list[str] = []
    for each in verifying.verify(path):
        if each.problem is not None:
            damaged += 1
            print(translate(f"damaged: {each.path}: {each.problem}"), flush=True)
        elif each.by:
            good += 1
        else:
            unknown.append(str(each.path))
    session.say(f"as they were written: {counted(good, 'file or checkpoint', 'files and checkpoints')}")
    if unknown:
        session.say(f"without a digest: {counted(len(unknown), 'file')} ({listed(unknown, _LISTED)})")
    if damaged:
        raise DataError(
            f"{path}: {damaged} damaged; bring them back from a copy; a model, tokenizer or recipe that was edited on "
            f"purpose is accepted by: pretune verify --accept {shlex.quote(str(path))}"
        )
