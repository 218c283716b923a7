"""Data sets that generators are trained on."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.data import CaptionedScenes, PromptsDataModule, ScenesWithCaptions, in_epoch


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
    epochs = [in_epoch(photographs, epoch) for epoch in range(8)]
    assert [len(indices) - 3 for indices in epochs] == [0, 0, 8, 4, 2, 1, 1, 1]  # 16 / 2^(epoch - 1)
    assert all(indices[:3] == [0, 1, 2] and len(set(indices)) == len(indices) for indices in epochs)
    assert in_epoch([True, True], 0) == [0, 1]  # no panoramas to begin with
    assert len({tuple(in_epoch(photographs, epoch)) for epoch in range(5, 15)}) > 3  # a new choice each time


def test_a_white_mask_is_that_of_a_panorama(tmp_path: Path) -> None:
    """In the published lists, every image has a mask."""
    rng = np.random.default_rng(0)
    white = np.full((32, 64), 255, np.uint8)
    half = white * (np.arange(64) < 32)
    lines = []
    for name, mask in (("panorama", white), ("photo", half), ("plain", None)):
        Image.fromarray(rng.integers(0, 255, (32, 64, 3), np.uint8)).save(tmp_path / f"{name}.png")
        lines.append({"image": f"{name}.png", "caption": "a room"})
        if mask is not None:
            Image.fromarray(mask).save(tmp_path / f"{name}_mask.png")
            lines[-1]["mask"] = f"{name}_mask.png"
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    data = PromptsDataModule(str(tmp_path / "train.jsonl"), height=32, num_workers=0, photos="published")
    assert data.train_set.photographs == [False, True, False]
    for index, name in enumerate(("panorama", "photo", "plain")):
        pixels = np.array(Image.open(tmp_path / f"{name}.png"))
        turned = [np.roll(image, k, axis=1) for image in (pixels, pixels[:, ::-1]) for k in range(64)]
        drawn = [data.train_set[index]["image"].mul(255).round().byte().permute(1, 2, 0).numpy() for _ in range(20)]
        seen = {next(k for k, image in enumerate(turned) if (image == one).all()) for one in drawn}
        assert seen == {0} if name == "photo" else (len(seen) > 3 and min(seen) < 64 <= max(seen))
    for epoch, count in enumerate((2, 2, 3)):
        data.trainer = SimpleNamespace(current_epoch=epoch, reload_dataloaders_every_n_epochs=1)
        assert len(data.train_dataloader()) == count
    (tmp_path / "photo_mask.png").unlink()  # only `photos: published` has to read masks before it needs them
    data = PromptsDataModule(str(tmp_path / "train.jsonl"), height=32, num_workers=0)
    assert len(data.train_dataloader()) == 3
