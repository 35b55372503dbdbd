"""Numbers, times and sizes as a reader wants them."""

import pytest

from proxynas.rank import words


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0005, "0.5 ms"),
        (1.234, "1.23 s"),
        (61, "61 s"),
        (300, "5.0 min"),
        (3000, "50 min"),
        (7200, "2.0 h"),
        (None, "–"),
    ],
)
def test_durations_are_readable(value: float | None, text: str) -> None:
    assert words.seconds(value) == text


def test_numbers_have_true_minus_signs() -> None:
    assert words.number(-0.123) == "−0.12"
    assert words.number(-0.001) == "0.00"
    assert words.number(float("nan")) == "–"
    assert (words.size(512), words.size(3 * 2**20)) == ("512 B", "3.0 MiB")
    assert (words.candidates(None), words.candidates(6.2), words.candidates(0.0)) == (
        "never",
        "7",
        "1",
    )
