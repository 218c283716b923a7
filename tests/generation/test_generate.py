"""`mtpano generate` and `mtpano fit` with a small model that is made here: nothing is downloaded."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_flux import tiny_flux

from mtpano_zoo.cli import main
from mtpano_zoo.data import GeneratedDataModule
from mtpano_zoo.errors import InputError
from mtpano_zoo.generation.cli import generate_parser
from mtpano_zoo.generation.editing import edit
from mtpano_zoo.generation.loading import load_generator
from mtpano_zoo.generation.prompts import SCENES, Wanted, expand, plan, read_prompts
from mtpano_zoo.generation.run import generate as make
from mtpano_zoo.generation.run import manifest_of, prepare_folder


def generate(base: Path, out: Path, *arguments: str) -> int:
    return main(["generate", *arguments, "--base", str(base), "--out", str(out), "--height", "32", "--steps", "2"])


def images(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((out / "img").glob("*"))}


def test_folder_is_a_data_set_and_can_be_continued(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "generated"
    assert generate(base, out, "a dark room", "--count", "2") == 0
    assert "licence unknown" in capsys.readouterr().err
    first = images(out)
    assert list(first) == ["000000_0.jpg", "000000_1.jpg"]
    assert len(set(first.values())) == 2
    data = GeneratedDataModule(out, height=32, width=64)
    assert data.prompts == dict.fromkeys(["000000_0", "000000_1"], "a dark room")
    # What a killed run leaves: one panorama is missing, a temporary folder is there.
    (out / "img" / "000000_1.jpg").unlink()
    (out / ".labelling-dead").mkdir()
    assert generate(base, out, "a dark room", "--count", "2") == 0
    assert "1 generated" in capsys.readouterr().out
    assert images(out) == first
    assert not list(out.glob(".labelling-*"))
    # More prompts leave the others as they are.
    assert generate(base, out, "a dark room", "a bright room", "--count", "2") == 0
    more = images(out)
    assert len(more) == 4
    assert {name: more[name] for name in first} == first
    lines = [json.loads(line) for line in (out / "prompts.jsonl").read_text().splitlines()]
    assert [line["caption"] for line in lines] == ["a dark room"] * 2 + ["a bright room"] * 2
    # Other settings are not mixed in, and another text under the same name is not taken for the same.
    assert generate(base, out, "a dark room", "--seam", "none") == 1
    assert "settings.seam was 'roll', is 'none'" in capsys.readouterr().err
    # Nor is another precision, unless the manifest is of a release that did not record it.
    manifest = json.loads((out / "manifest.json").read_text())
    for settings, status in (({"precision": "bfloat16"}, 1), ({}, 0)):
        others = {name: value for name, value in manifest["settings"].items() if name != "precision"}
        (out / "manifest.json").write_text(json.dumps({**manifest, "settings": others | settings}))
        assert generate(base, out, "a dark room", "--count", "2") == status
        assert ("settings.precision was 'bfloat16', is 'float32'" in capsys.readouterr().err) == bool(status)
    (out / "manifest.json").write_text(json.dumps(manifest))
    torch.manual_seed(1)
    trained = tiny_flux()
    trained.pipeline.save_pretrained(tmp_path / "trained")  # of the same shapes
    assert generate(tmp_path / "trained", out, "a dark room", "--count", "2") == 1
    assert "holds results of other settings (model.files.text_encoder/model.safetensors was" in capsys.readouterr().err
    assert generate(base, out, "a bright room", "--count", "1") == 1
    assert "000000_0: it was made from another prompt or seed" in capsys.readouterr().out
    assert images(out) == more
    record = json.loads(max((out / "runs").iterdir(), key=lambda path: path.stat().st_mtime_ns).read_text())
    assert record["counts"] == {"labelled": 0, "skipped": 0, "failed": 1}
    assert record["software"]["diffusers"]


def test_a_panorama_depends_on_nothing_else(base: Path) -> None:
    generator = load_generator(base, device="cpu")
    options = {"height": 32, "width": 64, "steps": 2}
    one = generator.generate("a dark room", seed=1, **options)
    generator.generate("a bright room", seed=2, **options)
    torch.manual_seed(5)
    assert (generator.generate("a dark room", seed=1, **options) == one).all()
    assert one.shape == (32, 64, 3)
    assert (generator.generate("a dark room", seed=3, **options) != one).any()
    assert (generator.generate("a bright room", seed=1, **options) != one).any()


def test_prompts(tmp_path: Path) -> None:
    first, second = plan(["a room", "a hall"], 1, 0)
    assert plan(["a room"], 2, 0)[0] == first
    assert first.seed != second.seed != plan(["a room"], 1, 1)[0].seed
    repeated = plan(["a room", "a hall", "a room", "a room"], 2, 0)  # as templates of few words give them
    assert repeated[0] == first and repeated[:6] == plan(["a room", "a hall", "a room"], 2, 0)
    assert len({wanted.seed for wanted in repeated}) == 8
    words = {"place": ["hall", "attic", "barn"]}
    assert expand("a {place}", words, 8, 0)[:3] == expand("a {place}", words, 3, 0)
    assert len(set(expand("a {place}", words, 30, 0))) == 3
    path = tmp_path / "prompts.txt"
    path.write_text("a room\na hall\n")
    assert read_prompts(path) == ["a room", "a hall"]
    for content, sentence in (("a room\n\na hall\n", "line 2: the prompt is empty"), ("", "is empty: write a prompt")):
        path.write_text(content)
        with pytest.raises(InputError, match=sentence):
            read_prompts(path)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a room"], "no base is given"),
        (["a room", "--base", "nowhere/at-all"], "cannot be loaded"),
        (["a room", "--base", "BASE", "--height", "30"], "multiples of 4, not 30 x 60: the nearest is 32 x 64"),
        (
            ["a room", "--base", "BASE", "--height", "100000000"],
            "the panorama is 200000000 x 100000000 pixels, more than",
        ),
        (["a room", "--base", "BASE", "--guidance", "nan"], "must be a number such as 0.5, not nan"),
        (["--prompts", "nowhere.txt", "--base", "BASE"], "nowhere.txt: No such file"),
        ([" ", "--base", "BASE"], "prompt number 1 is empty"),
        (["--base", "BASE"], "nothing to generate"),
        (["a room", "--base", "BASE", "--offload", "model", "--device", "cpu"], "the device is a CPU: leave it out"),
        (["a room", "--base", "BASE", "--count", "0"], "a number of panoramas is 1 or more"),
        (["--template", "a {planet}", "--base", "BASE"], "names planet, which has no list: there are indoor"),
        (["a room", "--base", "BASE", "--batch-size", "0"], "a number of panoramas is 1 or more"),
        (["a room", "--base", "BASE", "--adapter", "dit360.flux-dev-lora"], "is not in the cache: add --download"),
        (["a room", "--base", "BASE", "--seam", "wavy"], "seam"),
        (["a room", "--base", "BASE", "--steps", "0"], "a number of steps is 1 or more, not 0"),
        (["a room", "--base", "BASE", "--seed", "-1"], "a seed is a whole number from 0 to 2^63 - 1, not -1"),
        (["a room", "--base", "BASE", "--seed", str(2**63)], "from 0 to 2^63 - 1, not 9223372036854775808"),
        (["a room", "--base", "BASE", "--seed", "9" * 5000], "a seed is a whole number from 0 to 2^63 - 1, not 999"),
        (["a room", "--base", "BASE", "--device", "warp"], "device 'warp' cannot be used here"),
        (["--template", "a {indoor}", "--number", "0", "--base", "BASE"], "a number of prompts is 1 or more"),
        (["a room", "--words", "words.yaml", "--base", "BASE"], "--words lists words for --template"),
    ],
)
def test_mistakes(
    base: Path, tmp_path: Path, arguments: list[str], sentence: str, capsys: pytest.CaptureFixture, monkeypatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    out = tmp_path / "out"
    assert main(["generate", *(str(base) if a == "BASE" else a for a in arguments), "--out", str(out)]) == 1
    assert sentence in capsys.readouterr().err
    assert not out.exists()


def test_seeds_have_one_limit(base: Path) -> None:
    generator, largest = load_generator(base, device="cpu"), 2**63 - 1
    assert generate_parser().parse_args(["a room", "--seed", str(largest)]).seed == largest
    noise = generator.noise(32, 64, largest)
    assert torch.equal(noise, torch.randn(noise.shape, generator=torch.Generator().manual_seed(largest)))
    for seed in (-1, largest + 1):
        with pytest.raises(InputError, match=rf"^a seed is a whole number from 0 to 2\^63 - 1, not {seed}$"):
            generator.noise(32, 64, seed)
    # Editing draws a second noise, with the next seed.
    edited = edit(
        generator, torch.rand(3, 32, 64), torch.zeros(32, 64, dtype=torch.bool), "a room", steps=1, seed=largest
    )
    assert edited.shape == (3, 32, 64)


def test_without_the_extra(capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtpano_zoo.generation.cli.NEEDED", ("peft", "no_such_package"))
    assert main(["generate", "a room", "--base", "anything"]) == 1
    assert "needs no_such_package: pip install 'mtpano_zoo[generation]'" in capsys.readouterr().err


def test_long_prompts_and_other_bases(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert generate(base, tmp_path / "out", "room " * 2000) == 1
    assert "tokens, of which 32 would be read" in capsys.readouterr().out
    other = tmp_path / "other"
    shutil.copytree(base, other)
    index = json.loads((other / "model_index.json").read_text())
    (other / "model_index.json").write_text(json.dumps(index | {"_class_name": "Flux2Pipeline"}))
    assert generate(other, tmp_path / "second", "a room") == 1
    assert "is a Flux2Pipeline, not a FluxPipeline" in capsys.readouterr().err


def test_edit(base: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (32, 64, 3), np.uint8)
    mask = np.zeros((32, 64, 3), np.uint8)
    mask[8:24, 56:], mask[8:24, :8] = 255, 255
    for name, array in (
        ("room", pixels),
        ("mask", mask),
        ("small", mask[:16]),
        ("grey", mask // 2),
        ("black", 0 * mask),
        ("photo", pixels[:, :32]),
    ):
        Image.fromarray(array).save(tmp_path / f"{name}.png")

    def edit(image: str, out: str, *arguments: str) -> int:
        options = [
            "--base",
            str(base),
            "--prompt",
            "a room",
            "--steps",
            "2",
            "--out",
            str(tmp_path / out),
            "--height",
            "32",
        ]
        return main(["generate", "edit", str(tmp_path / f"{image}.png"), *options, *arguments])

    assert edit("room", "new.png", "--mask", str(tmp_path / "mask.png")) == 0
    found = np.array(Image.open(tmp_path / "new.png"))
    assert (found[mask == 0] == pixels[mask == 0]).all()
    assert (found[mask > 0] != pixels[mask > 0]).mean() > 0.9
    assert edit("photo", "wide.png", "--fov", "90") == 0
    assert np.array(Image.open(tmp_path / "wide.png")).shape == (32, 64, 3)
    for arguments, sentence in (
        (["--mask", str(tmp_path / "small.png")], "the mask is 16 x 64, but the panorama is 32 x 64"),
        (["--mask", str(tmp_path / "grey.png")], "of the mask are grey"),
        (["--mask", str(tmp_path / "black.png")], "is black, so nothing would change"),
        (["--mask", str(tmp_path / "mask.png"), "--fov", "90"], "not both"),
        ([], "pass --mask with an image of the size of"),
        (["--fov", "wide"], "field of view of a photograph in degrees, such as 75"),
        (["--fov", "60x60"], "choose another field of view"),
    ):
        assert edit("room", "other.png", *arguments) == 1
        assert sentence in capsys.readouterr().err
    assert edit("room", "new.png", "--mask", str(tmp_path / "mask.png")) == 1
    assert "already exists" in capsys.readouterr().err
    for out, sentence in (("new.jpg", "ends in .png"), ("nowhere/new.png", "there is no folder")):
        assert edit("room", out, "--mask", str(tmp_path / "mask.png")) == 1
        assert sentence in capsys.readouterr().err
    assert edit("photo", "other.png", "--fov", "0") == 1
    assert "field of view between 0 and 180 degrees" in capsys.readouterr().err


def test_a_batch_gives_what_each_panorama_is_alone(base: Path, tmp_path: Path) -> None:
    generator = load_generator(base, device="cpu")
    options = {"height": 32, "width": 64, "steps": 2, "seam": "roll"}
    prompts, seeds = ["a dark room", "a bright room", "a room"], [3, 5, 3]
    together = generator.generate_batch(generator.embed(prompts), seeds, **options)
    for prompt, seed, found in zip(prompts, seeds, together, strict=True):
        alone = generator.generate(prompt, seed=seed, **options)
        assert np.abs(alone.astype(int) - found).max() <= 1  # rounding
    assert generate(base, tmp_path, "a dark room", "--count", "3", "--batch-size", "2") == 0
    assert len(set(images(tmp_path).values())) == 3


def test_templates_over_lists_of_scenes(base: Path, tmp_path: Path) -> None:
    made = []
    for number in ("4", "2"):
        out = tmp_path / number
        assert generate(base, out, "--template", "a {style} {indoor}", "--number", number, "--seed", "7") == 0
        made.append([json.loads(line) for line in (out / "prompts.jsonl").read_text().splitlines()])
    assert made[0][:2] == made[1]
    for line in made[0]:
        _, style, place = line["caption"].split(" ", 2)
        assert style in SCENES["style"] and place in SCENES["indoor"]
    assert len({line["caption"] for line in made[0]}) > 1


class Stub:
    """Replaces a generator: its colour depends on the seed, and it kills the process at a given panorama."""

    def __init__(self, killed_by: int = -1, calls: Path | None = None) -> None:
        self.killed_by, self.calls = killed_by, calls

    def embed(self, prompts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.zeros(1, 1, 1), torch.zeros(1, 1)

    def generate_batch(self, embeddings: object, seeds: list[int]) -> list[np.ndarray]:
        if self.killed_by in seeds:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.calls is not None:
            with self.calls.open("a") as file:
                file.writelines(f"{seed}\n" for seed in seeds)
        return [np.full((16, 32, 3), seed, np.uint8) for seed in seeds]


def in_another_process(stub: Stub, wanted: list[Wanted], root: Path, **options: int) -> multiprocessing.Process:
    process = multiprocessing.get_context("fork").Process(
        target=make, args=(stub, wanted, root, {}), kwargs=options, daemon=True
    )
    process.start()
    return process


def prompts_in(root: Path) -> dict[str, str]:
    rows = [json.loads(line) for line in (root / "prompts.jsonl").read_text().splitlines()]
    assert [row["image"] for row in rows] == [f"img/{name}" for name in images(root)]
    return {row["image"]: row["caption"] for row in rows}


def test_a_killed_run_is_finished_by_the_same_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtpano_zoo.generation.run.LIST_AFTER", -1.0)
    wanted = [Wanted(f"{i:06d}_0", f"prompt {i}", i) for i in range(8)]
    for name in ("killed", "whole"):
        prepare_folder(tmp_path / name, manifest_of({}, {}))
    killed = in_another_process(Stub(killed_by=5), wanted, tmp_path / "killed", batch_size=2)
    killed.join(100)
    assert killed.exitcode == -signal.SIGKILL
    assert len(images(tmp_path / "killed")) == 4
    assert len(prompts_in(tmp_path / "killed")) == 4
    calls = tmp_path / "calls"
    report = make(Stub(calls=calls), wanted, tmp_path / "killed", {}, batch_size=2)
    assert report.exit_code == 0 and len(report.skipped) == 4
    assert sorted(map(int, calls.read_text().split())) == [4, 5, 6, 7]  # nothing is made twice
    make(Stub(), wanted, tmp_path / "whole", {})
    assert images(tmp_path / "killed") == images(tmp_path / "whole")
    assert prompts_in(tmp_path / "killed") == prompts_in(tmp_path / "whole")
    assert not [path for path in (tmp_path / "killed").iterdir() if path.name.startswith(".")]


def test_refused_prompts_do_not_replace_the_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mtpano_zoo.generation.run.LIST_AFTER", -1.0)
    prepare_folder(tmp_path, manifest_of({}, {}))
    before = [Wanted("000000_0", "a red room", 1), Wanted("000001_0", "a blue room", 2)]
    make(Stub(), before, tmp_path, {})
    after = [Wanted("000000_0", "a street", 3), Wanted("000001_0", "a red room", 1), Wanted("000002_0", "a hall", 4)]
    # The hall comes first; the list is written before the other two are checked.
    report = make(Stub(), after, tmp_path, {}, process=2, processes=3)
    assert (report.done, sorted(report.failed)) == (["000002_0"], ["000000_0", "000001_0"])
    assert list(prompts_in(tmp_path).values()) == ["a red room", "a blue room", "a hall"]
    rows = [json.loads(line) for line in (tmp_path / "prompts.jsonl").read_text().splitlines()]
    assert [row["seed"] for row in rows] == [1, 2, 4]


def test_processes_share_the_work(tmp_path: Path) -> None:
    wanted = [Wanted(f"{i:06d}_0", f"prompt {i}", i) for i in range(40)]
    root, calls = tmp_path / "made", tmp_path / "calls"
    prepare_folder(root, manifest_of({}, {}))
    started = [in_another_process(Stub(calls=calls), wanted, root, process=i, processes=2) for i in range(2)]
    for process in started:
        process.join(100)
        assert process.exitcode == 0
    made = [int(line) for line in calls.read_text().split()]
    assert set(made) == set(range(40))
    assert len(made) <= 42  # the last of each may be made by the other too
    assert len(prompts_in(root)) == 40
