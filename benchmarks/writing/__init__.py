"""Tasks that write, measured on public sets beside what is free: see `python -m benchmarks.writing --help`."""
