"""How to anneal the temperature: the schedules side by side, on the categorical VAE.

Run:

  python -m experiments.sweep --config=configs/anneal.py --workdir=runs/anneal

Takes 12 runs of 200,000 steps, each as long as the one of configs/vae.py. A smaller sweep of the
same kind is in results/trials/anneal: there constant low temperatures end within 0.4 nats of the
schedules, and learned ones diverge.

  --config.estimator.name=st_gumbel_softmax   the other estimator that reads the temperature
  --config.dataset=digits --config.num_steps=20000   a look at it in minutes, with no download
"""

from ml_collections import ConfigDict

from configs import vae
from experiments.sweeps import grids


def get_config() -> ConfigDict:
    return vae.get_config()


def get_sweep() -> grids.Grid:
    return [
        *grids.product({"temperature.name": ["constant"], "temperature.value": (0.5, 1.0)}),
        *grids.product(
            {
                "temperature.name": ["exponential"],
                "temperature.rate": (1e-5, 1e-4),
                "temperature.interval": (500, 1000),
            }
        ),
        # Over all steps of the run, from temperature.value = 1 down to the floor.
        *grids.product({"temperature.name": ["linear", "cosine"], "temperature.floor": (0.1, 0.5)}),
        # Trained with the rest, from 1; kept over the floor.
        *grids.product({"temperature.name": ["learned"], "temperature.floor": (0.1, 0.5)}),
    ]
