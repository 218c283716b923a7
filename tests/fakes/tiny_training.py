"""The smallest network and data that have everything training looks at."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningDataModule, Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from mtpano_zoo.models import PanoramaNetwork
from mtpano_zoo.tasks import MAIN_TASKS

CLASSES = ("floor", "wall", "sky")
HEIGHT, WIDTH = 16, 32

CONFIG = {
    "model": {
        "network": {"class_path": "TinyNetwork", "init_args": {"width": 4}},
        "loss": {"class_path": "MultiTaskLoss", "init_args": {"auxiliary_weight": 0.2}},
        "lr": 0.01,
        "encoder_lr": 0.001,
    },
    "data": {"class_path": "TinyDataModule", "init_args": {"batch_size": 2}},
    "trainer": {
        "max_epochs": 2,
        "accelerator": "cpu",
        "log_every_n_steps": 2,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": [
            {"class_path": "AuxiliaryWarmup", "init_args": {"steps": 2}},
            {"class_path": "PanelLogger", "init_args": {"count": 1, "every_n_epochs": 2}},
            {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.9}},
            {
                "class_path": "ModelCheckpoint",
                "init_args": {"monitor": "val/semseg/mIoU", "mode": "max", "filename": "best", "save_last": True},
            },
            {"class_path": "LearningRateMonitor"},
        ],
    },
}


class TinyNetwork(PanoramaNetwork):
    """A convolution as encoder, batch norm and dropout behind it, auxiliary layers and a head per task.

    The fixture `tiny_network_is_known` lets files name it.
    """

    encoder_part = "encoder"
    classifier_parts = ("heads.semseg", "auxiliary_heads.semseg")
    auxiliary_parts = ("aggregators", "auxiliary_heads")

    def __init__(
        self,
        classes: Sequence[str] = CLASSES,
        tasks: Sequence[str] = ("semseg", "depth", "normals"),
        width: int = 6,
        dropout: float = 0.1,
    ) -> None:
        super().__init__(tasks, (HEIGHT, WIDTH), classes=classes, image_mean=(0.5,) * 3, image_std=(0.5,) * 3)
        self.encoder = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.GELU())
        self.gamma = nn.Parameter(torch.ones(width, 1, 1))
        self.neck = nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width), nn.Dropout(dropout))
        self.aggregators = nn.ModuleDict({"all": nn.Sequential(nn.Conv2d(width, width, 1), nn.BatchNorm2d(width))})
        channels = {task: MAIN_TASKS[task].channels or len(classes) for task in self.tasks}
        self.auxiliary_heads = nn.ModuleDict({task: nn.Conv2d(width, channels[task], 1) for task in self.tasks})
        self.heads = nn.ModuleDict({task: nn.Conv2d(width, channels[task], 1) for task in self.tasks})

    def forward(self, image: Tensor) -> dict[str, Any]:
        encoded = self.encoder(self.normalize(image))
        aggregated = self.aggregators["all"](encoded)
        decoded = self.neck(encoded * self.gamma + aggregated)
        outputs: dict[str, Any] = {task: head(decoded) for task, head in self.heads.items()}
        outputs["aux"] = {task: head(aggregated) for task, head in self.auxiliary_heads.items()}
        return outputs


class TinyDataset(Dataset[dict[str, Any]]):
    """Noise whose labels follow from the image, so that training on it has something to learn."""

    def __init__(self, count: int, offset: int = 0, without: Sequence[str] = (), every: int = 1) -> None:
        self.count = count
        self.offset = offset
        self.without = tuple(without)
        self.every = every

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(index + self.offset))
        far = image[2] > 0.9
        sample: dict[str, Any] = {
            "image": image,
            "semseg": (image[0] * 2.999).long(),
            "depth": torch.where(far, 0, 1 + image[1]),
            "far": far,
            "normals": nn.functional.normalize(image - 0.5, dim=0),
            "disparity": image[0] * image[1],
            "disparity_valid": ~far,
            "id": f"sample_{index}",
        }
        if index % self.every == 0:
            for key in self.without:
                del sample[key]
        return sample


class TinyDataModule(LightningDataModule):
    """Eight training, four validation and four test samples."""

    classes = CLASSES

    def __init__(self, batch_size: int = 2, train: int = 8, shuffle: bool = True, without: Sequence[str] = ()) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.train = train
        self.shuffle = shuffle
        self.without = without

    def train_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(TinyDataset(self.train, 0, self.without), batch_size=self.batch_size, shuffle=self.shuffle)

    def val_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(TinyDataset(4, 100, self.without), batch_size=self.batch_size)

    def test_dataloader(self) -> DataLoader[dict[str, Any]]:
        return DataLoader(TinyDataset(4, 200, self.without), batch_size=self.batch_size)

    predict_dataloader = test_dataloader


def trainer(path: Path, **options: Any) -> Trainer:
    quiet: dict[str, Any] = {
        "accelerator": "cpu",
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
    }
    return Trainer(default_root_dir=path, **(quiet | options))


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_same(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    changed = [name for name in a if not torch.equal(a[name], b[name])]
    assert not changed, changed
