"""Which estimators of a table of cells are best: by row, and by their mean rank over the rows."""

from collections.abc import Sequence
from typing import Any


def best_of(entries: Sequence[dict[str, Any]]) -> set[str]:
    """The estimator of the least mean, and those whose means its interval does not exclude.

    One of which a seed diverged is left out: its mean is that of the others.

    Example:
      >>> made = [("a", 60.0, [59.0, 61.0]), ("b", 60.8, None), ("c", 62.0, [60.5, 63.5])]
      >>> sorted(best_of([{"estimator": e, "mean": m, "ci95": i} for e, m, i in made]))
      ['a', 'b']
    """
    if not (run := _whole(entries)):
        return set()
    best = min(run, key=lambda entry: entry["mean"])
    limit = best["ci95"][1] if best["ci95"] else best["mean"]
    return {entry["estimator"] for entry in run if entry["mean"] <= limit}


def ranks(entries: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The mean rank over rows, 1 for the best, of the estimators that have all rows."""
    from scipy.stats import rankdata  # takes a second to import

    rows = list(dict.fromkeys(entry["row"] for entry in entries))
    means = {(entry["row"], entry["estimator"]): entry["mean"] for entry in _whole(entries)}
    names = list(dict.fromkeys(e["estimator"] for e in entries))
    whole = [name for name in names if all((row, name) in means for row in rows)]
    if not whole:
        return {}
    places = rankdata([[means[row, name] for name in whole] for row in rows], axis=1)
    return dict(zip(whole, places.mean(axis=0).tolist(), strict=True))


def _whole(entries: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [entry for entry in entries if "mean" in entry and "failed" not in entry]
