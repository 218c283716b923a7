"""3D60 in miniature: rooms in the encodings, frames and names of the release."""

import numpy as np
from fake_exr import exr
from fake_files import made_once, png, room_maps

# Path up to "color", "depth" or "normal": two buildings and an area per split, beside the lists' rotated panorama.
ROOMS = {
    "Matterport3D/0_17ebde87f5a14ef9ad14d6ad14da11011_{}_0_{}_0.0": 0,
    "Matterport3D/3_7812e14df5e746388ff6cfe8b043950a1_{}_0_{}_0.0": 1,
    "Matterport3D/10_ed1e790a785e4b74b895e41682b2ae881_{}_0_{}_0.0": 2,
    "Stanford2D3D/area1/5_area_11_{}_0_{}_0.0": 3,
    "Stanford2D3D/area3/33_area_31_{}_0_{}_0.0": 4,
    "Stanford2D3D/area3/33_area_31_{}_0_{}_90.0": 5,
    "Stanford2D3D/area5a/139_area_5a1_{}_0_{}_0.0": 6,
    "Stanford2D3D/area5b/2_area_5b1_{}_0_{}_0.0": 7,
}
PLACEMENTS = ("Left_Down", "Right", "Up")
SUN_CG = "SunCG/0_00a0c0{}_0_{}_0.0"

# The lists of the three publications, in each of which the folders are written in another way.
TEST_LIST = "".join(
    " ".join(
        rf"D:\Data\3D60\{stem.replace('/', chr(92)).format(kind, placement)}.{'png' if kind == 'color' else 'exr'}"
        for kind in ("color", "depth", "normal")
        for placement in PLACEMENTS
    )
    + " \n"
    for stem in ("Matterport3D/10_ed1e790a785e4b74b895e41682b2ae881_{}_0_{}_0.0", SUN_CG)
)
VAL_LIST = (
    r".\Stanford2D3D\area3\33_area_31_color_0_Left_Down_90.0.png .\Stanford2D3D\area3\33_area_31_color_0_Right_90.0.png"
    "\n/Matteport3D/3_7812e14df5e746388ff6cfe8b043950a1_color_0_Left_Down_0.0.png "
    "/Matteport3D/3_7812e14df5e746388ff6cfe8b043950a1_depth_0_Left_Down_0.0.exr\n"
)


@made_once
def ground_truth(number, placement="Left_Down"):
    """What a reader must give: two holes in each label."""
    maps = room_maps(number + 10 * PLACEMENTS.index(placement))
    del maps["semseg"]
    maps["depth"][5, 6:8] = 0
    maps["normals"][7, 8:10] = 0
    return maps


@made_once
def files(placements=PLACEMENTS):
    """Contents by name, below the root."""
    content = {SUN_CG.format("color", "Left_Down") + ".png": b"withdrawn"}
    for stem, number in ROOMS.items():
        for placement in placements:
            maps = ground_truth(number, placement)
            depth = np.where(maps["depth"] == 0, np.float32(1e10), maps["depth"])
            x, y, z = np.moveaxis(maps["normals"], -1, 0)
            content[stem.format("color", placement) + ".png"] = png(maps["image"])
            content[stem.format("depth", placement) + ".exr"] = exr(R=depth, G=depth, B=depth)
            content[stem.format("normal", placement) + ".exr"] = exr(R=x, G=z, B=-y)
    return content
