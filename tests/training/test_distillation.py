"""Distillation: its loss in numbers, what reaches the network, and training by the real trainer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from tiny_networks import TINY, tiny_bridgenet, tiny_dap
from torch import nn
from torch.testing import assert_close

from mtpano_zoo.data import Augmentation, RoomsDataModule, SemiSupervisedDataModule
from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.distillation import PublishedTeacherLabels, StoredLabels, TeacherLabels
from mtpano_zoo.labeling.teachers import OracleTeacher, Teacher, ViewLabels
from mtpano_zoo.labeling.views import CubeViews
from mtpano_zoo.losses import Loss, affine_invariant_l1
from mtpano_zoo.models import PanoramaNetwork, UniFuse
from mtpano_zoo.training.distillation import DistillationModule, FaceLabeler, FaceLabels

STUDENTS = {
    "PDBridgeNet disparity": lambda: tiny_bridgenet(tasks=("disparity",)),
    "UniFuse": lambda: UniFuse("test_resnet", input_size=(32, 64)),
    "UniFuse in metres": lambda: UniFuse("test_resnet", tasks=("depth",), input_size=(32, 64)),
    **{name: TINY[name].build for name in ("BiFuse", "HoHoNet", "EGformer")},
    "PDBridgeNet depth": lambda: tiny_bridgenet(tasks=("depth", "normals")),
    "DAP": lambda: tiny_dap(tasks=("depth",)),
}


def rooms(**options):
    return RoomsDataModule(height=32, width=64, **({"train_count": 4, "val_count": 1, "test_count": 1} | options))


def labels(size=16, turn=45):
    return TeacherLabels(OracleTeacher(tasks=["depth"], depth_kind="disparity"), CubeViews(90, size, turn))


def two_sets(ratio=1, **options):
    augmentation = Augmentation(photometric=1.0)
    unlabelled = rooms(seed=7, train_count=8, augmentation=augmentation)
    return SemiSupervisedDataModule(rooms(), unlabelled, ratio=ratio, batch_size=2, **options)


def trainer(path, steps=2):
    return Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        default_root_dir=path,
    )


class GoldenFaces(FaceLabeler):
    """The published faces and predictions: 6 faces of 4 panoramas."""

    def __init__(self, golden):
        self.golden = golden

    def __call__(self, batch, step):
        pseudo, mask = (self.golden[key].unflatten(0, (4, 6)) for key in ("pseudo", "pseudo_mask"))
        return FaceLabels(pseudo, mask, torch.empty(0), torch.empty(0))

    def cut(self, disparity, labels):
        return self.golden["pred_cube"].unflatten(0, (4, 6))


class Fixed(PanoramaNetwork):
    """Predicts what its parameter holds."""

    def __init__(self):
        super().__init__(["disparity"], (16, 32))
        self.disparity = nn.Parameter(torch.zeros(()))

    def forward(self, image):
        return {"disparity": self.disparity}


def fixed(disparity):
    network = Fixed()
    network.disparity = nn.Parameter(disparity)
    return network


class InverseLabels(Loss):
    """The published loss of labelled panoramas, whose labels were inverted before."""

    def forward(self, outputs, batch):
        return {"total": affine_invariant_l1(outputs["disparity"][:, 0], batch["gt"], batch["mask"])}


@pytest.mark.parametrize(("weights", "name"), [((0.5, 0.5), "total"), ((0.8, 0.3), "total_80_30")])
def test_the_total_is_the_published_one(weights, name):
    with np.load(Path(__file__).parents[1] / "losses" / "golden" / "depth_anywhere_losses.npz") as arrays:
        golden = {key: torch.from_numpy(arrays[key]) for key in arrays.files}
    network = fixed(golden["pred_equi_all"][:, None])
    module = DistillationModule(network, GoldenFaces(golden), InverseLabels(), *weights)
    module.log = module.log_dict = lambda *_, **__: None
    twice = {key: torch.cat((golden[key], golden[key])) for key in ("gt", "mask")}
    loss = module.training_step({"image": torch.zeros(8, 3, 16, 32), "labelled": 4} | twice, 0)
    assert_close(loss, golden[name], rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", STUDENTS)
def test_any_network_of_distances_learns(name, tmp_path):
    torch.manual_seed(0)
    network = STUDENTS[name]()
    before = {key: value.clone() for key, value in network.named_parameters()}
    module = DistillationModule(network, labels(), lr=1e-3)
    run = trainer(tmp_path)
    run.fit(module, datamodule=two_sets())
    assert run.global_step == 2
    assert {"train/loss", "train/loss/pseudo", "train/loss/disparity"} <= run.callback_metrics.keys()
    assert run.callback_metrics["train/loss/pseudo"] > 0
    assert all(value.isfinite().all() for value in network.parameters())
    assert any(not torch.equal(before[key], value) for key, value in network.named_parameters())


@pytest.mark.parametrize(("turn", "least", "most"), [(0, 0.0, 0.7), (45, 0.9, 1.0)])
def test_turned_faces_join_to_a_panorama_and_unturned_ones_do_not(turn, least, most):
    """A free map learns a room from views that each have a scale and a shift of their own: does it become one map?"""
    torch.manual_seed(0)
    sample = rooms().val_set[0]
    batch = {key: sample[key][None] for key in ("image", "depth")} | {"id": ["a"]}
    truth = 1 / batch["depth"][:, None]
    module = DistillationModule(fixed(truth.mean() + 0.01 * torch.rand_like(truth)), labels(turn=turn))
    optimizer = torch.optim.Adam(module.network.parameters(), lr=0.03)
    for step in range(41):
        optimizer.zero_grad()
        module.face_loss(module.network.disparity, module.labels(batch, step)).backward()
        optimizer.step()
    found = module.network.disparity.detach()
    correlation = torch.corrcoef(torch.stack((found.flatten(), truth.flatten())))[0, 1]
    assert least < correlation < most


@pytest.mark.parametrize("ratio", [2, 4])
def test_ratios(ratio, tmp_path):
    module = DistillationModule(STUDENTS["PDBridgeNet disparity"](), labels())
    sizes = []
    module.labels.cut, cut = lambda d, found: sizes.append(len(d)) or cut(d, found), module.labels.cut
    trainer(tmp_path, 1).fit(module, datamodule=two_sets(ratio))
    assert sizes == [2 * ratio]


def test_without_unlabelled_panoramas_it_is_supervised(tmp_path):
    module = DistillationModule(STUDENTS["PDBridgeNet disparity"]())
    run = trainer(tmp_path, 1)
    run.fit(module, datamodule=rooms(batch_size=2))
    assert_close(run.callback_metrics["train/loss"], run.callback_metrics["train/loss/disparity"])
    with pytest.raises(InputError, match="set `labels` to a source of pseudo-labels"):
        trainer(tmp_path, 1).fit(module, datamodule=two_sets())


def test_labels_of_the_unlabelled_set_do_not_reach_the_loss():
    torch.manual_seed(0)
    module = DistillationModule(STUDENTS["PDBridgeNet disparity"](), StoredLabels(CubeViews(90, 16, 45))).eval()
    module.log = module.log_dict = lambda *_, **__: None
    batch = next(iter(two_sets().train_dataloader()))
    stored = 1 / batch["depth"].clamp(min=0.1)
    batch |= {"disparity": stored, "disparity_valid": torch.ones_like(stored, dtype=torch.bool)}
    other = batch["depth"].clone()
    other[2:] = float("nan")
    assert torch.equal(module.training_step(batch, 0), module.training_step(batch | {"depth": other}, 0))
    other[0] += 1
    assert not torch.equal(module.training_step(batch, 0), module.training_step(batch | {"depth": other}, 0))


@pytest.mark.parametrize("kind", ["ours", "published"])
def test_degenerate_faces_change_nothing(kind):
    """An empty and a constant face next to others: no NaN, and no gradient where only they look."""

    class Broken(Teacher):
        classes, provenance = (), {"name": "broken"}

        def __call__(self, seen):
            depth = seen.images.mean(1)
            depth[0] = float("nan")
            depth[1] = 3.0
            depth[2] = 0.0
            return ViewLabels(depth=depth, depth_kind="disparity")

    made = (
        PublishedTeacherLabels(Broken(), 16, turn=0)
        if kind == "published"
        else TeacherLabels(Broken(), CubeViews(90, 16))
    )
    module = DistillationModule(fixed(torch.rand(1, 1, 32, 64) + 0.5), made)
    disparity = module.network.disparity
    found = made({"image": torch.rand(1, 3, 32, 64), "id": ["a"]}, 0)
    loss = module.face_loss(disparity, found)
    loss.backward()
    assert loss.isfinite() and loss > 0
    assert disparity.grad.isfinite().all()
    middle = {"ours": [slice(12, 20), slice(28, 36)], "published": [slice(12, 20), slice(0, 4)]}[kind]
    assert (disparity.grad[0, 0][tuple(middle)] == 0).all()  # of the front face, or the back one
    assert (disparity.grad != 0).any()


def test_the_teacher_is_in_no_checkpoint_and_no_optimizer(tmp_path):
    class Weighty(nn.Module, Teacher):
        classes, provenance = (), {"name": "weighty"}

        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 1, 1)

        def forward(self, seen):
            return ViewLabels(depth=self.layer(seen.images)[:, 0].abs() + 0.1, depth_kind="disparity")

    teacher = Weighty()
    weight = teacher.layer.weight.clone()
    module = DistillationModule(STUDENTS["PDBridgeNet disparity"](), TeacherLabels(teacher, CubeViews(90, 16, 45)))
    assert not any("layer" in key and "labels" in key for key in module.state_dict())
    run = trainer(tmp_path, 1)
    run.fit(module, datamodule=two_sets())
    optimised = {id(p) for group in run.optimizers[0].param_groups for p in group["params"]}
    assert not optimised & {id(p) for p in teacher.parameters()}
    assert torch.equal(teacher.layer.weight, weight) and not teacher.training


def test_what_cannot_be_is_said():
    with pytest.raises(InputError, match="task disparity or depth"):
        DistillationModule(tiny_bridgenet(tasks=("semseg",)))
    with pytest.raises(InputError, match="not be negative"):
        DistillationModule(STUDENTS["PDBridgeNet disparity"](), label_weight=-1)
