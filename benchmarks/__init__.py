"""How fast uadctl is, beside others: `python -m benchmarks` (see `benchmarks.__main__`)."""
