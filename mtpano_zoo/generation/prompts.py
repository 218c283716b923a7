"""The panoramas to generate: prompts from the command line, a file or a template, and a seed for each."""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mtpano_zoo.errors import InputError
from mtpano_zoo.text_files import read_lines, read_yaml

__all__ = ("SCENES", "SEEDS", "Wanted", "check_seed", "expand", "plan", "read_prompts", "read_words")

SEEDS = 2**63
"""Number of seeds: 0 to 2^63 - 1."""

SCENES = {
    "indoor": [
        "living room", "bedroom", "kitchen", "bathroom", "corridor", "staircase", "attic", "cellar", "office",
        "classroom", "library", "museum hall", "church", "theatre", "restaurant", "supermarket", "gym",
        "workshop", "factory hall", "warehouse", "laboratory", "hospital ward", "hotel lobby",
        "railway station", "airport terminal", "underground garage"
    ],
    "outdoor": [
        "street", "market square", "courtyard", "garden", "park", "playground", "bridge", "harbour", "beach",
        "cliff", "river bank", "lake shore", "meadow", "forest", "desert", "mountain pass", "vineyard",
        "farmyard", "village", "suburb", "parking lot", "building site", "stadium", "cemetery", "ruin",
        "snowfield"
    ],
    "time": [
        "dawn", "morning", "noon", "afternoon", "sunset", "dusk", "night"
    ],
    "weather": [
        "a clear sky", "scattered clouds", "an overcast sky", "fog", "rain", "snow"
    ],
    "style": [
        "modern", "rustic", "classical", "minimalist", "industrial", "baroque", "run-down", "cosy",
        "luxurious", "plain"
    ],
}  # fmt: skip
"""Lists of words for templates such as "a {style} {indoor}" and "a {outdoor} at {time} under {weather}"."""


@dataclass(frozen=True)
class Wanted:
    """One panorama to generate.

    Args:
        name: Name of its file, without extension.
        prompt: What it shows.
        seed: Seed of its noise.
    """

    name: str
    prompt: str
    seed: int


def plan(prompts: Sequence[str], count: int, seed: int) -> list[Wanted]:
    """Return the panoramas to generate: `count` per prompt.

    The seed of each follows from its prompt, its number among the panoramas of this prompt, and `seed`. More prompts or
    a larger count therefore change no existing panorama. A repeated prompt gets other seeds.

    Raises:
        InputError: If there is no prompt, one is empty, or the count is not positive.

    Example:
        >>> [wanted.name for wanted in plan(["a library", "a beach"], count=2, seed=0)]
        ['000000_0', '000000_1', '000001_0', '000001_1']
    """
    if count < 1:
        raise InputError(f"count is the number of panoramas per prompt, at least 1, not {count}")
    if not prompts:
        raise InputError("there is nothing to generate: pass a prompt, --prompts FILE or --template TEXT")
    wanted = []
    earlier: Counter[str] = Counter()
    for i, prompt in enumerate(prompts):
        if not prompt.strip():
            raise InputError(f"prompt number {i + 1} is empty: say what the panorama shows")
        again = f"\n{earlier[prompt]}" if earlier[prompt] else ""
        earlier[prompt] += 1
        for k in range(count):
            digest = hashlib.sha256(f"{seed}\n{k}\n{prompt}{again}".encode()).digest()
            wanted.append(Wanted(f"{i:06d}_{k}", prompt.strip(), int.from_bytes(digest[:6])))
    return wanted


def read_prompts(path: str | Path) -> list[str]:
    """Read a file with one prompt per line.

    Raises:
        InputError: If a line or the whole file is empty, or the file is not text.
        OSError: If the file cannot be read.
    """
    lines = read_lines(path)
    if not lines[-1]:  # the end of the line before
        del lines[-1]
    if not lines:
        raise InputError(f"{path} is empty: write a prompt into each line")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise InputError(f"{path}, line {number}: the prompt is empty; remove the line")
    return lines


def read_words(path: str | Path) -> dict[str, list[str]]:
    """Read lists of words for a template from YAML: ``place: [library, beach]``.

    Raises:
        InputError: If the file is not a mapping of names to lists of words.
    """
    words = read_yaml(path)
    if not isinstance(words, dict) or not all(
        isinstance(values, list) and values and all(isinstance(value, str) for value in values)
        for values in words.values()
    ):
        raise InputError(f"{path} must map names to lists of words, such as `place: [library, beach]`")
    return {str(name): list(values) for name, values in words.items()}


def expand(template: str, words: Mapping[str, Sequence[str]], number: int, seed: int) -> list[str]:
    """Return prompts made from a template by replacing each name in braces by a word drawn from its list.

    A larger `number` keeps the first prompts as they are.

    Raises:
        InputError: If the template has no name, or one without a list.

    Example:
        >>> expand("a {time} {place}", {"time": ["calm"], "place": ["beach", "attic"]}, 2, seed=0)
        ['a calm attic', 'a calm attic']
    """
    names = re.findall(r"\{(\w+)\}", template)
    if not names:
        raise InputError(f"the template {template!r} has no name in braces, such as {{place}}: pass it as a prompt")
    if missing := [name for name in names if name not in words]:
        raise InputError(f"the template names {missing[0]}, which has no list: there are {', '.join(words)}")
    prompts = []
    for i in range(number):
        rng = np.random.default_rng([seed, i])
        drawn = iter([str(rng.choice(list(words[name]))) for name in names])
        prompts.append(re.sub(r"\{\w+\}", lambda _, drawn=drawn: next(drawn), template))  # type: ignore[misc]
    return prompts


def check_seed(seed: int | str) -> int:
    """Return a seed, passed as a number or as text.

    Raises:
        InputError: If it is not a whole number below `SEEDS`.

    Example:
        >>> check_seed("7")
        7
    """
    text = str(seed)
    if not text.isdecimal() or len(text) > len(str(SEEDS)) or int(text) >= SEEDS:
        raise InputError(f"a seed is a whole number from 0 to 2^63 - 1, not {text}")
    return int(text)
