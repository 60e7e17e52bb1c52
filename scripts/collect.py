"""Copies finished runs into `results/runs`, one JSON file each, with their curves.

  python -m scripts.collect WORKDIR [WORKDIR ...] [--output=results/runs]

A file holds what `result.json` holds and, under `curve`, the lines of `metrics.jsonl` that have a
validation bound. Its name says task, latent, estimator, steps and seed.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

from absl import flags

from experiments import command, config
from experiments.errors import UserError
from experiments.files import name_part, path_of, read_json
from experiments.reproduce.store import Record, record_of
from experiments.training import records
from experiments.training.rundir import RESULT

SHORT = {"structured_prediction": "sbn", "generative": "vae"}  # in names of files and tables


# What a name is made of.
_NAMED = {
    "config": {"task": str, "latent": str, "estimator.name": str},
    "steps": int,
    "seed": int,
}


def name_of(record: Record, source: object) -> str:
    """Task, latent, estimator, steps and seed of a run.

    Raises:
      UserError: one of them cannot be part of a file's name; `source` is where it is from.
    """
    settings = record["config"]
    task = SHORT.get(settings["task"], settings["task"])
    named = (task, settings["latent"], settings["estimator.name"])
    names = [name_part(name, source) for name in named]
    return "-".join((*names, str(record["steps"]), f"seed{record['seed']}"))


def define_flags(values: flags.FlagValues) -> None:
    """The command's flag."""
    flags.DEFINE_string("output", "results/runs", "the directory to copy to", flag_values=values)


def main(given: Mapping[str, Any], workdirs: Sequence[str]) -> int:
    """Collects the runs named on the command line."""
    output = path_of(given["output"], "--output")
    output.mkdir(parents=True, exist_ok=True)
    for workdir in (path_of(text, "WORKDIR") for text in workdirs):
        record = record_of(workdir, _NAMED)
        path = output / f"{name_of(record, workdir / RESULT)}.json"
        if path.exists():
            kept = read_json(path, {"config": dict})["config"]
            if difference := config.difference(kept, record["config"]):
                raise UserError(
                    f"{path} is of another config ({difference}): give another --output"
                )
        records.write_json(path, record)
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(command.launch(main, define_flags, takes="WORKDIR [WORKDIR ...]"))
