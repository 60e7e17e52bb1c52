"""Commands beside the experiments: benchmarks, measurements, and pages made from results."""

import experiments as experiments  # first of all: from then on Ctrl-C ends the command at once
