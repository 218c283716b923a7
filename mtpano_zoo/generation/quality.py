"""Quality of generated panoramas: jumps at the seam and at the poles, and the distance to real panoramas.

The jumps need no network. The Frechet distance uses the features of any network of the zoo with an `Encoder`. Its
values are comparable for the same network only, and not with published FID, which uses Inception.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from mtpano_zoo.errors import InputError
from mtpano_zoo.image_files import find_images
from mtpano_zoo.image_io import read_panorama
from mtpano_zoo.models import PanoramaNetwork
from mtpano_zoo.prediction.small_image import encoder_of
from mtpano_zoo.resize import resize
from mtpano_zoo.sphere import solid_angles

__all__ = (
    "BANDS",
    "features_of",
    "find_panoramas",
    "frechet_distance",
    "jumps",
    "panoramas_of",
    "report",
    "seam_jump",
    "zenith_jump",
)

CAP = 30.0  # degrees around a pole within which neighbouring rows are compared
BANDS = {"whole": (0.0, 90.0), "poles": (45.0, 90.0), "equator": (0.0, 45.0)}
"""Parts of the sphere by smallest and largest angle from the horizon, in degrees."""
_FLAT = 1e-3  # a quarter of a grey level, so that an image of one colour has no jumps


def seam_jump(image: Tensor) -> float:
    """Return the difference across the seam relative to that between other neighbouring columns: 1 = no seam.

    Rows are weighted by solid angle.

    Args:
        image: Panorama (3, H, W) in [0, 1].

    Example:
        >>> ramp = torch.arange(8.0).expand(3, 4, 8) / 8
        >>> round(seam_jump(ramp), 3)
        6.952
    """
    weight = solid_angles(image.shape[-2], image.shape[-1]).to(image)
    steps = ((image.roll(-1, -1) - image).abs() * weight).mean((0, 1)) / weight.mean()
    return float((steps[-1] + _FLAT) / (steps[:-1].mean() + _FLAT))


def zenith_jump(image: Tensor) -> float:
    """Return the difference across the upper pole relative to that between neighbouring rows around it: 1 = no jump.

    Across the pole, a pixel of the first row meets the pixel half a turn further in the same row, which is as far away
    as the next row. Flip the image vertically for the nadir.

    Args:
        image: Panorama (3, H, W) in [0, 1].

    Example:
        >>> grey = torch.full((3, 64, 128), 0.5)
        >>> zenith_jump(grey)
        1.0
    """
    rows = max(2, round(image.shape[-2] * CAP / 180))
    across = (image[:, 0] - image[:, 0].roll(image.shape[-1] // 2, -1)).abs().mean()
    around = (image[:, 1 : rows + 1] - image[:, :rows]).abs().mean()
    return float((across + _FLAT) / (around + _FLAT))


def jumps(image: Tensor) -> dict[str, float]:
    """Return the jumps of a panorama (3, H, W) in [0, 1] at the seam and at both poles.

    Example:
        >>> sorted(jumps(torch.full((3, 64, 128), 0.5)))
        ['nadir', 'seam', 'zenith']
    """
    return {"seam": seam_jump(image), "zenith": zenith_jump(image), "nadir": zenith_jump(image.flip(-2))}


@torch.no_grad()
def features_of(images: Iterable[Tensor], network: PanoramaNetwork) -> dict[str, Tensor]:
    """Return the deepest features (N, C) of panoramas in float64, averaged over each part of the sphere in `BANDS`.

    Args:
        images: Panoramas (3, H, W) in [0, 1].
        network: Network whose `encoder_part` is an `Encoder`.

    Raises:
        InputError: If the network has no `Encoder`, or there are no images.
    """
    encoder = encoder_of(network)
    found: dict[str, list[Tensor]] = {band: [] for band in BANDS}
    for image in images:
        resized = resize(image, *network.input_size)[None]
        last = encoder(network.normalize(resized))[0][-1][0].double()
        height, width = last.shape[-2:]
        latitude = ((torch.arange(height) + 0.5) / height * 180 - 90).abs()
        for band, (low, high) in BANDS.items():
            inside = solid_angles(height, width, dtype=torch.float64)[:, 0] * ((latitude >= low) & (latitude < high))
            found[band].append((last.mean(-1) * inside).sum(-1) / inside.sum())
    if not found["whole"]:
        raise InputError("there are no panoramas to compare")
    return {band: torch.stack(features) for band, features in found.items()}


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """Return the Frechet distance between normal distributions fitted to two samples (N, C) and (M, C).

    `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))`; FID is this distance on Inception's features (arXiv 1706.08500).

    Raises:
        InputError: If a sample has fewer than two elements and so no covariance.

    Example:
        >>> frechet_distance(torch.tensor([[0.0], [2.0]]), torch.tensor([[3.0], [5.0]]))
        9.0
    """
    if len(first) < 2 or len(second) < 2:
        raise InputError("a Frechet distance needs at least two panoramas on each side")
    first, second = first.double(), second.double()
    shift = (first.mean(0) - second.mean(0)).square().sum()
    one, other = torch.cov(first.T).reshape(first.shape[1], -1), torch.cov(second.T).reshape(second.shape[1], -1)
    cross = torch.linalg.eigvals(one @ other).real.clamp(min=0).sqrt().sum()
    return float(shift + one.trace() + other.trace() - 2 * cross)


def report(folder: Path, reference: Path | None = None, network: PanoramaNetwork | None = None) -> str:
    """Return a table for the terminal: jumps of the panoramas in a folder, and their distance to others.

    Args:
        folder: Folder of panoramas.
        reference: Folder of other panoramas, such as held-out ones.
        network: Network whose features are compared. Only needed with a reference.

    Raises:
        InputError: If there are no panoramas, or too few.
        OSError: If a file cannot be read.
    """
    if reference is not None and network is not None:
        _check_enough(folder, 2)
        _check_enough(reference, 4)  # two halves of the reference are compared too
    values: dict[str, list[float]] = {}
    for image in panoramas_of(folder):
        for name, value in jumps(image).items():
            values.setdefault(name, []).append(value)
    lines = [f"{len(values['seam'])} panoramas in {folder}; jumps relative to other neighbours, 1 = no jump"]
    for name, numbers in values.items():
        mean, deviation = torch.tensor(numbers).mean(), torch.tensor(numbers).std(correction=0)
        lines.append(f"  {name:<8}{mean:8.2f} ± {deviation / len(numbers) ** 0.5:.2f}")
    if reference is not None and network is not None:
        made, real = features_of(panoramas_of(folder), network), features_of(panoramas_of(reference), network)
        lines.append(f"Frechet distance to {len(real['whole'])} panoramas in {reference}; between two halves of them")
        for band in BANDS:
            halves = frechet_distance(real[band][::2], real[band][1::2])
            lines.append(f"  {band:<8}{frechet_distance(made[band], real[band]):8.2f}{halves:8.2f}")
    return "\n".join(lines)


def _check_enough(folder: Path, least: int) -> None:
    if (count := len(find_panoramas(folder))) < least:
        raise InputError(
            f"a Frechet distance needs at least {least} panoramas in {folder}, which has {count}: add more"
        )


def find_panoramas(folder: Path) -> list[Path]:
    """Return the images in a folder.

    Raises:
        InputError: If there are none.
    """
    return list(find_images([folder], folder / "scores"))


def panoramas_of(folder: Path) -> Iterator[Tensor]:
    """Yield the panoramas (3, H, W) in [0, 1] of a folder, in the order of `find_panoramas`.

    Raises:
        InputError: If there are none, or one cannot be used.
        OSError: If a file cannot be read.
    """
    for path in find_panoramas(folder):
        yield torch.from_numpy(read_panorama(path)).permute(2, 0, 1).float() / 255
