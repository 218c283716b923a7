"""The layout of MTPano's pseudo-labels: merged maps, confidence, one view per epoch."""

import functools
import json

import fake_pseudo_labels
import numpy as np
import pytest
import torch
import yaml
from fake_files import png, write
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from mtpano_zoo.cli import main
from mtpano_zoo.data import ADE20K_CLASSES, Augmentation, MixedDataModule, PseudoLabelDataModule, RoomsDataModule
from mtpano_zoo.data.inspection import verify
from mtpano_zoo.resources import shipped
from mtpano_zoo.tasks import SAMPLE_MAPS

pytestmark = pytest.mark.filterwarnings("ignore:.*panoramas have no")

SIZE = {"height": 32, "width": 64}
DEPTH_STEP, NORMALS_STEP = 0.00051, 0.0072  # half a millimetre; half a step of 127.5, and unit length again


def check(sample, truth, keys):
    assert set(sample) == {"id", "image", *keys}
    assert np.array_equal((sample["image"] * 255).round().byte().permute(1, 2, 0).numpy(), truth["image"])
    for key in set(keys) & {"semseg", "confidence"}:
        assert np.array_equal(sample[key].numpy(), truth[key])
    if "depth" in keys:
        assert np.abs(sample["depth"].numpy() - truth["depth"]).max() <= DEPTH_STEP
        assert ((sample["depth"].numpy() == 0) == (truth["depth"] == 0)).all()
    if "normals" in keys:
        normals = sample["normals"].permute(1, 2, 0).numpy()
        assert np.abs(normals - truth["normals"]).max() <= NORMALS_STEP
        assert ((normals == 0).all(-1) == (truth["normals"] == 0).all(-1)).all()


KEYS = {
    "room_a": ("semseg", "depth", "normals", "confidence"),
    "room_b": ("semseg", "depth", "normals"),
    "room_c": ("semseg", "depth", "confidence"),
    "room_d": ("semseg", "depth", "normals", "confidence"),
}


def test_samples_are_the_merged_maps(pseudo_labels):
    data = PseudoLabelDataModule(pseudo_labels, **SIZE)
    for split, names in fake_pseudo_labels.SPLITS.items():
        samples = data.dataset(split)
        assert [samples[i]["id"] for i in range(len(samples))] == names
        for sample, name in zip(samples, names, strict=True):
            check(sample, fake_pseudo_labels.ground_truth(name), KEYS[name])
    with pytest.raises(ValueError, match="none for test"):
        data.dataset("test")


def test_the_classes_are_those_of_the_published_checkpoints():
    published = yaml.safe_load(shipped("checkpoints.yaml").read_text())
    assert list(ADE20K_CLASSES) == published["mtpano-large.408k"]["network"]["init_args"]["classes"]


def test_a_batch_trusts_fully_what_has_no_confidence(pseudo_labels):
    (batch,) = PseudoLabelDataModule(pseudo_labels, **SIZE, batch_size=3).train_dataloader()
    for name, confidence in zip(batch["id"], batch["confidence"], strict=True):
        truth = fake_pseudo_labels.ground_truth(name)["confidence"]
        assert np.array_equal(confidence.numpy(), np.ones_like(truth) if name == "room_b" else truth)


def test_confidence_can_be_left_out_and_needs_classes(pseudo_labels):
    for options in ({"confidence": False}, {"tasks": ["depth"]}):
        sample = PseudoLabelDataModule(pseudo_labels, **SIZE, **options).dataset("train")[0]
        assert "confidence" not in sample


@functools.cache
def depth_of(name, view):
    return fake_pseudo_labels.view_truth(name, view)["depth"]


def views_of(loader, epochs):
    """By epoch and panorama, the view that its depth is of."""
    chosen = []
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        chosen.append({})
        for batch in loader:
            for i, name in enumerate(batch["id"]):
                name = name.rsplit("/")[-1]
                depth = batch["depth"][i].numpy()
                found = [view for view in range(4) if np.abs(depth - depth_of(name, view)).max() < 0.001]
                chosen[-1][name] = found[0] if found else None
                if not found:  # the view whose file is missing
                    assert name == "room_c"
                    assert not batch["depth"][i].any()
    return chosen


def test_training_takes_one_view_per_panorama_and_epoch(pseudo_labels):
    options = SIZE | {"view_tasks": ["depth"], "batch_size": 3}
    loader = PseudoLabelDataModule(pseudo_labels, **options).train_dataloader()
    chosen = views_of(loader, range(12))
    assert views_of(loader, [7, 2]) == [chosen[7], chosen[2]]
    for name in ("room_a", "room_b"):
        for first in (0, 4, 8):
            assert {epoch[name] for epoch in chosen[first : first + 4]} == {0, 1, 2, 3}
    assert [epoch["room_c"] for epoch in chosen].count(None) == 3
    orders = {tuple(epoch[name] for epoch in chosen[i : i + 4]) for i in (0, 4, 8) for name in chosen[0]}
    assert len(orders) > 4
    other = PseudoLabelDataModule(pseudo_labels, **options, seed=1).train_dataloader()
    assert views_of(other, range(12)) != chosen
    beside = PseudoLabelDataModule(pseudo_labels, **options, num_workers=2).train_dataloader()
    assert views_of(beside, [0, 7, 2]) == [chosen[0], chosen[7], chosen[2]]


def kinds_of(batches):
    """For every batch the kinds of depth of its panoramas: merged, or of one view, whose file may be missing."""
    kinds = []
    for batch in batches:
        depths = batch["depth"].numpy() if "depth" in batch else np.zeros((len(batch["id"]), 32, 64))
        truths = [fake_pseudo_labels.ground_truth(name)["depth"] for name in batch["id"]]
        kinds.append({"merged" if np.abs(d - t).max() < 0.001 else "view" for d, t in zip(depths, truths, strict=True)})
    return kinds


def batches_of(loader, epochs):
    for epoch in epochs:
        loader.sampler.set_epoch(epoch)
        yield from loader


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("first", [0, 3, 4])
def test_views_begin_exactly_at_their_step_also_after_a_resumption(pseudo_labels, first, workers):
    def loader():
        options = {"view_tasks": ["depth"], "views_from_step": first, "batch_size": 1, "num_workers": workers}
        return PseudoLabelDataModule(pseudo_labels, **SIZE, **options).train_dataloader()

    expected = [{"merged"}] * first + [{"view"}] * (6 - first)  # three batches are an epoch
    assert kinds_of(batches_of(loader(), [0, 1])) == expected
    broken = loader()
    broken.sampler.set_epoch(0)
    batches = iter(broken)
    next(batches)
    next(batches)
    resumed = loader()
    resumed.load_state_dict(broken.state_dict())
    assert kinds_of(batches_of(resumed, [0, 1])) == expected[2:]


def test_views_begin_at_the_same_step_in_every_process(pseudo_labels, monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for rank in range(2):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        data = PseudoLabelDataModule(pseudo_labels, **SIZE, batch_size=1, view_tasks=["depth"], views_from_step=3)
        kinds = kinds_of(batches_of(data.train_dataloader(), range(3)))  # two batches are an epoch of a process
        assert kinds == [{"merged"}] * 3 + [{"view"}] * 3


def test_an_incomplete_batch_that_is_dropped_is_no_step(pseudo_labels):
    options = {"view_tasks": ["depth"], "views_from_step": 2, "batch_size": 2}
    loader = PseudoLabelDataModule(pseudo_labels, **SIZE, **options).train_dataloader()
    assert kinds_of(batches_of(loader, range(4))) == [{"merged"}, {"merged"}, {"view"}, {"view"}]


class Seen(BoringModel):
    """Remembers which depth the steps were trained on."""

    def __init__(self):
        super().__init__()
        self.kinds = []

    def training_step(self, batch, batch_idx):
        self.kinds += kinds_of([batch])
        return self.layer.weight.sum()

    def on_before_batch_transfer(self, batch, dataloader_idx):
        return batch


@pytest.mark.parametrize("stopped", [2, 3, 5])
def test_the_steps_are_those_of_lightning(pseudo_labels, tmp_path, stopped):
    def fit(steps, **options):
        data = PseudoLabelDataModule(pseudo_labels, **SIZE, batch_size=1, view_tasks=["depth"], views_from_step=4)
        trainer = Trainer(
            accelerator="cpu",
            max_steps=steps,
            logger=False,
            callbacks=[ModelCheckpoint(tmp_path, "last", every_n_train_steps=stopped)],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        module = Seen()
        trainer.fit(module, data.train_dataloader(), **options)
        return module.kinds

    kinds = fit(stopped) + fit(7, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert kinds == [{"merged"}] * 4 + [{"view"}] * 3


def test_other_labels_and_validation_stay_merged(pseudo_labels):
    data = PseudoLabelDataModule(pseudo_labels, **SIZE, view_tasks=["depth"])
    truth = fake_pseudo_labels.ground_truth("room_a")
    sample = data.dataset("train")[0]
    assert np.array_equal(sample["semseg"].numpy(), truth["semseg"])
    assert np.array_equal(sample["confidence"].numpy(), truth["confidence"])
    check(data.dataset("val")[0], fake_pseudo_labels.ground_truth("room_d"), KEYS["room_d"])


def test_views_of_all_tasks_are_the_same_view_and_have_no_confidence(pseudo_labels):
    data = PseudoLabelDataModule(pseudo_labels, **SIZE, view_tasks=["semseg", "depth", "normals"])
    samples = data.dataset("train")
    for epoch in range(3):
        samples.set_epoch(epoch)
        check(
            samples[0],
            fake_pseudo_labels.view_truth("room_a", samples.index.view_of(0)),
            ("semseg", "depth", "normals"),
        )


def test_confidences_of_depth_and_normals_follow_their_task(pseudo_labels):
    grey = np.full((32, 64), 51, np.uint8)
    for task in ("depth", "normals"):
        (pseudo_labels / f"{task}/room_a/merged_confidence.png").write_bytes(png(grey))
    data = PseudoLabelDataModule(pseudo_labels, **SIZE, batch_size=3, view_tasks=["depth"], views_from_step=1)
    loader = data.train_dataloader()
    merged, view = batches_of(loader, [0, 1])
    assert "depth_confidence" not in view
    for batch, key in ((merged, "depth_confidence"), (merged, "normals_confidence"), (view, "normals_confidence")):
        for name, confidence in zip(batch["id"], batch[key], strict=True):
            assert torch.equal(confidence, torch.full((32, 64), 0.2 if name == "room_a" else 1.0))


def test_labels_may_be_of_other_classes(pseudo_labels):
    write(
        pseudo_labels, {"classes.yaml": b"classes: [{name: wall, color: [9, 8, 7]}, {name: floor, color: [1, 2, 3]}]"}
    )
    data = PseudoLabelDataModule(pseudo_labels, **SIZE)
    assert tuple(data.classes) == ("wall", "floor")
    assert data.palette.tolist() == [[9, 8, 7], [1, 2, 3]]
    with pytest.raises(ValueError, match=r"semseg/room_d/merged.png cannot be used: it holds the labels"):
        data.dataset("val")[0]
    (pseudo_labels / "semseg/room_d/merged.png").write_bytes(png(np.full((32, 64), 1, np.uint8)))
    assert (data.dataset("val")[0]["semseg"] == 1).all()


def test_views_are_counted_and_their_absence_is_told(pseudo_labels):
    options = {"view_tasks": ["normals", "depth"], "views_from_step": 3}
    assert PseudoLabelDataModule(pseudo_labels, **options).dataset("train").index.count == fake_pseudo_labels.VIEWS
    for path in pseudo_labels.glob("depth/*/label_*.png"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"depth/room_a has no labels of views, .*take depth out of view_tasks"):
        PseudoLabelDataModule(pseudo_labels, **options).dataset("train")


def test_views_are_drawn_in_a_mixture_too(pseudo_labels):
    data = PseudoLabelDataModule(pseudo_labels, **SIZE, view_tasks=["depth"])
    mixed = MixedDataModule({"pseudo": data, "rooms": RoomsDataModule(**SIZE)}, weights={"pseudo": 1, "rooms": 0})
    alone = PseudoLabelDataModule(pseudo_labels, **SIZE, view_tasks=["depth"])
    assert views_of(mixed.train_dataloader(), range(4)) == views_of(alone.train_dataloader(), range(4))


def test_augmentation_turns_the_confidence_with_its_classes(pseudo_labels):
    data = PseudoLabelDataModule(pseudo_labels, **SIZE, augmentation=Augmentation(mirror=0), view_tasks=["depth"])
    loader = data.train_dataloader()
    loader.sampler.set_epoch(5)
    plain = {sample["id"]: sample for sample in PseudoLabelDataModule(pseudo_labels, **SIZE).dataset("train")}
    turned = 0
    for batch in loader:
        for i, name in enumerate(batch["id"]):
            if name != "room_b":
                shifts = [
                    s for s in range(64) if torch.equal(plain[name]["confidence"].roll(s, -1), batch["confidence"][i])
                ]
                assert len(shifts) == 1
                assert torch.equal(plain[name]["semseg"].roll(shifts[0], -1), batch["semseg"][i])
                turned += shifts[0] != 0
    assert turned


def test_verification_finds_a_damaged_confidence_but_misses_none(pseudo_labels):
    data = PseudoLabelDataModule(pseudo_labels, **SIZE)
    assert [(one.sample, one.kind, one.sentence) for one in verify(data, progress=False).findings] == [
        ("room_c", "missing", "it has no normals")
    ]
    name = pseudo_labels / "semseg/room_a/merged_confidence.png"
    name.write_bytes(png(np.zeros((32, 64, 3), np.uint8)))
    found = verify(data, progress=False).findings
    assert [(one.sample, one.kind) for one in found] == [("room_a", "unreadable"), ("room_c", "missing")]


def test_depth_that_was_too_far_for_its_file_is_not_measured(pseudo_labels):
    steps = np.full((32, 64), 2500, np.uint16)
    steps[:, :5] = 65535
    for file in ("merged", *(f"label_{view}" for view in range(4))):
        (pseudo_labels / f"depth/room_a/{file}.png").write_bytes(png(steps))
    expected = np.where(steps == 65535, 0, np.float32(2.5))
    for options in ({}, {"view_tasks": ["depth"]}):
        assert np.array_equal(
            PseudoLabelDataModule(pseudo_labels, **SIZE, **options).dataset("train")[0]["depth"], expected
        )


OPTIONS_OF_MASKED = [{}, {"view_tasks": ["depth"]}, {"relative": True}, {"augmentation": Augmentation()}]


@pytest.mark.parametrize("options", OPTIONS_OF_MASKED)
def test_no_label_counts_where_the_mask_says_so(pseudo_labels, options):
    def batch():
        return next(iter(PseudoLabelDataModule(pseudo_labels, **SIZE, **options, batch_size=3).train_dataloader()))

    write(pseudo_labels, {"far/room_a/merged.png": png(np.full((32, 64), 255, np.uint8))})
    before = batch()
    masked = np.zeros((32, 64), np.uint8)
    masked[4:12, :40] = 255
    write(pseudo_labels, {f"masks/{name}/merged.png": png(masked) for name in ("room_a", "room_c")})
    after = batch()
    ignored = after.pop("ignored")
    assert after.pop("has_ignored").tolist() == [name != "room_b" for name in after["id"]]
    assert after.keys() == before.keys() and after["id"] == before["id"]
    assert [int(one.sum()) for one in ignored] == [320 * (name != "room_b") for name in after["id"]]
    for key in (after.keys() & SAMPLE_MAPS.keys()) - {"image"}:
        where = ignored[:, None].expand_as(after[key]) if key == "normals" else ignored
        assert torch.equal(after[key], before[key].masked_fill(where, SAMPLE_MAPS[key].empty)), key
        assert not torch.equal(after[key], before[key]), key
    assert torch.equal(after["image"], before["image"])


def test_confidences_are_no_tasks(pseudo_labels):
    data = PseudoLabelDataModule(pseudo_labels, **SIZE)
    assert data.tasks == ("semseg", "depth", "normals")
    assert data.labels == (*data.tasks, "confidence", "depth_confidence", "normals_confidence", "far", "ignored")
    assert PseudoLabelDataModule(pseudo_labels, **SIZE, confidence=False).labels == (*data.tasks, "far", "ignored")
    assert PseudoLabelDataModule(pseudo_labels, **SIZE, tasks=["semseg"]).labels == ("semseg", "confidence", "ignored")


def test_refuses_in_one_sentence(pseudo_labels):
    with pytest.raises(ValueError, match="view_tasks must be among the tasks semseg, depth, normals, not colour"):
        PseudoLabelDataModule(pseudo_labels, view_tasks=["colour"])
    with pytest.raises(ValueError, match="views_from_step counts batches from 0, got -1"):
        PseudoLabelDataModule(pseudo_labels, views_from_step=-1)
    counting = PseudoLabelDataModule(pseudo_labels, view_tasks=["depth"], views_from_step=2)
    with pytest.raises(ValueError, match="pseudo counts its own batches"):
        MixedDataModule({"pseudo": counting})
    path = pseudo_labels / "db_info/panomtdu_train.json"
    for content, sentence in (
        (b"{", "is not JSON"),
        (b"[1]", "is not a list of ids"),
        (b'{"a": 1}', "is not a list"),
        (b"[" * 9999, "is nested"),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=sentence):
            PseudoLabelDataModule(pseudo_labels).dataset("val")
    path.write_text(json.dumps(["room_a", "room_x"]))
    with pytest.warns(UserWarning, match="1 ids of the lists have no image: room_x"):
        assert len(PseudoLabelDataModule(pseudo_labels).dataset("train")) == 1
    for list_of_ids in (pseudo_labels / "db_info").iterdir():
        list_of_ids.unlink()
    with pytest.raises(FileNotFoundError, match="has no list of ids"):
        PseudoLabelDataModule(pseudo_labels).dataset("val")


CONFIG = """
seed_everything: 0
trainer: {accelerator: cpu, max_epochs: 2, enable_progress_bar: false, logger: false, enable_checkpointing: false,
          enable_model_summary: false, num_sanity_val_steps: 0}
model:
  network:
    class_path: PDBridgeNet
    init_args: {input_size: [32, 64], bridge_width: 16,
                encoder: {class_path: ViTEncoder, init_args: {name: vit_small_patch16_dinov3_qkvb, width: 32, depth: 4,
                heads: 2, patch_size: 8}}, neck_widths: [8, 8, 16, 16], fusion_width: 8}
data:
  class_path: PseudoLabelDataModule
  init_args: {root: ROOT, height: 32, width: 64, batch_size: 3, view_tasks: [depth]}
"""


def test_training_from_a_configuration(pseudo_labels, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pseudo.yaml").write_text(CONFIG.replace("ROOT", str(pseudo_labels)))
    assert main(["fit", "--config", "pseudo.yaml"]) == 0
    assert main(["data", "plot", "--config", "pseudo.yaml", "--out", "views.png", "--count", "2"]) == 0
