"""Entry points that are no part of an experiment: benchmarks."""
