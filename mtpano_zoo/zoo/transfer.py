"""From one set of classes to another: what a trained network keeps, and what starts anew."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from mtpano_zoo.models import PanoramaNetwork
from mtpano_zoo.training.checkpoint import check_weights

__all__ = ("transfer", "transferred_card")

# The last layer of the main head, and of the auxiliary one.
CLASSIFIERS = ("heads.semseg.classify", "auxiliary_heads.semseg.predictor")


def transfer(
    weights: Mapping[str, Tensor], network: PanoramaNetwork, source: str | Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Fit the weights of a network to one with other classes.

    Everything is kept but the classifiers of the semantic classes, in the main and the auxiliary head: they keep the
    start that the new network gave them, all rows of them. A class that both sets call `wall` starts anew like any
    other, since data sets draw their classes differently under the same name, and a score of a softmax means something
    only beside those of the classes that it was trained with.

    Args:
        weights: state dict of the trained network.
        network: a network built with the new classes, and with everything else as it was; classifiers without memory
            (on the meta device) are given theirs.
        source: where the weights come from, for the message.

    Returns:
        The whole state dict of the new network, and the names in it that are new.

    Raises:
        ValueError: if the network has no semantic classes, or anything but the classifiers does not fit; the sentence
            lists which.
    """
    if "semseg" not in network.tasks:
        raise ValueError(f"{source} predicts {', '.join(network.tasks)} and no classes: leave `classes` out.")
    fitted, new = dict(weights), []
    for name in CLASSIFIERS:
        classifier = cast("nn.Conv2d", network.get_submodule(name))
        if classifier.weight.is_meta:
            classifier.to_empty(device="cpu")
            classifier.reset_parameters()
        for part, start in classifier.state_dict().items():
            key = f"{name}.{part}"
            if key in weights:  # else it is told as missing
                fitted[key] = start.to(weights[key].dtype)
                new.append(key)
    check_weights(network, fitted, source)
    return fitted, new


def transferred_card(card: Mapping[str, Any], source: str | Path, classes: Sequence[str]) -> dict[str, Any]:
    """Say of a network with new classes what still holds of the one that it started from; scores do not."""
    path = Path(str(source).removeprefix("local-dir:"))
    name = path.name if path.exists() else str(source)  # in which folder it lay is nobody's business
    upstream = {"name": name, "license": (card.get("license") or {}).get("weights") or "unknown"}
    return {
        **{key: card[key] for key in ("paper", "depth_unit", "license", "training_data") if key in card},
        "description": f"Weights of {name} with untrained classifiers for {len(classes)} other classes: to be trained.",
        "upstream": [*(card.get("upstream") or ()), upstream],
    }
