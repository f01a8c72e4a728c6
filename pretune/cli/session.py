"""Common flags of all verbs, logging to standard error, and how errors become messages and exit codes."""

from __future__ import annotations

import errno
import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Annotated, Literal, get_args

from cyclopts import App, CycloptsError, Group, Parameter

from pretune import __version__
from pretune.cli.help import finish_help
from pretune.cli.help_panels import COMMON, rewrite, wants_help
from pretune.cli.translated_help import TranslatedFormatter
from pretune.cli.usage_errors import refuse_misread, usage_error
from pretune.errors import (
    CannotCreateError,
    DataError,
    MissingInputError,
    PretuneError,
    StorageError,
    UsageError,
    first_line,
    is_panic,
    is_shortage,
)
from pretune.language import Language, use_language, wanted_language, without_language
from pretune.runtime.screen import Screen
from pretune.runtime.signals import Terminated, terminate_on_signal

INTERNAL, TEMPORARY, PIPE = 70, 75, 128 + signal.SIGPIPE
_TEMPORARY = (errno.ENOMEM, errno.EAGAIN, errno.EMFILE, errno.ENFILE)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG)


@dataclass(frozen=True)
class Session:
    """Flags of every verb.

    Attributes:
        device: auto, cpu, cuda, cuda:N or mps; auto uses a GPU if there is one.
        precision: dtype of matmuls; auto uses bf16 where the hardware has a unit for it. By default auto, of score and
            export fp32, and of a resumed run what it began with.
        threads: number of CPU threads; by default one per core.
        lang: language of what is printed: en or zh; by default that of the locale.
        quiet: print nothing but errors and results.
        verbose: show more of a run, such as the share of the GEMM peak and the time spent waiting for data.
        debug: show the traceback of an error.
        allocator: keep freed memory in the process and use huge pages: 1.15-1.25x faster steps on glibc.
    """

    device: str | None = None
    precision: Literal["auto", "bf16", "fp32"] | None = None
    threads: Annotated[int | None, Parameter(show_default=False)] = None
    lang: Annotated[Language | None, Parameter(show_default=False)] = None
    quiet: bool = False
    verbose: bool = False
    debug: bool = False
    allocator: Annotated[bool, Parameter(negative="--no-allocator")] = True

    def start(self, *loggers: str) -> None:
        """Sets what must be set before torch is loaded (threads, allocator, huge pages), and shows the library's log.

        Args:
            loggers: packages beside pretune whose log is shown as well.

        Raises:
            UsageError: no thread, or fewer.
        """
        for name in ("pretune", *loggers):
            log = logging.getLogger(name)
            log.handlers = [_StderrHandler()]
            log.setLevel(logging.ERROR if self.silent else logging.INFO)
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"--threads {self.threads}: expected 1 or more")
        if self.threads:
            for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS"):
                os.environ[name] = str(self.threads)
        if self.allocator:
            from pretune.runtime.allocator import HUGE_PAGES, tune_allocator

            os.environ.setdefault(*HUGE_PAGES)
            tune_allocator()

    @property
    def silent(self) -> bool:
        """Whether nothing is printed: on request, and on all ranks but the first."""
        return self.quiet or os.environ.get("RANK", "0") != "0"

    def say(self, text: str) -> None:
        """Prints a message to standard error; results go to standard output."""
        if not self.silent:
            Screen().line(text)

    def overrides(self) -> list[str]:
        """Returns these flags as fields of a recipe."""
        args = [] if self.device is None else ["--device", self.device]
        args += [] if self.precision is None else ["--precision", self.precision]
        args += [] if self.threads is None else ["--threads", str(self.threads)]
        args += ["--track.progress", "quiet"] if self.quiet else []
        return args + (["--track.verbose", "true"] if self.verbose else [])


class _StderrHandler(logging.Handler):
    """Prints what the library logs to the current standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        Screen().line(record.getMessage())


Common = Annotated[Session, Parameter(name="*", group=Group(COMMON, sort_key=100))]
Args = Annotated[str, Parameter(allow_leading_hyphen=True, show=False)]
"""Words and fields of a verb, which its usage line shows in place of a row of help."""
DEFAULT = Session()


def new_app(name: str, description: str = "") -> App:
    """A command line that leaves errors and exit codes to `run_app`."""
    return App(
        name=name,
        help=description or None,
        version=__version__,
        version_flags=["--version"],
        default_parameter=Parameter(negative=""),
        help_formatter=TranslatedFormatter(),
        group_commands=Group("Other verbs", sort_key=9),
        config=refuse_misread,
        result_action="return_value",
        suppress_keyboard_interrupt=False,
    )


def run_app(app: App, argv: Sequence[str] | None) -> int:
    """Runs a command line; returns the exit code.

    Args:
        argv: the arguments; by default those of this process.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    args = rewrite(without_language(words))

    def dispatch() -> int:
        _check_language(words)
        try:
            app(args, exit_on_error=False, print_error=False)
        except CycloptsError as error:
            raise usage_error(error) from None
        if wants_help(args):
            finish_help(app, args, _flags())
        return 0

    with use_language(wanted_language(words)):
        return guard(dispatch, debug="--debug" in args)


def _check_language(words: Sequence[str]) -> None:
    """Refuses an unknown language before the verb, which `without_language` leaves out; behind it cyclopts does.

    Raises:
        UsageError: such a language, or none.
    """
    flag, equals, value = (*words, "")[0].partition("=")
    value = value if equals else (*words[1:], "")[0]
    if flag == "--lang" and value not in get_args(Language):
        setting = f"--lang {value}".rstrip()
        raise UsageError(f"{setting}: expected en or zh")


def _flags() -> list[str]:
    """The flags of every verb."""
    return [f"--{'no-' if field.default is True else ''}{field.name}" for field in fields(Session)]


def guard(action: Callable[[], int], debug: bool) -> int:
    """Runs an action; any error becomes one message on standard error and an exit code."""
    with terminate_on_signal():
        try:
            code = action()
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the interpreter's last flush
            return PIPE
        except BaseException as error:
            if not isinstance(error, Exception | KeyboardInterrupt | Terminated) and not is_panic(error):
                raise
            if debug:
                traceback.print_exc()
            message, code = explain(error)
            Screen().line(f"pretune: {message}")
            return code


def explain(error: BaseException) -> tuple[str, int]:
    """Returns the message of an error and its exit code (sysexits, or 128 + a signal)."""
    if isinstance(error, PretuneError):
        return str(error), error.code
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 128 + signal.SIGINT
    if isinstance(error, Terminated):
        return f"terminated by {signal.Signals(error.number).name}", 128 + error.number
    if isinstance(error, OSError) and error.errno is not None:
        return _explain_os(error)
    if is_shortage(error):
        remedy = "lower the batch (data.batch, data.batch_tokens, --beams), or use a smaller model"
        return f"not enough memory ({first_line(error)}); {remedy}", TEMPORARY
    if is_panic(error):
        remedy = "a file or a text is damaged or hostile; get it again from its source, or leave it out"
        return f"a library failed within: {first_line(error)}; {remedy}", DataError.code
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return "the system starts no more threads; end other processes, or raise the limit (ulimit -u)", TEMPORARY
    hint = "this is a bug in pretune or in a file of yours; --debug shows the traceback"
    return f"{type(error).__name__}: {error} ({hint})", INTERNAL


def _explain_os(error: OSError) -> tuple[str, int]:
    where = f"{error.filename}: " if error.filename is not None else ""
    message = f"{where}{error.strerror}"
    if error.errno in _TEMPORARY:
        return f"{message}; end other processes or lower the batch, and run the same command again", TEMPORARY
    if error.errno in _FULL:
        return f"{message}; free some space and run the same command again", StorageError.code
    if isinstance(error, FileNotFoundError | IsADirectoryError | NotADirectoryError):
        return message, MissingInputError.code
    if isinstance(error, PermissionError | FileExistsError) or error.errno == errno.EROFS:
        return message, CannotCreateError.code
    return message, StorageError.code
