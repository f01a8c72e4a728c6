#!/usr/bin/env bash
# Another Python thread that has computed once, and sleeps, changes how torch's threads wait for as long as it lives.
#
# Guess, written first: after an operator torch's OpenMP threads spin for some milliseconds before they sleep; that is
# settled when libgomp is loaded (GOMP_SPINCOUNT, OMP_WAIT_POLICY), and a thread that does nothing changes nothing.
# Seen with torch 2.13.0 (the CPU wheel of Linux, which brings libgomp): they spin 300,000 times, but only 100 times while
# libgomp manages more threads than there are CPUs, and every Python thread that ever computed keeps a team of its own.
# So one sleeping thread ends the spinning of the whole process, and its end brings it back: CPU time after an operator
# is more than five times as much without it. Alone, operators that follow each other closely are faster with spinning;
# beside other processes they are slower by up to 50 times.
# For pretune: a second, sleeping team is the switch with which a run adapts to a busy machine.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.13.0 numpy==2.4.6
cd "$folder"
env -u GOMP_SPINCOUNT -u OMP_WAIT_POLICY -u OMP_NUM_THREADS "$folder/venv/bin/python" - <<'PY'
import os
import threading
import time

import torch

cpus = len(os.sched_getaffinity(0))
if cpus == 1:
    raise SystemExit("one CPU: there is nobody to wait for")
torch.set_num_threads(cpus)


def cpu_seconds():
    """CPU time of 20 operators with pauses in which nothing is to do."""
    data, start = torch.ones(1 << 18), time.process_time()
    for _ in range(20):
        data.add_(1)
        time.sleep(0.01)
    return time.process_time() - start


def compute_once(computed, end):
    torch.ones(1 << 18).add_(1)
    computed.set()
    end.wait()


cpu_seconds()
alone = cpu_seconds()
computed, end = threading.Event(), threading.Event()
sleeper = threading.Thread(target=compute_once, args=(computed, end))
sleeper.start()
computed.wait()
time.sleep(0.2)
beside = cpu_seconds()
end.set()
sleeper.join()
time.sleep(0.2)
after = cpu_seconds()
print(f"torch {torch.__version__}: alone {alone:.3f} s, beside a thread that sleeps {beside:.3f} s, after its end {after:.3f} s")
assert min(alone, after) > 5 * beside
PY
