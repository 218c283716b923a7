"""Geometry of the equirectangular image: pure functions on tensors, batched and differentiable, without state or files.

Right-handed frame, x right, y down, z forward; pixel centres; depth is the distance along the ray.
"""

from mtpano_zoo.sphere.cube import CubeSampling, face_neighbours, pixels_of_erp, pixels_of_faces
from mtpano_zoo.sphere.fisheye import Lens, fisheye_points, from_fisheyes
from mtpano_zoo.sphere.padding import pad
from mtpano_zoo.sphere.projection import (
    distance_to_z,
    from_cubemap,
    from_perspective,
    icosahedron_rotations,
    rotate,
    to_cubemap,
    to_perspective,
    turn_vectors,
    z_to_distance,
)
from mtpano_zoo.sphere.rays import (
    cube_rays,
    cube_rotations,
    erp_angles,
    erp_latitudes,
    erp_rays,
    intrinsics_from_fov,
    perspective_rays,
    rays_to_angles,
    rays_to_pixels,
    rotate_rays,
    rotation_matrix,
    unit,
)
from mtpano_zoo.sphere.sampling import Mode, sample
from mtpano_zoo.sphere.surface import depth_to_points, latitude_weights, points_to_normals, solid_angles

__all__ = (
    "CubeSampling",
    "Lens",
    "Mode",
    "cube_rays",
    "cube_rotations",
    "depth_to_points",
    "distance_to_z",
    "erp_angles",
    "erp_latitudes",
    "erp_rays",
    "face_neighbours",
    "fisheye_points",
    "from_cubemap",
    "from_fisheyes",
    "from_perspective",
    "icosahedron_rotations",
    "intrinsics_from_fov",
    "latitude_weights",
    "pad",
    "perspective_rays",
    "pixels_of_erp",
    "pixels_of_faces",
    "points_to_normals",
    "rays_to_angles",
    "rays_to_pixels",
    "rotate",
    "rotate_rays",
    "rotation_matrix",
    "sample",
    "solid_angles",
    "to_cubemap",
    "to_perspective",
    "turn_vectors",
    "unit",
    "z_to_distance",
)
