"""The benchmarks of `python scripts/bench.py`: one per file, with shared code in `timing`."""
