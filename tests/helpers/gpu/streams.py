"""Streams and memory: an access is a race where a stream has not waited for another one that the memory depends on."""


class RaceError(RuntimeError):
    """A stream touches memory that another one may be working on."""


class Stream:
    """A queue of work. `now` counts its operations; `seen` says how far it has waited for the others.

    Args:
        device: as `torch.cuda.Stream` has it.

    Attributes:
        early: what was freed too early of its memory.
    """

    def __init__(self, device: object = None):
        self.now, self.seen, self.early = 0, {}, []

    def wait_stream(self, other: "Stream") -> None:
        """What the other one has been given so far, and what that has waited for, comes before what follows here."""
        for stream, time in (*other.seen.items(), (other, other.now)):
            self.seen[stream] = max(time, self.seen.get(stream, 0))

    def comes_after(self, stream: "Stream", time: int) -> bool:
        return stream is self or self.seen.get(stream, 0) >= time


class Memory:
    """One piece of the GPU's memory, which a tensor and its views share.

    Args:
        stream: that it was allocated on, and that may have it again once it is free.
    """

    def __init__(self, stream: Stream):
        self.owner = stream
        self.written, self.read = (stream, stream.now), {}
        self.recorded: set[Stream] = set()

    def note_read(self, stream: Stream) -> None:
        if not stream.comes_after(*self.written):
            raise RaceError("a tensor is read on a stream that has not waited for the one that writes it")
        self.read[stream] = stream.now

    def note_write(self, stream: Stream) -> None:
        if not all(stream.comes_after(*access) for access in (self.written, *self.read.items())):
            raise RaceError("a tensor is written on a stream that has not waited for the ones that use it")
        self.written, self.read = (stream, stream.now), {}

    def __del__(self):
        for stream, time in (self.written, *self.read.items()):
            if stream not in self.recorded and not self.owner.comes_after(stream, time):
                self.owner.early.append("a tensor is freed while another stream may use it: record_stream is missing")
