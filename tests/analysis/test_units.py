"""Numbers with their unit as text."""

from analysis.units import count, format_bytes


def test_bytes_are_written_in_powers_of_ten():
    numbers = (0, 999, 1000, 1234, 94_371_840, 10**9, 3 * 10**12, 10**16)
    assert [format_bytes(number) for number in numbers] == [
        "0 B", "999 B", "1.0 kB", "1.2 kB", "94.4 MB", "1.0 GB", "3.0 TB", "10000.0 TB",
    ]  # fmt: skip


def test_nouns_are_in_the_plural_unless_there_is_one():
    assert (count(1, "layer"), count(0, "layer"), count(2048, "token")) == ("1 layer", "0 layers", "2,048 tokens")
