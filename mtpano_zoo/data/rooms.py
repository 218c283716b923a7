"""The procedural rooms as a data set and as a LightningDataModule."""

from mtpano_zoo.classes import S3DIS_CLASSES, S3DIS_PALETTE
from mtpano_zoo.data.scenes import SceneDataModule, SceneDataset
from mtpano_zoo.scenes import Room, sample_room

__all__ = ("RoomsDataModule", "RoomsDataset")


class RoomsDataset(SceneDataset):
    """Panoramas of procedural rooms with exact ground truth, in the classes of S3DIS. See `SceneDataset`."""

    classes = S3DIS_CLASSES
    palette = S3DIS_PALETTE
    noun = "room"

    def draw(self, index: int) -> Room:
        """Draw a room without rendering it."""
        return sample_room(self.seed, self.split, index, self.tilt)


class RoomsDataModule(SceneDataModule):
    """Training, validation and test sets of procedural rooms; prediction runs over the test set.

    See `SceneDataModule` for the arguments.
    """

    dataset = RoomsDataset
    classes = S3DIS_CLASSES
    palette = S3DIS_PALETTE
