"""Copies finished runs into `results/runs`, one JSON file each, with their curves.

  python -m scripts.collect WORKDIR [WORKDIR ...] [--output=results/runs]

A file holds what `result.json` holds and, under `curve`, the lines of `metrics.jsonl` that have a
validation bound. Its name says task, latent, estimator, steps and seed.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from experiments import command
from experiments.errors import UserError
from experiments.reproduce.store import Record, record_of
from experiments.training import records

SHORT = {"structured_prediction": "sbn", "generative": "vae"}  # in names of files and tables


def name_of(record: Record) -> str:
    """Task, latent, estimator, steps and seed of a run."""
    config = record["config"]
    parts = (SHORT.get(config["task"], config["task"]), config["latent"], config["estimator.name"])
    return "-".join((*parts, str(record["steps"]), f"seed{record['seed']}"))


def define_flags(values: flags.FlagValues) -> None:
    """The command's flag."""
    flags.DEFINE_string("output", "results/runs", "the directory to copy to", flag_values=values)


def main(given: Mapping[str, Any], workdirs: Sequence[str]) -> int:
    """Collects the runs named on the command line."""
    output = Path(given["output"]).expanduser()
    output.mkdir(parents=True, exist_ok=True)
    for workdir in workdirs:
        record = record_of(Path(workdir).expanduser())
        path = output / f"{name_of(record)}.json"
        if path.exists() and records.read_json(path)["config"] != record["config"]:
            raise UserError(f"{path} is of another config: give another --output")
        records.write_json(path, record)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(command.launch(main, define_flags, takes="WORKDIR [WORKDIR ...]"))
