"""How fast an epoch is trained."""

import time


class Throughput:
    """Counts the samples and the seconds of an epoch, less its validations."""

    NAMES = ("epoch_seconds", "samples_per_second", "batches_per_second")

    def __init__(self) -> None:
        self.batches, self.samples = 0, 0
        self.counted = True  # whether the size of each batch is known
        self.before = 0.0  # seconds until the last pause
        self.began = self.last = time.monotonic()

    def count(self, samples: int | None) -> float:
        """A batch is trained; returns the time, in seconds."""
        self.last = time.monotonic()
        self.batches += 1
        self.samples += samples or 0
        self.counted = self.counted and samples is not None
        return self.last

    def pause(self) -> None:
        self.before = self.seconds

    def go_on(self) -> None:
        self.began = self.last = time.monotonic()

    @property
    def seconds(self) -> float:
        return self.before + self.last - self.began

    def metrics(self, processes: int) -> dict[str, float]:
        """`epoch_seconds`, and `samples_per_second`; batches where their sizes are not known."""
        name, count = ("samples", self.samples) if self.counted else ("batches", self.batches)
        rate = count * processes / self.seconds if self.seconds else 0.0
        return {"epoch_seconds": self.seconds, f"{name}_per_second": rate}

    def text(self, processes: int) -> str:
        """`1.2 s  3,800 samples/s`"""
        (_, seconds), (name, rate) = self.metrics(processes).items()
        speed = f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"
        return f"{seconds:.3g} s  {speed} {name.removesuffix('_per_second')}/s"
