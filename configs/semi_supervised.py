"""Semi-supervised classification, section 4.3: Kingma's M2 with convolutions and 100 labels.

Run:

  python -m experiments.train --config=configs/semi_supervised.py --workdir=runs/semi-supervised

Takes 30,000 steps. A third of them takes 10 to 11 minutes on one CPU core under gumbel_softmax, 31
to 58 under marginalization, and reaches an accuracy of 96 to 97 % and a bound of 95.7 to 97.1 nats
on the test set (results/table2/final, whose temperature falls faster).

  --config.estimator.name=NAME    marginalization, gumbel_softmax, st_gumbel_softmax, ...
  --config.alpha=0.3              the weight of the labels
  --config.seed=1                 other labels are drawn, too

Pick alpha on the validation set from the paper's grid (5 runs):

  python -m experiments.sweep --config=configs/semi_supervised.py --workdir=runs/alpha
"""

from ml_collections import ConfigDict

from experiments.config import base
from experiments.sweeps import grids


def get_config() -> ConfigDict:
    config = base("semi_supervised")
    config.dataset = "mnist"
    config.binarization = "dynamic"
    config.latent = "categorical"
    config.num_classes = 10
    config.temperature.name = "exponential"
    config.temperature.rate = 3e-5
    config.temperature.floor = 0.5
    config.temperature.interval = 2000
    config.optimizer = "adam"
    config.learning_rate = 3e-3
    config.learning_rate_schedule = "cosine"
    config.num_steps = 30_000
    config.log_every = 100  # marginalization takes some steps a second on a CPU
    config.eval_every = 1000
    config.checkpoint_every = 1000
    config.test_num_samples = 1  # the bound itself
    config.steps_per_call = 1  # convolutions in a loop are slow on a CPU
    return config


def get_sweep() -> grids.Grid:
    return grids.product({"alpha": (0.1, 0.2, 0.3, 0.8, 1.0)})
