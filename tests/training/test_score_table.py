from mtpano_zoo.training.score_table import as_table


def test_four_digits_and_classes_last_in_their_order():
    scores = {"semseg/mIoU": 0.123456789, "semseg/IoU/wall": 1 / 3, "semseg/IoU/floor": 1.0, "normals/mean": 11.29641}
    assert as_table([scores, {"other/dataloader_idx_1": float("nan")}]).splitlines() == [
        "semseg/mIoU             0.1235",
        "normals/mean            11.30",
        "other/dataloader_idx_1  nan",
        "semseg/IoU/wall         0.3333",
        "semseg/IoU/floor        1.000",
    ]


def test_nothing_was_scored():
    assert as_table([]) == as_table([{}]) == ""
