"""Training of the discriminator: its targets, what it learns from them, and what its checkpoint holds."""

import math

import pytest
import torch
from lightning.pytorch import Trainer
from processes import side_by_side
from torch.utils.data import DataLoader

from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.curation.scoring import load_discriminator
from mtpano_zoo.models import PanoramaNetwork
from mtpano_zoo.models.patch_discriminator import PatchDiscriminator
from mtpano_zoo.training.curation import DepthQualityModule, estimation_error

SIZE = (16, 32)


class HalfRight(PanoramaNetwork):
    """Reads distances off the first colour, and takes them for `factor` times as much on the right half."""

    def __init__(self, factor=2.0):
        super().__init__(("depth",), SIZE)
        self.factor = torch.nn.Parameter(torch.tensor(factor))

    def forward(self, image):
        depth = 4 * image[:, :1]
        return {"depth": torch.cat((depth[..., :16], self.factor * depth[..., 16:]), -1)}


def module(**options):
    torch.manual_seed(0)
    return DepthQualityModule(PatchDiscriminator(SIZE, width=8, levels=2), HalfRight(), **options)


def sample(i):
    image = 0.3 + 0.6 * torch.rand(3, *SIZE, generator=torch.Generator().manual_seed(i))
    return {"image": image, "depth": 4 * image[0]}


def test_quality_by_patch_is_the_mean_over_what_is_known():
    truth = sample(0)["depth"][None].clone()
    label = truth * (1 + 0.5 * torch.rand(truth.shape, generator=torch.Generator().manual_seed(1)))
    truth[0, :3], label[0, :, 5] = 0, 0  # column 5 is a hole, and right where the truth is far
    far = torch.zeros_like(truth, dtype=torch.bool)
    far[0, 1, :20] = True
    quality, share = module()._quality({"depth": truth, "far": far}, label, torch.Size((4, 8)))
    for row in range(4):
        for column in range(8):
            right, known = [], 0
            for y in range(4 * row, 4 * row + 4):
                for x in range(4 * column, 4 * column + 4):
                    said, true = float(label[0, y, x]), float(truth[0, y, x])
                    if true > 0 or far[0, y, x]:
                        known += 1
                        both = said > 0 and true > 0
                        agree = float((said > 0) == (true > 0))
                        right.append(math.exp(-abs(math.log(said / true)) / 0.2) if both else agree)
            assert float(share[0, row, column]) == pytest.approx(known / 16)
            if known:
                assert float(quality[0, row, column]) == pytest.approx(sum(right) / known, abs=1e-5)


def test_it_learns_where_a_labeler_is_wrong_and_its_checkpoint_is_read(tmp_path):
    trained = module(lr=4e-3)
    loader = DataLoader([sample(i) for i in range(480)], batch_size=8)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", devices=1, max_epochs=1, enable_checkpointing=False, **quiet)
    before = {name: p.clone() for name, p in trained.labeler.named_parameters()}
    trainer.fit(trained, loader)
    assert all(torch.equal(p, before[name]) for name, p in trained.labeler.named_parameters())
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    discriminator, described = load_discriminator(path)
    new = sample(1000)
    with torch.no_grad():
        image, depth = new["image"][None], HalfRight()(new["image"][None])["depth"]
        said, true = discriminator.score_map(image, depth), discriminator.score_map(image, new["depth"][None, None])
    assert said[..., 20:28].mean() < 0.5 < said[..., 4:12].mean()
    assert true[..., 20:28].mean() > 0.5
    assert not any(key.startswith("labeler") for key in torch.load(path, weights_only=True)["state_dict"])
    assert described["targets"] == "graded"
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["discriminator"]["format"] = 2
    torch.save(checkpoint, tmp_path / "earlier.ckpt")
    with pytest.raises(InputError, match="earlier version, whose discriminator had other layers: train it again"):
        load_discriminator(tmp_path / "earlier.ckpt")
    scores = trainer.validate(trained, loader, ckpt_path=path, verbose=False)
    assert scores[0]["val/correlation"] > 0.8


def test_a_checkpoint_for_another_labeler_is_refused():
    trained = module()
    checkpoint = {"state_dict": trained.state_dict()}
    trained.on_save_checkpoint(checkpoint)
    other = DepthQualityModule(PatchDiscriminator(SIZE, width=8, levels=2), HalfRight(3.0))
    with pytest.raises(InputError, match="discriminator for another labeler"):
        other.on_load_checkpoint(checkpoint)
    with pytest.raises(InputError, match="holds no discriminator"):
        other.on_load_checkpoint({"state_dict": {}})


def test_binary_targets_are_truth_or_not():
    binary, batch = module(targets="binary", smoothing=0.0), {"image": sample(0)["image"][None]}
    batch["depth"] = sample(0)["depth"][None]
    labels = batch["depth"], binary._predict(batch["image"])
    logits = binary.discriminator(batch["image"], torch.stack(labels, 1))
    probability = logits.sigmoid()
    real = binary._loss(batch, logits[:, 0], labels[0], real=True)
    assert float(real) == pytest.approx(float(-probability[:, 0].log().mean()), rel=1e-4)
    fake = binary._loss(batch, logits[:, 1], labels[1], real=False)
    assert float(fake) == pytest.approx(float(-(1 - probability[:, 1]).log().mean()), rel=1e-4)
    torch.testing.assert_close(binary.training_step(batch, 0), (real + fake) / 2)  # no error of estimates


def test_estimates_from_the_image_learn_the_log_distance():
    depth = torch.tensor([[1.0, 1.0, 4.0, 4.0], [1.0, 0.0, 4.0, 4.0]])[None].exp()
    depth[0, 1, 1] = 0  # does not count
    right = torch.tensor([[[[1.0, 4.0]]]])
    assert float(estimation_error([right], depth)) == pytest.approx(0, abs=1e-5)
    wrong = torch.tensor([[[[1.0, 4.7]]]])
    assert float(estimation_error([right, wrong], depth)) == pytest.approx(0.7 * 4 / 7 / 2, rel=1e-4)
    training = module()
    batch = {key: torch.stack([sample(i)[key] for i in range(2)]) for key in ("image", "depth")}
    labels = batch["depth"], training._predict(batch["image"])
    logits, estimates = training.discriminator.judge(batch["image"], torch.stack(labels, 1))
    real, fake = (training._loss(batch, logits[:, i], label, real=not i) for i, label in enumerate(labels))
    expected = (real + fake) / 2 + estimation_error(estimates, batch["depth"])
    torch.testing.assert_close(training.training_step(batch, 0), expected)


@pytest.mark.parametrize("nothing", [math.inf, math.nan, -1.0])
@pytest.mark.parametrize("failure", ["scaled", "filled", "blurred"])
def test_what_is_no_distance_is_a_hole(nothing, failure, monkeypatch):
    training = module(failures={failure: 1}, failure_share=1.0)
    logged = {}
    monkeypatch.setattr(training, "log", lambda name, value, **_: logged.setdefault(name, []).append(float(value)))
    images = torch.stack([sample(i)["image"] for i in range(4)])
    said = training._predict(images)
    for value in (0.0, nothing):
        batch = {"image": images, "depth": 4 * images[:, 0]}
        batch["depth"][:2, :4] = value
        wrong = said.clone()
        wrong[1:3, 6:8] = value
        monkeypatch.setattr(training, "_predict", lambda _, wrong=wrong: wrong)
        torch.manual_seed(0)
        training.training_step(batch, 0)
        training.validation_step(batch, 0)
        logged.setdefault("val", []).extend(map(float, training._validated.compute().values()))
        training.on_validation_epoch_start()
    assert all(map(math.isfinite, logged["train/loss"])) and len(logged["train/loss"]) == 2
    for values in logged.values():
        assert values[: len(values) // 2] == pytest.approx(values[len(values) // 2 :])


@pytest.mark.parametrize(("targets", "factors"), [("graded", {0.5, 2.0}), ("binary", {1.0})])
def test_true_labels_are_damaged_too_if_targets_are_graded(targets, factors, monkeypatch):
    training = module(targets=targets, failures={"scaled": 1}, failure_share=1.0)
    judged, judge = [], training.discriminator.judge
    monkeypatch.setattr(
        training.discriminator, "judge", lambda image, labels: judged.append(labels) or judge(image, labels)
    )
    batch = {key: torch.stack([sample(i)[key] for i in range(8)]) for key in ("image", "depth")}
    training.training_step(batch, 0).backward()
    true, said = judged[0].unbind(1)
    assert set((true / batch["depth"]).unique().tolist()) <= factors
    assert set((said / batch["depth"])[..., :16].round(decimals=4).unique().tolist()) <= {0.5, 2.0}


def test_processes_plant_different_failures(monkeypatch):
    training, depth = module(failures={"scaled": 1, "mirrored": 1}), sample(0)["depth"].expand(32, -1, -1)
    damaged = []
    for rank in range(2):
        torch.manual_seed(0)
        monkeypatch.setattr(DepthQualityModule, "global_rank", rank)
        training.on_train_start()
        damaged.append(training._damage(depth))
    assert not torch.equal(*damaged)


def uneven(*indices):
    """A batch; of the second panorama little is known, and of what is, much is far."""
    batch = {key: torch.stack([sample(i)[key] for i in indices]) for key in ("image", "depth")}
    second = torch.tensor(indices)[:, None, None] == 1
    batch["depth"] = torch.where(second & (torch.arange(SIZE[0]) < 13)[:, None], 0, batch["depth"])
    batch["far"] = second & (torch.arange(SIZE[0]) == 12)[:, None].expand(*SIZE)
    return batch


def gradients(batch):
    training, logged = module(), {}
    training.log = lambda name, value, **_: logged.update({name: value.detach()})
    training.training_step(batch, 0).backward()
    found = {name: p.grad for name, p in training.discriminator.named_parameters()}
    with torch.no_grad():
        training.eval().validation_step(batch, 0)
    return {"gradients": found, "logged": logged}


def learn_apart(rank, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    torch.save(gradients(uneven(rank)), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_processes_learn_as_one_with_the_joined_batch(tmp_path):
    side_by_side(learn_apart, tmp_path, folder=tmp_path)
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    expected = gradients(uneven(0, 1))
    for name, gradient in expected["gradients"].items():
        averaged = sum(rank["gradients"][name] for rank in ranks) / 2  # as DDP does
        torch.testing.assert_close(averaged, gradient, rtol=1e-4, atol=1e-6, msg=name)
    for rank in ranks:
        torch.testing.assert_close(rank["logged"], expected["logged"])


def test_the_learning_rate_falls_to_zero():
    training = module(lr=1e-3)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", devices=1, max_steps=4, enable_checkpointing=False, **quiet)
    rates = []
    training.on_train_batch_start = lambda *_: rates.append(trainer.optimizers[0].param_groups[0]["lr"])
    trainer.fit(training, DataLoader([sample(i) for i in range(8)], batch_size=2))
    assert rates == pytest.approx([1e-3, 7.5e-4, 5e-4, 2.5e-4])
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0


def test_a_training_without_end_is_refused():
    endless = module()
    endless._trainer = Trainer(accelerator="cpu", devices=1, max_epochs=-1, logger=False, enable_checkpointing=False)
    endless._trainer.fit_loop._data_source.instance = DataLoader([sample(0)])
    with pytest.raises(InputError, match="needs an end"):
        endless.configure_optimizers()


def test_damage_is_done_to_a_share_of_the_labels():
    damaging = module(failures={"scaled": 9, "mirrored": 1}, failure_share=0.5)
    depth = torch.stack([sample(i)["depth"] for i in range(64)])
    torch.manual_seed(0)
    damaged = damaging._damage(depth)
    changed = (damaged != depth).flatten(1).any(1)
    mirrored = (damaged == depth.flip(-1)).flatten(1).all(1)
    assert 16 <= changed.sum() <= 48 and 1 <= mirrored.sum() <= changed.sum() / 4
    assert torch.equal(module(failures={"scaled": 1}, failure_share=0.0)._damage(depth), depth)


def test_what_was_damaged_counts_as_wrong_even_close_to_the_truth():
    truth = torch.full((1, 16, 32), 2.0)
    intact = truth.clone()
    intact[..., :8] = 0
    damaged = intact.clone()
    damaged[..., :8] = 2.0  # filled in, by chance with the truth
    damaged[..., 8:16] = 2.2
    damaged[..., 16:24] = 2.04  # not noticeable
    quality, _ = module(tolerance=0.2)._quality({"depth": truth}, damaged, torch.Size((1, 4)), intact)
    assert quality[0, 0].tolist() == pytest.approx([0, 0, 1.02**-5, 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"failures": {"scaled": 1, "tilted": 1}}, "failures are some of .*, not tilted"),
        ({"failures": {"scaled": 0}}, "positive number, but scaled has 0"),
        ({"targets": "soft"}, "targets are one of graded, binary, not 'soft'"),
        ({"tolerance": 0}, "tolerance must be positive"),
        ({"smoothing": 0.5}, "smoothing from 0 to below 0.5"),
    ],
)
def test_arguments_out_of_range(options, message):
    with pytest.raises(InputError, match=message):
        module(**options)


def test_a_labeler_without_depth():
    class Normals(PanoramaNetwork):
        def __init__(self):
            super().__init__(("normals",), SIZE)

    with pytest.raises(InputError, match="a labeler predicts depth, but Normals has normals"):
        DepthQualityModule(PatchDiscriminator(SIZE, 8, 2), Normals())
