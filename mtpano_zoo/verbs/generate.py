"""`mtpano generate` and its subcommands: `edit`, `refine`, `score` and `precompute`."""

import argparse
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mtpano_zoo.errors import InputError
from mtpano_zoo.output_paths import user_path
from mtpano_zoo.resources import DEFAULT_MODEL
from mtpano_zoo.short_verbs import ShortVerbParser, field_of_view, file_to_write, number_of

__all__ = ("main",)

NEEDED = ("diffusers", "peft", "accelerate", "transformers")


def main(arguments: Sequence[str]) -> int:
    """Run `mtpano generate` with these arguments and return the exit status.

    Raises:
        InputError: If an argument, an input or the folder is wrong; the message is one sentence.
    """
    verbs = {
        "edit": (edit_parser, _edit),
        "refine": (refine_parser, _refine),
        "score": (score_parser, _score),
        "precompute": (precompute_parser, _precompute),
    }
    build, execute = verbs.get(arguments[0] if arguments else "", (generate_parser, _generate))
    options = build().parse_args(arguments[1:] if execute is not _generate else arguments)
    if execute is not _score and (missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]):
        raise InputError(f"generating needs {', '.join(missing)}: pip install 'mtpano_zoo[generation]'")
    return execute(options)


def generate_parser() -> argparse.ArgumentParser:
    """Build the parser of `mtpano generate`."""
    parser = ShortVerbParser("mtpano generate", description="Generate panoramas from prompts.", parents=[_common()])
    option = parser.add_argument
    option(
        "prompt",
        nargs="*",
        help="what the panoramas show, or a subcommand: edit, refine, score, precompute (each has its own --help)",
    )
    option("--prompts", type=user_path, metavar="FILE", help="file with one prompt per line")
    option("--template", help='prompt with names in braces: "a {place} at {time}"')
    option(
        "--words", type=user_path, metavar="FILE.yaml", help="lists of words for those names (default: built-in lists)"
    )
    option(
        "--number",
        type=number_of("prompts"),
        default=100,
        help="prompts to make from the template (default %(default)s)",
    )
    option("--count", type=number_of("panoramas"), default=1, help="panoramas per prompt (default %(default)s)")
    option(
        "--out",
        type=user_path,
        default=Path("generated"),
        metavar="DIR",
        help="folder to write to (default %(default)s)",
    )
    option("--height", type=int, default=1024, help="rows; a panorama is twice as wide (default %(default)s)")
    option(
        "--batch-size", type=number_of("panoramas"), default=1, help="panoramas generated at once (default %(default)s)"
    )
    option(
        "--seam",
        choices=("published", "continued", "roll", "none"),
        default="roll",
        help="how the transformer treats the seam (default %(default)s)",
    )
    option("--guidance", type=finite_number, default=2.8, help="guidance scale (default %(default)g)")
    return parser


def edit_parser() -> argparse.ArgumentParser:
    """Build the parser of `mtpano generate edit`."""
    parser = ShortVerbParser(
        "mtpano generate edit",
        description="Repaint the masked part of a panorama, or extend a photograph to a panorama.",
        parents=[_common()],
    )
    parser.add_argument("image", type=user_path, help="a panorama; with --fov, a photograph or a part of a panorama")
    parser.add_argument(
        "--mask", type=user_path, help="image of the panorama's size, white where it is to be repainted"
    )
    parser.add_argument("--prompt", required=True, help="what the result shows")
    parser.add_argument(
        "--fov",
        type=view_to_extend,
        metavar="W or WxH",
        help="extend the image: horizontal field of view of a photograph in degrees, or width and height of a part of "
        "a panorama",
    )
    parser.add_argument(
        "--height", type=int, help="rows of the result (default: those of the panorama, 1024 with --fov)"
    )
    parser.add_argument("--out", type=file_to_write, required=True, metavar="FILE.png", help="file to write")
    parser.add_argument("--guidance", type=finite_number, default=3.5, help="guidance scale (default %(default)g)")
    parser.add_argument(
        "--replace-until",
        type=finite_number,
        default=0.5,
        help="copy the kept part's tokens in the attention until the noise level, which starts at 1, falls to this "
        "(default %(default)g)",
    )
    parser.add_argument(
        "--keep-until",
        type=finite_number,
        default=0.5,
        help="copy the kept part's latents until the noise level, which starts at 1, falls to this "
        "(default %(default)g)",
    )
    return parser


def refine_parser() -> argparse.ArgumentParser:
    """Build the parser of `mtpano generate refine`."""
    parser = ShortVerbParser(
        "mtpano generate refine", description="Repaint the poles of panoramas.", parents=[_placing()]
    )
    parser.add_argument("folder", type=user_path, help="folder of panoramas")
    parser.add_argument("--model", required=True, help="inpainting pipeline of diffusers: a folder or a repository")
    parser.add_argument("--prompt", default="", help="what the poles show")
    parser.add_argument("--out", type=user_path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument("--steps", type=number_of("steps"), default=28, help="sampling steps (default %(default)s)")
    parser.add_argument("--seed", type=seed_of_noise, default=0, help="seed of the noise (default %(default)s)")
    parser.add_argument("--download", action="store_true", help="download the model if it is not in the cache")
    return parser


def score_parser() -> argparse.ArgumentParser:
    """Build the parser of `mtpano generate score`."""
    parser = ShortVerbParser(
        "mtpano generate score", description="Measure jumps at seam and poles, and compare with other panoramas."
    )
    parser.add_argument("folder", type=user_path, help="folder of panoramas")
    parser.add_argument(
        "--reference", type=user_path, metavar="DIR", help="folder of panoramas to measure the Frechet distance to"
    )
    parser.add_argument(
        "--network",
        default=DEFAULT_MODEL,
        help="network whose features the Frechet distance compares (default %(default)s)",
    )
    parser.add_argument(
        "--fid",
        metavar="FILE",
        help="Inception weights: also measure FID to the reference; cache means the file in torch's cache",
    )
    parser.add_argument(
        "--clip",
        metavar="DIR_OR_NAME",
        help="CLIP model: also measure the CLIP score and, with --reference, FID on its features; never downloaded",
    )
    return parser


def precompute_parser() -> argparse.ArgumentParser:
    """Build the parser of `mtpano generate precompute`."""
    parser = ShortVerbParser(
        "mtpano generate precompute",
        description="Compute latents and embeddings of a training set, for LatentsDataModule.",
        parents=[_base()],
    )
    parser.add_argument(
        "table", type=user_path, metavar="LIST.jsonl", help="list of images with captions, see PromptsDataset"
    )
    parser.add_argument("--out", type=user_path, required=True, metavar="DIR", help="folder to write to")
    parser.add_argument(
        "--height", type=int, default=1024, help="rows; a panorama is twice as wide (default %(default)s)"
    )
    parser.add_argument(
        "--shard-size", type=number_of("images"), default=32, help="images per file (default %(default)s)"
    )
    return parser


def _placing() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--device", help="cpu, cuda, ... (default: the GPU of this process, if there is one)")
    parser.add_argument(
        "--offload",
        choices=("none", "model", "group", "sequential"),
        default="none",
        help="keep weights in main memory and move them to the GPU by network (model), by layer while the next one is "
        "fetched (group), or by layer (sequential); default %(default)s",
    )
    return parser


def _base() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, parents=[_placing()])
    parser.add_argument(
        "--base", metavar="NAME_OR_DIR", help="base model, required: a folder in diffusers layout, or a repository"
    )
    parser.add_argument("--download", action="store_true", help="download what is not in the cache")
    parser.add_argument("--prefix", help="text put before every prompt (default: the one used in training)")
    parser.add_argument(
        "--quantize",
        choices=("none", "int8", "nf4"),
        default="none",
        help="store the weights of transformer and T5 text encoder in 8 or 4 bits (default %(default)s)",
    )
    return parser


def _common() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, parents=[_base()])
    parser.add_argument(
        "--adapter", metavar="NAME_OR_FILE", help="LoRA adapter: dit360.flux-dev-lora, a file or a folder"
    )
    parser.add_argument(
        "--strength", type=finite_number, default=1.0, help="strength of the adapter (default %(default)g)"
    )
    parser.add_argument("--steps", type=number_of("steps"), default=28, help="sampling steps (default %(default)s)")
    parser.add_argument("--seed", type=seed_of_noise, default=0, help="seed of the noise (default %(default)s)")
    return parser


def finite_number(text: str) -> float:
    """Parse a finite number.

    Raises:
        argparse.ArgumentTypeError: If the text is not a finite number.
    """
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise argparse.ArgumentTypeError(f"must be a number such as 0.5, not {text}")
    return number


def view_to_extend(text: str) -> float | tuple[float, float]:
    """Parse a horizontal field of view, or a width and a height, in degrees.

    Raises:
        argparse.ArgumentTypeError: If the text is neither.
    """
    if "x" in text.lower():
        return field_of_view(text)
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(
            f"must be the horizontal field of view of a photograph in degrees, such as 75, or the width and height of "
            f"a part of a panorama in degrees, such as 360x122, not {text}"
        ) from error


def seed_of_noise(text: str) -> int:
    """Parse a seed, see `check_seed`.

    Raises:
        argparse.ArgumentTypeError: If the text is not one.
    """
    from mtpano_zoo.generation.prompts import check_seed

    try:
        return check_seed(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _load(options: argparse.Namespace, adapter: str | None = None, strength: float = 1.0) -> Any:
    from mtpano_zoo.generation.loading import load_generator, show_licence

    if options.base is not None:
        show_licence(options.base, adapter)
    return load_generator(
        options.base,
        adapter,
        strength=strength,
        device=options.device,
        offload=options.offload,
        quantize=options.quantize,
        download=options.download,
        prefix=options.prefix,
    )


def _generate(options: argparse.Namespace) -> int:
    from mtpano_zoo.generation.loading import NO_BASE, describe_base, precision_name
    from mtpano_zoo.generation.prompts import SCENES, expand, plan, read_prompts, read_words
    from mtpano_zoo.generation.run import generate, manifest_of, prepare_folder
    from mtpano_zoo.machine.claims import process_number, processes

    if options.base is None:
        raise InputError(NO_BASE)
    if options.words and not options.template:
        raise InputError("--words lists words for --template, which is missing: pass it too")
    prompts = [*options.prompt, *(read_prompts(options.prompts) if options.prompts else ())]
    if options.template:
        words = read_words(options.words) if options.words else SCENES
        prompts += expand(options.template, words, options.number, options.seed)
    wanted = plan(prompts, options.count, options.seed)
    shared = {name: getattr(options, name) for name in ("height", "steps", "guidance", "seam")}
    shared["width"] = 2 * options.height
    loaded = ("strength", "quantize", "prefix")
    settings = shared | {name: getattr(options, name) for name in loaded}
    settings["precision"] = precision_name(options.device)
    manifest = manifest_of(describe_base(options.base, options.adapter), settings)
    generator = _load(options, options.adapter, options.strength)
    generator.noise(options.height, 2 * options.height, 0)  # refuses an invalid size before anything is written
    prepare_folder(options.out, manifest)
    report = generate(
        generator,
        wanted,
        options.out,
        shared,
        batch_size=options.batch_size,
        process=process_number(),
        processes=processes(),
    )
    print(f"{report.summary('generated')}\nThe panoramas are in {options.out}")
    return report.exit_code


def _edit(options: argparse.Namespace) -> int:
    from mtpano_zoo.generation.edit_input import read_task
    from mtpano_zoo.generation.editing import edit
    from mtpano_zoo.image_io import write_png

    if options.out.exists():
        raise InputError(f"{options.out} already exists: choose another name for --out")
    if options.out.suffix.lower() != ".png":
        raise InputError(f"the result is a PNG: choose a name for --out that ends in .png, not {options.out.name}")
    image, keep = read_task(options.image, options.mask, options.fov, options.height)
    generator = _load(options, options.adapter, options.strength)
    chosen = {name: getattr(options, name) for name in ("steps", "seed", "guidance", "replace_until", "keep_until")}
    with generator.enough_memory():
        result = edit(generator, image, keep, options.prompt, **chosen)
    write_png(options.out, (result * 255).round().byte().permute(1, 2, 0).numpy())
    print(f"The result is in {options.out}")
    return 0


def _refine(options: argparse.Namespace) -> int:
    from mtpano_zoo.generation.loading import describe_base, precision_name, show_licence
    from mtpano_zoo.generation.polar import STRENGTH, load_inpainter, refine_folder

    show_licence(options.model)
    settings = {name: getattr(options, name) for name in ("prompt", "steps", "seed")}
    inpaint = load_inpainter(
        options.model, **settings, download=options.download, device=options.device, offload=options.offload
    )
    settings |= {"model": options.model, "files": describe_base(options.model, None)["files"]}
    settings |= {"precision": precision_name(options.device), "strength": STRENGTH}
    written, there = refine_folder(options.folder, options.out, inpaint, settings)
    print(f"{written} panoramas refined, {there} skipped because they were refined already; they are in {options.out}")
    return 0


def _score(options: argparse.Namespace) -> int:
    from mtpano_zoo.generation import published_scores, quality
    from mtpano_zoo.zoo import load_model

    if options.clip is not None and importlib.util.find_spec("transformers") is None:
        raise InputError("a CLIP score needs transformers: pip install 'mtpano_zoo[generation]'")
    published = None
    if options.fid is not None or options.clip is not None:  # first, because weights may be missing
        published = published_scores.report(options.folder, options.reference, options.fid, options.clip)
    network = None if options.reference is None else load_model(options.network)
    print(quality.report(options.folder, options.reference, network))
    if published is not None:
        print(published)
    return 0


def _precompute(options: argparse.Namespace) -> int:
    from mtpano_zoo.generation.loading import NO_BASE, describe_base, precision_name
    from mtpano_zoo.generation.precompute import precompute
    from mtpano_zoo.machine.claims import process_number, processes

    if options.base is None:
        raise InputError(NO_BASE)
    written, there = precompute(
        _load(options),
        options.table,
        options.out,
        height=options.height,
        model=describe_base(options.base, None),
        loaded={"precision": precision_name(options.device), "quantize": options.quantize},
        shard_size=options.shard_size,
        process=process_number(),
        processes=processes(),
    )
    print(f"{written} files written, {there} skipped because they were written already; they are in {options.out}")
    return 0
