import numpy as np
import pytest

from mtpano_zoo.prediction import Prediction
from mtpano_zoo.sphere import erp_rays

# A box around the camera, metres: right, left, down, up, ahead, behind. The ceiling is 2.7 m above the floor.
WALLS = {"right": 2.0, "left": 1.5, "floor": 1.6, "ceiling": 1.1, "front": 3.0, "back": 2.5}


def box(height: int) -> Prediction:
    """The inside of a box, exact: classes are its sides, two columns have no distance."""
    rays = erp_rays(height, 2 * height).double().numpy()
    reach = np.stack(
        [
            side / np.maximum(s * rays[..., i // 2], 1e-9)
            for i, (side, s) in enumerate(zip(WALLS.values(), (1, -1) * 3, strict=True))
        ]
    )
    side = reach.argmin(0)
    normals = np.repeat(np.eye(3), 2, 0) * np.array([-1, 1] * 3)[:, None]
    depth = reach.min(0).astype(np.float32)
    depth[:, 4:6] = 0
    maps = {"semseg": side.astype(np.uint8), "depth": depth, "normals": normals[side].astype(np.float32)}
    maps["semseg"][:, 7] = 255
    palette = (np.arange(18).reshape(6, 3) * 14).astype(np.uint8)
    image = np.random.default_rng(0).integers(0, 255, (height, 2 * height, 3), np.uint8)
    return Prediction(image, maps, tuple(WALLS), palette)


@pytest.fixture(scope="session")
def room() -> Prediction:
    return box(64)
