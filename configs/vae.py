"""Generative modeling, section 4.2 of the paper: a VAE with discrete latent variables.

Run:

  python -m experiments.train --config=configs/vae.py --workdir=runs/vae

Takes 200,000 steps: 27 minutes of training and 3 of evaluation on one CPU core. Expect a test bound
of 97.5 nats, and 98.4 on validation
(results/runs/vae-categorical-gumbel_softmax-200000-seed0.json). Table 1 reaches 95.6 in a quarter
of the steps (results/table1.json), with

  --config.num_steps=50000 --config.learning_rate=0.03 --config.learning_rate_schedule=cosine
  --config.temperature.rate=1e-4 --config.standardize=False

Other choices:

  --config.latent=bernoulli             784-200-784 instead of 784-(20x10)-200-784
  --config.estimator.name=NAME          any of gumbel.estimators.names() but marginalization
  --config.temperature.rate=1e-4        the other rate of the paper's grid
  --config.temperature.interval=500     the other interval of the paper's grid

Pick the learning rate and the annealing schedule from the paper's grid (24 runs):

  python -m experiments.sweep --config=configs/vae.py --workdir=runs/vae-sweep
"""

from ml_collections import ConfigDict

from experiments.config import base
from experiments.sweeps import grids


def get_config() -> ConfigDict:
    config = base("generative")
    config.latent = "categorical"
    config.layers = (200,)
    config.temperature.name = "exponential"
    config.temperature.value = 1.0
    config.temperature.rate = 1e-5
    config.temperature.floor = 0.5
    config.temperature.interval = 1000
    return config


def get_sweep() -> grids.Grid:
    return grids.product(
        {
            "learning_rate": grids.LEARNING_RATES,
            "temperature.rate": (1e-5, 1e-4),
            "temperature.interval": (500, 1000),
        }
    )
