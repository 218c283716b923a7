"""Evaluate a small generator: seams, following of prompts, distance to held-out scenes, time and memory by stage.

``python benchmarks/generation.py seams|prompts|stages FOLDER`` takes the folder `generator` of a run of
`mtpano fit --config dit360/rooms-tiny.yaml`. ``python benchmarks/generation.py counts`` needs no folder: it counts the
parameters of FLUX.1-dev and what a training step keeps for its backward pass, without allocating either.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from mtpano_zoo import load_model
from mtpano_zoo.generation.adapters import add_adapter
from mtpano_zoo.generation.captions import NUMBERS
from mtpano_zoo.generation.data import ScenesWithCaptions
from mtpano_zoo.generation.editing import edit
from mtpano_zoo.generation.loading import load_generator
from mtpano_zoo.generation.module import DiT360Module
from mtpano_zoo.generation.quality import features_of, frechet_distance, jumps
from mtpano_zoo.generation.sampling import Generator
from mtpano_zoo.generation.seams import Seam
from mtpano_zoo.generation.tokens import position_ids

SIZE: dict[str, Any] = {"height": 32, "width": 64}
STEPS = 16


def as_image(pixels: np.ndarray[Any, Any]) -> Tensor:
    """Return a panorama (3, H, W) in [0, 1]."""
    return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


def held_out(count: int) -> list[dict[str, Any]]:
    """Return scenes that training has not seen, rooms and streets in alternation."""
    scenes = ScenesWithCaptions(**SIZE, val_count=count, train_count=2).val_set
    return [scenes[i // 2 + (i % 2) * (count // 2)] for i in range(count)]


def made_for(generator: Generator, captions: list[str], seam: Seam = "roll") -> list[Tensor]:
    """Generate a panorama for every caption, with its index as seed."""
    images = []
    for first in range(0, len(captions), 8):
        batch = captions[first : first + 8]
        seeds = list(range(first, first + len(batch)))
        found = generator.generate_batch(generator.embed(batch), seeds, **SIZE, steps=STEPS, guidance=1.0, seam=seam)
        images += [as_image(image) for image in found]
    return images


def permutation(attribute: Tensor, measure: Tensor, draws: int = 10_000) -> tuple[float, float]:
    """Return the correlation of two lists (N,), and its p-value: the share of shuffled lists that reach its size."""

    def standard(values: Tensor) -> Tensor:
        centred = values.double() - values.double().mean()
        return centred / centred.norm().clamp(min=1e-12)

    first, second = standard(attribute), standard(measure)
    generator = torch.Generator().manual_seed(0)
    shuffled = torch.stack([second[torch.randperm(len(second), generator=generator)] for _ in range(draws)]) @ first
    found = float(first @ second)
    return found, (1 + int((shuffled.abs() >= abs(found)).sum())) / (1 + draws)


def windows_in(caption: str) -> int:
    """Return how many windows a caption mentions."""
    words = caption.replace(",", "").split()
    before = words[words.index("window" if "window" in words else "windows") - 1] if "window" in caption else ""
    return NUMBERS.index(before) if before in NUMBERS[1:] else 7 if before == "many" else 0


def show_seams(generator: Generator, count: int) -> None:
    """Print the jumps for every way to treat the seam, and those of held-out scenes."""
    scenes = held_out(count)
    print("| seam | seam | zenith | nadir |\n|---|--:|--:|--:|")
    lists = {name: made_for(generator, [s["caption"] for s in scenes], name) for name in get_args(Seam)}
    for name, images in (lists | {"held out": [s["image"] for s in scenes]}).items():
        values = [jumps(image) for image in images]
        cells = []
        for place in ("seam", "zenith", "nadir"):
            numbers = torch.tensor([value[place] for value in values])
            cells.append(f"{numbers.mean():.2f} ± {numbers.std() / len(numbers) ** 0.5:.2f}")
        print(f"| {name} | {' | '.join(cells)} |")


def show_prompts(generator: Generator, count: int, network: str) -> None:
    """Print the correlations between captions and panoramas, and the distance to held-out scenes."""
    scenes = held_out(2 * count)
    captions = [s["caption"] for s in scenes[:count]]
    made, same = made_for(generator, captions), [s["image"] for s in scenes[:count]]
    outdoors = torch.tensor(["room" not in caption for caption in captions])
    evening = torch.tensor([float(caption.endswith("evening")) for caption in captions])
    kinds = {
        "street, not room: blue above the horizon": (outdoors.float(), blueness, torch.ones(count).bool()),
        "bright, none, dark: mean": (torch.tensor([shade(c) for c in captions]), brightness, torch.ones(count).bool()),
        "wide, none, narrow sky: brighter above": (torch.tensor([sky(c) for c in captions]), contrast, outdoors),
        "number of windows: share of windows": (
            torch.tensor([float(windows_in(c)) for c in captions]),
            window_share(network),
            ~outdoors,
        ),
        "evening of a street: mean above the horizon": (evening, above, outdoors),
        "evening of a room: mean": (evening, brightness, ~outdoors),
    }
    print("| text: measure | panoramas | correlation | p | in the held-out scenes |\n|---|--:|--:|--:|--:|")
    for name, (attribute, measure, where) in kinds.items():
        chosen = where.nonzero().flatten().tolist()
        found, real = (torch.tensor([measure(images[i]) for i in chosen]) for images in (made, same))
        one, p = permutation(attribute[where], found)
        print(f"| {name} | {len(chosen)} | {one:.2f} | {p:.4f} | {permutation(attribute[where], real, 1)[0]:.2f} |")
    told = torch.tensor([blueness(image) for image in made])
    right = (told > told.median()) == outdoors
    print(f"street or room by the blue above the horizon: {int(right.sum())} of {count} as the text says")
    model = load_model(network)
    features = [features_of(images, model)["whole"] for images in (made, same, [s["image"] for s in scenes[count:]])]
    turned = features_of([image.rot90(2, (1, 2)) for image in same], model)["whole"]
    print(f"Frechet distance on {network} to {count} held-out scenes:")
    for name, other in (("generated", features[0]), ("other held-out", features[2]), ("upside down", turned)):
        print(f"  {name}: {frechet_distance(other, features[1]):.2f}")


def blueness(image: Tensor) -> float:
    """Return blue - red in the upper quarter."""
    top = image[:, : image.shape[1] // 4].mean((1, 2))
    return float(top[2] - top[0])


def brightness(image: Tensor) -> float:
    """Return the mean of all pixels."""
    return float(image.mean())


def above(image: Tensor) -> float:
    """Return the mean of the upper half."""
    return brightness(image[:, : image.shape[1] // 2])


def contrast(image: Tensor) -> float:
    """Return the mean of rows 3/8 to 1/2, which a wide sky still covers, minus that of the lower half."""
    rows = image.shape[1]
    return float(image[:, 3 * rows // 8 : rows // 2].mean() - image[:, rows // 2 :].mean())


def window_share(network: str) -> Callable[[Tensor], float]:
    """Return a function from a panorama to the share of pixels that a network classifies as window."""
    model = load_model(network)
    number = list(model.classes).index("window")
    return lambda image: float((torch.as_tensor(model.predict(image).semseg) == number).float().mean())


def shade(caption: str) -> float:
    """Return 1 for bright, -1 for dark, else 0."""
    return float("bright" in caption) - float("dark" in caption)


def sky(caption: str) -> float:
    """Return 1 for a wide sky, -1 for a narrow one, else 0."""
    return float("wide" in caption) - float("narrow" in caption)


@contextmanager
def kept() -> Iterator[list[int]]:
    """Count the bytes of tensors kept for the backward pass, each storage once."""
    seen: dict[int, Any] = {}
    total = [0]

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if not isinstance(tensor, torch.nn.Parameter) and tensor.grad_fn is not None and storage._cdata not in seen:
            seen[storage._cdata] = storage
            total[0] += storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield total


def show_stages(generator: Generator, folder: Path) -> None:
    """Print processor time and memory of every stage."""
    prompt, image = "a dark room with two windows", torch.rand(3, 32, 64)
    embeddings = generator.embed([prompt])
    latents = generator.encode(image[None])
    stages: dict[str, Callable[[], Any]] = {
        "texts": lambda: generator.embed([prompt]),
        "encode": lambda: generator.encode(image[None]),
        "16 steps of sampling": lambda: generator.sample(
            None, generator.noise(32, 64, 0), steps=STEPS, guidance=1.0, embeddings=embeddings
        ),
        "decode": lambda: generator.decode(latents),
        "edit, 16 steps": lambda: edit(generator, image, torch.rand(32, 64) < 2, prompt, steps=STEPS, guidance=1.0),
    }
    for name, size in generator.memory().items():
        print(f"weights of {name}: {1000 * size:.2f} MB")
    print("| stage | ms of processor time |\n|---|--:|")
    for name, stage in stages.items():
        print(f"| {name} | {1000 * processor_time(stage):.1f} |")
    for learns in ("adapter", "everything"):
        for checkpointing in (False, True):
            module = DiT360Module(
                load_generator(folder, device="cpu"),
                learns=learns,  # type: ignore[arg-type]
                rank=8,
                alpha=8,
                seam="none",
                gradient_checkpointing=checkpointing,
            )
            batch = {"image": torch.rand(8, 3, 32, 64), "caption": [prompt] * 8}
            with kept() as total:
                loss = module.terms(batch, epoch=0, angle=60)["total"]
            loss.backward()

            def step(module: DiT360Module = module, batch: Any = batch) -> None:
                module.terms(batch, epoch=0, angle=60)["total"].backward()

            name = f"training step of 8, {learns}{', checkpointing' if checkpointing else ''}"
            print(f"| {name}; {total[0] / 1e6:.1f} MB kept | {1000 * processor_time(step):.0f} |")


def processor_time(stage: Callable[[], Any], repeats: int = 5) -> float:
    """Return the smallest processor time of several runs in seconds, after a warm-up."""
    stage()
    times = []
    for _ in range(repeats):
        begin = time.process_time()
        stage()
        times.append(time.process_time() - begin)
    return min(times)


def attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Attend as fast kernels do, which keep no weight matrix; on the meta device, torch would use one that does."""
    found: Tensor = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)[0]
    return found


def show_counts() -> None:
    """Print the parameters of FLUX.1-dev, and what a training step of its adapter keeps, from shapes alone."""
    from diffusers import FluxTransformer2DModel

    for height in (512, 1024):
        for checkpointing in (False, True):
            rows, columns = height // 16, height // 8 + 2
            with torch.device("meta"), mock.patch("torch.nn.functional.scaled_dot_product_attention", attention):
                network = FluxTransformer2DModel(guidance_embeds=True).bfloat16()
                parameters = sum(p.numel() for p in network.parameters())
                add_adapter(network, rank=64, alpha=64)
                network.bfloat16()
                learnt = sum(p.numel() for p in network.parameters() if p.requires_grad)
                if checkpointing:
                    network.enable_gradient_checkpointing()
                shapes = {
                    "hidden_states": (1, rows * columns, 64),
                    "encoder_hidden_states": (1, 512, 4096),
                    "pooled_projections": (1, 768),
                    "timestep": (1,),
                    "guidance": (1,),
                }
                inputs = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
                ids = {"img_ids": position_ids(rows, columns, device="meta"), "txt_ids": torch.zeros(512, 3)}
                with kept() as total:
                    network(**inputs, **ids, return_dict=False)
            print(
                f"{height} x {2 * height}, checkpointing {checkpointing}: {parameters:,} parameters "
                f"({2 * parameters / 1e9:.1f} GB), adapter {learnt:,} ({16 * learnt / 1e9:.2f} GB with gradient and "
                f"moments), {total[0] / 1e9:.1f} GB kept for the backward pass"
            )


def main() -> None:
    """Run one of the four parts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("seams", "prompts", "stages", "counts"))
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--network", default="mtpano-small.rooms")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.what == "counts":
        show_counts()
        return
    generator = load_generator(options.folder, device="cpu")
    if options.what == "seams":
        show_seams(generator, options.count)
    elif options.what == "prompts":
        show_prompts(generator, options.count, options.network)
    else:
        show_stages(generator, options.folder)


if __name__ == "__main__":
    main()
