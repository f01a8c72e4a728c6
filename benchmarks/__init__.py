"""Paired, interleaved comparisons with the peers, and with what the machine itself can do: `python -m benchmarks`.

A work (`works/`) says what is compared; a peer's script (`peers/`) runs in an environment of its own and imports no
pretune; the rest is shared: contestants take turns (`contest`) in processes of their own (`process`, `worker`).
"""
