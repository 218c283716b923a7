"""Pages that are made from the package itself: one per network and data set, the tables of both, the API reference."""

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path

import mtpano_zoo.data
from mtpano_zoo.models import NETWORKS
from mtpano_zoo.zoo.entries import Entry, entries

# Packages and modules of the API reference, from the surface to the ground.
REFERENCE = {
    "start": ("mtpano_zoo.prediction", "mtpano_zoo.zoo", "mtpano_zoo.zoo.loading", "mtpano_zoo.zoo.pretrained"),
    "networks": (
        "mtpano_zoo.models.base",
        "mtpano_zoo.models.inference",
        "mtpano_zoo.layers.encoder",
        "mtpano_zoo.layers.vit_encoder",
        "mtpano_zoo.layers.cnn_encoder",
        "mtpano_zoo.layers.wrapped",
        "mtpano_zoo.layers.convolution",
        "mtpano_zoo.layers.recorded",
    ),
    "training": (
        "mtpano_zoo.tasks",
        "mtpano_zoo.training.base",
        "mtpano_zoo.training.multi_task",
        "mtpano_zoo.training.distillation",
        "mtpano_zoo.training.curation",
        "mtpano_zoo.training.callbacks",
        "mtpano_zoo.losses.base",
        "mtpano_zoo.losses.multi_task",
        "mtpano_zoo.losses.task_losses",
        "mtpano_zoo.losses.affine_invariant",
        "mtpano_zoo.losses.depth",
        "mtpano_zoo.losses.published",
        "mtpano_zoo.metrics.task_metrics",
        "mtpano_zoo.metrics.semseg",
        "mtpano_zoo.metrics.depth",
        "mtpano_zoo.metrics.normals",
        "mtpano_zoo.metrics.valid",
        "mtpano_zoo.metrics.disparity",
        "mtpano_zoo.metrics.relative_depth",
    ),
    "data": (
        "mtpano_zoo.data.panoramas",
        "mtpano_zoo.data.augmentation",
        "mtpano_zoo.scenes",
        "mtpano_zoo.scenes.scene",
    ),
    "labelling": (
        "mtpano_zoo.labeling.views",
        "mtpano_zoo.labeling.teachers.base",
        "mtpano_zoo.labeling.teachers.segmenter",
        "mtpano_zoo.labeling.teachers.depth_estimator",
        "mtpano_zoo.labeling.teachers.moge",
        "mtpano_zoo.labeling.teachers.normals",
        "mtpano_zoo.labeling.teachers.oracle",
        "mtpano_zoo.labeling.fusion",
        "mtpano_zoo.labeling.distillation",
        "mtpano_zoo.labeling.masks",
        "mtpano_zoo.labeling.curation.network_labeler",
        "mtpano_zoo.labeling.curation.scoring",
        "mtpano_zoo.labeling.curation.selection",
    ),
    "judging": (
        "mtpano_zoo.evaluation.command",
        "mtpano_zoo.evaluation.predictors",
        "mtpano_zoo.evaluation.data_sets",
        "mtpano_zoo.evaluation.measures",
        "mtpano_zoo.evaluation.agreement",
    ),
    "generating": (
        "mtpano_zoo.generation.loading",
        "mtpano_zoo.generation.sampling",
        "mtpano_zoo.generation.editing",
        "mtpano_zoo.generation.augment",
        "mtpano_zoo.generation.polar",
        "mtpano_zoo.generation.quality",
        "mtpano_zoo.generation.published_scores",
        "mtpano_zoo.generation.module",
    ),
    "sphere": (
        "mtpano_zoo.sphere.rays",
        "mtpano_zoo.sphere.padding",
        "mtpano_zoo.sphere.sampling",
        "mtpano_zoo.sphere.projection",
        "mtpano_zoo.sphere.fisheye",
        "mtpano_zoo.sphere.surface",
    ),
    "files": (
        "mtpano_zoo.files.checkpoint",
        "mtpano_zoo.files.weights",
        "mtpano_zoo.files.sharing",
        "mtpano_zoo.reference.format",
        "mtpano_zoo.point_cloud",
        "mtpano_zoo.export.scene_file",
        "mtpano_zoo.export.mesh",
        "mtpano_zoo.export.poses",
        "mtpano_zoo.export.colmap",
        "mtpano_zoo.export.one_scale",
        "mtpano_zoo.commands.export_scene",
        "mtpano_zoo.run.video",
        "mtpano_zoo.commands.convert_fisheye",
    ),
}


def write_pages(folder: Path) -> None:
    """Write all generated pages; a page that did not change is not touched, so that a second build is quick."""
    folder.mkdir(exist_ok=True)
    known = entries()
    networks = sorted(NETWORKS)
    sets = sorted(name for name in mtpano_zoo.data.__all__ if name.endswith("DataModule"))
    pages = {f"network-{name}.md": network_page(name, known) for name in networks}
    pages |= {f"data-{name}.md": data_page(name) for name in sets}
    pages["networks.md"] = index(
        "Networks",
        [f"network-{name}" for name in networks],
        "One page per network, its published checkpoints below it.",
    )
    pages["data-sets.md"] = index(
        "Data sets",
        [f"data-{name}" for name in sets],
        "One page per data module: the help of its class is its data sheet.",
    )
    for topic, modules in REFERENCE.items():
        pages[f"reference-{topic}.md"] = reference_page(topic, modules)
    pages["reference.md"] = index(
        "API reference", [f"reference-{topic}" for topic in REFERENCE], "Public classes and functions by subject."
    )
    for name, text in pages.items():
        path = folder / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def network_page(name: str, known: dict[str, Entry]) -> str:
    """Return the page of a network: its class, and the checkpoints that belong to it."""
    kind = NETWORKS[name]
    published = [entry for entry in known.values() if entry.network["class_path"] == name]
    lines = [f"# {name}", "", directive("autoclass", f"{kind.__module__}.{name}")]
    lines += ["## Checkpoints", ""] if published else []
    for entry in published:
        lines += [f"### {entry.name}", "", entry.description, "", *facts(entry), ""]
    return "\n".join(lines)


def facts(entry: Entry) -> Iterator[str]:
    """Yield the rows of a table of what is known about a checkpoint."""
    yield from ("| | |", "|---|---|")
    size = "any" if entry.input_size is None else "{} x {}".format(*entry.input_size)
    rows = {
        "tasks": ", ".join(entry.tasks),
        "classes": str(len(entry.classes)) if entry.classes else "none",
        "input": size,
        "training data": "; ".join(entry.training_data),
        "licence of the weights": entry.license["weights"],
        "licence of the code": entry.license["code"],
        "paper": entry.paper,
        "from": entry.origin,
    }
    for title, value in rows.items():
        yield f"| {title} | {value.replace('|', chr(92) + '|')} |"


def data_page(name: str) -> str:
    """Return the page of a data module."""
    kind = getattr(mtpano_zoo.data, name)
    return "\n".join([f"# {name}", "", directive("autoclass", f"{kind.__module__}.{name}", members=False)])


def reference_page(topic: str, modules: Sequence[str]) -> str:
    """Return the page of a subject of the API reference."""
    return "\n".join(
        [f"# {topic.capitalize()}", "", *(f"## {name}\n\n{directive('automodule', name)}" for name in modules)]
    )


def index(title: str, pages: Sequence[str], text: str) -> str:
    """Return a page that lists others."""
    return "\n".join([f"# {title}", "", text, "", "```{toctree}", ":maxdepth: 1", "", *pages, "```", ""])


def directive(kind: str, name: str, members: bool = True) -> str:
    """Return a directive of autodoc inside Markdown."""
    options = [":members:", ":show-inheritance:"] if members else [":no-members:"]
    return "\n".join(["```{eval-rst}", f".. {kind}:: {name}", *(f"   {option}" for option in options), "```", ""])


if __name__ == "__main__":
    print(inspect.getdoc(write_pages))
