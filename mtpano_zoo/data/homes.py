"""Procedural homes as a data set and as a LightningDataModule."""

from mtpano_zoo.data.scenes import SceneDataModule, SceneDataset
from mtpano_zoo.scene_classes import SCENE_CLASSES, SCENE_PALETTE
from mtpano_zoo.scenes import Room, sample_home
from mtpano_zoo.scenes.homes import SPACE


class HomesDataset(SceneDataset):
    """Panoramas of lived-in rooms with exact ground truth, in `SCENE_CLASSES`. See `SceneDataset`."""

    classes = SCENE_CLASSES
    palette = SCENE_PALETTE
    noun = "home"
    space = SPACE

    def draw(self, index: int) -> Room:
        """Draw a home without rendering it."""
        return sample_home(self.seed, self.split, index, self.tilt)


class HomesDataModule(SceneDataModule):
    """Training, validation and test sets of procedural lived-in rooms; prediction runs over the test set.

    Richer than `RoomsDataModule`: bedrooms, kitchens, living rooms and offices, with views into further rooms, people,
    and all kinds of light. See `SceneDataModule` for the arguments.
    """

    dataset = HomesDataset
    classes = SCENE_CLASSES
    palette = SCENE_PALETTE
