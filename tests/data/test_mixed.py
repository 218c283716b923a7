"""A mixture against its sets: what is drawn, how often, with which classes and labels, and scored how."""

from collections import Counter
from itertools import islice

import fake_structured3d
import numpy as np
import pytest
import torch
import yaml
from fake_files import write
from jsonargparse import ArgumentParser
from lightning import LightningDataModule

from mtpano_zoo.cli import main
from mtpano_zoo.data import (
    NYU40_CLASSES,
    NYU40_PALETTE,
    S3DIS_CLASSES,
    Augmentation,
    MixedDataModule,
    RoomsDataModule,
    SemiSupervisedDataModule,
    ShardsDataModule,
    Structured3DDataModule,
)
from mtpano_zoo.data.inspection import verify
from mtpano_zoo.data.mixed import merge_classes
from mtpano_zoo.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*panoramas of the release", "ignore:left out")

SIZE = {"height": 32, "width": 64}
TO_NYU = {"bookcase": "bookshelf", "board": "whiteboard", "column": "otherstructure", "beam": None}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("structured3d")
    write(folder, fake_structured3d.files(furnishings=("full",), lights=("raw",)))
    return folder


def sets(root, augmentation=None, **options):
    rooms = RoomsDataModule(**SIZE, train_count=5, val_count=2, test_count=1, augmentation=augmentation, cache=True)
    return {"s3d": Structured3DDataModule(root, **SIZE, **options), "rooms": rooms}


def mixture(root, own=None, **options):
    return MixedDataModule(sets(root, **(own or {})), **({"class_map": {"rooms": TO_NYU}} | options))


def ids(loader, epochs):
    seen = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        seen.append([name for batch in loader for name in batch["id"]])
    return seen


def test_a_mixture_leaves_its_sets_as_they_are(root):
    modules = sets(root, augmentation=Augmentation(mirror=0))
    alone = [sample["image"] for sample in modules["rooms"].train_dataloader().dataset]
    for _ in range(2):  # a second mixture of the same sets is like the first
        samples = MixedDataModule(modules, class_map={"rooms": TO_NYU}).train_dataloader().dataset
        assert samples.augmentations["rooms"] is modules["rooms"].train_set.augmentation is not None
    again = [sample["image"] for sample in modules["rooms"].train_dataloader().dataset]
    assert all(torch.equal(a, b) for a, b in zip(alone, again, strict=True))


def test_iterating_over_a_mixture_ends(root):
    samples = mixture(root).val_dataloader().dataset
    assert [sample["id"] for sample in islice(samples, 99)] == [samples[i]["id"] for i in range(len(samples))]


def test_classes_are_merged_by_name_and_table():
    classes, lookups = merge_classes(
        {"a": ("wall", "sky"), "b": ("floor", "wall", "ceil", "cat")}, {"b": {"ceil": "sky", "cat": None}}
    )
    assert classes == ("wall", "sky", "floor")
    assert {name: lookup.tolist() for name, lookup in lookups.items()} == {"a": [0, 1], "b": [2, 0, 1, 255]}
    classes, lookups = merge_classes({"a": ("wall", "sky"), "b": ("floor",)}, {}, ["floor", "wall"])
    assert classes == ("floor", "wall")
    assert {name: lookup.tolist() for name, lookup in lookups.items()} == {"a": [1, 255], "b": [0]}


def test_samples_are_those_of_the_sets_with_the_classes_of_the_mixture(root):
    data = mixture(root, batch_size=3, samples_per_epoch=9)
    own = sets(root)
    expected = {f"s3d/{sample['id']}": sample for sample in own["s3d"].dataset("train")}
    expected |= {f"rooms/{sample['id']}": sample for sample in own["rooms"].train_set}
    names = {"s3d": NYU40_CLASSES, "rooms": S3DIS_CLASSES}
    seen = set()
    for batch in data.train_dataloader():
        for i, name in enumerate(batch["id"]):
            sample = expected[name]
            seen.add(name)
            for key in ("image", "depth", "normals"):
                assert torch.equal(batch[key][i], sample[key])
            which = name.split("/")[0]
            for old in range(len(names[which])):
                new = names[which][old] if which == "s3d" else TO_NYU.get(names[which][old], names[which][old])
                number = data.classes.index(new) if new else 255
                assert (batch["semseg"][i][sample["semseg"] == old] == number).all()
            assert (batch["semseg"][i][sample["semseg"] == 255] == 255).all()
    assert {name.split("/")[0] for name in seen} == {"s3d", "rooms"}
    assert data.classes[:40] == NYU40_CLASSES
    assert data.classes[40:] == ("clutter",)


def test_colours_are_kept_and_never_shared(root):
    data = mixture(root)
    assert np.array_equal(data.palette[:40], NYU40_PALETTE)
    plain = MixedDataModule(sets(root))
    assert plain.palette.shape == (len(plain.classes), 3)
    assert len({tuple(colour) for colour in plain.palette.tolist()}) == len(plain.classes)


def test_a_set_without_a_label_has_none_in_the_batch(root):
    data = mixture(root, {"tasks": ["depth"]}, batch_size=8)
    (batch,) = data.train_dataloader()
    for i, name in enumerate(batch["id"]):
        labelled = name.startswith("rooms/")
        assert (batch["semseg"][i] != 255).any() == labelled
        assert batch["normals"][i].any() == labelled
        assert batch["depth"][i].any()


@pytest.mark.parametrize(
    ("weights", "counts"), [(None, (3, 5)), ({"s3d": 3, "rooms": 1}, (6, 2)), ({"s3d": 0, "rooms": 2}, (0, 5))]
)
def test_an_epoch_has_the_shares_and_nothing_comes_again_before_its_turn(root, weights, counts):
    data = mixture(root, weights=weights, batch_size=1)
    loader = data.train_dataloader()
    epochs = ids(loader, range(6))
    sizes = {"s3d": 3, "rooms": 5}
    for name, count in zip(sizes, counts, strict=True):
        drawn = [[one for one in epoch if one.startswith(name)] for epoch in epochs]
        assert [len(epoch) for epoch in drawn] == [count] * 6
        so_far = Counter()
        for epoch in drawn:
            so_far.update(epoch)
            if so_far:
                every = [so_far[one] for one in so_far] + [0] * (sizes[name] - len(so_far))
                assert max(every) - min(every) <= 1
    assert len({tuple(epoch) for epoch in epochs}) == 6  # another order every time


def test_the_draw_depends_on_seed_and_epoch_only(root):
    options = {"weights": {"s3d": 2, "rooms": 1}, "samples_per_epoch": 9, "batch_size": 2}
    plain = ids(mixture(root, **options).train_dataloader(), range(3))
    assert ids(mixture(root, **options, num_workers=2).train_dataloader(), (2, 0)) == [plain[2], plain[0]]
    assert ids(mixture(root, **options, seed=1).train_dataloader(), range(3)) != plain


def test_processes_share_an_epoch(root):
    sampler = mixture(root, samples_per_epoch=10).train_dataloader().sampler
    whole = list(sampler)
    shares = []
    for rank in range(2):
        sampler.rank, sampler.num_replicas, sampler.num_samples = rank, 2, 5
        shares.append(list(sampler))
    assert [one for pair in zip(*shares, strict=True) for one in pair] == whole


def test_training_resumes_within_an_epoch(root):
    loader = mixture(root, batch_size=2).train_dataloader()
    loader.sampler.set_epoch(1)
    batches = iter(loader)
    first = next(batches)["id"]
    state = loader.state_dict()
    rest = [batch["id"] for batch in batches]
    resumed = mixture(root, batch_size=2).train_dataloader()
    resumed.load_state_dict(state)
    resumed.sampler.set_epoch(1)
    assert [batch["id"] for batch in resumed] == rest
    assert first not in rest


def test_a_sample_that_comes_twice_is_augmented_twice(root):
    own = {"augmentation": Augmentation(mirror=0)}
    data = mixture(root, own, weights={"s3d": 1, "rooms": 3}, samples_per_epoch=40, batch_size=1)
    loader = data.train_dataloader()
    loader.sampler.set_epoch(3)
    views = {}
    for batch in loader:
        views.setdefault(batch["id"][0], []).append(batch["image"][0])
    plain = {f"s3d/{sample['id']}": sample["image"] for sample in sets(root)["s3d"].dataset("train")}
    for name, images in views.items():
        different = {tuple(image.flatten().tolist()) for image in images}
        if name.startswith("rooms"):
            assert len(images) == 6
            assert len(different) >= 5  # of 64 columns, two may be the same
        else:  # the set has no augmentation of its own, neither has the mixture
            assert different == {tuple(plain[name].flatten().tolist())}


@pytest.mark.parametrize("kind", ["mixed", "semi-supervised"])
def test_black_poles_are_exactly_black_whatever_happens_to_the_colours(kind):
    colours = Augmentation(photometric=1, strength=2)
    options = {**SIZE, "train_count": 4, "val_count": 1, "test_count": 1}
    rooms = RoomsDataModule(**options, black_poles=1.0, augmentation=colours)
    if kind == "mixed":
        data = MixedDataModule({"unlabelled": rooms}, batch_size=4)
    else:
        data = SemiSupervisedDataModule(RoomsDataModule(**options), rooms, batch_size=4)
    batch = next(iter(data.train_dataloader()))
    plain = {f"unlabelled/{sample['id']}": sample for sample in RoomsDataModule(**options, black_poles=1.0).train_set}
    for i, name in enumerate(batch["id"]):
        if name in plain:
            for key in ("image", "clean") if kind == "semi-supervised" else ("image",):
                assert torch.equal((batch[key][i] == 0).all(0).all(1), (plain[name]["image"] == 0).all(0).all(1))
    assert sum(not sample["image"][:, 0].any() for sample in plain.values()) >= 2


def test_what_a_set_skips_is_left_out_of_the_batch(root, tmp_path):
    content = fake_structured3d.files(furnishings=("full",), lights=("raw",))
    broken = "Structured3D/scene_00000/2D_rendering/485142/panorama/full/rgb_rawlight.png"
    write(tmp_path, content | {broken: b"broken"})
    data = mixture(tmp_path, {"on_error": "skip"}, batch_size=8)
    (batch,) = data.train_dataloader()
    assert len(batch["id"]) == 7
    assert "s3d/scene_00000_485142_full_raw" not in batch["id"]
    assert data.modules["s3d"].dataset("train").unreadable == 1


def test_evaluation_of_all_or_one(root):
    data = mixture(root)
    everything = [name for batch in data.val_dataloader() for name in batch["id"]]
    assert everything == ["s3d/scene_03000_20_full_raw", "rooms/val-000000", "rooms/val-000001"]
    one = mixture(root, evaluate="rooms")
    assert [name for batch in one.test_dataloader() for name in batch["id"]] == ["rooms/test-000000"]
    assert [name for batch in one.predict_dataloader() for name in batch["id"]] == ["rooms/test-000000"]


def test_verification_goes_through_every_set(root):
    report = verify(mixture(root), progress=False)
    assert report.samples == {
        "s3d/train": 3,
        "s3d/val": 1,
        "s3d/test": 1,
        "rooms/train": 5,
        "rooms/val": 2,
        "rooms/test": 1,
    }
    assert report.findings == []


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"weights": {"s3d": 1}}, "weights lacks rooms"),
        ({"weights": {"s3d": 1, "romms": 1}}, "weights names romms, but the sets are s3d, rooms"),
        ({"weights": {"s3d": 0, "rooms": 0}}, "must not be negative, nor all 0"),
        ({"evaluate": "sun360"}, "evaluate names sun360"),
        ({"class_map": {"rooms": {"sky": None}}}, "class_map: rooms has no class sky"),
        ({"class_map": {"rooms": {"beam": "bean"}}, "classes": ["wall"]}, "bean is not among the classes"),
        ({"classes": ["wall", "elephant"], "class_map": {}}, "no set of the mixture has a class elephant"),
        ({"batch_size": 0}, "batch_size must be positive"),
        ({"samples_per_epoch": 0}, "samples_per_epoch must be positive, not 0"),
    ],
)
def test_refuses_in_one_sentence(root, options, sentence):
    with pytest.raises(ValueError, match=sentence):
        mixture(root, **options)


def test_refuses_different_sizes(root):
    with pytest.raises(ValueError, match="the same height and width, not s3d 32 x 64, rooms 16 x 32"):
        MixedDataModule({"s3d": Structured3DDataModule(root, **SIZE), "rooms": RoomsDataModule(16, 32)})


@pytest.mark.parametrize("role", ["rooms", "labelled", "unlabelled"])
def test_refuses_shards(root, room_shards, role):
    packed, other = ShardsDataModule(room_shards), RoomsDataModule(**SIZE)
    with pytest.raises(InputError, match=f"{role} is a set of shards, which can only be read in sequence: use what"):
        if role == "rooms":
            MixedDataModule({"s3d": Structured3DDataModule(root, **SIZE), "rooms": packed})
        else:
            SemiSupervisedDataModule(**({"labelled": other, "unlabelled": other} | {role: packed}))


CONFIG = """
seed_everything: 0
trainer: {accelerator: cpu, max_epochs: 1, limit_train_batches: 2, enable_progress_bar: false, logger: false,
          enable_checkpointing: false, enable_model_summary: false, num_sanity_val_steps: 0}
model:
  network:
    class_path: PDBridgeNet
    init_args: {input_size: [32, 64], bridge_width: 16,
                encoder: {class_path: ViTEncoder, init_args: {name: vit_small_patch16_dinov3_qkvb, width: 32, depth: 4,
                heads: 2, patch_size: 8}}, neck_widths: [8, 8, 16, 16], fusion_width: 8}
data:
  class_path: MixedDataModule
  init_args:
    batch_size: 2
    modules:
      s3d: {class_path: Structured3DDataModule, init_args: {root: ROOT, height: 32, width: 64}}
      rooms: {class_path: RoomsDataModule, init_args: {height: 32, width: 64, train_count: 3, val_count: 2}}
    weights: {s3d: 2, rooms: 1}
    class_map: {rooms: {bookcase: bookshelf, beam: null}}
"""


@pytest.mark.parametrize("option", ["data.modules.rooms.train_count", "data.modules.rooms.init_args.train_count"])
def test_an_option_changes_one_argument_of_a_set_and_a_second_file_all_sets(option, tmp_path):
    (tmp_path / "mixed.yaml").write_text(yaml.safe_dump({"data": yaml.safe_load(CONFIG)["data"]}))
    other = {"rooms": {"init_args": {"train_count": 9}}}
    (tmp_path / "other.yaml").write_text(yaml.safe_dump({"data": {"init_args": {"modules": other}}}))
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(LightningDataModule, "data")

    def modules(*arguments):
        found = parser.parse_args(["--config", str(tmp_path / "mixed.yaml"), *arguments])
        return yaml.safe_load(parser.dump(found))["data"]["init_args"]["modules"]

    changed = modules(f"--{option}=9")
    assert changed["s3d"] == modules()["s3d"]
    assert changed["rooms"]["init_args"] == modules()["rooms"]["init_args"] | {"train_count": 9}
    assert modules("--config", str(tmp_path / "other.yaml")) == {"rooms": changed["rooms"]}


def test_from_a_configuration(root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mixed.yaml").write_text(CONFIG.replace("ROOT", str(root)))
    assert main(["fit", "--config", "mixed.yaml"]) == 0
    assert main(["data", "plot", "--config", "mixed.yaml", "--out", "mixed.png", "--count", "1"]) == 0
    assert (tmp_path / "mixed.png").stat().st_size > 10_000
