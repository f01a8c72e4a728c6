"""What pretraining objectives teach in equal time: `python -m benchmarks.quality`, or `make bench-objectives`."""
