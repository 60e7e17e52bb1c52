"""How to anneal the temperature: a sweep that compares schedules, with three seeds each.

Run (36 runs of 50,000 steps each and final bounds with 100 samples, about 3 CPU hours on the
categorical VAE and 2 on the categorical SBN):

  python -m experiments.sweep --config=configs/anneal.py --workdir=runs/anneal
  python -m experiments.sweep --config=configs/anneal.py:sbn --workdir=runs/anneal-sbn

  --config.estimator.name=st_gumbel_softmax   another estimator that reads the temperature
  --config.dataset=digits --config.num_steps=3000   a quick version in minutes, with no download

The plot is `schedules.png` in the workdir. `python -m experiments.sweep --report=DIR` redraws it,
even while the runs train.
"""

from ml_collections import ConfigDict

from configs import sbn, vae
from experiments.errors import UserError, suggestion
from experiments.sweeps import grids

_MODELS = {"vae": vae, "sbn": sbn}
_SEEDS = (0, 1, 2)


def get_config(model: str = "vae") -> ConfigDict:
    if model not in _MODELS:
        raise UserError(f"--config=configs/anneal.py:{model}: {suggestion(model, _MODELS)}")
    config = _MODELS[model].get_config()
    config.latent = "categorical"
    # The short protocol of Table 1, with its pick for Gumbel-Softmax: fewer steps at a larger
    # learning rate, which decays to 0.
    config.num_steps = 50_000
    config.learning_rate = 0.03
    config.learning_rate_schedule = "cosine"
    config.standardize = model == "sbn"
    config.test_num_samples = 100
    return config


def get_sweep() -> grids.Grid:
    schedules = [
        *grids.product({"temperature.name": ["constant"], "temperature.value": (0.5, 1.0)}),
        *grids.product(
            {
                "temperature.name": ["exponential"],
                "temperature.rate": (1e-5, 1e-4),
                "temperature.interval": (500, 1000),
            }
        ),
        # From temperature.value = 1 down to the floor, over all steps of the run, however few.
        *grids.product(
            {
                "temperature.name": ["linear", "cosine"],
                "temperature.floor": (0.1, 0.5),
                "temperature.interval": [1],
            }
        ),
        # By the squared error of the gradient estimate, starting at 1 and never below the floor.
        *grids.product(
            {
                "temperature.name": ["learned"],
                "temperature.floor": [0.1],
                "temperature.average_over": (10.0, 100.0),
            }
        ),
    ]
    # The first seed of all schedules, then the second: what there is at any time is comparable.
    return [trial | {"seed": seed} for seed in _SEEDS for trial in schedules]
