import jsonargparse
import pytest
import torch
import torch.nn.functional as F

from mtpano_zoo.losses import TASK_LOSSES, DepthLoss, LogDepthLoss, MultiTaskLoss, PublishedLoss
from mtpano_zoo.tasks import CONFIDENCES, MAIN_TASKS

TASKS = ("semseg", "depth", "normals")
CLASSES = 5


def _maps(batch, height, width, g):
    return {
        "semseg": torch.randn(batch, CLASSES, height, width, generator=g),
        "depth": 5 * torch.rand(batch, 1, height, width, generator=g),
        "normals": torch.randn(batch, 3, height, width, generator=g),
    }


def _outputs(batch=2, height=16, width=32, seed=0):
    g = torch.Generator().manual_seed(seed)
    ext = {
        name: torch.randn(batch, channels, height, width, generator=g)
        for name, channels in (("gradient", 2), ("edge_distance", 1), ("point_map", 3))
    }
    outputs = _maps(batch, height, width, g) | {"aux": _maps(batch, height, width, g), "ext": ext}
    for prediction in _flat(outputs).values():
        prediction.requires_grad_()
    return outputs


def _flat(outputs):
    flat = {task: outputs[task] for task in TASKS if task in outputs}
    flat |= {f"aux_{task}": value for task, value in outputs.get("aux", {}).items()}
    return flat | {f"ext_{task}": value for task, value in outputs.get("ext", {}).items()}


def _batch(batch=2, height=16, width=32, seed=1):
    g = torch.Generator().manual_seed(seed)
    semseg = torch.randint(0, CLASSES, (batch, height, width), generator=g)
    depth = 0.5 + 4 * torch.rand(batch, height, width, generator=g)
    normals = F.normalize(torch.randn(batch, 3, height, width, generator=g), dim=1)
    holes = torch.rand(3, batch, height, width, generator=g) < 0.1
    return {
        "image": torch.rand(batch, 3, height, width, generator=g),
        "semseg": semseg.masked_fill(holes[0], 255),
        "depth": depth.masked_fill(holes[1], 0),
        "normals": normals.masked_fill(holes[2][:, None], 0),
        "id": [str(i) for i in range(batch)],
    }


def test_total_is_the_weighted_sum():
    outputs, batch = _outputs(), _batch()
    weights = {"semseg": 2.0, "depth": 3.0, "normals": 5.0}
    losses = MultiTaskLoss(weights, auxiliary_weight=0.7, extended_weight=0.1)(outputs, batch)
    assert set(losses) == {"total", *_flat(outputs)}
    expected = sum(w * (losses[t] + 0.7 * losses[f"aux_{t}"]) for t, w in weights.items())
    expected = expected + 0.1 * (losses["ext_gradient"] + losses["ext_edge_distance"] + losses["ext_point_map"])
    torch.testing.assert_close(losses["total"], expected)
    assert all(value.shape == () and value.dtype == torch.float32 for value in losses.values())


def test_every_prediction_gets_a_gradient():
    outputs, batch = _outputs(), _batch()
    MultiTaskLoss()(outputs, batch)["total"].backward()
    for name, prediction in _flat(outputs).items():
        assert prediction.grad.isfinite().all(), name
        assert prediction.grad.flatten(1).abs().sum(1).all(), name


def test_the_truth_costs_next_to_nothing():
    batch = _batch()
    truth = {
        "semseg": 30.0 * F.one_hot(batch["semseg"].clamp(max=CLASSES - 1), CLASSES).permute(0, 3, 1, 2),
        "depth": batch["depth"][:, None],
        "normals": 7.0 * batch["normals"],
    }
    assert MultiTaskLoss()(truth, batch)["total"].item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("clamp", [10.0, 20.0])
def test_the_published_code_learns_nothing_from_depth_that_errs_by_more_than_its_clamp(clamp):
    batch = _batch()
    far = (batch["depth"] + 1000)[:, None].requires_grad_()
    loss = PublishedLoss(clamp=clamp)({"depth": far}, batch)["depth"]
    loss.backward()
    assert loss.item() == clamp
    assert not far.grad.any()
    assert MultiTaskLoss()({"depth": far}, batch)["depth"].item() > 1000


@pytest.mark.parametrize("kind", [MultiTaskLoss, PublishedLoss])
@pytest.mark.parametrize("missing", TASKS)
def test_a_missing_or_empty_label_contributes_exact_zeros(missing, kind):
    loss = kind()
    full, invalid = _batch(), {"semseg": 255, "depth": 0.0, "normals": 0.0}[missing]
    without = {key: value for key, value in full.items() if key != missing}
    empty = full | {missing: torch.full_like(full[missing], invalid)}
    for batch in (without, empty):
        outputs = _outputs()
        losses = loss(outputs, batch)
        losses["total"].backward()
        names = [missing, f"aux_{missing}", *(["ext_point_map"] if missing == "depth" else [])]
        for name, prediction in _flat(outputs).items():
            assert (losses[name].item() == 0) == (name in names), name
            assert prediction.grad is not None
            assert prediction.grad.any().item() != (name in names), name


@pytest.mark.parametrize("key", ["far", "depth", "disparity", "disparity_valid"])
def test_a_task_whose_label_is_several_maps_needs_all_of_them(key):
    """Without the mask of what is far, a network cannot learn where its distance is defined."""
    names = ("depth", "valid", "disparity")
    batch = _batch() | {"far": _batch()["depth"] == 0, "disparity": torch.rand(2, 16, 32)}
    batch["disparity_valid"] = batch["disparity"] > 0.1
    lost = {task for task in names if key in MAIN_TASKS[task].labels}
    for given in (batch, {name: x for name, x in batch.items() if name != key}):
        outputs = {task: torch.randn(2, 1, 16, 32).requires_grad_() for task in names}
        losses = MultiTaskLoss()(outputs, given)
        losses["total"].backward()
        assert losses["total"] == sum(losses[task] for task in names)
        for task in names:
            trained = given is batch or task not in lost
            assert (losses[task].item() > 0) == outputs[task].grad.any().item() == trained, task


def test_a_missing_label_guards_against_infinite_predictions():
    outputs = {"depth": torch.tensor([torch.inf, torch.nan]).expand(1, 1, 2, 2).clone().requires_grad_()}
    total = MultiTaskLoss()(outputs, {"image": torch.rand(1, 3, 2, 2)})["total"]
    total.backward()
    assert total.item() == 0
    assert torch.equal(outputs["depth"].grad, torch.zeros(1, 1, 2, 2))


def test_an_image_without_a_label_leaves_the_others_alone():
    outputs, batch = _outputs(), _batch()
    batch["depth"][1], batch["normals"][1], batch["semseg"][1] = 0, 0, 255
    both = MultiTaskLoss()(outputs, batch)
    first = MultiTaskLoss()(
        {task: outputs[task][:1] for task in TASKS}, {key: value[:1] for key, value in batch.items() if key != "id"}
    )
    for task in TASKS:
        torch.testing.assert_close(both[task], first[task])


JUNK = (torch.nan, torch.inf, -torch.inf)


@pytest.mark.parametrize("junk", JUNK)
@pytest.mark.parametrize("loss", [MultiTaskLoss(), PublishedLoss()], ids=["ours", "published"])
def test_junk_in_invalid_pixels_changes_nothing(loss, junk):
    """Neither in labels, nor in confidences, nor in any prediction there: not the losses, nor a gradient."""
    clean = _batch() | {name: _confidence(i) for i, name in enumerate(CONFIDENCES.values())}
    holes = {"semseg": clean["semseg"] == 255, "depth": clean["depth"] == 0, "normals": ~clean["normals"].any(1)}
    dirty = clean | {
        "semseg": torch.where(holes["semseg"], 254, clean["semseg"]),
        "depth": clean["depth"].masked_fill(holes["depth"], junk),
        "normals": clean["normals"].masked_fill(holes["normals"][:, None], junk),
        **{name: clean[name].masked_fill(holes[task], junk) for task, name in CONFIDENCES.items()},
    }
    outputs, soiled = _outputs(), _outputs()
    with torch.no_grad():
        for maps in (soiled, soiled["aux"]):
            for task in TASKS:
                maps[task].masked_fill_(holes[task][:, None], junk)
        soiled["ext"]["point_map"].masked_fill_(holes["depth"][:, None], junk)
    expected, losses = loss(outputs, clean), loss(soiled, dirty)
    expected["total"].backward()
    losses["total"].backward()
    torch.testing.assert_close(losses, expected)
    for name, prediction in _flat(soiled).items():
        torch.testing.assert_close(prediction.grad, _flat(outputs)[name].grad, msg=name)


@pytest.mark.parametrize("junk", [*JUNK, -0.5])
def test_a_label_whose_confidence_is_no_positive_number_is_none(junk):
    loss = MultiTaskLoss(confidence_tasks=TASKS)
    spots = _confidence(5) < 0.2
    outputs, without = _outputs(), _outputs()
    with torch.no_grad():
        for maps in (outputs, outputs["aux"]):
            for task in TASKS:
                maps[task].masked_fill_(spots[:, None], torch.nan)  # and what is predicted there counts for nothing
    losses = loss(outputs, _batch() | {"confidence": _confidence().masked_fill(spots, junk)})
    expected = loss(without, _batch() | {"confidence": _confidence().masked_fill(spots, 0)})
    losses["total"].backward()
    expected["total"].backward()
    torch.testing.assert_close(losses, expected)
    for name, prediction in _flat(outputs).items():
        torch.testing.assert_close(prediction.grad, _flat(without)[name].grad, msg=name)
    assert losses["total"].isfinite()


def _turn(maps, vectors, columns):
    """A quarter turn: roll the columns, and turn the vectors with the camera."""
    rolled = maps.roll(columns, -1)
    return torch.stack((rolled[:, 2], rolled[:, 1], -rolled[:, 0]), dim=1) if vectors else rolled


def test_a_quarter_turn_of_the_camera_changes_nothing():
    outputs, batch = _outputs(), _batch()
    columns = 32 // 4
    turned_outputs = {task: _turn(outputs[task], task == "normals", columns) for task in TASKS}
    turned_outputs["aux"] = {task: _turn(outputs["aux"][task], task == "normals", columns) for task in TASKS}
    turned_outputs["ext"] = {task: _turn(x, task == "point_map", columns) for task, x in outputs["ext"].items()}
    turned = {key: _turn(batch[key], key == "normals", columns) for key in ("image", *TASKS)}
    expected = MultiTaskLoss()(outputs, batch)
    for name, value in MultiTaskLoss()(turned_outputs, turned).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_any_yaw_leaves_the_tasks_without_vectors_alone():
    outputs, batch = _outputs(), _batch()
    expected = MultiTaskLoss()(outputs, batch)
    rolled = {key: batch[key].roll(5, -1) for key in ("image", "semseg", "depth")}
    names = ("gradient", "edge_distance")
    rolled_outputs = {task: outputs[task].roll(5, -1) for task in ("semseg", "depth")}
    rolled_outputs["ext"] = {name: outputs["ext"][name].roll(5, -1) for name in names}
    for name, value in MultiTaskLoss()(rolled_outputs, rolled).items():
        if name != "total":
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6, msg=name)


def test_large_errors_keep_their_gradient_unless_published():
    batch = _batch()
    for as_published in (False, True):
        prediction = (batch["depth"][:, None] + 50).requires_grad_()
        losses = (PublishedLoss if as_published else MultiTaskLoss)()({"depth": prediction}, batch)
        losses["total"].backward()
        assert (losses["depth"].item() == 10) == as_published
        assert prediction.grad.any().item() != as_published


def test_max_depth_leaves_far_pixels_out():
    batch = _batch()
    near = torch.where(batch["depth"] < 2, batch["depth"], 0)
    limited = MultiTaskLoss(losses={"depth": DepthLoss(max_depth=2.0)}), PublishedLoss(max_depth=2.0)
    for loss, unlimited in zip(limited, (MultiTaskLoss(), PublishedLoss()), strict=True):
        torch.testing.assert_close(loss(_outputs(), batch), unlimited(_outputs(), batch | {"depth": near}))


def test_half_precision_outputs_are_scored_in_float32():
    outputs, batch = _outputs(), _batch()
    with torch.no_grad():
        for prediction in _flat(outputs).values():
            prediction.copy_(prediction.bfloat16())
    expected = MultiTaskLoss()(outputs, batch)
    halves = {task: outputs[task].bfloat16() for task in TASKS}
    halves |= {key: {task: x.bfloat16() for task, x in outputs[key].items()} for key in ("aux", "ext")}
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(MultiTaskLoss()(halves, batch), expected)


def test_zero_vectors_as_a_new_head_predicts_them_get_a_bounded_gradient():
    batch = _batch()
    prediction = torch.zeros(2, 3, 16, 32, requires_grad=True)
    MultiTaskLoss()({"normals": prediction}, batch)["total"].backward()
    assert prediction.grad.any()
    assert prediction.grad.abs().max() < 10


@pytest.mark.parametrize("kind", [MultiTaskLoss, PublishedLoss])
@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
def test_compiles_into_one_graph_without_waiting_for_the_host(kind):
    loss, outputs, batch = kind(), _outputs(), _batch()
    tensors = {key: value for key, value in batch.items() if key != "id"}
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(outputs, tensors), loss(outputs, batch))


def test_wrong_sizes_and_unknown_tasks_are_refused():
    batch = _batch()
    with pytest.raises(ValueError, match=r"depth is predicted as \(2, 1, 8, 16\), its label depth is \(2, 16, 32\)"):
        MultiTaskLoss()({"depth": torch.rand(2, 1, 8, 16)}, batch)
    with pytest.raises(ValueError, match=r"its label depth is \(2, 1, 16, 32\)"):
        MultiTaskLoss()({"depth": torch.rand(2, 1, 16, 32)}, batch | {"depth": torch.rand(2, 1, 16, 32)})
    with pytest.raises(ValueError, match=r"with depth \(B, 1, H, W\), but returned a map \(2, 16, 32\)"):
        MultiTaskLoss()({"depth": torch.rand(2, 16, 32)}, batch)
    with pytest.raises(ValueError, match=r"with normals \(B, 3, H, W\), but returned a map \(2, 16, 32, 3\)"):
        MultiTaskLoss()({"normals": torch.rand(2, 16, 32, 3)}, batch)
    with pytest.raises(ValueError, match="ext holds 'shading'"):
        MultiTaskLoss()({"ext": {"shading": torch.rand(2, 1, 16, 32)}}, batch)


def test_its_signature_is_its_configuration():
    parser = jsonargparse.ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(MultiTaskLoss, "loss")
    depth = '{"depth": {"class_path": "DepthLoss", "init_args": {"max_depth": 10}}}'
    config = parser.parse_args(['--loss.weights={"depth": 2}', f"--loss.losses={depth}"])
    loss = parser.instantiate(config).loss
    assert loss.weights == {"semseg": 1.0, "depth": 2.0, "normals": 1.0, "valid": 1.0, "disparity": 1.0}
    assert isinstance(loss.losses["depth"], DepthLoss) and loss.losses["depth"].max_depth == 10.0
    assert {task: type(kind) for task, kind in loss.losses.items()} == TASK_LOSSES


def test_a_loss_in_inference_mode_can_be_followed_by_a_training_step():
    size = {"height": 10, "width": 20}  # of no other test, so that nothing is cached yet
    outputs, batch = _outputs(**size), _batch(**size)
    with torch.inference_mode():
        expected = MultiTaskLoss()(outputs, batch)["total"].item()
    total = MultiTaskLoss()(outputs, batch)["total"]
    total.backward()
    assert total.item() == pytest.approx(expected, rel=1e-6)
    assert outputs["ext"]["point_map"].grad.any()


def _confidence(seed=2):
    return torch.rand(2, 16, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tasks", [(), ("semseg",), ("depth",), ("normals", "semseg")])
def test_confidence_weighs_the_tasks_that_it_is_said_to_weigh(tasks):
    batch = _batch()
    plain = MultiTaskLoss()(_outputs(), batch)
    outputs = _outputs()
    losses = MultiTaskLoss(confidence_tasks=tasks)(outputs, batch | {"confidence": _confidence()})
    for name, value in losses.items():
        task = "depth" if name == "ext_point_map" else name.removeprefix("aux_")
        assert torch.equal(value, plain[name]) == (task not in tasks and (name != "total" or not tasks)), name
    losses["total"].backward()
    assert all(prediction.grad.isfinite().all() for prediction in _flat(outputs).values())


def test_a_task_with_a_confidence_of_its_own_is_weighed_by_it():
    batch = _batch()
    own = {f"{task}_confidence": _confidence(3) for task in ("depth", "normals")}
    losses = MultiTaskLoss()(_outputs(), batch | own | {"confidence": _confidence(2)})
    classes = MultiTaskLoss()(_outputs(), batch | {"confidence": _confidence(2)})
    others = MultiTaskLoss(confidence_tasks=["depth", "normals"])(_outputs(), batch | {"confidence": _confidence(3)})
    for name, value in losses.items():
        if name != "total":
            torch.testing.assert_close(value, (classes if "semseg" in name else others)[name], msg=name)


@pytest.mark.parametrize("kind", [DepthLoss, LogDepthLoss])
def test_point_maps_count_as_far_as_distances(kind):
    batch = _batch() | {"depth": torch.full((2, 16, 32), 2.0)}
    batch["depth"][:, :8] = 50.0
    outputs = _outputs()
    near = torch.where(batch["depth"] < 10, batch["depth"], 0)
    limited = MultiTaskLoss(losses={"depth": kind(max_depth=10.0)})(outputs, batch)
    expected = MultiTaskLoss(losses={"depth": kind()})(outputs, batch | {"depth": near})
    torch.testing.assert_close(limited["ext_point_map"], expected["ext_point_map"])


def test_the_confidence_of_distances_weighs_whether_there_is_one():
    trusted = torch.zeros(2, 16, 32)
    trusted[:, :8] = 1.0
    batch = {"image": torch.rand(2, 3, 16, 32), "depth": torch.full((2, 16, 32), 2.0)}
    batch |= {"far": torch.zeros(2, 16, 32, dtype=torch.bool), "depth_confidence": trusted}
    outputs = {"valid": torch.where(trusted[:, None] > 0, 20.0, -20.0)}  # right where labels count, else wrong
    assert MultiTaskLoss()(outputs, batch)["valid"] < 1e-6


def test_confident_labels_are_labels_and_those_without_confidence_are_none():
    loss = MultiTaskLoss(confidence_tasks=TASKS)
    batch = _batch()
    sure = loss(_outputs(), batch | {"confidence": torch.ones(2, 16, 32)})
    for name, value in MultiTaskLoss()(_outputs(), batch).items():
        torch.testing.assert_close(sure[name], value, msg=name)
    never = _confidence() < 0.3
    without = batch | {
        "semseg": batch["semseg"].masked_fill(never, 255),
        "depth": batch["depth"].masked_fill(never, 0),
        "normals": batch["normals"].masked_fill(never[:, None], 0),
    }
    expected = MultiTaskLoss()(_outputs(), without)
    outputs = _outputs()
    with torch.no_grad():
        outputs["depth"][never[:, None]] = torch.nan
    losses = loss(outputs, batch | {"confidence": (~never).float()})
    for name, value in losses.items():
        torch.testing.assert_close(value, expected[name], msg=name)


def test_confidence_is_not_in_the_published_code_and_must_fit():
    batch = _batch() | {"confidence": _confidence()}
    theirs = PublishedLoss()
    assert torch.equal(theirs(_outputs(), batch)["total"], theirs(_outputs(), _batch())["total"])
    with pytest.raises(ValueError, match=r"confidence is \(8, 16\) but semseg \(16, 32\)"):
        MultiTaskLoss()(_outputs(), batch | {"confidence": torch.ones(2, 8, 16)})
    for wrong in ({"confidence_tasks": ["colour"]}, {"weights": {"colour": 1.0}}, {"losses": {"colour": DepthLoss()}}):
        with pytest.raises(ValueError, match="There is no task colour: a loss can have semseg, depth, normals, valid,"):
            MultiTaskLoss(**wrong)


WRONG = [{"weights": {"depth": -1.0}}, {"auxiliary_weight": -0.1}, {"extended_weight": torch.nan}]


@pytest.mark.parametrize("wrong", WRONG)
def test_negative_weights_are_refused(wrong):
    with pytest.raises(ValueError, match=r"negative, but there is (depth -1|auxiliary_weight -0|extended_weight nan)"):
        MultiTaskLoss(**wrong)
    MultiTaskLoss({"depth": 0.0}, auxiliary_weight=0.0)
