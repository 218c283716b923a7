"""MP4 files whose boxes are complete: bytes of the frames or of the index are changed by hand."""

import struct

import cv2
import numpy as np
import pytest

from mtpano_zoo.image_io.video import Video

COUNT = 40  # of frames, ten a second


@pytest.fixture
def tour(tmp_path):
    path = tmp_path / "tour.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 32))
    rng = np.random.default_rng(0)
    for _ in range(COUNT):
        writer.write(rng.integers(0, 255, (32, 64, 3), np.uint8))
    writer.release()
    return path


def erase(path, begin, end):
    """Overwrite this part of the frames' data with zeros."""
    data = bytearray(path.read_bytes())
    start = data.find(b"mdat") + 4
    size = struct.unpack(">I", data[start - 8 : start - 4])[0] - 8
    first, last = start + int(begin * size), start + int(end * size)
    data[first:last] = bytes(last - first)
    path.write_bytes(data)


def shorten(path, seconds):
    """Let the edit list show only the last seconds."""
    data = bytearray(path.read_bytes())

    def put(kind, offset, value):
        place = data.find(kind) + 4 + offset
        data[place : place + 4] = struct.pack(">I", value)

    media = data.find(b"mdhd") + 4
    scale, ticks = struct.unpack(">II", data[media + 12 : media + 20])
    put(b"mvhd", 16, round(1000 * seconds))
    put(b"tkhd", 20, round(1000 * seconds))
    put(b"elst", 8, round(1000 * seconds))
    put(b"elst", 12, ticks - round(scale * seconds))
    path.write_bytes(data)


def test_frames_behind_damage_are_kept_at_their_times(tour):
    whole = {round(one.seconds, 3): one.pixels for one in Video(tour).frames()}
    erase(tour, 0.4, 0.6)
    video = Video(tour)
    frames = list(video.frames())
    assert COUNT / 2 < video.read < COUNT and video.cut_short
    assert [one.number for one in frames] == list(range(video.read))
    for one in (*frames[:3], *frames[-10:]):  # one between may be damaged, or build on a lost one
        assert np.array_equal(one.pixels, whole[round(one.seconds, 3)])
    assert round(frames[-1].seconds, 3) == (COUNT - 1) / 10


def test_damage_up_to_the_end_is_noticed(tour):
    erase(tour, 0.5, 1)
    video = Video(tour)
    assert 3 < len(list(video.frames())) < 3 * COUNT / 4 and video.cut_short


def test_frames_that_the_edit_list_leaves_out_are_not_missing(tour):
    shorten(tour, 1.6)
    video = Video(tour)
    assert len(list(video.frames())) == 16 < video.count == COUNT and not video.cut_short
    erase(tour, 0.85, 1)
    video = Video(tour)
    assert 4 < len(list(video.frames())) < 16 and video.cut_short
