"""Images with GPano tags, and a network that shows how they were turned."""

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import nn

from mtpano_zoo.image_io import Window, gpano_xmp


class Height(nn.Module):
    """Says how high what a pixel shows is in the frame of the image it gets, and that floors face up."""

    tasks, input_size, classes = ("semseg", "depth", "normals"), (64, 128), ("a", "b")

    def __init__(self):
        super().__init__()
        self.images = []

    def forward(self, image):
        self.images.append(image)
        batch, _, height, width = image.shape
        up = torch.zeros(batch, 3, height, width)
        up[:, 1] = -1
        rows = torch.linspace(1, 2, height)[:, None].expand(batch, 1, height, width)
        return {"semseg": image[:, :2], "depth": rows, "normals": up}


def tagged(path, pixels, window=None, pose=None, **changes):
    xmp = gpano_xmp(*pixels.shape[:2], window, pose)
    for tag, value in changes.items():
        before, _, after = xmp.partition(f'GPano:{tag}="')
        xmp = f'{before}GPano:{tag}="{value}"{after[after.index(chr(34)) + 1 :]}'
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", xmp)
    options = {"pnginfo": info} if path.suffix == ".png" else {"xmp": xmp.encode(), "quality": 95}
    Image.fromarray(pixels).save(path, **options)
    return path


def partly_seen(folder):
    """Write a crop and an image with a transparent area; return by name which pixels of half the size are all seen."""
    shades = np.random.default_rng(0).integers(60, 200, (64, 128, 3), np.uint8)
    window = Window(11, 20, 31, 74, 64, 128)
    tagged(folder / "crop.png", shades[window.slices], window)
    alpha = np.full((64, 128, 1), 255, np.uint8)
    alpha[5:20, 7:41] = 0
    Image.fromarray(np.concatenate((shades, alpha), 2)).save(folder / "hole.png")
    seen = {"crop": np.zeros((64, 128), bool), "hole": alpha[..., 0] > 0}
    seen["crop"][window.slices] = True
    return {name: whole.reshape(32, 2, 64, 2).all((1, 3)) for name, whole in seen.items()}
