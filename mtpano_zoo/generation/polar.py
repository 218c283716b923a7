"""Repaint the poles of panoramas: an inpainting model fills a hole in the upper and lower face of a cube.

The hole is the central square of half the side, as in DiT360. Only its pixels change here, because projecting a whole
cube back would resample the others too.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mtpano_zoo import sphere
from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.loading import Offload, device_for, place, precision_of
from mtpano_zoo.generation.run import manifest_of, prepare_folder
from mtpano_zoo.generation.sampling import Generator
from mtpano_zoo.image_files import find_images
from mtpano_zoo.image_io import read_panorama, write_png
from mtpano_zoo.prediction.folder import RECORDS, PredictionFolder, read_records
from mtpano_zoo.run.output import digest_of

__all__ = (
    "STRENGTH",
    "Inpaint",
    "hole_of_face",
    "hole_of_panorama",
    "load_inpainter",
    "polar_faces",
    "refine",
    "refine_folder",
)

Inpaint = Callable[[Tensor, Tensor, int], Tensor]
"""Function from a face (3, S, S) in [0, 1], its hole (S, S) and a seed to the filled face."""
UP, DOWN = 4, 5
STRENGTH = 1.0  # share of the steps that are taken: with fewer, some of the white of the hole would remain
FORMAT = "mtpano refined panoramas, 1"


def hole_of_face(size: int) -> Tensor:
    """Return which pixels (S, S) of an upper or lower face are filled: from a quarter to three quarters of each side.

    Example:
        >>> hole_of_face(4).int().tolist()
        [[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]]
    """
    inside = torch.zeros(size, size, dtype=torch.bool)
    inside[size // 4 : size - size // 4, size // 4 : size - size // 4] = True
    return inside


def hole_of_panorama(height: int, width: int) -> Tensor:
    """Return which pixels (H, W) of a panorama lie in one of the two holes.

    Example:
        >>> hole_of_panorama(8, 16).any(1).int().tolist()  # within 27 degrees of a pole
        [1, 0, 0, 0, 0, 0, 0, 1]
    """
    x, y, z = sphere.erp_rays(height, width, dtype=torch.float64).unbind(-1)
    return torch.maximum(x.abs(), z.abs()) < 0.5 * y.abs()


def polar_faces(panorama: Tensor, size: int) -> Tensor:
    """Return the upper and the lower face (2, C, S, S) of a panorama (C, H, W)."""
    return sphere.to_cubemap(panorama[None], size)[0, [UP, DOWN]]


def refine(panorama: Tensor, inpaint: Inpaint, *, size: int | None = None, seed: int = 0) -> Tensor:
    """Return a panorama (3, H, W) with repainted poles; nothing changes outside the holes.

    Args:
        panorama: Panorama in [0, 1].
        inpaint: Fills a face.
        size: Side of a face, a multiple of 4. If omitted, half the rows, which keeps the resolution, rounded down to
            the multiple of 16 that inpainting models need.
        seed: Seed of the inpainting.

    Raises:
        InputError: If the size does not fit, or `inpaint` returns another size.
    """
    height, width = panorama.shape[1:]
    size = 16 * max(1, height // 32) if size is None else size
    if size < 4 or size % 4:
        raise InputError(f"the side of a face must be a multiple of 4, not {size}")
    hole = hole_of_face(size)
    faces = sphere.to_cubemap(panorama[None], size)
    for number, face in enumerate((UP, DOWN)):
        white = torch.where(hole, torch.ones_like(faces[0, face]), faces[0, face])
        filled = inpaint(white, hole, seed + number)
        if filled.shape != white.shape:
            raise InputError(f"the inpainting model returned {tuple(filled.shape)} for a face of {tuple(white.shape)}")
        faces[0, face] = filled.to(faces)
    back = sphere.from_cubemap(faces, height, width)[0]
    return torch.where(hole_of_panorama(height, width), back, panorama)


def load_inpainter(
    source: str,
    prompt: str,
    steps: int,
    seed: int,
    download: bool = False,
    device: str | None = None,
    offload: Offload = "none",
) -> Inpaint:
    """Load an inpainting pipeline of diffusers and return it as a function of face, hole and seed.

    Args:
        source: Folder or repository of a pipeline that takes a mask, such as FLUX.1-Fill, or of one for which diffusers
            has an inpainting variant.
        prompt: What the poles show.
        steps: Sampling steps.
        seed: Seed of the noise.
        download: Download what is not in the cache.
        device: See `mtpano_zoo.generation.loading.load_generator`.
        offload: See there.

    Raises:
        InputError: If the pipeline cannot be loaded, or the memory is too small.
    """
    from diffusers import AutoPipelineForInpainting, DiffusionPipeline

    where = device_for(device)
    options: dict[str, Any] = {"local_files_only": not download, "dtype": precision_of(where)}
    try:
        pipeline: Any = DiffusionPipeline.from_pretrained(source, **options)
        if "mask_image" not in inspect.signature(type(pipeline).__call__).parameters:
            pipeline = AutoPipelineForInpainting.from_pipe(pipeline)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{source} cannot be loaded as an inpainting pipeline of diffusers: {reason}") from error
    strength = {"strength": STRENGTH} if "strength" in inspect.signature(type(pipeline).__call__).parameters else {}
    painter = Generator(pipeline)
    place(painter, where, offload)

    def inpaint(face: Tensor, hole: Tensor, number: int) -> Tensor:
        side = face.shape[-1]
        with painter.enough_memory():
            result: Any = pipeline(
                prompt=prompt,
                image=Image.fromarray((face * 255).round().byte().permute(1, 2, 0).cpu().numpy()),
                mask_image=Image.fromarray(hole.byte().mul(255).numpy()),
                height=side,
                width=side,
                num_inference_steps=steps,
                **strength,
                generator=torch.Generator().manual_seed(seed + number),
            ).images[0]
        return torch.from_numpy(np.array(result.convert("RGB"))).permute(2, 0, 1).float() / 255

    return inpaint


def refine_folder(source: Path, out: Path, inpaint: Inpaint, settings: Mapping[str, Any]) -> tuple[int, int]:
    """Refine the panoramas of a folder; return how many were written and how many existed already.

    Args:
        source: Folder of panoramas.
        out: Folder to write to: a new one, or one to continue.
        inpaint: Fills a face.
        settings: Settings of `inpaint` as plain data, for the manifest.

    Raises:
        InputError: If there are no panoramas, one of them cannot be used, or `out` holds other results.
        OSError: If a file cannot be read or written.
    """
    if out.resolve() == source.resolve():
        raise InputError(f"{out} is the folder of the panoramas: choose another one for --out")
    written = there = 0
    targets = find_images([source], out)
    manifest = manifest_of({}, settings, FORMAT)
    prepare_folder(out, manifest)
    record = PredictionFolder(out, manifest)
    record.records = read_records(out / RECORDS)
    for path, target in targets.items():
        target = target.with_name(f"{target.name}.png")
        name, digest = target.relative_to(out).as_posix(), digest_of(path)
        if target.exists():
            if record.records.get(name, digest) != digest:
                raise InputError(
                    f"{target} is of an earlier {path}: delete it to refine the new one, or choose another folder for "
                    "--out"
                )
            there += 1
            continue
        panorama = torch.from_numpy(read_panorama(path)).permute(2, 0, 1).float() / 255
        seed = int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:4])
        refined = refine(panorama, inpaint, seed=seed)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_png(target, (refined * 255).round().byte().permute(1, 2, 0).numpy())
        record.complete(name, digest)
        written += 1
    return written, there
