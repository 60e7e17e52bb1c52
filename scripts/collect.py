"""Copies finished runs into `results/runs`, one JSON file each, with their curves.

  python -m scripts.collect WORKDIR [WORKDIR ...] [--output=results/runs]

A file holds what `result.json` holds and, under `curve`, the lines of `metrics.jsonl` that have a
validation bound. Its name says model, latent, estimator, steps and seed.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from experiments import records
from experiments.errors import UserError
from experiments.run import METRICS, RESULT


def collect(workdir: Path) -> tuple[str, dict[str, Any]]:
    """The name of a finished run and its record.

    Raises:
      UserError: the run is not finished.
    """
    result = records.read_json(workdir / RESULT)
    curve = [
        row for row in records.read_metrics(workdir / METRICS) if row.get("valid_bound") is not None
    ]
    config = result["config"]
    parts = (config["model"], config["latent"], config["estimator.name"])
    name = "-".join((*parts, f"{result['steps']}", f"seed{result['seed']}"))
    return name, result | {"curve": curve}


def main() -> int:
    """Collects the runs named on the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", type=Path, nargs="+", help="directory of a finished run")
    parser.add_argument("--output", type=Path, default=Path("results/runs"), help="where to")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    for workdir in arguments.workdir:
        try:
            name, record = collect(workdir)
        except UserError as error:
            print(f"error: {error}", file=sys.stderr)
            return 2
        records.write_json(arguments.output / f"{name}.json", record)
        print(arguments.output / f"{name}.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
