"""Trains one model with one estimator.

python -m experiments.train --config=configs/sbn.py --workdir=DIR [--config.KEY=VALUE ...]
"""

import logging
import sys
from pathlib import Path

from ml_collections import ConfigDict

from experiments import cli, run, validation
from experiments import config as configs
from experiments.overrides import Overrides

_log = logging.getLogger(__name__)


def main(config: ConfigDict, workdir: str, overrides: Overrides) -> int:
    """Trains one model with one estimator; a run that was stopped goes on where it was."""
    validation.validate(config)
    for key, why in configs.unread(config).items():
        if key in overrides:
            _log.warning("--config.%s does nothing: %s", key, why)
    finished = (Path(workdir) / run.RESULT).exists()
    try:
        result = run.train(config, workdir, overrides)
    except run.Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_status
    if finished:
        print(f"{workdir} holds a finished run: choose another --workdir to train again")
    samples = configs.final_samples(config)
    print(
        f"test {result['test_nll']:.2f} ({samples['test']}-sample bound, nats), "
        f"validation {result['valid_nll']:.2f} ({samples['validation']}-sample)"
    )
    if "test_accuracy" in result:
        print(
            f"accuracy: test {result['test_accuracy']:.2f} %, "
            f"validation {result['valid_accuracy']:.2f} %"
        )
    print(f"numbers: {Path(workdir) / run.RESULT}\npicture: {Path(workdir) / run.PICTURE}")
    return 0


if __name__ == "__main__":
    sys.exit(cli.run(main))
