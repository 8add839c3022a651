"""The icon sets of the corpus and the style of each. Data only.

Left out: logos, flags, programming languages, animations, share-alike and non-commercial licences, what the demo holds
out.
"""

from __future__ import annotations

from typing import Final, Literal

PACKAGE: Final = "@iconify/json"
VERSION: Final = "2.2.535"

Style = Literal["line", "solid", "duotone", "colour", "emoji", "pixel", "hand-drawn"]

HELD_OUT_STYLE: Final[Style] = "pixel"
"""No training or development pair is drawn so."""
DEVELOPMENT_STYLE: Final[Style] = "hand-drawn"
"""No training pair is drawn so; choices may look at it."""

_LINE: Final = (
    "iconmind fluent material-symbols keyline-icons ph solar mdi reicon tabler hugeicons boxicons glyphs mingcute ri "
    "streamline carbon mynaui tdesign bi griddy-icons streamline-sharp streamline-flex streamline-plump lucide iconoir "
    "lets-icons ix ion f7 uil teenyicons clarity stash qlementine-icons streamline-cyber majesticons"
)
_SOLID: Final = "game-icons pinhead healthicons fa7-solid temaki roentgen maki gis covid medical-icon"
_COLOUR: Final = (
    "streamline-color streamline-plump-color streamline-flex-color streamline-sharp-color streamline-stickies-color "
    "streamline-cyber-color fluent-color glyphs-poly marketeq meteocons flat-color-icons"
)
_EMOJI: Final = (
    "fluent-emoji-flat fluent-emoji noto noto-v1 twemoji emojione fxemoji streamline-emojis "
    "fluent-emoji-high-contrast emojione-monotone"
)
_PIXEL: Final = "pixelarticons streamline-pixel pixel dinkie-icons"
_HAND_DRAWN: Final = "streamline-freehand streamline-freehand-color"

ICON_SETS: Final[dict[str, Style]] = {
    **dict.fromkeys(_LINE.split(), "line"),
    **dict.fromkeys(_SOLID.split(), "solid"),
    **dict.fromkeys(_COLOUR.split(), "colour"),
    **dict.fromkeys(_EMOJI.split(), "emoji"),
    **dict.fromkeys(_PIXEL.split(), "pixel"),
    **dict.fromkeys(_HAND_DRAWN.split(), "hand-drawn"),
}
"""Name of a set -> the style of its drawings whose names say nothing else."""

STYLE_WORDS: Final[dict[str, Style]] = {
    **dict.fromkeys(("fill", "filled", "solid", "bold"), "solid"),
    **dict.fromkeys(("duotone", "twotone", "two-tone", "duo", "broken"), "duotone"),
    **dict.fromkeys(("outline", "outlined", "line", "linear", "regular", "thin", "light", "stroke"), "line"),
}
"""Words of a variant's name -> its style, in the line and solid sets."""
