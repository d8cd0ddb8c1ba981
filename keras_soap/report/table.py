"""Plain-text tables and figures with units, for people."""

from collections.abc import Sequence


def render(headers: Sequence[str], rows: Sequence[Sequence[str]], numeric: Sequence[str]) -> str:
    """A table with aligned columns.

    Args:
        headers: Of the columns.
        rows: Cells of each row.
        numeric: The headers of the columns that are aligned to the right.
    """
    widths = [max(len(cell) for cell in column) for column in zip(headers, *rows, strict=True)]
    lines = []
    for cells in (headers, ["-" * width for width in widths], *rows):
        lines.append(
            "  ".join(
                cell.rjust(width) if header in numeric else cell.ljust(width)
                for header, cell, width in zip(headers, cells, widths, strict=True)
            ).rstrip()
        )
    return "\n".join(lines)


def milliseconds(time_ns: int) -> str:
    """A time in milliseconds, with the unit, to 4 digits: `"12.34 ms"`."""
    return f"{_digits(time_ns / 1e6)} ms"


def microseconds(time_ns: int) -> str:
    """A time in microseconds, without the unit, to a tenth."""
    return f"{time_ns / 1e3:,.1f}"


def size(num_bytes: float) -> str:
    """A number of bytes with a binary unit: `"1.500 MiB"`."""
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while abs(num_bytes) >= 1024 and len(units) > 1:
        num_bytes /= 1024
        units.pop(0)
    return f"{num_bytes:.0f} B" if units[0] == "B" else f"{_digits(num_bytes)} {units[0]}"


def rate(per_second: float, unit: str) -> str:
    """A rate with a decimal prefix: `"15.75 GB/s"`."""
    prefixes = ["", "k", "M", "G", "T", "P"]
    while abs(per_second) >= 1000 and len(prefixes) > 1:
        per_second /= 1000
        prefixes.pop(0)
    return f"{_digits(per_second)} {prefixes[0]}{unit}/s"


def ranges(numbers: Sequence[int]) -> str:
    """Numbers with runs shortened: `"0–3, 6"`; order is kept."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(
        f"{first}"
        if first == last
        else f"{first}–{last}"
        if last > first + 1
        else f"{first}, {last}"
        for first, last in runs
    )


def _digits(value: float) -> str:
    """`value` to 4 digits, thousands apart."""
    decimals = 3 if abs(value) < 10 else 2 if abs(value) < 100 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{decimals}f}"
