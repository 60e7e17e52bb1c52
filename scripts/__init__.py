"""Commands beside the experiments: benchmarks, measurements, and pages made from results."""
