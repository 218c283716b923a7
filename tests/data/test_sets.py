from mtpano_zoo.data import Augmentation, RoomsDataModule
from mtpano_zoo.data.sets import samples_of


def test_augmentation_is_off_unless_asked_for():
    data = RoomsDataModule(32, 64, 2, 2, 2, augmentation=Augmentation())
    assert samples_of(data, ["train"], augmented=True)["train"][0].augmentation is not None
    assert samples_of(data, ["train"])["train"][0].augmentation is None
