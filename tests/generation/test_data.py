"""Data sets that generators are trained on."""

import pytest
import torch

from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.data import CaptionedScenes, ScenesWithCaptions, in_epoch


def test_captioned_scenes() -> None:
    data = ScenesWithCaptions(height=16, width=32, train_count=4, val_count=1, streets=0.5, batch_size=2)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (2, 3, 16, 32)
    captions = [data.train_set[i]["caption"] for i in range(4)]
    assert ["room" in caption for caption in captions] == [True, True, False, False]
    assert len({data.train_set[i]["id"] for i in range(4)}) == 4
    turned, plain = data.train_set[3]["image"], CaptionedScenes(data.train_set.datasets[1].scenes)[1]["image"]
    assert torch.allclose(turned.sum(-1), plain.sum(-1), atol=1e-4)
    with pytest.raises(InputError, match="share of outdoor scenes"):
        ScenesWithCaptions(streets=1.5)


def test_photographs_join_as_published() -> None:
    photographs = [False] * 3 + [True] * 16
    epochs = [in_epoch(photographs, "published", epoch) for epoch in range(8)]
    assert [len(indices) - 3 for indices in epochs] == [0, 0, 8, 4, 2, 1, 1, 1]  # 16 / 2^(epoch - 1)
    assert all(indices[:3] == [0, 1, 2] and len(set(indices)) == len(indices) for indices in epochs)
    assert in_epoch(photographs, "all", 0) == list(range(19))
    assert in_epoch([True, True], "published", 0) == [0, 1]  # no panoramas to begin with
    assert len({tuple(in_epoch(photographs, "published", epoch)) for epoch in range(5, 15)}) > 3  # drawn anew
