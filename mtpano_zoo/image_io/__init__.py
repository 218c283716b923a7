"""Read panoramas of any kind into arrays, and write maps to files."""

from mtpano_zoo.image_io.decoding import open_image
from mtpano_zoo.image_io.floating import decode_exr
from mtpano_zoo.image_io.formats import IMAGE_SUFFIXES
from mtpano_zoo.image_io.gpano import PoseAngles, Window, gpano_xmp, placed, pose_of
from mtpano_zoo.image_io.panorama import (
    RATIO_TOLERANCE,
    Panorama,
    Reading,
    check_panorama_size,
    decode_full_panorama,
    decode_pixels,
    load_panorama,
    panorama_from_pil,
    panorama_of_file,
    read_panorama,
)
from mtpano_zoo.image_io.writing import (
    MAX_DEPTH,
    SATURATED,
    decode_normals,
    depth_from_steps,
    encode_depth,
    encode_jpeg,
    encode_normals,
    write_bytes,
    write_npy,
    write_palette_png,
    write_ply,
    write_png,
)

__all__ = (
    "IMAGE_SUFFIXES",
    "MAX_DEPTH",
    "RATIO_TOLERANCE",
    "SATURATED",
    "Panorama",
    "PoseAngles",
    "Reading",
    "Window",
    "check_panorama_size",
    "decode_exr",
    "decode_full_panorama",
    "decode_normals",
    "decode_pixels",
    "depth_from_steps",
    "encode_depth",
    "encode_jpeg",
    "encode_normals",
    "gpano_xmp",
    "load_panorama",
    "open_image",
    "panorama_from_pil",
    "panorama_of_file",
    "placed",
    "pose_of",
    "read_panorama",
    "write_bytes",
    "write_npy",
    "write_palette_png",
    "write_ply",
    "write_png",
)
