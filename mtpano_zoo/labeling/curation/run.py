"""`mtpano curate label|score|select`: from unlabelled panoramas to the labels that are worth training on."""

import json
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser, Namespace

import mtpano_zoo.data
import mtpano_zoo.zoo.pretrained  # noqa: F401 - networks can be named without their module
from mtpano_zoo.data.panoramas import SPLITS
from mtpano_zoo.errors import InputError
from mtpano_zoo.labeling.curation.domains import DomainClassifier
from mtpano_zoo.labeling.curation.network_labeler import NetworkLabeler
from mtpano_zoo.labeling.curation.scoring import LabelsToScore, Scorer, check_labels, load_discriminator
from mtpano_zoo.labeling.curation.selection import Rules, select
from mtpano_zoo.labeling.manifest import check_manifest
from mtpano_zoo.labeling.run import (
    add_run_options,
    add_shared_options,
    label,
    label_as_asked,
    print_once,
    shared_settings,
)
from mtpano_zoo.manifest import describe_model
from mtpano_zoo.models import PanoramaNetwork
from mtpano_zoo.output_paths import user_path
from mtpano_zoo.short_verbs import TRACEBACK, TRACEBACK_HELP, hyphenated
from mtpano_zoo.spelling import did_you_mean, nearest
from mtpano_zoo.text_files import limit_configurations
from mtpano_zoo.training.option_errors import one_sentence, options_of, refuse_null

__all__ = ("main",)

HELP = """usage: mtpano curate label|score|select ...

Labels worth training on, from unlabelled panoramas:

  label    a network of the zoo labels whole panoramas
  score    a discriminator computes a score map and a score for every label
  select   the best labels of every domain become a folder to train on

`mtpano curate STAGE --help` explains a stage."""
COMPLETE = {
    "label": "A complete command is `mtpano curate label PANORAMAS --config curation/label.yaml --out labels`.",
    "score": "A complete command is `mtpano curate score labels --discriminator last.ckpt --out scores`.",
    "select": "A complete command is `mtpano curate select labels --scores scores --out selected --count.indoor 1000`.",
}


def main(arguments: Sequence[str]) -> int:
    """Run `mtpano curate` with these arguments and return the exit status.

    Raises:
        InputError: If an argument, an input or a folder is wrong, in one sentence.
    """
    stage = arguments[0] if arguments else "--help"
    if stage in ("--help", "-h"):
        print(HELP)
        return 0
    if stage not in STAGES:
        suggestion = did_you_mean(nearest(stage, STAGES))
        raise InputError(f"There is no stage {stage!r} of curation{suggestion} The stages are {', '.join(STAGES)}.")
    limit_configurations(arguments[1:])
    build, run = STAGES[stage]
    parser = build()
    options = options_of(parser)
    with one_sentence(options, COMPLETE[stage]):
        config = parser.parse_args(hyphenated(arguments[1:], options))
        refuse_null(config)
        built = parser.instantiate(config)
    return run(config, built)


def _parser(stage: str, description: str) -> ArgumentParser:
    return ArgumentParser(
        f"mtpano curate {stage}",
        description=description,
        epilog=f"{TRACEBACK}: {TRACEBACK_HELP}",
        exit_on_error=False,
    )


def _label_parser() -> ArgumentParser:
    parser = _parser("label", "Label whole panoramas with a network.")
    parser.add_subclass_arguments(
        PanoramaNetwork, "network", help="network that labels them: Pretrained, with its source"
    )
    add_shared_options(parser)
    return parser


def _label(config: Namespace, built: Namespace) -> int:
    names = ("height", "width", "invalid_mask")
    labeler = NetworkLabeler(built.network, **{name: config[name] for name in names})
    described = describe_model(built.network)
    settings = {
        "labeler": {key: value for key, value in described.items() if key != "name"},
        **{name: config[name] for name in ("height", "width", "max_height")},
        **shared_settings(config),
    }
    return label_as_asked(config, built, labeler, settings)


def _score_parser() -> ArgumentParser:
    parser = _parser("score", "Score the labels of a folder with a discriminator.")
    parser.add_argument("labels", type=str, help="folder of labels, from `mtpano curate label` or `mtpano label`")
    parser.add_argument("--discriminator", type=str, required=True, help="checkpoint of the discriminator, last.ckpt")
    parser.add_subclass_arguments(DomainClassifier, "domains", required=False, help="classifier of a panorama's domain")
    parser.set_defaults({"domains": {"class_path": "mtpano_zoo.labeling.curation.domains.SkyOrCeiling"}})
    parser.add_argument("--split", choices=SPLITS, default="train", help="list of the labels to score")
    parser.add_argument("--any-labeler", action="store_true", help="also score labels of another labeler")
    add_run_options(parser)
    return parser


def _score(config: Namespace, built: Namespace) -> int:
    root, out = user_path(config.labels), user_path(config.out)
    discriminator, described = load_discriminator(config.discriminator)
    labels = check_labels(root, described, discriminator.input_size, config.any_labeler)
    samples = LabelsToScore(root, *discriminator.input_size, split=config.split)
    scorer = Scorer(discriminator, built.domains, samples.classes)
    settings: dict[str, Any] = {
        "labels": labels,
        "discriminator": describe_model(discriminator)["weights"],
        "domains": json.loads(json.dumps(config.domains.as_dict(), default=str)),
        "domain_network": dict(built.domains.provenance),
        "split": config.split,
        "precision": str(config.trainer.precision or "32-true"),
    }
    check_manifest(out, scorer.manifest(settings), config.overwrite)
    report = label(
        samples,
        out,
        scorer,
        settings=settings,
        trainer=config.trainer.as_dict(),
        split=None,
        max_height=scorer.height,
        num_workers=config.num_workers,
        writers=config.writers,
        overwrite=config.overwrite,
    )
    print_once(report.summary("scored"))
    return report.exit_code


def _select_parser() -> ArgumentParser:
    parser = _parser("select", "Select the best labels of every domain.")
    parser.add_argument("labels", type=str, help="folder of labels")
    parser.add_argument("--scores", type=str, required=True, help="folder of their scores")
    parser.add_argument("--out", type=str, required=True, help="folder of the selection")
    parser.add_class_arguments(Rules, None)
    parser.add_argument("--config", action="config", help="YAML file with any of these options; may be repeated")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace a selection that was made with other settings or scores"
    )
    return parser


def _select(config: Namespace, built: Namespace) -> int:
    names = ("count", "min_score", "min_valid", "hash_distance", "weights")
    rules = Rules(**{name: config[name] for name in names})
    out = user_path(config.out)
    selection = select(user_path(config.labels), user_path(config.scores), out, rules, config.overwrite)
    print(f"{out} already holds this selection" if selection is None else selection.summary())
    return 0


STAGES = {
    "label": (_label_parser, _label),
    "score": (_score_parser, _score),
    "select": (_select_parser, _select),
}
