"""Entry points that are no part of an experiment: benchmarks."""

import experiments as experiments  # first of all: from then on Ctrl-C ends the command at once
