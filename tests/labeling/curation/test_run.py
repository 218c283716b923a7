"""`mtpano curate`: panoramas to labels, labels to scores, scores to a selection, and what is refused on the way."""

import json
import multiprocessing
import os
import shutil
import signal

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from tagged_files import partly_seen

from mtpano_zoo.cli import main
from mtpano_zoo.data import PseudoLabelDataModule
from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.curation.domains import DomainClassifier
from mtpano_zoo.labeling.curation.network_labeler import NetworkLabeler
from mtpano_zoo.models import PanoramaNetwork
from mtpano_zoo.models.patch_discriminator import PatchDiscriminator
from mtpano_zoo.resize import resize
from mtpano_zoo.sphere import solid_angles
from mtpano_zoo.training.curation import DepthQualityModule

HEIGHT, WIDTH, COUNT = 16, 32, 6
SIZE = ["--height", str(HEIGHT), "--width", str(WIDTH)]
QUIET = ["--num-workers=0", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.enable_progress_bar=false"]


class Bright(PanoramaNetwork):
    """Brighter is farther; nearly white is too far; the upper half is classified as sky."""

    def __init__(self, metres: float = 4.0) -> None:
        super().__init__(("semseg", "depth", "normals", "valid"), (HEIGHT, WIDTH), classes=("ground", "sky"))
        self.metres = torch.nn.Parameter(torch.tensor(metres))

    def forward(self, image):
        grey = image.mean(1, keepdim=True)
        upper = torch.arange(image.shape[-2]) < image.shape[-2] / 2
        upper = upper[:, None].expand_as(grey).float()
        return {
            "semseg": torch.cat((1 - upper, upper), 1),
            "depth": self.metres * grey + 0.5,
            "normals": torch.cat((torch.zeros_like(grey), -torch.ones_like(grey), torch.zeros_like(grey)), 1),
            "valid": 0.9 - grey,
        }


class KillsItself(DomainClassifier):
    """Kills the process at the third panorama, the first time."""

    domains = ("indoor", "outdoor")

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __call__(self, sample, classes):
        if sample["id"] == "c" and not os.path.exists(self.marker):  # noqa: PTH110
            open(self.marker, "w").close()  # noqa: PTH123
            os.kill(os.getpid(), signal.SIGKILL)
        return "indoor"


def curate(*arguments):
    return main(["curate", *map(str, arguments)])


def label(photos, out, *options):
    network = f"--network={__name__}.Bright"
    return curate("label", photos, network, *SIZE, *QUIET, "--out", out, *options)


def score(labels, discriminator, out, *options):
    return curate("score", labels, "--discriminator", discriminator, *QUIET, "--out", out, *options)


def files(root):
    """All files except the records of runs and origins, which contain times."""
    paths = [path for path in sorted(root.rglob("*")) if path.is_file() and path.parent.name not in ("runs", "origins")]
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def write_discriminator(path, labeler, size=(HEIGHT, WIDTH), seed=0):
    torch.manual_seed(seed)
    module = DepthQualityModule(PatchDiscriminator(size, width=4, levels=2), labeler)
    checkpoint = {"state_dict": module.state_dict()}
    module.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, path)
    return path


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """Six photos, their labels, a discriminator and scores."""
    root = tmp_path_factory.mktemp("curation")
    (root / "photos").mkdir()
    rng = np.random.default_rng(0)
    for number in range(COUNT):
        coarse = rng.integers(0, 256, (4, 8, 3), dtype=np.uint8)
        picture = cv2.resize(coarse, (2 * WIDTH, 2 * HEIGHT), interpolation=cv2.INTER_CUBIC)
        Image.fromarray(picture).save(root / "photos" / f"{'abcdef'[number]}.png")
    shutil.copy(root / "photos" / "a.png", root / "photos" / "copy-of-a.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTPANO_CACHE", str(root / "cache"))
        assert label(root / "photos", root / "labels") == 0
        write_discriminator(root / "discriminator.ckpt", Bright())
        assert score(root / "labels", root / "discriminator.ckpt", root / "scores") == 0
    return root


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MTPANO_CACHE", str(tmp_path / "cache"))


def test_labels_are_what_the_network_predicts(done):
    data = PseudoLabelDataModule(done / "labels", height=HEIGHT, width=WIDTH)
    assert tuple(data.classes) == ("ground", "sky")
    network = Bright().eval()
    for i in range(COUNT):
        sample = data.dataset("train")[i]
        photo = np.array(Image.open(done / "photos" / f"{sample['id']}.png"))
        said = network.predict(resize(torch.from_numpy(photo).permute(2, 0, 1) / 255, HEIGHT, WIDTH))
        torch.testing.assert_close(sample["far"], ~torch.from_numpy(said.valid))
        torch.testing.assert_close(sample["depth"], torch.from_numpy(said.depth), atol=0.002, rtol=0)
        assert torch.equal(sample["semseg"], torch.from_numpy(said.semseg).long())
        assert torch.equal(sample["normals"].any(0), sample["depth"] > 0)
    assert any(data.dataset("train")[i]["far"].any() for i in range(COUNT))


def test_scores_are_means_over_the_worst_third_of_the_sphere(done):
    weights = solid_angles(HEIGHT, WIDTH).expand(HEIGHT, WIDTH)
    labels = PseudoLabelDataModule(done / "labels", height=HEIGHT, width=WIDTH).dataset("train")
    assert len(list((done / "scores" / "scores").iterdir())) == len(labels) == COUNT + 1
    for i in range(COUNT):
        sample = labels[i]
        values = json.loads((done / "scores" / "scores" / f"{sample['id']}.json").read_text())
        score_map = cv2.imread(str(done / "scores" / "score_map" / sample["id"] / "merged.png"), cv2.IMREAD_UNCHANGED)
        worst, area = 0.0, 0.0
        for score, weight in sorted(zip((score_map / 255.0).flatten(), weights.flatten().tolist(), strict=True)):
            part = min(weight, float(weights.sum()) / 3 - area)
            worst, area = worst + part * score, area + part
        assert values["score"] == pytest.approx(worst / area, abs=0.003)
        assert values["valid"] == pytest.approx(1)  # what has no distance is far
        assert values["domain"] == "outdoor"  # the upper half is sky


def test_a_selection_is_read_with_its_weights(done, tmp_path, capsys):
    out = tmp_path / "selected"
    arguments = ("select", done / "labels", "--scores", done / "scores", "--out", out, "--weights=true")
    assert curate(*arguments, "--count.outdoor=5") == 0
    assert "5 selected: 5 outdoor" in (said := capsys.readouterr().out)
    assert "1 dropped: it looks like one with a better score" in said  # the copy, or what it is a copy of
    samples = PseudoLabelDataModule(out, height=HEIGHT, width=WIDTH).dataset("train")
    assert len(samples) == 5
    name = samples[0]["id"]
    stored = cv2.imread(str(done / "scores" / "score_map" / name / "merged.png"), cv2.IMREAD_UNCHANGED)
    torch.testing.assert_close(samples[0]["depth_confidence"], torch.from_numpy(stored / np.float32(255)))
    assert curate(*arguments, "--count.outdoor=5") == 0
    assert "already holds this selection" in capsys.readouterr().out


def test_every_stage_goes_on_where_it_was(done, tmp_path, capsys):
    labels, scores = tmp_path / "labels", tmp_path / "scores"
    shutil.copytree(done / "labels", labels)
    shutil.copytree(done / "scores", scores)
    before = files(labels), files(scores)
    (labels / "img" / "c.jpg").unlink()
    (scores / "scores" / "d.json").unlink()
    assert label(done / "photos", labels) == 0
    assert "1 labelled" in (said := capsys.readouterr().out) and "6 skipped because they were labelled" in said
    assert score(labels, done / "discriminator.ckpt", scores) == 0
    assert "1 scored" in (said := capsys.readouterr().out) and "6 skipped because they were scored" in said
    assert (files(labels), files(scores)) == before


def test_a_label_that_has_changed_is_noticed(done, tmp_path, capsys):
    labels, scores = tmp_path / "labels", tmp_path / "scores"
    shutil.copytree(done / "labels", labels)
    shutil.copytree(done / "scores", scores)
    shutil.copy(labels / "depth" / "b" / "merged.png", labels / "depth" / "a" / "merged.png")

    def selected():
        """Which of the changed label and an unchanged one is in a selection of all."""
        out = tmp_path / "selected"
        options = ("--count.outdoor=9", "--hash-distance=null", "--overwrite")
        assert curate("select", labels, "--scores", scores, "--out", out, *options) == 0
        return {path.stem for path in (out / "img").iterdir()} & {"a", "b"}

    assert selected() == {"b"}
    reasons = json.loads((tmp_path / "selected" / "dropped.json").read_text())
    assert reasons == {"a": "it has changed since it was scored: add --overwrite to `mtpano curate score`"}
    assert score(labels, done / "discriminator.ckpt", scores) == 1
    assert "a: its labels were made from another image" in capsys.readouterr().out
    assert score(labels, done / "discriminator.ckpt", scores, "--overwrite") == 0
    assert "1 were scored again" in capsys.readouterr().out
    assert selected() == {"a", "b"}


def test_a_killed_run_leaves_nothing_half_and_goes_on(done, tmp_path):
    domains = (f"--domains={__name__}.KillsItself", f"--domains.marker={tmp_path / 'killed'}")
    arguments = (done / "labels", done / "discriminator.ckpt", tmp_path / "scores", *domains)
    process = multiprocessing.get_context("fork").Process(target=score, args=arguments)
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    finished = {path.stem for path in (tmp_path / "scores" / "scores").iterdir()}
    assert finished <= {"a", "b"} and "c" not in finished
    assert score(*arguments) == 0
    assert {path.stem for path in (tmp_path / "scores" / "scores").iterdir()} == {*"abcdef", "copy-of-a"}
    assert not [path for path in (tmp_path / "scores").iterdir() if path.name.startswith(".labelling")]


def refused(capsys, *arguments):
    assert curate(*arguments) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def test_a_folder_of_another_labeler(done, tmp_path, capsys):
    before = files(done / "labels")
    said = refused(capsys, "label", done / "photos", f"--network={__name__}.Bright", "--network.metres=5", *SIZE,
                   *QUIET, "--out", done / "labels")  # fmt: skip
    assert "was labelled with other settings (labeler.weights was" in said and "--overwrite" in said
    assert files(done / "labels") == before
    other = write_discriminator(tmp_path / "other.ckpt", Bright(5.0), seed=1)
    options = (*QUIET, "--out", tmp_path / "scores")
    said = refused(capsys, "score", done / "labels", "--discriminator", other, *options)
    assert "was labelled by another network than the one whose errors the discriminator learned" in said
    assert not (tmp_path / "scores").exists()
    assert score(done / "labels", other, tmp_path / "scores", "--any-labeler") == 0
    said = refused(capsys, "score", done / "labels", "--discriminator", done / "discriminator.ckpt", *options)
    assert "(discriminator was" in said


def test_a_discriminator_of_another_size(done, tmp_path, capsys):
    other = write_discriminator(tmp_path / "other.ckpt", Bright(), (32, 64))
    said = refused(capsys, "score", done / "labels", "--discriminator", other, *QUIET, "--out", tmp_path / "scores")
    assert "holds labels of 16 x 32, but the discriminator was trained on 32 x 64" in said
    assert "--height 32 --width 64" in said


def test_what_is_no_discriminator(done, tmp_path, capsys):
    torch.save({"state_dict": {}}, tmp_path / "network.ckpt")
    options = (*QUIET, "--out", tmp_path / "scores")
    said = refused(capsys, "score", done / "labels", "--discriminator", tmp_path / "network.ckpt", *options)
    assert "is not a discriminator: train one with `mtpano fit --config curation/discriminator.yaml`" in said
    broken = torch.load(done / "discriminator.ckpt", weights_only=True)
    broken["state_dict"].popitem()
    for changed in (broken, broken | {"state_dict": [1]}, {k: v for k, v in broken.items() if k != "state_dict"}):
        torch.save(changed, tmp_path / "broken.ckpt")
        said = refused(capsys, "score", done / "labels", "--discriminator", tmp_path / "broken.ckpt", *options)
        assert "broken.ckpt does not hold the weights of the discriminator that it describes" in said
    said = refused(capsys, "score", done / "photos", "--discriminator", done / "discriminator.ckpt", *options)
    assert "has no manifest of labels" in said


def test_a_discriminator_whose_training_diverged(done, tmp_path, capsys):
    diverged = torch.load(done / "discriminator.ckpt", weights_only=True)
    next(value for value in diverged["state_dict"].values() if value.is_floating_point()).fill_(float("nan"))
    torch.save(diverged, tmp_path / "diverged.ckpt")
    options = ("--discriminator", tmp_path / "diverged.ckpt", *QUIET, "--out", tmp_path / "scores")
    said = refused(capsys, "score", done / "labels", *options)
    assert "diverged.ckpt holds weights that are not finite" in said and not (tmp_path / "scores").exists()


def test_a_mistyped_path_deletes_no_labels(done, tmp_path, capsys):
    shutil.copytree(done / "labels", tmp_path / "labels")
    before = files(tmp_path / "labels")
    said = refused(capsys, "label", tmp_path / "typo.png", f"--network={__name__}.Bright", "--network.metres=5", *SIZE,
                   *QUIET, "--out", tmp_path / "labels", "--overwrite")  # fmt: skip
    assert "There is no image at" in said and files(tmp_path / "labels") == before


def test_a_domain_without_any_label(done, tmp_path, capsys):
    arguments = ("select", done / "labels", "--scores", done / "scores", "--out", tmp_path / "selected")
    said = refused(capsys, *arguments, '--count={"indoor": 2, "outdoor": 2}')
    assert "no label has the domain indoor; there are 7 outdoor: leave indoor out of --count" in said
    assert not (tmp_path / "selected").exists()


def test_a_wrong_stage_or_option(capsys):
    assert "There is no stage 'socre' of curation; did you mean score?" in refused(capsys, "socre")
    assert "--discriminator and --out are missing" in refused(capsys, "score", "labels")
    assert curate("--help") == 0
    assert "label    a network of the zoo labels whole panoramas" in capsys.readouterr().out


def test_a_network_without_metres():
    class Relative(PanoramaNetwork):
        def __init__(self):
            super().__init__(("disparity",), (HEIGHT, WIDTH))

    with pytest.raises(InputError, match="a labeler predicts depth in metres, but Relative has disparity"):
        NetworkLabeler(Relative(), height=HEIGHT, width=WIDTH)


@pytest.mark.parametrize("junk", ["nan", "inf"])
def test_a_panorama_for_which_nothing_is_finite_fails_alone(junk):
    labeler = NetworkLabeler(Bright(float(junk)), height=HEIGHT, width=WIDTH)
    item = {"name": "a", "sample": {"image": torch.full((3, HEIGHT, WIDTH), 0.5)}}
    assert labeler.predict_step(item, 0) == "the network predicted no finite distance for it"


def test_what_no_camera_has_seen_gets_no_label(tmp_path):
    (tmp_path / "photos").mkdir()
    seen = partly_seen(tmp_path / "photos")
    assert label(tmp_path / "photos", tmp_path / "labels", "--height=32", "--width=64") == 0
    samples = PseudoLabelDataModule(tmp_path / "labels", height=32, width=64).dataset("train")
    assert len(samples) == 2
    for sample in (samples[0], samples[1]):
        known = {"depth": (sample["depth"] > 0) | sample["far"], "semseg": sample["semseg"] != 255}
        known["normals"] = sample["normals"].any(0) | sample["far"]
        for task, labelled in known.items():
            assert np.array_equal(labelled, seen[sample["id"]]), (sample["id"], task)


def test_the_tripod_gets_no_label(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    mask[12:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    labeler = NetworkLabeler(Bright(), height=HEIGHT, width=WIDTH, invalid_mask=tmp_path / "mask.png")
    labels = labeler.label("a", {"image": torch.full((3, HEIGHT, WIDTH), 128, dtype=torch.uint8)})
    assert (labels.depth[12:] == 0).all() and (labels.depth[:12] > 0).all() and not labels.far.any()
    assert (labels.semseg[12:] == 255).all() and not labels.normals[:, 12:].any()
