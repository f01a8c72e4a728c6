"""Paired, interleaved comparisons with the peers, and with what the machine itself can do: `python -m benchmarks`.

A benchmark (`suite/`) says what is compared; a peer's script (`peers/`) runs in an environment of its own and imports
no pretune. Both sides are run in turn (`runner`) in processes of their own (`process`, `worker`); figures are kept as
JSON (`measurements`) and shown on a page (`page`).
"""
