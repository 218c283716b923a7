"""Account of finished, pending and failed panoramas, shared by reading, labelling and writing."""

from collections.abc import Callable, Mapping
from typing import Any

from mtpano_zoo.labeling.origin import Origin
from mtpano_zoo.labeling.report import LabelReport
from mtpano_zoo.labeling.storage import LabelFolder

__all__ = ("Ledger",)

OTHER_IMAGE = (
    "its labels were made from another image, or from another size of it: add --overwrite to replace them, or choose "
    "another folder with --out"
)
SAME_NAME = "two panoramas have this name, of which only the first is labelled"


class Ledger:
    """The account of one process.

    Args:
        folder: Where the labels go.
        overwrite: Replace the labels of a panorama that were made from another image.
        made_otherwise: Sentence for a panorama that was made from something else and is not replaced.
    """

    def __init__(self, folder: LabelFolder, overwrite: bool = False, made_otherwise: str = OTHER_IMAGE) -> None:
        self.folder, self.overwrite = folder, overwrite
        self.made_otherwise = made_otherwise
        self.report = LabelReport()
        self._seen: set[str] = set()
        self._replaced: set[str] = set()

    @property
    def stopped(self) -> bool:
        """Whether the run has been stopped."""
        return bool(self.report.stopped)

    def stop(self, reason: str) -> None:
        """End the run; the first reason counts."""
        self.report.stopped = self.report.stopped or reason

    def fail(self, name: str, sentence: str) -> None:
        """Record why a panorama gets no labels."""
        self.report.failed[name] = sentence

    def leave_out(self, name: str, sentence: str) -> None:
        """Record why a panorama is unusable, which is not a failure."""
        self.report.left_out[name] = sentence

    def settle(self, name: str, stamp: str, digest: Callable[[], str]) -> bool:
        """Return whether a panorama is finished and needs no work; if so, add it to the report.

        A stamp that is new although nothing has changed, for instance after a hard link was made, is recorded.

        Args:
            name: Name of the panorama.
            stamp: Stamp of its files, see `Origin`.
            digest: Function that returns its digest, or nothing if it has to be read first. Only called if needed.
        """
        if not self.folder.has(name):
            return False
        known = self.folder.origin(name)
        if known is not None and not (stamp and stamp == known.stamp):
            try:
                now = digest()
            except (OSError, ValueError):  # it cannot be read, so new labels are impossible
                now, stamp = known.digest, ""
            if not now:
                return False
            if now != known.digest:
                if self.overwrite:
                    self._replaced.add(name)
                    return False
                self.fail(name, self.made_otherwise)
                return True
            if stamp:
                self.folder.renew(name, Origin(now, stamp))
        self.report.skipped.append(name)
        return True

    def wants(self, item: Mapping[str, Any]) -> bool:
        """Return whether to label a panorama that was read: it may have been finished since, or be a duplicate."""
        if self.stopped:
            return False
        name = item["name"]
        if name in self._seen:
            self.fail(name, SAME_NAME)
            return False
        self._seen.add(name)
        origin: Origin | None = item.get("origin")
        return origin is None or not self.settle(name, origin.stamp, lambda: origin.digest)

    def write(self, item: Mapping[str, Any], files: Mapping[str, bytes]) -> bool:
        """Write the labels of a panorama; return False if they are no longer needed.

        Raises:
            OSError: If they cannot be written.
        """
        if self.stopped:
            return False
        name = item["name"]
        if not self.folder.write(name, item["jpeg"], files, item["origin"], self.overwrite):
            self.report.skipped.append(name)
            return False
        self.report.done.append(name)
        if name in self._replaced:
            self.report.replaced.append(name)
        return True
