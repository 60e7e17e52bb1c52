"""Semi-supervised classification, section 4.3 of the paper, with 100 labels.

The model is M2 of Kingma et al. (2014) with convolutions.

Run:

  python -m experiments.train --config=configs/semi_supervised.py --workdir=runs/semi-supervised

Takes 30,000 steps. The committed runs (results/table2/final) take a third of them, with a
temperature that falls faster: 10 to 11 minutes on one CPU core with gumbel_softmax, 31 to 58 with
marginalization. Both reach a test accuracy of 96 to 97% and a test bound of 95.7 to 97.1 nats;
st_gumbel_softmax reaches 91 to 93%.

  --config.estimator.name=NAME    marginalization, gumbel_softmax, st_gumbel_softmax, ...
  --config.alpha=0.3              the weight of the classification loss
  --config.seed=1                 another seed, which also draws other labels

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
    config.log_every = 100  # marginalization runs at a few steps per second on a CPU
    config.eval_every = 1000
    config.checkpoint_every = 1000
    config.test_num_samples = 1  # the bound itself
    config.steps_per_call = 1  # convolutions in a loop are slow on a CPU
    return config


def get_sweep() -> grids.Grid:
    return grids.product({"alpha": (0.1, 0.2, 0.3, 0.8, 1.0)})
