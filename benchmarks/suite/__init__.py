"""One file a benchmark: what is compared, our side of it, and what must be equal for a row to count."""
