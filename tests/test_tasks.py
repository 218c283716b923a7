"""Every task is whole: what names it in one literal dictionary is in all others, and a network can have all of them."""

from typing import get_args

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from tiny_networks import CLASSES, tiny_bridgenet
from torch.utils.data import DataLoader

from mtpano_zoo.data.panoramas import collate
from mtpano_zoo.files.card import TEXTS
from mtpano_zoo.losses import TASK_LOSSES, TaskLoss
from mtpano_zoo.metrics import TASK_METRICS, defined_scores
from mtpano_zoo.metrics.pooling import PanoramaMetric
from mtpano_zoo.prediction.finishing import FINISHERS
from mtpano_zoo.prediction.maps import WRITERS, Prediction, output_paths
from mtpano_zoo.sphere import Mode
from mtpano_zoo.tasks import AUXILIARY_TASKS, CONFIDENCES, MAIN_TASKS, SAMPLE_MAPS, auxiliary_tasks_of, check_tasks
from mtpano_zoo.training import MultiTaskModule
from mtpano_zoo.viz.panels import TITLES, prediction_panel

HEIGHT, WIDTH = 32, 64
ALL = tuple(MAIN_TASKS)


@pytest.mark.parametrize("task", MAIN_TASKS)
def test_a_main_task_has_all_that_is_asked_of_it(task):
    facts = MAIN_TASKS[task]
    assert issubclass(TASK_LOSSES[task], TaskLoss)
    assert isinstance(TASK_METRICS[task](CLASSES), PanoramaMetric)
    assert TITLES[task]
    assert f"prediction.{task}" in TEXTS[task].use and TEXTS[task].meaning.startswith("**")
    assert facts.labels and set(facts.labels) <= SAMPLE_MAPS.keys() - {"image"}
    assert {file.codec for file in facts.stored} <= WRITERS.keys()
    assert facts.kind in FINISHERS
    assert (facts.minimum > 0) == (facts.kind == "positive")  # 0 stands for no value


def test_no_dictionary_has_other_tasks():
    for others in (TASK_LOSSES, TASK_METRICS, TITLES, TEXTS):
        assert others.keys() == MAIN_TASKS.keys()
    assert CONFIDENCES.keys() <= MAIN_TASKS.keys() and set(CONFIDENCES.values()) <= SAMPLE_MAPS.keys()
    assert not MAIN_TASKS.keys() & AUXILIARY_TASKS.keys()


def test_names_of_files_are_different():
    files = [file for facts in MAIN_TASKS.values() for file in facts.stored]
    assert len({file.name for file in files}) == len({file.suffix for file in files}) == len(files)
    assert len(set(output_paths("out", "room", ALL).values())) == len(files) + 1  # and the panel


@pytest.mark.parametrize("key", SAMPLE_MAPS)
def test_a_map_of_a_sample_can_be_sampled_and_be_empty(key):
    kind = SAMPLE_MAPS[key]
    assert kind.sampling in get_args(Mode)
    dtype = getattr(torch, kind.dtype)
    assert torch.full((2,), kind.empty, dtype=dtype).tolist() == [kind.empty] * 2
    assert dtype.is_floating_point or kind.sampling == "label"  # numbers are mixed, labels are not
    turned = {label for facts in MAIN_TASKS.values() if facts.stream == "variant" for label in facts.labels}
    assert (kind.sampling == "vectors") == (key in turned)


def test_tasks_are_put_in_order_and_wrong_ones_refused():
    assert check_tasks(("normals", "semseg")) == ("semseg", "normals")
    assert check_tasks(ALL[::-1]) == ALL
    for wrong in ((), ("depth", "depth"), ("depth", "layout"), ("gradient",)):
        with pytest.raises(ValueError, match=r"one or more of semseg, depth, normals, valid, disparity, each"):
            check_tasks(wrong)
    assert auxiliary_tasks_of(("depth",)) == ("gradient", "edge_distance", "point_map")
    assert auxiliary_tasks_of(("normals", "valid")) == ("gradient", "edge_distance")


def _sample(seed):
    """A sample with labels of all tasks, with holes, and so that a network has something to learn."""
    g = torch.Generator().manual_seed(seed)
    image, holes = torch.rand(3, HEIGHT, WIDTH, generator=g), torch.rand(4, HEIGHT, WIDTH, generator=g) < 0.1
    return {
        "id": str(seed),
        "image": image,
        "semseg": (image[0] * len(CLASSES)).long().masked_fill(holes[0], 255),
        "depth": (1 + image[1]).masked_fill(holes[1], 0),
        "far": holes[1] & (image[2] > 0.5),
        "normals": torch.nn.functional.normalize(image - 0.5, dim=0).masked_fill(holes[2], 0),
        "disparity": 0.1 + image[0] * image[1],
        "disparity_valid": ~holes[3],
    }


@pytest.fixture(scope="module")
def trained():
    """A module with all tasks after one step, the scores of its validation, and the weights that it started from."""
    torch.manual_seed(0)
    module = MultiTaskModule(tiny_bridgenet(tasks=ALL), lr=1e-2, schedule="constant")
    before = {name: value.clone() for name, value in module.network.named_parameters()}
    loader = DataLoader([_sample(seed) for seed in range(2)], batch_size=2, collate_fn=collate)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = Trainer(accelerator="cpu", max_steps=1, num_sanity_val_steps=0, **quiet)
    trainer.fit(module, loader, loader)
    return module.eval(), dict(trainer.callback_metrics), before


def test_a_network_with_all_tasks_learns_all_of_them(trained):
    module, scores, before = trained
    assert module.network.tasks == ALL
    assert all(scores[f"train/loss/{prefix}{task}"] > 0 for task in ALL for prefix in ("", "aux_"))
    still = {name for name, value in module.network.named_parameters() if torch.equal(value, before[name])}
    unmoved = {name for name in still if name.startswith(("heads.", "auxiliary_heads."))}
    assert all("disparity" in name and name.endswith(".bias") for name in unmoved)  # its loss does not see a shift


@pytest.mark.parametrize("task", MAIN_TASKS)
def test_all_its_scores_are_logged(trained, task):
    module, scores, _ = trained
    metric = TASK_METRICS[task](CLASSES)
    batch = collate([_sample(seed) for seed in range(2)])
    with torch.no_grad():
        metric.update(module.network(batch["image"])[task], *(batch[key] for key in MAIN_TASKS[task].labels))
    expected = {name: value.item() for name, value in defined_scores(metric).items()}
    assert len(expected) > 3 and expected["nonfinite"] == 0
    found = {name: value.item() for name, value in scores.items() if name.startswith(f"val/{task}/")}
    assert found == pytest.approx({f"val/{task}/{name}": value for name, value in expected.items()}, rel=1e-4)


def test_it_predicts_saves_and_draws_all_maps(trained, tmp_path):
    network = trained[0].network
    prediction = network.predict(_sample(5)["image"])
    assert isinstance(prediction, Prediction) and prediction.tasks == ALL
    for task in ALL:
        values = getattr(prediction, task)
        assert values.shape[:2] == (HEIGHT, WIDTH) and np.isfinite(values).all(), task
    assert (prediction.depth[~prediction.valid] == 0).all() and (prediction.depth[prediction.valid] > 0).all()
    paths = prediction.save(tmp_path, "room")
    assert paths == output_paths(tmp_path, "room", ALL) and all(path.exists() for path in paths.values())
    figure = prediction_panel(prediction.image, prediction.maps, prediction.classes, prediction.palette)
    shown = {text.get_text() for text in figure.axes[0].texts}
    assert set(TITLES.values()) <= shown
