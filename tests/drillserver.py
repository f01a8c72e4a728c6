"""A process that has imported torch and all of pretune, and forks a child for each verb that it is asked to run.

Started by `drillkit.Zygote`; reads a line of JSON for each run from standard input, writes `[number, pid]` when its
child has begun and `[number, status, peak bytes, seconds]` when it has ended.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import json
import os
import pkgutil
import runpy
import selectors
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import torch

import pretune
from pretune.cli import main

Request = dict[str, Any]


def import_everything() -> None:
    """Every module of the package, so that no child pays for an import."""
    for module in pkgutil.walk_packages(pretune.__path__, "pretune."):
        if not module.name.endswith(("__main__", "._kernels")):  # the kernels are no module of Python
            importlib.import_module(module.name)
    torch.set_num_threads(1)
    weight = torch.ones(4, 4, requires_grad=True)
    weight.exp().sum().backward()
    torch.optim.AdamW([weight], fused=True).step()  # imports the compiler


def arm(fault: Request) -> None:
    """Set the failpoint of this process."""
    library = ctypes.CDLL(None)
    library.failpoints_arm(
        *(fault["folders"].encode(), fault["operations"], ctypes.c_long(fault["at"]), fault["action"], fault["value"]),
        *(int(fault["sticky"]), fault["journal"].encode()),
    )


def run(request: Request) -> int:
    """Run a verb, or a Python file, in this process."""
    os.setpgid(0, 0)
    for handle, path in ((0, os.devnull), (1, request["out"]), (2, request["err"])):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), handle)
    sys.stdout, sys.stderr = (
        io.TextIOWrapper(io.FileIO(1, "w")),
        io.TextIOWrapper(io.FileIO(2, "w"), write_through=True),
    )
    os.chdir(request["folder"])
    os.environ.update(request["environment"])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [request.get("script") or "pretune", *request["arguments"]]
    if request["fault"]:
        arm(request["fault"])
    if request.get("script"):
        runpy.run_path(request["script"], run_name="__main__")
        return 0
    return main(request["arguments"])


def child(request: Request) -> None:
    """Run the request; never returns."""
    code = 1
    try:
        code = run(request)
        sys.stdout.flush()
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        if request["fault"]:
            library = ctypes.CDLL(None)
            library.failpoints_count.restype = ctypes.c_long
            operations = library.failpoints_count()
            library.failpoints_arm(b"", 0, ctypes.c_long(0), 0, 0, 0, b"")
            Path(request["out"] + ".count").write_text(str(operations))
        os._exit(code)


def serve() -> None:
    """Answer requests until standard input ends; what still runs then is killed."""
    waiting = selectors.DefaultSelector()
    waiting.register(0, selectors.EVENT_READ)
    pending, begins = b"", {}
    while True:
        for key, _ in waiting.select():
            if key.data is not None:
                number, pid = key.data
                _, status, usage = os.wait4(pid, 0)
                waiting.unregister(key.fd)
                os.close(key.fd)
                answer([number, os.waitstatus_to_exitcode(status), usage.ru_maxrss << 10, time.time() - begins[number]])
                continue
            more = os.read(0, 1 << 16)
            if not more:
                for other in [k for k in waiting.get_map().values() if k.data is not None]:
                    os.kill(other.data[1], signal.SIGKILL)
                return
            *lines, pending = (pending + more).split(b"\n")
            for line in lines:
                request = json.loads(line)
                begins[request["number"]] = time.time()
                pid = os.fork()
                if pid == 0:
                    child(request)
                with contextlib.suppress(OSError):  # it may have done so itself, and have ended
                    os.setpgid(pid, pid)
                waiting.register(os.pidfd_open(pid), selectors.EVENT_READ, (request["number"], pid))
                answer([request["number"], pid])


def answer(values: list[float]) -> None:
    """Write a line."""
    os.write(1, json.dumps(values).encode() + b"\n")


if __name__ == "__main__":
    import_everything()
    serve()
