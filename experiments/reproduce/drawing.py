"""What a figure was drawn from, noted beside it, so that a figure that lags its records is found.

Beside `NAME.png` stands `NAME.json`: a digest of the data of each line. A test compares the
committed ones with the records.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.files import read_json
from experiments.training import records

_SHAPE = {"lines": dict}


class Drawing(NamedTuple):
    """A figure that can be drawn from records alone.

    Attributes:
      lines: the data of each line, by name.
      draw: writes the PNG to a path.
    """

    lines: Mapping[str, Any]
    draw: Callable[[Path], None]

    def write(self, path: Path) -> None:
        """Draws the figure, and notes beside it what it was drawn from."""
        self.draw(path)
        records.write_json(path.with_suffix(".json"), {"lines": self.digests()})

    def outdated(self, path: Path) -> list[str]:
        """The lines whose records have changed, come or gone since the figure was drawn.

        Example:
          >>> import tempfile
          >>> path = Path(tempfile.mkdtemp()) / "figure.png"
          >>> Drawing({"st": [1.0], "sf": [2.0]}, Path.touch).write(path)
          >>> Drawing({"st": [1.5], "sf": [2.0], "darn": [3.0]}, Path.touch).outdated(path)
          ['darn', 'st']
        """
        note = path.with_suffix(".json")
        noted = read_json(note, _SHAPE)["lines"] if note.exists() else {}
        ours = self.digests()
        return sorted(name for name in noted.keys() | ours if noted.get(name) != ours.get(name))

    def digests(self) -> dict[str, str]:
        """A digest of the data of each line."""
        return {name: _digest(data) for name, data in self.lines.items()}


def _digest(data: Any) -> str:
    text = json.dumps(records.plain(data), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
