"""Frames of videos, read where they are and from folders."""

import copy

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from mtpano_zoo.data import SpatialAudioGenDataModule
from mtpano_zoo.errors import InputError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "cache"))


def grey(number):
    return 20 * number + 10


def write_video(path, frames=10, rate=5):
    path.parent.mkdir(parents=True, exist_ok=True)
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), rate, (64, 32))
    for number in range(frames):
        video.write(np.full((32, 64, 3), grey(number), np.uint8))
    video.release()


@pytest.fixture
def videos(tmp_path):
    write_video(tmp_path / "sag" / "preproc" / "abc.avi")
    write_video(tmp_path / "sag" / "orig" / "xyz.avi", frames=4)
    return tmp_path / "sag"


def test_frames_of_videos(videos):
    data = SpatialAudioGenDataModule(videos, height=16, width=32, every=0.4)
    samples = data.dataset("train")
    assert [samples.name(i) for i in range(len(samples))] == [
        "xyz_000000", "xyz_000002", "abc_000000", "abc_000002", "abc_000004", "abc_000006", "abc_000008",
    ]  # fmt: skip
    # In any order, the frame that the name says.
    for i in (6, 2, 3, 0, 4):
        number = int(samples.name(i)[-6:])
        torch.testing.assert_close(samples[i]["image"], torch.full((3, 16, 32), grey(number) / 255), atol=0.02, rtol=0)
    again = copy.copy(samples.index)  # as workers get it: without open files
    assert samples.index._open and not again._open
    assert again.read("image", 1) == samples.index.read("image", 1)
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (4, 3, 16, 32) and batch.keys() == {"image", "id"}


def test_a_list_chooses_videos(videos):
    (videos / "part.lst").write_text("abc\nnot-there\n")
    data = SpatialAudioGenDataModule(videos, height=16, width=32, subset="part.lst")
    samples = data.dataset("predict")
    assert {samples.name(i)[:3] for i in range(len(samples))} == {"abc"}
    with pytest.raises(FileNotFoundError, match="no list of videos"):
        SpatialAudioGenDataModule(videos, subset="other.lst")


def test_videos_of_one_name_have_ids_of_their_own(videos, tmp_path):
    """Also where the name of a file without its suffix is that of another one."""
    for name in ("preproc/xyz.avi", "orig/xyz.mkv.avi", "preproc/xyz.mkv", "xyz.mkv"):
        write_video(videos / name, frames=1)
    (videos / "part.lst").write_text("xyz\n")
    data = SpatialAudioGenDataModule(videos, height=16, width=32, every=10)
    samples = data.dataset("train")
    assert [samples.name(i) for i in range(len(samples))] == [
        "orig/xyz.avi_000000", "orig/xyz.mkv.avi_000000", "abc_000000", "preproc/xyz.avi_000000",
        "preproc/xyz.mkv_000000", "xyz.mkv_000000",
    ]  # fmt: skip
    assert len(SpatialAudioGenDataModule(videos, every=10, subset="part.lst").dataset("train")) == 4


def test_links_to_folders_are_followed_once(videos, tmp_path):
    write_video(tmp_path / "disk" / "far.avi", frames=1)
    (videos / "link").symlink_to(tmp_path / "disk")
    (videos / "link" / "back").symlink_to(videos)
    write_video(videos / ".trash" / "old.avi", frames=1)
    samples = SpatialAudioGenDataModule(videos, every=10).dataset("train")
    assert [samples.name(i) for i in range(len(samples))] == ["far_000000", "xyz_000000", "abc_000000"]


def test_frames_in_folders(tmp_path):
    for number in range(3):
        path = tmp_path / "frames" / "abc" / f"{number:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((32, 64, 3), grey(number), np.uint8)).save(path)
    samples = SpatialAudioGenDataModule(tmp_path, height=16, width=32).dataset("train")
    assert [samples.name(i) for i in range(3)] == ["abc_0000", "abc_0001", "abc_0002"]
    torch.testing.assert_close(samples[2]["image"], torch.full((3, 16, 32), grey(2) / 255), atol=0.02, rtol=0)


def test_what_cannot_be_read_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="neither frames/VIDEO/FRAME"):
        SpatialAudioGenDataModule(tmp_path / "empty").dataset("train")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.mp4").write_bytes(b"no video")
    with pytest.raises(InputError, match="OpenCV can read none"):
        SpatialAudioGenDataModule(tmp_path / "broken").dataset("train")
    with pytest.raises(InputError, match="every"):
        SpatialAudioGenDataModule(tmp_path, every=0)
