"""The report of a run."""

import errno
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

__all__ = ("LabelReport", "one_sentence")

SHOWN = 20


@dataclass
class LabelReport:
    """Outcome of every panorama.

    Args:
        done: Names of panoramas that this run labelled, generated or scored.
        skipped: Names of panoramas that were done already.
        failed: Sentences that say why a panorama has no labels, by name.
        replaced: Names in `done` whose labels of another image were replaced.
        too_far: Number of pixels beyond 65.535 m, which have no depth label, by name.
        broken_views: Number of views left out because a teacher returned NaN or infinite values, by name.
        stopped: Reason why the run ended before all were done; empty if it did not.
        seconds: Duration of the run.
        left_out: Sentences that say why a panorama is unusable, by name: too little of it could be labelled.
    """

    done: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    replaced: list[str] = field(default_factory=list)
    too_far: dict[str, int] = field(default_factory=dict)
    broken_views: dict[str, int] = field(default_factory=dict)
    stopped: str = ""
    seconds: float = 0.0
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def exit_code(self) -> int:
        """0 if every panorama has its labels, else 1."""
        return 1 if self.failed or self.stopped else 0

    def summary(self, participle: str = "labelled") -> str:
        """Return a few lines for the terminal: counts, rate, and what went wrong.

        Args:
            participle: What was done to a panorama.
        """
        rate = f" ({len(self.done) / self.seconds:.2f} per second)" if self.done and self.seconds else ""
        counts = [f"{len(self.done)} {participle}{rate}"]
        if self.skipped:
            counts.append(f"{len(self.skipped)} skipped because they were {participle} already")
        if self.failed:
            counts.append(f"{len(self.failed)} failed")
        lines = [", ".join(counts)]
        if self.too_far:
            pixels = sum(self.too_far.values())
            lines.append(f"{pixels} pixels of {len(self.too_far)} panoramas are beyond 65.535 m: no depth label")
        if self.broken_views:
            views = sum(self.broken_views.values())
            lines.append(
                f"{views} views of {len(self.broken_views)} panoramas were left out: a teacher returned NaN or "
                "infinite values for them"
            )
        if self.left_out:
            name, reason = next(iter(self.left_out.items()))
            lines.append(f"{len(self.left_out)} left out, for example {_printable(name)}: {reason}")
        if self.replaced:
            lines.append(f"{len(self.replaced)} were {participle} again, because their image has changed")
        lines += [f"  {_printable(name)}: {reason}" for name, reason in list(self.failed.items())[:SHOWN]]
        if len(self.failed) > SHOWN:
            lines.append(f"  and {len(self.failed) - SHOWN} more, see the record in runs/")
        return "\n".join([*lines, self.stopped] if self.stopped else lines)

    def as_record(self) -> dict[str, Any]:
        """Return the data for a record: counts, and the names of panoramas that need attention."""
        counts = {"labelled": len(self.done), "skipped": len(self.skipped), "failed": len(self.failed)}
        details = {key: value for key, value in asdict(self).items() if key not in ("done", "skipped")}
        return {"counts": counts} | details | {"seconds": round(self.seconds, 3)}

    @staticmethod
    def of_all(parts: Sequence["LabelReport"]) -> "LabelReport":
        """Return the report of all processes, with the time of the slowest."""
        whole = LabelReport(seconds=max(part.seconds for part in parts))
        for part in parts:
            whole.done += part.done
            whole.skipped += part.skipped
            whole.failed |= part.failed
            whole.left_out |= part.left_out
            whole.replaced += part.replaced
            whole.too_far |= part.too_far
            whole.broken_views |= part.broken_views
            whole.stopped = whole.stopped or part.stopped
        return whole


def _printable(name: str) -> str:
    """Return an id for one line of any terminal: line breaks, and bytes that are not text, are escaped."""
    return name if name.isprintable() else repr(name)


def one_sentence(error: BaseException) -> str:
    """Return one line about what went wrong, and what to do if memory ran out.

    Example:
        >>> one_sentence(MemoryError())
        'it needs more memory than there is: choose fewer writers, smaller panoramas, or a smaller batch_size'
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return "it needs more memory than there is: choose fewer writers, smaller panoramas, or a smaller batch_size"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "no space is left on the disk"
    lines = str(error).strip().splitlines()
    message = lines[0] if lines else "no reason given"
    return message if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {message}"
