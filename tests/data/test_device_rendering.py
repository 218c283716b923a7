"""Scenes that the device of a training renders: the same samples as those that workers render."""

from typing import Any

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from torch import Tensor, nn

from mtpano_zoo.data import Augmentation, HomesDataModule, MixedDataModule, RoomsDataModule, StreetsDataModule
from mtpano_zoo.data.device_colours import shift_hsv
from mtpano_zoo.data.device_rendering import DRAWN
from mtpano_zoo.errors import InputError

SIZE = {"height": 16, "width": 32, "val_count": 1, "test_count": 1}


def scenes(kind: Any, render_on: str, **options: Any) -> Any:
    return kind(**SIZE, **{"train_count": 5, "batch_size": 2, "render_on": render_on} | options)


def mixture(render_on: str, workers: int = 0, indoors: Any = HomesDataModule) -> MixedDataModule:
    """It has poles that are black, and draws some homes twice in an epoch, with other changes."""
    augmentation = Augmentation(yaw=1.0, mirror=0.5, tilt=0.5, photometric=1.0, strength=1.5)
    options = {"train_count": 2, "tilt": 10.0, "black_poles": 0.5}
    modules = {
        "homes": scenes(indoors, "workers", **options),
        "streets": scenes(StreetsDataModule, "workers", **options),
    }
    shares = {"homes": 3.0, "streets": 1.0}
    more: Any = {"samples_per_epoch": 8, "batch_size": 4, "num_workers": workers, "render_on": render_on}
    return MixedDataModule(modules, shares, augmentation=augmentation, **more)


def batches(module: Any) -> list[Any]:
    loader: Any = module.train_dataloader()
    loader.sampler.set_epoch(1)
    loaded = list(loader)
    if getattr(module, "render_on", "") == "device":
        assert all(batch.keys() == {DRAWN, "id"} for batch in loaded)
    return [module.on_after_batch_transfer(batch, 0) for batch in loaded]


def assert_equal(one: list[Any], other: list[Any]) -> None:
    assert len(one) == len(other) > 0
    for a, b in zip(one, other, strict=True):
        assert a.keys() == b.keys() and a["id"] == b["id"]
        for key in a.keys() - {"id"}:
            assert a[key].dtype == b[key].dtype
            torch.testing.assert_close(a[key], b[key], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", [RoomsDataModule, HomesDataModule, StreetsDataModule])
def test_scenes_are_those_that_workers_render(kind: Any) -> None:
    options = {"augmentation": Augmentation(tilt=0.5, photometric=1.0), "black_poles": 0.5, "seed": 3}
    assert_equal(batches(scenes(kind, "device", **options)), batches(scenes(kind, "workers", **options)))


@pytest.mark.parametrize("workers", [0, 1])
def test_mixtures_are_those_that_workers_render(workers: int) -> None:
    assert_equal(batches(mixture("device", workers)), batches(mixture("workers")))


@pytest.mark.parametrize("render_on", ["device", "workers"])
def test_only_scenes_that_say_what_is_far_do_so_beside_others(render_on: str) -> None:
    found = batches(mixture(render_on, indoors=RoomsDataModule))
    mixed = [batch for batch in found if len({name.split("/")[0] for name in batch["id"]}) == 2]
    assert mixed
    for batch in mixed:
        assert batch["has_far"].tolist() == [name.startswith("streets/") for name in batch["id"]]
    assert not any("has_far" in batch for batch in batches(mixture(render_on)))  # homes say that nothing is


def test_modules_in_a_mixture_render_as_the_mixture_says() -> None:
    inner = scenes(RoomsDataModule, "device", train_count=2)
    (batch,) = batches(MixedDataModule({"rooms": inner}, batch_size=2))
    assert batch["image"].shape == (2, 3, 16, 32)


class Mean(LightningModule):
    """It trains on the brightness of batches, and keeps them."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.seen: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.seen.append(batch)
        return self.scale * batch["image"].mean()

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def test_a_trainer_hands_rendered_batches_to_the_network(tmp_path: Any) -> None:
    module = Mean()
    quiet: Any = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    Trainer(max_epochs=1, default_root_dir=tmp_path, **quiet).fit(module, datamodule=mixture("device"))
    assert len(module.seen) == 2
    assert all(batch["depth"].shape == (4, 16, 32) and batch["far"].dtype == torch.bool for batch in module.seen)


def test_colours_change_on_a_device_as_on_the_host() -> None:
    """The first transform is one that devices have no form for. Hues may round to other steps of two degrees."""
    one: Any = [
        {"ToGray": {"p": 0.5}},
        {"RandomBrightnessContrast": {"p": 0.7}},
        {"RandomGamma": {"p": 1}},
        {"HueSaturationValue": {"p": 1}},
    ]
    augmentation = Augmentation(photometric=1.0, transforms=one)
    coarse = torch.rand(1, 3, 4, 8, generator=torch.Generator().manual_seed(0))
    image = nn.functional.interpolate(coarse, size=(32, 64), mode="bilinear")[0]
    for seed in range(12):
        here = augmentation._change_colours(image, np.random.default_rng(seed))
        there = augmentation.change_on_device(image, np.random.default_rng(seed))
        assert (here - image).abs().mean() > 0.005
        difference = (here - there).abs()
        assert difference.mean() < 0.8 / 255 and difference.max() < 9.5 / 255


def test_hues_turn_and_grey_stays_grey() -> None:
    pixels = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.2, 0.2, 0.2], [1.0, 1.0, 0.0]]).T[..., None]
    turned = shift_hsv(pixels, 120, 0, 0)[..., 0].T
    expected = torch.tensor([[0.0, 0.0, 1.0], [1.0, 0.0, 0.0], [0.2, 0.2, 0.2], [1.0, 0.0, 1.0]])
    torch.testing.assert_close(turned, expected, atol=0.01, rtol=0)
    assert shift_hsv(pixels, 0, -255, 0)[:, 0, 0].tolist() == [1, 1, 1]


def test_what_cannot_be_rendered_on_a_device_is_refused() -> None:
    with pytest.raises(InputError, match="render_on is workers or device, not 'gpu'"):
        scenes(RoomsDataModule, "gpu")
    with pytest.raises(InputError, match="cache keeps what workers render"):
        scenes(RoomsDataModule, "device", cache=True)
    cached = scenes(RoomsDataModule, "workers", cache=True)
    with pytest.raises(InputError, match="for rendered scenes without cache, and rooms is not"):
        MixedDataModule({"rooms": cached}, render_on="device")
