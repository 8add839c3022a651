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
OPENMOJI: Final = "openmoji"
EXTRAS: Final = ("extras-openmoji", "extras-unicode")
NO_CLASS: Final = ""

OPENMOJI_CATEGORIES: Final = {
    "animals-nature": "animal",
    "flags": "flag",
    "subdivision-flag": "flag",
    "country-flag": "flag",
    "food-drink": "food",
    "smileys-emotion": "face",
    "people": "person",
    "travel-places": "building",
    **dict.fromkeys(("climate-environment", "emergency", "gardening", "healthcare", "objects", "technology"), NO_CLASS),
    **dict.fromkeys(("animal-mammal", "animal-bird", "animal-marine"), "animal"),
    **dict.fromkeys(("food-fruit", "food-vegetable"), "food"),
    **dict.fromkeys(("face-smiling", "face-neutral-skeptical", "face-concerned", "face-sleepy", "cat-face"), "face"),
    **dict.fromkeys(("person-activity", "person-fantasy"), "person"),
    "place-building": "building",
    **dict.fromkeys(("plant-flower", "plant-other", "musical-instrument", "household", "money"), NO_CLASS),
}
KAMELEON_CATEGORIES: Final = {
    "FoodDrink": "food",
    "UsersPeople": "person",
    **dict.fromkeys(
        [
            "BuildingConstruction",
            "Culture",
            "Ecology",
            "Entertainment",
            "Family",
            "Health",
            "ImagesAudio",
            "MapTravel",
            "MoneyBusiness",
            "Phone",
            "SchoolScience",
            "Shopping",
            "Sport",
            "WorkOffice",
        ],
        NO_CLASS,
    ),
}
ULTIMATE_CATEGORIES: Final = {
    "FoodDrinks": "food",
    "Transportation": "vehicle",
    "Weather": "weather",
    **dict.fromkeys(
        [
            "ComputersDevicesElectronics",
            "EntertainmentEventsHobbies",
            "HealthBeauty",
            "ImagesPhotography",
            "MusicAudio",
            "Science",
            "ShippingDelivery",
            "ShoppingEcommerce",
            "Sports",
            "Wayfinding",
        ],
        NO_CLASS,
    ),
}
"""Categories whose drawings show a thing -> their zero-shot class. All others (arrows, controls, logos) are left out."""

UNSUITABLE: Final = frozenset(
    [
        "trump",
        "greta",
        "thunberg",
        "cannabis",
        "sperm",
        "bdsm",
        "stool",
        "spongebob",
        "pokeball",
        "r2d2",
        "wall",
        "wii",
        "tardis",
        "hal",
        "logo",
        "bomb",
    ]
)
"""Living people, brands and figures of films, and what a demo should not show."""


@dataclass(frozen=True, kw_only=True, slots=True)
class IconSet:
    """An npm package of drawings."""

    package: str
    version: str
    licence: str
    """SPDX identifier."""
    author: str
    categories: dict[str, str]

    @property
    def source(self) -> str:
        """Name of the source, as written in the JSON."""
        return self.package.rsplit("/", 1)[-1]


ICON_SETS: Final = (
    IconSet(
        package=OPENMOJI,
        version="17.0.0",
        licence="CC-BY-SA-4.0",
        author="the OpenMoji project, openmoji.org",
        categories=OPENMOJI_CATEGORIES,
    ),
    IconSet(
        package="@iconify-json/streamline-kameleon-color",
        version="1.2.2",
        licence="CC-BY-4.0",
        author="Webalys LLC, Streamline's Kameleon set",
        categories=KAMELEON_CATEGORIES,
    ),
    IconSet(
        package="@iconify-json/streamline-ultimate-color",
        version="1.2.2",
        licence="CC-BY-4.0",
        author="Webalys LLC, Streamline's Ultimate set",
        categories=ULTIMATE_CATEGORIES,
    ),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Drawing:
    """An icon before it is drawn."""

    file: str
    name: str
    category: str
    svg: str


def caption_of(name: str) -> str:
    """The name as words: without hyphens, a counter at its end and Streamline's word for a second colouring."""
    words = re.sub(r"[-_]+", " ", name).replace(": ", " ")
    return re.sub(r"( duo| \d+)+$", "", words).strip()


def read_candidates(icons: IconSet, package: Path, tally: Tally) -> list[Candidate]:
    """The drawings that show a thing, drawn; the others are counted by reason."""
    found: list[Candidate] = []
    for drawing in _drawings(icons, package):
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
        file=drawing.file,
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


def _drawings(icons: IconSet, package: Path) -> Iterator[Drawing]:
    return _openmoji(package) if icons.package == OPENMOJI else _iconify(package)


def _openmoji(package: Path) -> Iterator[Drawing]:
    """Skin tones are left out before they are counted: they repeat a drawing in another colour."""
    for entry in json.loads((package / "data/openmoji.json").read_text(encoding="utf-8")):
        path = package / "color/svg" / f"{entry['hexcode']}.svg"
        if not entry["skintone"] and path.exists():
            name = entry["annotation"].replace("\ufffd", "o")
            svg = path.read_text(encoding="utf-8")
            yield Drawing(file=entry["hexcode"], name=name, category=entry["subgroups"], svg=svg)


def _iconify(package: Path) -> Iterator[Drawing]:
    document: dict[str, Any] = json.loads((package / "icons.json").read_text(encoding="utf-8"))
    categories: dict[str, list[str]] = json.loads((package / "metadata.json").read_text(encoding="utf-8"))["categories"]
    category_of = {name: category for category, names in sorted(categories.items()) for name in names}
    for name, icon in sorted(document["icons"].items()):
        width, height = (icon.get(side, document.get(side, 16)) for side in ("width", "height"))
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">{icon["body"]}</svg>'
        yield Drawing(file=name, name=name, category=category_of.get(name, ""), svg=svg)
