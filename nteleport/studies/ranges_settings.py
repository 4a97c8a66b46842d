"""Settings of the studies that look at many ranges of the CoB."""

from __future__ import annotations

from dataclasses import dataclass

from nteleport.sampling import sampling_problem
from nteleport.schema.fields import number, whole_number
from nteleport.studies.options import option
from nteleport.studies.settings import StudySettings


@dataclass(frozen=True, kw_only=True)
class RangesSettings(StudySettings):
    """Evenly spaced ranges of the CoB, and how often each is drawn from."""

    cob_range: float = option(0.9, number("above 0", lambda r: r > 0), "The largest range.")
    smallest_cob_range: float = option(0.01, number("above 0", lambda r: r > 0), "The smallest range.")
    ranges: int = option(15, whole_number(1), "Ranges, evenly spaced between the two.", metavar="N")
    teleportations: int = option(10, whole_number(1), "Teleportations at each range.", metavar="N")

    def problem(self) -> str | None:
        if self.smallest_cob_range > self.cob_range:
            return f"smallest_cob_range {self.smallest_cob_range:g} is above cob_range {self.cob_range:g}"
        return super().problem() or sampling_problem(self.cob_sampling, self.smallest_cob_range)

    def spaced_ranges(self) -> list[float]:
        """The ranges, smallest first; one alone is `cob_range`."""
        if self.ranges == 1:
            return [self.cob_range]
        step = (self.cob_range - self.smallest_cob_range) / (self.ranges - 1)
        return [*(self.smallest_cob_range + step * k for k in range(self.ranges - 1)), self.cob_range]
