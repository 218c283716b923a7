"""Jumps of panoramas whose jumps are known, and Frechet distances of distributions whose distance is known."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_networks import TINY
from torchmetrics.image.fid import _compute_fid

from mtpano_zoo import load_model
from mtpano_zoo.cli import main
from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.quality import BANDS, features_of, frechet_distance, jumps, seam_jump, zenith_jump
from mtpano_zoo.sphere import erp_rays

HEIGHT, WIDTH = 64, 128


def waves(seed: int) -> torch.Tensor:
    """Waves through space, seen from inside: continuous everywhere on the sphere."""
    generator = torch.Generator().manual_seed(seed)
    rays = erp_rays(HEIGHT, WIDTH).reshape(-1, 3)
    phases = 4 * torch.randn(3, 8, 3, generator=generator) @ rays.T
    return (phases.sin().mean(1) / 2 + 0.5).reshape(3, HEIGHT, WIDTH)


def test_what_is_continuous_on_the_sphere_has_no_jumps() -> None:
    found = [jumps(waves(seed)) for seed in range(20)]
    for name in ("seam", "zenith", "nadir"):
        assert np.mean([values[name] for values in found]) == pytest.approx(1, abs=0.15)


def test_a_planted_seam_is_found_where_it_is() -> None:
    image = waves(0)
    ramp = torch.linspace(0, 0.3, WIDTH)
    assert seam_jump(image + ramp) > 5
    assert seam_jump((image + ramp).roll(WIDTH // 2, -1)) < 1.5
    painted = image.clone()
    painted[:, 0] = torch.rand(3, WIDTH)
    before, after = jumps(image), jumps(painted)
    assert after["zenith"] > 3 * before["zenith"]
    assert after["nadir"] == before["nadir"] and after["seam"] == pytest.approx(before["seam"], abs=0.05)
    assert jumps(torch.full((3, 8, 16), 0.5)) == {"seam": 1, "zenith": 1, "nadir": 1}


def test_jump_at_the_pole_of_a_plane_wave() -> None:
    """The image is (1 + x) / 2: x is cos(lat) sin(lon), so every difference is known."""
    image = ((1 + erp_rays(HEIGHT, WIDTH)[..., 0]) / 2).expand(3, -1, -1)
    step, rows, mean = math.pi / HEIGHT, round(HEIGHT / 6), 2 / math.pi  # of |sin lon|
    across = math.sin(step / 2) * mean
    around = (math.sin((rows + 0.5) * step) - math.sin(step / 2)) / 2 / rows * mean
    assert zenith_jump(image) == pytest.approx((across + 1e-3) / (around + 1e-3), rel=1e-3)


def test_frechet_distance_of_normal_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    second = (
        torch.randn(60, 5, generator=generator, dtype=torch.float64) @ torch.randn(5, 5, generator=generator).double()
    )
    expected = _compute_fid(first.mean(0), first.T.cov(), second.mean(0), second.T.cov())
    assert frechet_distance(first, second) == pytest.approx(expected.item(), rel=1e-8)
    assert frechet_distance(first, first) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(first, first + 2) == pytest.approx(5 * 4, rel=1e-8)
    with pytest.raises(InputError, match="at least two panoramas on each side"):
        frechet_distance(first[:1], second)


def test_features_see_their_part_of_the_sphere() -> None:
    network = load_model("mtpano-tiny.rooms")
    image = waves(1)
    changed = image.clone()
    changed[:, :6] = 1 - changed[:, :6]
    turned = features_of([image.roll(64, -1)], network)
    plain, other = features_of([image], network), features_of([changed], network)
    assert set(plain) == set(BANDS) and plain["whole"].shape[0] == 1
    change = {band: (plain[band] - other[band]).norm() for band in BANDS}
    assert change["poles"] > change["whole"] > change["equator"]
    assert (plain["whole"] - turned["whole"]).norm() < 0.2 * plain["whole"].norm()


def test_a_network_whose_encoder_has_other_maps_is_refused() -> None:
    for name in ("HoHoNet", "EGformer"):
        with pytest.raises(InputError, match=f"{name} has no Encoder whose features could be read"):
            features_of([waves(1)], TINY[name].build())


def test_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("made", "real"):
        (tmp_path / folder).mkdir()
        for seed in range(4):
            pixels = (255 * waves(seed + 10 * (folder == "made"))).byte().permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(tmp_path / folder / f"{seed}.png")
    options = ["--reference", str(tmp_path / "real"), "--network", "mtpano-tiny.rooms"]
    assert main(["generate", "score", str(tmp_path / "made"), *options]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["4", "seam", "zenith", "nadir", "Frechet", *BANDS]
    assert main(["generate", "score", str(tmp_path)]) == 0
    (tmp_path / "empty").mkdir()
    assert main(["generate", "score", str(tmp_path / "empty")]) == 1
    assert "holds no image" in capsys.readouterr().err


@pytest.mark.parametrize(("folder", "least"), [("real", 4), ("made", 2)])
def test_too_few_panoramas_to_compare(
    tmp_path: Path, folder: str, least: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a reference, its two halves are compared too, and each needs two panoramas for a covariance."""
    counts = {"made": 2, "real": 4}
    for name, count in counts.items():
        (tmp_path / name).mkdir()
        for seed in range(count):
            Image.fromarray((255 * waves(seed)).byte().permute(1, 2, 0).numpy()).save(tmp_path / name / f"{seed}.png")
    score = ["generate", "score", str(tmp_path / "made"), "--reference", str(tmp_path / "real")]
    score += ["--network", "mtpano-tiny.rooms"]
    assert main(score) == 0
    (tmp_path / folder / "0.png").unlink()
    assert main(score) == 1
    message = f"needs at least {least} panoramas in {tmp_path / folder}, which has {least - 1}: add more"
    assert message in capsys.readouterr().err
