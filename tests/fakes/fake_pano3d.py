"""Pano3D in miniature: rooms in the encodings, frames and names of the release."""

import numpy as np
from fake_exr import exr
from fake_files import made_once, png, room_maps

# Building and number of a panorama: Matterport3D's training, validation and test, and two buildings of GibsonV2.
ROOMS = {
    ("17DRP5sb8fy", "0"): 0,
    ("17DRP5sb8fy", "12"): 1,
    ("2azQ1b91cZZ", "100"): 2,
    ("q9vSo1VnCiC", "0"): 3,
    ("Allensville", "3"): 4,
    ("Allensville", "10"): 5,
    ("Beechwood", "3"): 6,
}
POSITIONS = ("center", "up")
LIST = "Allensville:\n  - 3_spherical_1_emission_center_0.png\nBeechwood:\n  - 3_spherical_1_emission_center_0.png\n"


@made_once
def ground_truth(number, position="center", max_depth=1000):
    """What a reader must give: holes in each label, and a row of known distances."""
    maps = room_maps(number + 10 * POSITIONS.index(position))
    del maps["semseg"]
    maps["depth"][4, :4] = (0.5, 7.9, 8.1, 900)
    maps["depth"][5, 6:8] = 0
    maps["depth"][maps["depth"] > max_depth] = 0
    maps["normals"][7, 8:10] = 0
    return maps


@made_once
def files():
    """Contents by name, below the root."""
    content = {"readme.txt": b"", "Allensville_filmic/3_spherical_1_emission_center_0.txt": b""}
    for (building, name), number in ROOMS.items():
        for position in POSITIONS:
            maps = ground_truth(number, position)
            depth, (x, y, z) = maps["depth"].copy(), np.moveaxis(maps["normals"].copy(), -1, 0)
            depth[5, 6:8] = (np.inf, 1e10)
            x[7, 8] = y[7, 8] = z[7, 8] = np.nan
            stem = f"{building}/{name}_spherical_1_{{}}_{position}_0"
            content[stem.format("emission") + ".png"] = png(maps["image"])
            content[stem.format("depth") + ".exr"] = exr(Y=depth)
            content[stem.format("normal_map") + ".exr"] = exr(R=x, G=z, B=-y)
            content[stem.format("semantic_map") + ".exr"] = exr(Y=depth)
    return content
