"""What `python scripts/bench.py` measures: one file a benchmark, and in `timing` what they share."""
