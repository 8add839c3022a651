"""Candidates of the held-out split: colour drawings of three npm packages, with their names as captions.

In: unpacked npm packages. Out: candidates and tallies. None of these packages has a part in the training or development
data, and no choice of the demo has seen one of their drawings.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from diht_k8s.api.errors import UserError
from examples.build_data.candidates import Candidate, Tally, words_of

RASTER_PX: Final = 288
"""Three times the side of the data's images: shrinking gives them smooth edges."""
NO_CLASS: Final = ""
VARIANTS: Final = "duo|zodiac|one|two|three|four|five|six|seven|eight|nine|ten"
"""Words at the end of a name: a second colouring, an animal as a sign of the zodiac, and counters."""

ICON_PARK_CATEGORIES: Final = {
    "Animals": "animal",
    "Build": "building",
    "Clothes": "clothing",
    "Emoji": "face",
    "Foods": "food",
    "Health": "medicine",
    "Sports": "sport",
    "Weather": "weather",
    **dict.fromkeys(("Baby", "Energy", "Industry", "Life", "Makeups", "Measurement"), NO_CLASS),
}
KAMELEON_CATEGORIES: Final = {
    "FoodDrink": "food",
    "Health": "medicine",
    "Sport": "sport",
    "UsersPeople": "person",
    **dict.fromkeys(("BuildingConstruction", "Culture", "Ecology", "Entertainment", "Family", "ImagesAudio"), NO_CLASS),
    **dict.fromkeys(("MapTravel", "MoneyBusiness", "Phone", "SchoolScience", "Shopping", "WorkOffice"), NO_CLASS),
}
ULTIMATE_CATEGORIES: Final = {
    "ComputersDevicesElectronics": "electronics",
    "FoodDrinks": "food",
    "HealthBeauty": "medicine",
    "MusicAudio": "music",
    "Sports": "sport",
    "Transportation": "vehicle",
    "Weather": "weather",
    **dict.fromkeys(("EntertainmentEventsHobbies", "ImagesPhotography", "Science"), NO_CLASS),
    **dict.fromkeys(("ShippingDelivery", "ShoppingEcommerce", "Wayfinding"), NO_CLASS),
}
"""Categories whose drawings show a thing -> their zero-shot class. All others (arrows, controls, logos) are left out.
"""

UNSUITABLE: Final = frozenset(
    ("baokemeng", "bomb", "cannabis", "death", "logo", "pokeball", "r2d2", "sperm", "spongebob", "stool", "wall", "wii")
)
"""Brands and figures of films, and what a demo should not show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IconSet:
    """An npm package of drawings."""

    package: str
    version: str
    licence: str
    """SPDX identifier."""
    licence_url: str
    author: str
    categories: dict[str, str]

    @property
    def source(self) -> str:
        """Name of the source, as written in the JSON."""
        return self.package.rsplit("/", 1)[-1]


ICON_SETS: Final = (
    IconSet(
        package="@iconify-json/icon-park",
        version="1.2.4",
        licence="Apache-2.0",
        licence_url="https://www.apache.org/licenses/LICENSE-2.0",
        author="ByteDance, the IconPark set",
        categories=ICON_PARK_CATEGORIES,
    ),
    IconSet(
        package="@iconify-json/streamline-kameleon-color",
        version="1.2.2",
        licence="CC-BY-4.0",
        licence_url="https://creativecommons.org/licenses/by/4.0/",
        author="Webalys LLC, Streamline's Kameleon set",
        categories=KAMELEON_CATEGORIES,
    ),
    IconSet(
        package="@iconify-json/streamline-ultimate-color",
        version="1.2.2",
        licence="CC-BY-4.0",
        licence_url="https://creativecommons.org/licenses/by/4.0/",
        author="Webalys LLC, Streamline's Ultimate set",
        categories=ULTIMATE_CATEGORIES,
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """An icon before it is drawn."""

    name: str
    category: str
    svg: str


def caption_of(name: str) -> str:
    """The name as words: without hyphens, a counter at its end and the sets' words for a variant of the same thing."""
    return re.sub(rf"( (\d+|{VARIANTS}))+$", "", re.sub(r"[-_]+", " ", name)).strip()


def read_candidates(icons: IconSet, package: Path, tally: Tally) -> list[Candidate]:
    """The drawings that show a thing, drawn; the others are counted by reason."""
    found: list[Candidate] = []
    for drawing in _drawings(package):
        tally.seen += 1
        if drawing.category not in icons.categories:
            tally.drop("category_without_things")
        elif UNSUITABLE & set(words_of(drawing.name)):
            tally.drop("unsuitable")
        elif len(caption := caption_of(drawing.name)) < 3:
            tally.drop("caption_too_short")
        else:
            found.append(_candidate(icons, drawing, caption))
    return found


def _candidate(icons: IconSet, drawing: Drawing, caption: str) -> Candidate:
    return Candidate(
        source=icons.source,
        file=drawing.name,
        caption=caption,
        names=(caption,),
        licence=icons.licence,
        class_name=icons.categories[drawing.category] or None,
        boilerplate=False,
        clean=True,
        picture=rasterised(drawing.svg),
    )


def rasterised(svg: str) -> bytes:
    """PNG of a drawing by librsvg.

    Raises:
        UserError: `rsvg-convert` is missing, or it cannot read the drawing.
    """
    command = ["rsvg-convert", "--width", str(RASTER_PX), "--keep-aspect-ratio", "--format", "png"]
    try:
        return subprocess.run(command, input=svg.encode(), check=True, capture_output=True).stdout  # noqa: S603  # fixed
    except FileNotFoundError:
        raise UserError("rsvg-convert not found: apt-get install librsvg2-bin") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"rsvg-convert failed: {error.stderr.decode().strip()}") from error


def _drawings(package: Path) -> Iterator[Drawing]:
    document: dict[str, Any] = json.loads((package / "icons.json").read_text(encoding="utf-8"))
    categories: dict[str, list[str]] = json.loads((package / "metadata.json").read_text(encoding="utf-8"))["categories"]
    category_of = {name: category for category, names in sorted(categories.items()) for name in names}
    for name, icon in sorted(document["icons"].items()):
        width, height = (icon.get(side, document.get(side, 16)) for side in ("width", "height"))
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        yield Drawing(name=name, category=category_of.get(name, ""), svg=svg)
