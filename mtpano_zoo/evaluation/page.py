"""The report as one self-contained HTML file."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mtpano_zoo.evaluation import measures, plots
from mtpano_zoo.evaluation.data_sets import EvaluationSet
from mtpano_zoo.evaluation.protocol import labels_of
from mtpano_zoo.evaluation.runner import Judged
from mtpano_zoo.evaluation.scoring import prepare, with_depth
from mtpano_zoo.image_io import write_bytes

__all__ = ("is_page", "worst_maps", "write_page")

START = '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Evaluation of '

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-bottom: 1px solid #ccc }
table { border-collapse: collapse; margin: .6rem 0 }
td, th { padding: .2rem .7rem; text-align: right; border-bottom: 1px solid #e4e4e4 }
td:first-child, th:first-child, .words td:last-child, .words th:last-child { text-align: left }
th { background: #f5f5f5 } small { color: #777; display: block; white-space: nowrap }
img { max-width: 100%; display: block; margin: .5rem 0 } .remark { background: #fff3d6; padding: .4rem .8rem }
.separated { font-weight: 600 }
"""


def worst_maps(judged: Judged, data: EvaluationSet, ids: Sequence[str]) -> dict[str, bytes]:
    """Return pictures by id, from new predictions."""
    numbers = {data.samples.name(i): i for i in range(len(data.samples))}
    pictures = {}
    for name in ids:
        sample = data.samples[numbers[name]]
        labels = labels_of(sample)
        maps = prepare(judged.predictor(sample["image"], sample["id"]), judged.predictor, data.classes)
        maps = with_depth(maps, labels)
        pictures[name] = plots.maps_plot(sample, labels, maps, measures.align(maps, labels), data.classes)
    return pictures


def is_page(path: Path) -> bool:
    """Return whether a file is empty or the page of a report."""
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(START)) in (b"", START.encode())


def write_page(path: Path, report: Mapping[str, Any], worst: Mapping[str, Mapping[str, bytes]]) -> None:
    """Write the page of a report.

    Args:
        path: the file.
        report: from `build_report`.
        worst: pictures by model and id.
    """
    models = report["models"]
    body = [
        f"<h1>Evaluation of {escape(', '.join(models))}</h1>",
        f"<p>{report['data']['panoramas']} panoramas: {escape(report['data']['words'])}. "
        f"mtpano_zoo {report['version']}.</p>",
    ]
    for name, model in models.items():
        body += [f'<p class="remark">{escape(name)}: {escape(remark)}.</p>' for remark in model["remarks"]]
    body += ["<h2>Scores by the protocol</h2>", _scores(models)]
    body += ["<h2>Measures</h2>", _measures(report), _picture(plots.measures_plot(report), "ratios")]
    body += ["<h2>Latitude</h2>", _picture(plots.bands_plot(report), "error by latitude")]
    body += ["<h2>Tilt of the camera</h2>", _picture(plots.tilt_plot(report), "error by tilt")]
    body += [_comparison(comparison) for comparison in report["comparisons"]]
    body += ["<h2>Worst panoramas</h2>"]
    for name, pictures in worst.items():
        for sample, picture in pictures.items():
            body += [f"<h3>{escape(name)}: {escape(sample)}</h3>", _picture(picture, f"maps of {sample}")]
    body += ["<h2>Protocol</h2>", *(f"<p>{escape(sentence)}</p>" for sentence in report["protocol"]["words"])]
    for name, model in models.items():
        body += [f"<p>{escape(name)} is {escape(model['words'])}.</p>"]
        body += [f"<p>Left out for {escape(name)}: {escape('; '.join(model['left_out']))}.</p>"] * bool(
            model["left_out"]
        )
    page = (
        f"{START}{escape(', '.join(models))}</title><style>{STYLE}</style></head><body>{''.join(body)}</body></html>\n"
    )
    write_bytes(path, page.encode(errors="backslashreplace"))  # a file name may hold undecodable bytes


def _picture(data: bytes | None, text: str) -> str:
    if data is None:
        return "<p>Not measured.</p>"
    return f'<img alt="{escape(text)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "numbers") -> str:
    """Return a table of HTML cells; the last column of the kind `words` holds text."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    lines = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f'<table class="{kind}"><tr>{top}</tr>{lines}</table>'


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def _interval(point: Mapping[str, Any] | None) -> str:
    if point is None:
        return "-"
    return f"{_number(point['value'])} <small>{_number(point['low'])} to {_number(point['high'])}</small>"


def _scores(models: Mapping[str, Any]) -> str:
    names = dict.fromkeys(name for model in models.values() for name in model["scores"])
    columns = (("scores", ""), ("scores_by_solid_angle", ", by solid angle"))
    head = ["score", *(escape(name) + text for name in models for _, text in columns)]
    head += [f"{escape(name)}, mean over images" for name in models]
    rows = []
    for name in names:
        row = [escape(name), *(_number(model[key].get(name)) for model in models.values() for key, _ in columns)]
        rows.append([*row, *(_interval(model["mean_over_images"].get(name)) for model in models.values())])
    return _table(head, rows)


def _measures(report: Mapping[str, Any]) -> str:
    models = report["models"]
    names = dict.fromkeys(name for model in models.values() for name in model["measures"])
    rows = [
        [
            escape(name),
            *(_interval(model["measures"].get(name)) for model in models.values()),
            escape(report["meaning"].get(name) or report["meaning"][name.split("/")[0]]),
        ]
        for name in names
    ]
    return _table(["measure", *map(escape, models), "what it says"], rows, "words")


def _comparison(comparison: Mapping[str, Any]) -> str:
    rows = []
    for name, point in comparison["differences"].items():
        verdict = '<span class="separated">yes</span>' if point["separated"] else "no"
        rows.append([escape(name), _interval(point), verdict])
    title = f"{escape(comparison['first'])} minus {escape(comparison['second'])}, on the same panoramas"
    return f"<h2>{title}</h2>" + _table(["", "difference", "interval without 0"], rows)
