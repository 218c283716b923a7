"""Write the network that `photos-small-cpu.yaml` starts from: `mtpano-small.rooms` for photographs indoors and out.

The new network keeps what the network of rooms has learned: its 13 classes, matched by name, distances and normals. The
other 20 classes start as unlikely as the least likely of the 13. The new task `valid` starts as a copy of `semseg`,
which belongs to the same stream, except for layers whose sizes differ. Run:
``python benchmarks/photos_start.py photos-start``.
"""

import argparse
from pathlib import Path

import torch

from mtpano_zoo import load_model
from mtpano_zoo.layers import CNNEncoder
from mtpano_zoo.models import PanoramaNetwork, PDBridgeNet
from mtpano_zoo.scene_classes import SCENE_CLASSES, SCENE_PALETTE

SIZE = (192, 384)


def photos_start(source: str = "mtpano-small.rooms", seed: int = 0) -> PanoramaNetwork:
    """Return the network with the classes of scenes and the task `valid`."""
    rooms = load_model(source)
    config = dict(rooms.config)
    config["encoder"] = CNNEncoder(**config["encoder"]["init_args"])
    config |= {"tasks": [*rooms.tasks, "valid"], "input_size": SIZE}
    config |= {"classes": SCENE_CLASSES, "palette": SCENE_PALETTE.tolist()}
    torch.manual_seed(seed)
    network = PDBridgeNet(**config)
    known, state = rooms.state_dict(), network.state_dict()
    names = [SCENE_CLASSES.index(name) for name in rooms.classes]
    for key, value in state.items():
        old = known.get(key, known.get(key.replace("valid", "semseg")))
        if old is None:
            continue
        if old.shape == value.shape:
            state[key] = old
        elif key in known:
            state[key][names] = old
            if value.ndim == 1:
                others = [i for i in range(len(value)) if i not in names]
                state[key][others] = old.min()
    network.load_state_dict(state)
    return network.eval()


def main() -> None:
    """Write the network to a folder."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    network = photos_start()
    network.card = {"description": "mtpano-small.rooms with the classes of scenes and `valid`: to be trained"}
    network.save_pretrained(parser.parse_args().folder)


if __name__ == "__main__":
    main()
