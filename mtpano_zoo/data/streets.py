"""Procedural streets, squares, suburbs and country as a data set and as a LightningDataModule."""

from mtpano_zoo.data.scenes import SceneDataModule, SceneDataset
from mtpano_zoo.scene_classes import SCENE_CLASSES, SCENE_PALETTE
from mtpano_zoo.scenes import Room, sample_street
from mtpano_zoo.scenes.streets import SPACE

__all__ = ("StreetsDataModule", "StreetsDataset")


class StreetsDataset(SceneDataset):
    """Panoramas under the open sky with exact ground truth, in `SCENE_CLASSES`. See `SceneDataset`.

    Distances reach a few kilometres. In the sky `far` is true, depth is 0 and normals are zero.
    """

    classes = SCENE_CLASSES
    palette = SCENE_PALETTE
    noun = "street"
    space = SPACE
    outdoors = True

    def draw(self, index: int) -> Room:
        """Draw a street without rendering it."""
        return sample_street(self.seed, self.split, index, self.tilt)


class StreetsDataModule(SceneDataModule):
    """Training, validation and test sets of procedural outdoor scenes; prediction runs over the test set.

    Streets with crossings, squares and courtyards, suburbs, country; by day, under clouds and at dusk; from the hand,
    from a car, a balcony or a drone. See `SceneDataModule` for the arguments. A mixture with rooms::

        data:
          class_path: MixedDataModule
          init_args:
            modules:
              homes: {class_path: HomesDataModule, init_args: {height: 256, width: 512}}
              streets: {class_path: StreetsDataModule, init_args: {height: 256, width: 512}}
            weights: {homes: 1, streets: 1}
    """

    dataset = StreetsDataset
    classes = SCENE_CLASSES
    palette = SCENE_PALETTE
