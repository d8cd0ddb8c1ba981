"""Tables and units."""

import pytest

from keras_soap.report import table


def test_columns_are_aligned():
    rendered = table.render(["name", "ms"], [["a", "1.0"], ["longer", "10.0"]], ["ms"])
    assert rendered.splitlines() == [
        "name      ms",
        "------  ----",
        "a        1.0",
        "longer  10.0",
    ]


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.000 KiB"),
        (12 * 2**30, "12.00 GiB"),
        (2**52, "4,096 TiB"),
    ],
)
def test_sizes(num_bytes, text):
    assert table.size(num_bytes) == text


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(5, "5.000 B/s"), (15.75e9, "15.75 GB/s"), (4.37e12, "4.370 TB/s"), (2e18, "2,000 PB/s")],
)
def test_rates(per_second, text):
    assert table.rate(per_second, "B") == text


def test_times():
    assert table.milliseconds(12_345_678) == "12.35 ms"
    assert table.microseconds(1_234_567) == "1,234.6"


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0,), "0"),
        ((0, 1), "0, 1"),
        ((0, 1, 2, 3, 6), "0–3, 6"),
        ((3, 2, 1), "3, 2, 1"),
        ((4, 5, 6, 0, 1, 2), "4–6, 0–2"),
        ((), ""),
    ],
)
def test_ranges(numbers, text):
    assert table.ranges(numbers) == text
