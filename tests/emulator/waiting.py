"""How long a state lasts before the next one comes: a number of seconds, a number of reads, or until told."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Delay:
    """Over when `seconds` have gone by and `reads` reads have shown the old state; with `never`, only by hand."""

    seconds: float = 0
    reads: int = 0
    never: bool = False


@dataclass
class Wait:
    delay: Delay
    since: float
    reads: int = 0

    def over(self, now: float) -> bool:
        if self.delay.never:
            return False
        return self.reads >= self.delay.reads and now >= self.since + self.delay.seconds

    def end(self, now: float) -> float:
        """When it was over, for one that is: reads tell no time, so with them it is now."""
        return now if self.delay.reads else self.since + self.delay.seconds
