"""What pretraining objectives teach in equal time: `python -m pretune.bench.objectives`, or `make bench-objectives`."""
