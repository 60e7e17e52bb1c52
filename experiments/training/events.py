"""TensorBoard events of a run: made of its metrics, and on disk before `append` returns."""

import struct
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.files import naming

_LENGTH, _CHECKSUM = struct.Struct("<Q"), 4

WallTimes = Mapping[tuple[int, str], float]


class Events:
    """Scalars as TensorBoard events in one file, which is started anew.

    TensorBoard's usual writers hand events to a thread, so a killed process loses those of the last
    seconds. Here each is with the system before `append` returns, and a resumed run makes the
    events of its earlier steps again from the metrics: none is lost or shown twice.

    Args:
      directory: directory of the events; files of earlier processes are removed.
      rows: the lines of `metrics.jsonl` so far.

    Raises:
      OSError: the file cannot be written.
    """

    def __init__(self, directory: Path, rows: Iterable[Mapping[str, Any]]) -> None:
        # Not needed where nothing is logged, and slow to import.
        from tensorboardX.event_file_writer import EventsWriter

        self._directory = directory
        earlier = sorted(directory.glob("*tfevents*"))
        times = {key: found for path in earlier for key, found in wall_times(path).items()}
        with naming(directory):
            directory.mkdir(parents=True, exist_ok=True)
            # A name of its own: an earlier process may have begun in the same second.
            suffix = f".{time.time_ns()}"
            self._writer = EventsWriter(str(directory / "events"), suffix)
            self._start()
            for row in rows:
                self._add(row, times)
            self._writer.flush()
            for path in earlier:
                path.unlink()

    def append(self, row: Mapping[str, Any]) -> None:
        """Writes the events of a line of the metrics."""
        with naming(self._directory):
            self._add(row, {})
            self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()

    def _start(self) -> None:
        """Has a TensorBoard that is running forget what it has read of the files before."""
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        session = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(wall_time=time.time(), step=0, session_log=session))

    def _add(self, row: Mapping[str, Any], times: WallTimes) -> None:
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        step = row["step"]
        for name, value in row.items():
            if name != "step" and value is not None:
                at = times.get((step, name), time.time())
                self._writer.write_event(
                    Event(wall_time=at, step=step, summary=scalar(name, value))
                )


def wall_times(path: Path) -> dict[tuple[int, str], float]:
    """When the scalars in a file of events were logged, by step and name."""
    return {
        (event.step, value.tag): event.wall_time
        for event in read(path)
        for value in event.summary.value
    }


def read(path: Path) -> Iterator[Any]:
    """The whole events in a file, up to the first that is torn. Checksums are not looked at.

    A record is its length in 8 bytes, 4 of checksum, the data, and 4 of checksum.
    """
    from google.protobuf.message import DecodeError
    from tensorboardX.proto.event_pb2 import Event

    data = path.read_bytes()
    place = 0
    while place + _LENGTH.size <= len(data):
        [length] = _LENGTH.unpack_from(data, place)
        start = place + _LENGTH.size + _CHECKSUM
        place = start + length + _CHECKSUM
        if place > len(data):
            return
        try:
            event = Event.FromString(data[start : start + length])
        except DecodeError:
            return
        yield event
