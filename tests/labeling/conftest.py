import numpy as np
import pytest
from PIL import Image
from tiny_labeling import HEIGHT, WIDTH, config

from mtpano_zoo.cli import main


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The labels of a run that nothing disturbs."""
    folder = tmp_path_factory.mktemp("whole")
    assert main(["label", "--config", config(folder / "tiny.yaml"), "--out", str(folder / "out")]) == 0
    return folder / "out"


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        shades = np.random.default_rng(number).integers(60, 200, (4, 8, 3), np.uint8)
        Image.fromarray(shades).resize((WIDTH * 2, HEIGHT * 2), Image.Resampling.BICUBIC).save(
            folder / f"p{number}.png"
        )
    return folder
