import io
import tracemalloc

import fake_deep360
import numpy as np
import pytest
from fake_deep360 import npz
from fake_files import png, write, write_zip
from ray_caster import rays

from mtpano_zoo import limits
from mtpano_zoo.data import Deep360DataModule
from mtpano_zoo.data.deep360 import _decode_npz_depth, from_cassini

# Half a step of the stored colours, half of the interpolated ones, and what bilinear interpolation flattens.
IMAGE_STEP = 2

SPLITS = {"train": [0, 1], "val": [2], "test": [3, 4]}

pytestmark = pytest.mark.filterwarnings("ignore:.*panoramas of the release")


@pytest.fixture(scope="module")
def content():
    return fake_deep360.files()


@pytest.fixture
def root(tmp_path, content):
    write(tmp_path / "data", content)
    return tmp_path / "data"


@pytest.mark.parametrize("kind", ["tree", "episodes", "zips"])
def test_samples_are_the_frames(kind, tmp_path, content, check_sample):
    folder = tmp_path / "data"
    if kind == "zips":
        folder.mkdir()
        for episode in ("1", "2", "6"):
            part = {name.removeprefix("Deep360/"): d for name, d in content.items() if f"/ep{episode}_" in name}
            write_zip(folder / f"ep{episode}_500frames.zip", part)
    else:
        write(folder, content)
    data = Deep360DataModule(folder / "Deep360" if kind == "episodes" else folder, height=32, width=64)
    for split, numbers in SPLITS.items():
        assert len(data.dataset(split)) == len(numbers)
        for sample, number in zip(data.dataset(split), numbers, strict=True):
            check_sample(sample, fake_deep360.ground_truth(number), 0, 0, IMAGE_STEP)
    assert [sample["id"] for sample in data.dataset("test")] == ["ep1_002505", "ep2_002505"]


def test_what_is_far_is_not_measured(root, check_sample):
    near = Deep360DataModule(root, height=32, width=64, max_depth=3.0).dataset("test")[0]
    check_sample(near, fake_deep360.ground_truth(3, 3.0), 0, 0, IMAGE_STEP)
    most = Deep360DataModule(root, height=32, width=64, max_depth=1000).dataset("test")[0]
    assert most["depth"].max() < fake_deep360.SKY  # also then there is none in the sky
    every = Deep360DataModule(root, height=32, width=64, max_depth=1001).dataset("test")[0]
    assert every["depth"].max() == fake_deep360.SKY
    with pytest.raises(ValueError, match="max_depth must be positive"):
        Deep360DataModule(root, max_depth=0)


@pytest.mark.parametrize("width", [8, 32, 50])
def test_a_pixel_comes_from_its_direction(width):
    """Every pixel is told by its number: where it comes from is at most half a diagonal away, and all are near."""
    numbers = np.arange(2 * width * width, dtype=np.float32).reshape(2 * width, width, 1)
    taken = from_cassini(numbers, "depth")[..., 0].astype(int)
    rows, columns = np.mgrid[:width, : 2 * width]
    wanted = rays(rows, columns, width, 2 * width)
    found = fake_deep360.cassini_rays(width).reshape(-1, 3)[taken]
    angle = np.degrees(2 * np.arcsin(np.linalg.norm(wanted - found, axis=-1) / 2))
    assert angle.max() <= 90 * np.sqrt(2) / width * 1.001


def test_colours_go_on_across_all_borders():
    image = fake_deep360.colours(fake_deep360.cassini_rays(128))
    panorama = from_cassini(image, "image").astype(int)
    rows, columns = np.mgrid[:128, :256]
    assert np.abs(panorama - fake_deep360.colours(rays(rows, columns, 128, 256))).max() <= 1


def test_another_projection_is_refused():
    with pytest.raises(ValueError, match="64 x 32 pixels, but in Cassini projection"):
        from_cassini(np.zeros((32, 64, 3), np.uint8), "image")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated, damaged or no NPZ"),
        (png(np.zeros((4, 8), np.uint8)), "truncated, damaged or no NPZ"),
        (npz(np.zeros((16, 8)))[:-30], "truncated, damaged or no NPZ"),
        (npz(np.zeros((16, 8)), "depth"), "no NPZ file with an array arr_0"),
        (npz(np.array([{}] * 8)), "damaged or no NPY file of numbers"),  # pickled objects are not read
        (npz(np.zeros((16, 8), np.uint16)), r"uint16 \(16, 8\) instead of floating point"),
        (npz(np.zeros((16, 8, 3))), "instead of floating point"),
    ],
)
def test_other_content_is_a_sentence(data, message):
    with pytest.raises(ValueError, match=f"^it.*{message}"):
        _decode_npz_depth(data, 100.0)


def test_channel_of_its_own_is_dropped():
    depth = np.full((16, 8), 2.0)
    assert np.array_equal(_decode_npz_depth(npz(depth[..., None]), 100.0), np.full((8, 16), 2.0, np.float32))


def test_packed_arrays_that_would_grow_are_not_unpacked(monkeypatch):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, arr_0=np.zeros((2000, 1000), np.float32))  # 8 MB in 8 kB
    assert _decode_npz_depth(buffer.getvalue(), 100.0).shape == (1000, 2000)
    monkeypatch.setattr(limits, "DEFAULT_MAX_PIXELS", 1_000_000)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"^it has more than 4,000,000 bytes"):
        _decode_npz_depth(buffer.getvalue(), 100.0)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
