"""Write the weighted average of networks of one kind: ``python benchmarks/average.py FOLDER 0.7:a.ckpt 0.3:folder``.

Networks trained from the same initial weights often average well: the noise in their weights cancels out.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mtpano_zoo import load_model
from mtpano_zoo.errors import InputError
from mtpano_zoo.models import PanoramaNetwork


def average(networks: Sequence[tuple[float, PanoramaNetwork]]) -> PanoramaNetwork:
    """Return the first network with averaged weights; it keeps its integer tensors, but not the results on its card.

    Raises:
        InputError: If the networks have different tensors, or the weights have no positive sum.
    """
    states = [network.state_dict() for _, network in networks]
    shapes = [{key: value.shape for key, value in state.items()} for state in states]
    if any(other != shapes[0] for other in shapes[1:]):
        raise InputError("networks whose tensors have different names or shapes have no average")
    total = sum(weight for weight, _ in networks)
    if not total > 0:
        raise InputError(f"the weights of an average must have a positive sum, not {total}")
    for key, value in states[0].items():
        if value.is_floating_point():
            parts = (weight / total * state[key] for (weight, _), state in zip(networks, states, strict=True))
            states[0][key] = sum(parts)
    first = networks[0][1]
    first.load_state_dict(states[0])
    first.card = {"description": f"weighted average of {len(networks)} networks"}
    return first


def main() -> None:
    """Read the networks and write the average."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("networks", nargs="+", metavar="WEIGHT:NETWORK")
    options = parser.parse_args()
    pairs = [one.split(":", 1) for one in options.networks]
    average([(float(weight), load_model(source)) for weight, source in pairs]).save_pretrained(options.folder)


if __name__ == "__main__":
    main()
