"""Renames the keys of records that version 0.1 wrote to those of 0.2; run again, changes nothing.

  python -m scripts.convert_results DIR [DIR ...]

Below each DIR, every JSON file and every `metrics.jsonl` is converted key by key: collected
records, tables, and the directories of runs and sweeps, finished or under way. Numbers stay as they
are. A file or directory that is named by a hash of what its run overrides gets the new keys' hash.
Checkpoints are left alone: a run that was stopped is finished with the version that began it.
"""

import json
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments import command
from experiments.errors import UserError, one_line
from experiments.files import path_of, read_json, write_text
from experiments.sweeps import grids
from experiments.training import records

# Keys of configs, dotted or as the last part of a text such as `config.eval_samples`.
CONFIG_KEYS = {
    "eval_samples": "test_num_samples",
    "eval_valid_samples": "validation_num_samples",
    "valid_samples": "monitor_num_samples",
    "labelled_batch_size": "labeled_batch_size",
    "labelled_weight": "labeled_weight",
    "estimator.centring": "estimator.centering",
}
# Keys of results and of lines of metrics.
RECORD_KEYS = {
    "valid_nll": "validation_bound",
    "test_nll": "test_bound",
    "valid_bound": "validation_bound",
    "valid_accuracy": "validation_accuracy",
    "valid_confusion": "validation_confusion",
    "labelled_cost": "labeled_cost",
}
KEYS = CONFIG_KEYS | RECORD_KEYS
TASKS = {"sbn": "structured_prediction", "vae": "generative", "semi_supervised": "semi_supervised"}

_HASH = re.compile(r"[0-9a-f]{10}")


def converted(value: Any) -> Any:
    """A JSON value with the new keys, at any depth.

    Example:
      >>> converted({"valid_nll": 1.0, "config": {"model": "sbn", "eval_samples": 5}})
      {'validation_bound': 1.0, 'config': {'task': 'structured_prediction', 'test_num_samples': 5}}
    """
    if isinstance(value, list):
        return [converted(item) for item in value]
    if not isinstance(value, dict):
        return value
    found: dict[str, Any] = {}
    for key, item in value.items():
        if key == "model" and isinstance(item, str) and item in TASKS:
            found["task"] = TASKS[item]
        else:
            found[KEYS.get(key) or key] = converted(item)
    return found


def convert_file(path: Path) -> bool:
    """Converts one file in place; whether that changed it.

    Raises:
      UserError: it is not JSON.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".jsonl":
        # A torn last line, left by a kill, stays as it is.
        lines = text.splitlines(keepends=True)
        try:
            whole = [_line(line) if line.endswith("\n") else line for line in lines]
        except ValueError as error:
            raise UserError(f"{path} is damaged ({one_line(error)})") from error
        new = "".join(whole)
        if new != text:
            write_text(path, new)
        return new != text
    before = read_json(path)
    after = converted(before)
    if after == before:
        return False
    records.write_json(path, after)
    return True


def _line(line: str) -> str:
    before = json.loads(line)
    after = converted(before)
    return line if after == before else json.dumps(after, ensure_ascii=False) + "\n"


def new_names(directory: Path) -> dict[Path, Path]:
    """What is named by a hash of overrides in old keys, and what its name becomes.

    Those are records, `HASH.json` with the pictures `HASH.npz`, and directories of runs. In a file
    that is converted already, the overrides say nothing of the hash: since 0.2, they are more than
    what a sweep varies.
    """
    found = {}
    for path in sorted(directory.rglob("*.json")):
        run = path.parent if path.name in ("result.json", "failure.json") else path.with_suffix("")
        if not _HASH.fullmatch(run.name):
            continue
        value = read_json(path)
        overrides = value.get("overrides") if isinstance(value, dict) else None
        if overrides is None:
            continue
        name = grids.name(converted(overrides))
        if grids.name(overrides) == run.name != name:
            if run == path.parent:
                found[run] = run.with_name(name)
            else:
                for file in (path, path.with_suffix(".npz")):
                    if file.exists():
                        found[file] = file.with_name(name + file.suffix)
    return found


def main(_given: Mapping[str, Any], directories: Sequence[str]) -> int:
    """Converts the records below the directories named on the command line."""
    roots = [path_of(directory, "DIR") for directory in directories]
    for root in roots:
        if not root.is_dir():
            raise UserError(f"{root} is not a directory: name one with records or runs")
    for root in roots:
        renamed = new_names(root)
        for old, new in renamed.items():
            if new.exists():
                raise UserError(f"{old} would become {new}, which exists: delete one of them")
            old.rename(new)
        files = [path for pattern in ("*.json", "*.jsonl") for path in root.rglob(pattern)]
        changed = sum(map(convert_file, files))
        print(f"{root}: {changed} of {len(files)} files converted, {len(renamed)} renamed")
    return 0


if __name__ == "__main__":
    sys.exit(command.launch(main, takes="DIR [DIR ...]"))
