import re
from collections.abc import Callable
from typing import Any

import pytest
import yaml

from mtpano_zoo.files.card import HUB_LICENSES, model_card
from mtpano_zoo.zoo import entries
from mtpano_zoo.zoo.building import build_network

CARD = {
    "description": "A network\nfor tests",
    "paper": "https://example.org/paper",
    "license": {"code": "MIT", "weights": "CC-BY-NC-4.0"},
    "upstream": [{"name": "Encoder | large", "license": None}],
    "training_data": ["Rooms", "Halls"],
    "results": [{"data": "rooms", "mIoU": 0.5, "protocol": "all pixels\npooled"}, {"data": "halls", "AbsRel": 0.25}],
    "source": "hf-hub:user/other",
    "recipe": "halls.yaml",
    "limitations": ["blind\nat night", "no cellars"],
}


def front_matter(card: str) -> dict[str, Any]:
    assert card.startswith("---\n")
    parsed: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return parsed


def section(card: str, title: str) -> str:
    found = re.search(rf"^## {title}\n\n(.*?)(?=^## |\Z)", card, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1].strip()


def test_all_that_is_known_is_said(tiny_network: Callable[..., Any]) -> None:
    network = tiny_network()
    network.card = CARD
    card = model_card(network, "hf-hub:user/my-model")
    assert front_matter(card) == {
        "license": "cc-by-nc-4.0",
        "library_name": "mtpano_zoo",
        "pipeline_tag": "image-segmentation",
        "tags": [
            *("panorama", "equirectangular", "360-degree"),
            *("semantic-segmentation", "depth-estimation", "surface-normals"),
        ],
    }
    assert "\n# my-model\n\nA network for tests\n\nPaper: https://example.org/paper\n" in card
    properties = section(card, "What it is")
    assert "| network | `PDBridgeNet` |" in properties and "32 x 64 pixels" in properties
    assert "| encoder | `ViTEncoder` vit_small_patch16_dinov3_qkvb |" in properties
    assert "| classes | 3 |" in properties and "| tasks | semseg, depth, normals |" in properties
    millions = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert f"| parameters | {millions:.1f} million |" in properties
    predictions = section(card, "What it predicts")
    assert "0 floor, 1 wall, 2 ceiling." in predictions
    assert "along the ray" in predictions and "towards the camera, x right, y down, z forward" in predictions
    recipe = "Trained by `configs/halls.yaml`, which begins with the commands."
    assert section(card, "Training data") == f"- Rooms\n- Halls\n\n{recipe}"
    assert section(card, "Limitations") == "- blind at night\n- no cellars"
    assert section(card, "Results").splitlines() == [
        "| data | mIoU | AbsRel |",
        "| --- | --- | --- |",
        "| rooms | 0.5 | - |",
        "| halls | - | 0.25 |",
        "",
        "- rooms: all pixels pooled",
    ]
    assert "| weights | CC-BY-NC-4.0 |\n| original code | MIT |\n| upstream: Encoder \\| large | unknown |" in card
    assert "- source: hf-hub:user/other" in section(card, "Origin")


def test_what_nobody_has_said_is_unknown(tiny_network: Callable[..., Any]) -> None:
    card = model_card(tiny_network(), "local-dir:model")
    assert front_matter(card)["license"] == "unknown"
    assert section(card, "Training data") == "Unknown." and section(card, "Origin").startswith("Unknown.\n")
    assert section(card, "Results") == "None are stated."
    assert "Limitations" not in card and "Trained by" not in card
    assert "| weights | unknown |\n| original code | unknown |\n\n**Unknown** means that nobody has stated it" in card
    assert "None" not in card.replace("None are stated.", "") and "null" not in card


@pytest.mark.parametrize(("tasks", "pipeline"), [
    (("depth",), "depth-estimation"), (("normals",), "image-to-image"), (("depth", "normals"), "depth-estimation"),
])  # fmt: skip
def test_only_the_tasks_of_the_network_are_described(
    tiny_network: Callable[..., Any], tasks: tuple[str, ...], pipeline: str
) -> None:
    card = model_card(tiny_network(tasks=tasks, classes=()), "local-dir:model")
    assert front_matter(card)["pipeline_tag"] == pipeline
    assert "semantic-segmentation" not in card and "semseg" not in card and "| classes |" not in card
    assert ("**Depth**" in card) == ("depth" in tasks) and ("**Normals**" in card) == ("normals" in tasks)


@pytest.mark.parametrize(("stated", "identifier"), [
    ("Apache-2.0", "apache-2.0"), ("CC BY-NC 4.0", "cc-by-nc-4.0"), ("Unknown", "unknown"), (None, "unknown"),
])  # fmt: skip
def test_licences_that_the_hub_knows(tiny_network: Callable[..., Any], stated: str | None, identifier: str) -> None:
    network = tiny_network()
    network.card = {"license": {"weights": stated}}
    assert front_matter(model_card(network, "local-dir:model"))["license"] == identifier
    assert identifier in HUB_LICENSES


def test_another_licence_is_named_in_full(tiny_network: Callable[..., Any]) -> None:
    network = tiny_network()
    network.card = {"license": {"weights": "DINOv3 License: see there"}}
    head = front_matter(model_card(network, "local-dir:model"))
    assert (head["license"], head["license_name"]) == ("other", "DINOv3 License: see there")


@pytest.mark.parametrize(("card", "sentence"), [
    ({"license": "MIT"}, r"card\['license'\] is a dict as in checkpoints\.yaml, not 'MIT'"),
    ({"training_data": "Rooms"}, r"card\['training_data'\] is a list"),
    ({"upstream": ["Encoder"]}, r"card\['upstream'\] holds dictionaries whose keys are name and license, not"),
    ({"upstream": [{"license": "MIT"}]}, "keys are name and license"),
    ({"results": [0.5]}, r"card\['results'\] holds dictionaries whose keys are columns of a table, not 0\.5"),
    ({"results": {1, 2}}, "plain data"),
])  # fmt: skip
def test_cards_that_cannot_be_read(tiny_network: Callable[..., Any], card: dict[str, Any], sentence: str) -> None:
    network = tiny_network()
    network.card = card
    with pytest.raises(ValueError, match=sentence):
        model_card(network, "local-dir:model")


def test_card_of_a_published_network() -> None:
    entry = entries()["mtpano-large.408k"]
    network = build_network(entry.network, entry.name)
    network.card = entry.card()
    card = model_card(network, "hf-hub:user/mtpano")
    assert front_matter(card)["license"] == "unknown"
    assert "2 sky" in card and "149 flag." in card and "| parameters | 586.0 million |" in card
    assert "x right, y down, z forward" in card and "forward-up-left" not in card  # converting has turned them
    assert entry.paper in card
    assert all(f"- {data}\n" in section(card, "Training data") + "\n" for data in entry.training_data)
    for upstream in entry.upstream:
        assert f"| upstream: {upstream['name']} | {upstream['license']} |" in section(card, "Licence")
    assert all(result["protocol"] in section(card, "Results") for result in entry.results)
