"""Copies finished runs into `results/runs`, one JSON file each, with their curves.

  python -m scripts.collect WORKDIR [WORKDIR ...] [--output=results/runs]

A file holds what `result.json` holds and, under `curve`, the lines of `metrics.jsonl` that have a
validation bound. Its name says model, latent, estimator, steps and seed.
"""

import argparse
import sys
from pathlib import Path

from experiments import cli, records
from experiments.errors import UserError
from experiments.reproduce.store import Record, record_of


def name_of(record: Record) -> str:
    """Model, latent, estimator, steps and seed of a run."""
    config = record["config"]
    parts = (config["model"], config["latent"], config["estimator.name"])
    return "-".join((*parts, str(record["steps"]), f"seed{record['seed']}"))


def main() -> int:
    """Collects the runs named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", type=cli.path, nargs="+", help="directory of a finished run")
    parser.add_argument("--output", type=cli.path, default=Path("results/runs"), help="where to")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for workdir in arguments.workdir:
        record = record_of(workdir)
        path = arguments.output / f"{name_of(record)}.json"
        if path.exists() and records.read_json(path)["config"] != record["config"]:
            raise UserError(f"{path} is of another config: give another --output")
        records.write_json(path, record)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
