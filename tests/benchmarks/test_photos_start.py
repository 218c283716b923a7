import torch

from mtpano_zoo import load_model
from mtpano_zoo.scene_classes import SCENE_CLASSES


def test_what_rooms_have_taught_is_kept(benchmark):
    """Up to what the new task and classes say across the bridge between the streams."""
    rooms, photos = load_model("mtpano-small.rooms"), benchmark.photos_start()
    image = torch.rand(1, 3, 64, 128, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        before, after = rooms(image), photos(image)
    torch.testing.assert_close(after["depth"], before["depth"], rtol=0.01, atol=0)
    torch.testing.assert_close(after["normals"], before["normals"], rtol=0, atol=0.03)
    names = [SCENE_CLASSES.index(name) for name in rooms.classes]
    torch.testing.assert_close(after["semseg"][:, names], before["semseg"], rtol=0, atol=0.3)
    assert after["semseg"].shape[1] == len(SCENE_CLASSES) and after["valid"].shape == (1, 1, 64, 128)
