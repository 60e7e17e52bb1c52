"""What TensorBoard shows of a run."""

from tensorboardX.proto.event_pb2 import Event, SessionLog


def events(workdir):
    """The (step, name, value) of all TensorBoard events below `workdir`, as TensorBoard shows them.

    A record is its length in 8 bytes, 4 of checksum, the data, and 4 of checksum. A session that
    starts at some step hides what earlier ones wrote from that step on.
    """
    found = []
    for file in sorted((workdir / "tensorboard").iterdir()):
        data = file.read_bytes()
        while data:
            size = int.from_bytes(data[:8], "little")
            event = Event.FromString(data[12 : 12 + size])
            if event.session_log.status == SessionLog.START:
                found = [row for row in found if row[0] < event.step]
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
            data = data[16 + size :]
    return found
