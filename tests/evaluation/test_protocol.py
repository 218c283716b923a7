import pytest
from torchmetrics import MeanMetric

from mtpano_zoo.evaluation.protocol import words
from mtpano_zoo.metrics import (
    TASK_METRICS,
    DepthAnywhereMetrics,
    DepthMetrics,
    RelativeDepthMetrics,
    SemsegMetrics,
)

SENTENCES = {
    "depth: DepthMetrics, labels above 0.001 m up to 10 m, predictions clamped to that range; multiplied by the "
    "least-squares factor of each image; logarithm to the base 10; 0.25 of the height left out at the top and at the "
    "bottom; a pixel without a value counts as wrong; averaged over images.": DepthMetrics(
        max_depth=10.0, alignment="scale", reduction="image", log_base="10", crop=0.25
    ),
    "semseg: SemsegMetrics, one confusion matrix over the set, 2 classes, absent ones counted as 0; mIoU without "
    "sky.": SemsegMetrics(["wall", "sky"], absent_classes="zero", unscored=["sky"]),
    "disparity: RelativeDepthMetrics, labels above 0.001 m up to 10 m, predictions clamped to that range; multiplied "
    "by the ratio of the medians of each image; logarithm to the base e; a pixel without a value counts as wrong; "
    "predicted inverse distances inverted first; averaged over images.": RelativeDepthMetrics(),
    "disparity: DepthAnywhereMetrics, labels up to 10 m; inverse distances after the best scale and shift of each "
    "image, inverted, then multiplied by the ratio of its medians; 0.125 of the height left out at the top and at the "
    "bottom; averaged over images.": DepthAnywhereMetrics(crop=0.125),
    "depth: MeanMetric.": MeanMetric(),
}


@pytest.mark.parametrize("sentence", SENTENCES)
def test_a_report_says_what_a_metric_counts(sentence):
    assert words({sentence.partition(":")[0]: SENTENCES[sentence]})[1:] == [sentence]


@pytest.mark.parametrize("task", TASK_METRICS)
def test_the_metrics_of_every_task_say_what_they_count(task):
    assert TASK_METRICS[task](["wall"]).facts()
