"""Fingerprints of panoramas without labels; those of files and rooms are in `test_datamodule`."""

import torch

from mtpano_zoo.labeling.fingerprint import digest_of, digest_of_pixels, stamp_of


def test_the_digest_of_pixels_is_of_values_type_and_shape():
    image = torch.arange(24, dtype=torch.uint8).view(3, 2, 4)
    others = (image + 1, image.float(), image.view(3, 4, 2), image.flip(0))
    assert len({digest_of_pixels(one) for one in (image, *others)}) == 5
    assert digest_of_pixels(image.permute(1, 2, 0).contiguous().permute(2, 0, 1)) == digest_of_pixels(image)


def test_a_data_set_that_knows_nothing_of_its_panoramas():
    assert digest_of([None], 0) == "" and stamp_of([None], 0) == ""
