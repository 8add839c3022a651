"""The order of classes that a data set names and does not number: that of the texts, or of the numbers that the names are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def are_numbers(names: Sequence[str]) -> bool:
    """Whether all names of classes are whole numbers, as Flowers-102 in folders 1 to 102 has them."""
    return all(map(str.isdecimal, names))


def class_order(names: Iterable[str]) -> list[str]:
    """Names of classes in the order in which they are numbered: 2 comes before 10."""
    ordered = sorted(names)
    return sorted(ordered, key=int) if are_numbers(ordered) else ordered


def in_places(names: Sequence[str], given: Sequence[str]) -> list[str]:
    """Better names, each in the place of its class.

    Args:
        names: by which the data set knows its classes, in their places.
        given: as many, in the order of the class numbers: of the places, or of the names where these are numbers.
    """
    places = sorted(range(len(names)), key=lambda place: int(names[place])) if are_numbers(names) else range(len(names))
    return [name for _, name in sorted(zip(places, given, strict=True))]
