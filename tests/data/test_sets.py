import fake_pseudo_labels
import numpy as np
import pytest

from mtpano_zoo.data import Augmentation, PseudoLabelDataModule, RoomsDataModule
from mtpano_zoo.data.sets import samples_of


def test_augmentation_is_off_unless_asked_for():
    data = RoomsDataModule(32, 64, 2, 2, 2, augmentation=Augmentation())
    assert samples_of(data, ["train"], augmented=True)["train"][0].augmentation is not None
    assert samples_of(data, ["train"])["train"][0].augmentation is None


@pytest.mark.filterwarnings("ignore:.*panoramas have no")
def test_pseudo_labels_are_the_merged_ones_even_if_training_takes_views(pseudo_labels):
    data = PseudoLabelDataModule(pseudo_labels, height=32, width=64, view_tasks=["semseg", "depth"])
    for split in ("train", "val"):
        samples = samples_of(data, [split])[split][0]
        for i in range(len(samples)):
            truth = fake_pseudo_labels.ground_truth(samples.name(i))
            np.testing.assert_allclose(samples[i]["depth"], truth["depth"], atol=0.001)
            assert np.array_equal(samples[i]["semseg"], truth["semseg"])
            assert ("confidence" in samples[i]) is (samples.name(i) != "room_b")
