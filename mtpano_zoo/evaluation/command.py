"""`mtpano eval`, and the same from code: predictors by name, data, scores, and the report."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mtpano_zoo.errors import InputError
from mtpano_zoo.evaluation.data_sets import EvaluationSet
from mtpano_zoo.evaluation.page import is_page, worst_maps, write_page
from mtpano_zoo.evaluation.predictors import FolderPredictor, Kind, NetworkPredictor, Predictor
from mtpano_zoo.evaluation.protocol import DEFAULTS, read_protocol, recorded_name
from mtpano_zoo.evaluation.report import FORMAT, build_report, full_name, write_json
from mtpano_zoo.evaluation.runner import evaluate
from mtpano_zoo.machine.claims import process_number
from mtpano_zoo.output_paths import may_become_report
from mtpano_zoo.zoo import load_model

__all__ = ("judge", "open_predictors", "summary")

SHOWN = {  # measures and scores that are printed
    "depth/AbsRel": "mean_over_images",
    "normals/mean": "mean_over_images",
    "semseg/pixel_accuracy": "mean_over_images",
    "disparity/AbsRel": "mean_over_images",
    "scale/depth": "measures",
    "holes/depth": "measures",
    "seam/depth": "measures",
    "seam/normals": "measures",
    "poles/depth": "measures",
    "poles/normals": "measures",
    "yaw/depth": "measures",
    "tilt/depth": "measures",
    "cross/faces": "measures",
    "edges/depth": "measures",
    "planes/depth": "measures",
    "frame/normals": "measures",
    "swap/semseg": "measures",
}


def open_predictors(
    names: Sequence[str], unit: str | None = None, kind: Kind = "ray", device: str = "cpu"
) -> list[Predictor]:
    """Open folders of predictions, and networks by name or checkpoint.

    A folder that holds a network (`config.json`, as `save_pretrained` writes it) is a network.

    Raises:
        InputError: If there is no such model, or unit or kind is wrong or there is no folder of predictions for it.
    """
    folders = [name for name in names if Path(name).is_dir() and not Path(name, "config.json").exists()]
    if not folders and (unit is not None or kind != "ray"):
        option = f"--unit {unit}" if unit is not None else f"--kind {kind}"
        raise InputError(
            f"{option} is for folders of predictions; there is none among {', '.join(names)}: leave it out"
        )
    return [
        FolderPredictor(name, unit, kind) if name in folders else NetworkPredictor(load_model(name, device), name)
        for name in names
    ]


def judge(
    predictors: Sequence[Predictor],
    data: EvaluationSet,
    out: str | Path,
    *,
    protocol: str | Path | None = None,
    skip: Sequence[str] = (),
    force: bool = False,
    report: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Score predictors on a set, write `OUT/report.json` and `OUT/report.html`, and return the report.

    Args:
        predictors: networks, folders or callables.
        data: panoramas from `open_data`.
        out: folder; a second call continues where the first stopped, and simultaneous calls share the panoramas.
        protocol: a shipped configuration `evaluate-*.yaml` or a file. If omitted, metrics have their defaults.
        skip: tests to leave out: `yaw`, `tilt`, `cross`.
        force: score predictions in a folder even if they look wrong.
        report: called with progress messages.

    Raises:
        InputError: If a predictor or the data do not fit, see `mtpano_zoo.evaluation.runner.evaluate`, or the folder
            has a `report.json` or `report.html` of something else.
    """
    folder, name = Path(out), DEFAULTS if protocol is None else Path(protocol).name
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file, not a folder for the report")
    _check_reports(folder)
    chosen = read_protocol(protocol)
    recorded = recorded_name(protocol)
    judged = evaluate(predictors, data, folder, chosen=chosen, protocol=recorded, skip=skip, force=force, report=report)
    content = build_report(judged, data, name, skip)
    if process_number() == 0:  # the other processes only share the work
        pictures = {
            one.predictor.name: worst_maps(one, data, content["models"][one.predictor.name]["worst"]) for one in judged
        }
        write_json(folder / "report.json", content)
        write_page(folder / "report.html", content, pictures)
    return content


def _check_reports(folder: Path) -> None:
    """Refuse to replace files that are not an earlier report."""
    report, page = folder / "report.json", folder / "report.html"
    may_report = may_become_report(report, lambda found: found.get("format") == FORMAT)
    for path, may_be_written in ((report, may_report), (page, not page.exists() or is_page(page))):
        if not may_be_written:
            raise InputError(f"{path} exists and is not an earlier evaluation report: choose another folder with --out")


def summary(report: dict[str, Any]) -> str:
    """Return the main numbers as text."""
    lines = []
    for title, model in report["models"].items():
        lines.append(title)
        lines += [f"  note: {remark}" for remark in model["remarks"]]
        for key, place in SHOWN.items():
            if (name := full_name(key, model[place])) is not None:
                point = model[place][name]
                lines.append(f"  {name:<23} {point['value']:#.4g}  ({point['low']:#.4g} to {point['high']:#.4g})")
    return "\n".join(lines)
