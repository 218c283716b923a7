"""Images with GPano tags, and a network that shows how they were turned."""

import torch
from PIL import Image, PngImagePlugin
from torch import nn

from mtpano_zoo.image_io import gpano_xmp


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
