"""Structured output prediction with a stochastic binary network (SBN), section 4.1 of the paper.

The model predicts the lower half of a digit from the upper half.

Run:

  python -m experiments.train --config=configs/sbn.py --workdir=runs/sbn

Takes 200,000 steps: 18 minutes of training and 5 of evaluation on one CPU core. Expect a test bound
of 59.1 nats, and 60.1 on validation
(results/runs/sbn-bernoulli-gumbel_softmax-200000-seed0.json). Table 1 reaches 57.9 in a quarter of
the steps (results/table1.json), with

  --config.num_steps=50000 --config.learning_rate=0.1 --config.learning_rate_schedule=cosine
  --config.standardize=False

Other choices:

  --config.latent=categorical           392-(20x10)-(20x10)-392 instead of 392-200-200-392
  --config.estimator.name=NAME          any of gumbel.estimators.names() but marginalization

Pick the learning rate; the paper does so for each estimator (6 runs):

  python -m experiments.sweep --config=configs/sbn.py --workdir=runs/sbn-sweep
"""

from ml_collections import ConfigDict

from experiments.config import base
from experiments.sweeps import grids


def get_config() -> ConfigDict:
    config = base("structured_prediction")
    config.layers = (200, 200)
    config.temperature.name = "constant"  # fixed at 1, as in the paper
    config.temperature.value = 1.0
    return config


def get_sweep() -> grids.Grid:
    return grids.product({"learning_rate": grids.LEARNING_RATES})
