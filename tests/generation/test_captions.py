"""Captions, compared with the parameters that scenes are drawn with, and with their images."""

import colorsys
from typing import Any

import numpy as np
import pytest
import yaml

from mtpano_zoo.generation.captions import FURNITURE, WORDS, light_of
from mtpano_zoo.generation.data import ScenesWithCaptions
from mtpano_zoo.generation.tiny import TinyFlux
from mtpano_zoo.resources import shipped
from mtpano_zoo.scenes import render, sample_home, sample_room, sample_street
from mtpano_zoo.scenes.lamps import Lights
from mtpano_zoo.scenes.walls import Shell
from mtpano_zoo.scenes.weather import Weather

LONGEST = (
    f"a bright room with many windows, many doors, {', '.join(f'a {name}' for name in FURNITURE[:-1])} and a "
    f"{FURNITURE[-1]}, evening"
)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> dict[type, Any]:
    """The last object of each of several classes that was made while a scene was drawn."""
    found: dict[type, Any] = {}

    def watch(kind: type) -> None:
        begin = kind.__init__

        def watched(self: object, *args: object) -> None:
            begin(self, *args)
            found[kind] = self

        monkeypatch.setattr(kind, "__init__", watched)

    for kind in (Weather, Lights, Shell):
        watch(kind)
    return found


@pytest.mark.parametrize("sample", [sample_room, sample_home])
def test_the_light_of_rooms_is_that_which_they_are_drawn_with(sample: Any, drawn: dict[type, Any]) -> None:
    seen = set()
    for i in range(40):
        room = sample(3, "train", i)
        shell, daylight = drawn[Shell], drawn[Lights]._daylight
        dusk = colorsys.rgb_to_hsv(*map(float, shell._sky[:3]))[0] < 0.2  # orange, not blue
        look = light_of(room)
        if shell.windows:
            assert look == ("evening" if daylight == 0 else "sunset" if dusk else "daylight")
        elif sample is sample_room:  # homes may have windows in further rooms
            assert look == "lamplight" and drawn[Lights]._lamps
        seen.add(look)
    assert seen == {"daylight", "lamplight", "sunset", "evening"}


def test_the_light_of_streets_is_that_which_they_are_drawn_with(drawn: dict[type, Any]) -> None:
    seen = set()
    for i in range(30):
        look = light_of(sample_street(3, "train", i))
        weather = drawn[Weather]
        assert (look == "evening") == weather.dark
        assert (look == "sunny") == (not weather.dark and any(weather.sky.sunlight))
        seen.add(look)
    assert seen == {"evening", "overcast", "sunny"}


def test_windows_are_darker_in_the_evening() -> None:
    rooms = [sample_room(3, "train", i) for i in range(30)]
    batch = render(rooms, 24, 48)
    shades: dict[str, list[float]] = {}
    for room, image, semseg in zip(rooms, batch["image"], batch["semseg"], strict=True):
        window = semseg == room.classes.index("window")
        if window.any():
            shades.setdefault(light_of(room), []).append(float(image.mean(0)[window].mean()))
    assert len(shades["evening"]) > 2 and len(shades["daylight"]) > 5
    assert np.median(shades["evening"]) < np.min(shades["daylight"])


def test_texts_stay_and_end_with_the_light() -> None:
    scenes = ScenesWithCaptions(height=16, width=32, train_count=2, val_count=4, batch_size=2).val_set
    for _ in range(2):
        assert [scenes[i]["caption"] for i in range(4)] == [
            "a dark room with three windows, a sofa, a bookcase, a table and a chair, evening",
            "a bright room with four windows, two doors and a table, daylight",
            "a square with buildings and trees under a narrow sky, sunny",
            "a bright square with buildings under a wide sky, sunny",
        ]


def test_the_small_generator_knows_the_words_of_the_captions() -> None:
    read = yaml.safe_load(shipped("configs/dit360/rooms-tiny.yaml").read_text())
    assert sorted(read["model"]["init_args"]["base"]["init_args"]["words"]) == sorted(WORDS)


def test_the_longest_text_fits() -> None:
    base = yaml.safe_load(shipped("configs/dit360/rooms-tiny.yaml").read_text())["model"]["init_args"]["base"]
    tokens = base["init_args"]["max_tokens"]
    small = TinyFlux(WORDS, width=32, double_blocks=1, single_blocks=1, text_layers=1, max_tokens=tokens)
    tokenizer = small.pipeline.tokenizer_2
    found = tokenizer(LONGEST).input_ids
    assert tokens - 2 < len(found) <= tokens
    assert tokenizer.unk_token_id not in found
    assert len(small.pipeline.tokenizer(LONGEST).input_ids) <= small.pipeline.tokenizer_max_length
