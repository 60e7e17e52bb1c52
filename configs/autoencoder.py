"""A discrete autoencoder on scikit-learn's digits: 8 codes per image, from a codebook of 512.

Run (no download):

  python -m experiments.train --config=configs/autoencoder.py --workdir=runs/autoencoder

Takes 5,000 steps: 19 minutes on one CPU core. Expect a test bound of 17.6 nats, 17.7 on validation,
and 446 of the 512 codes in use
(results/configs/autoencoder-categorical-gumbel_softmax-5000-seed0.json).

  --config.estimator.name=NAME          st_gumbel_softmax, nvil, vimco (with kl=sample), ...
  --config.num_classes=64 --config.layers="(512,)"      8 codes from a codebook of 64

Pick the final temperature (4 runs):

  python -m experiments.sweep --config=configs/autoencoder.py --workdir=runs/codes
"""

from ml_collections import ConfigDict

from experiments.config import base
from experiments.sweeps import grids


def get_config() -> ConfigDict:
    config = base("autoencoder")
    config.dataset = "digits"
    config.latent = "categorical"
    config.num_classes = 512
    config.layers = (8 * 512,)
    config.temperature.name = "cosine"
    config.temperature.floor = 0.3
    config.optimizer = "adam"
    config.learning_rate_schedule = "cosine"
    config.num_steps = 5000
    config.log_every = 500
    config.eval_every = 500
    config.checkpoint_every = 1000
    config.test_num_samples = 100
    config.steps_per_call = 500
    return config


def get_sweep() -> grids.Grid:
    return grids.product({"temperature.floor": (0.1, 0.3, 0.5, 1.0)})
