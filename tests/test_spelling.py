import pytest

from mtpano_zoo.spelling import did_you_mean, nearest

VERBS = ("fit", "validate", "test", "predict", "run", "rooms", "models", "data")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("rnu", "run"), ("FIT", "fit"), ("predikt", "predict"), ("room", "rooms"), ("xyz", None), ("", None)],
)
def test_the_nearest_name(name: str, expected: str | None) -> None:
    assert nearest(name, VERBS) == expected
    assert nearest(name, ()) is None


def test_it_ends_a_sentence() -> None:
    assert f"There is no verb rnu{did_you_mean('run')}" == "There is no verb rnu; did you mean run?"
    assert f"There is no verb xyz{did_you_mean(None)}" == "There is no verb xyz."
