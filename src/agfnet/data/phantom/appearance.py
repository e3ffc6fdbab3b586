"""What each class looks like, from above and in depth: ranges that a lesion is drawn from.

Facts: A. the DERMUS guideline (J Ultrasound Med 2016;35:577); B. srt.13012 and srt.13028 (basal and squamous cell
carcinoma); C. PMID 26333555 and 9930803 (melanoma's depth); D. PMC9907694 (naevi); E. s00256-010-1072-4 (cysts);
F. ultra.15.08050 (lipomas); G. 0284185117721263 (dermatofibromas). A range without a letter is an assumption of ours:
the literature describes most of this in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from agfnet.data.phantom.fields import Range

NONE: Range = (0.0, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Appearance:
    """Ranges for one class; lengths in mm, echo levels in dB, shares and chances 0 to 1.

    Attributes:
        diameter: lateral size on the skin.
        elongation: longer over shorter axis of the outline.
        irregular: relative amplitude of the outline's waves.
        top: depth of the upper border below the skin's surface; 0 lies under the epidermis.
        thickness: depth extent below the level of the surrounding skin; of a melanoma, with what is raised.
        normal: name of a range -> mean and deviation, where it is drawn from a normal distribution cut to the range.
        shapes: chance of each depth profile (see `lesion.profile`).
        base_noise: roughness of the lower border.
        border: width of the transition to the tissue around it, in depth.
        elevation: height over the surrounding skin.
        plateau: 0 a dome, 1 steep sides with a flat top.
        rolled: share of the elevation that is a rim rather than a dome.
        echo: level against the dermis (`in_fat` false) or against the subcutis (`in_fat` true).
        in_fat: lies in the subcutis.
        uneven_echo: deviation of the level inside.
        absorbs: attenuation over the tissue's, dB / (cm MHz); below 0 for posterior enhancement.
        absorbs_chance: chance that it differs from the tissue's at all.
        spots: least and greatest number of bright spots in a slice through the middle.
        spots_chance: chance that there are any.
        cavities_chance: chance of echo-free areas.
        rim_chance: chance of a dark rim.
        striae_chance: chance of bright lines along the skin.
        flow: vessel density, 0 to 1; seen by Doppler alone.
        pigment: melanosomes added to the epidermis, volume fraction.
        uneven_pigment: relative deviation of it.
        lopsided: relative change of it from one side to the other.
        fade: width of the pigment's edge, as a share of the radius.
        pale_middle_chance: chance of a pale centre.
        amelanotic_chance: chance that there is next to no pigment.
        blue_chance: chance of blue-grey areas (pigment in the dermis).
        blood: added to the dermis, volume fraction.
        halo: reach of redness beyond the outline, as a share of the radius.
        lobules: relative deviation of the blood, in lobules.
        saturation: of its blood with oxygen.
        gloss: strength of highlights (wax, pearl).
        pearly: pallor by scattering, 0 to 1.
        vessels: least and greatest number of visible branching vessels.
        vessels_chance: chance that there are any.
        keratin: thickness of the horny cap.
        keratin_cover: share of the lesion under it.
        keratin_chance: chance that there is any.
        whiteness: how white the horn is, 0 to 1.
        warts: height of a bumpy surface.
        ulcer_chance: chance of an ulcer: a break in the epidermis.
    """

    diameter: Range
    elongation: Range = (1.0, 1.35)
    irregular: Range = (0.02, 0.06)
    top: Range = NONE
    thickness: Range
    normal: Mapping[str, Range] = field(default_factory=dict)
    shapes: Mapping[str, float]
    base_noise: Range = (0.0, 0.04)
    border: Range = (0.03, 0.07)
    elevation: Range
    plateau: Range = (0.0, 0.3)
    rolled: Range = NONE
    echo: Range
    in_fat: bool = False
    uneven_echo: Range = (0.8, 2.0)
    absorbs: Range = NONE
    absorbs_chance: float = 0.0
    spots: tuple[int, int] = (0, 0)
    spots_chance: float = 0.0
    cavities_chance: float = 0.0
    rim_chance: float = 0.0
    striae_chance: float = 0.0
    flow: Range = (0.0, 0.15)
    pigment: Range = NONE
    uneven_pigment: Range = (0.08, 0.25)
    lopsided: Range = (0.0, 0.2)
    fade: Range = (0.08, 0.2)
    pale_middle_chance: float = 0.0
    amelanotic_chance: float = 0.0
    blue_chance: float = 0.0
    blood: Range = NONE
    halo: Range = (0.0, 0.1)
    lobules: Range = (0.05, 0.2)
    saturation: Range = (0.65, 0.85)
    gloss: Range = (0.0, 0.15)
    pearly: Range = NONE
    vessels: tuple[int, int] = (2, 4)
    vessels_chance: float = 0.0
    keratin: Range = NONE
    keratin_cover: Range = (0.4, 0.9)
    keratin_chance: float = 0.0
    whiteness: Range = (0.1, 0.4)
    warts: Range = NONE
    ulcer_chance: float = 0.0


_dome_over_fat = partial(
    Appearance,
    diameter=(8.0, 15.0),
    elevation=(0.7, 2.2),
    elongation=(1.0, 1.4),
    plateau=NONE,
    irregular=(0.01, 0.03),
    in_fat=True,
)
"""What shows of a cyst and of a lipoma: the same skin-coloured dome."""

APPEARANCES: Mapping[str, Appearance] = {
    "naevus": Appearance(
        diameter=(3.5, 10.0),
        irregular=(0.02, 0.10),
        thickness=(0.4, 1.4),
        shapes={"strip": 0.34, "oval": 0.33, "mushroom": 0.33},  # D: a third each; clear border, little flow
        border=(0.03, 0.10),
        elevation=(0.0, 1.2),
        echo=(-24.0, -14.0),
        uneven_echo=(0.6, 2.4),
        spots=(1, 6),
        spots_chance=0.5,
        pigment=(0.04, 0.36),
        uneven_pigment=(0.08, 0.45),
        lopsided=(0.0, 0.45),
        fade=(0.06, 0.3),
        amelanotic_chance=0.15,  # dermal naevi
        blue_chance=0.08,  # blue naevi
        blood=(0.0, 0.015),
        halo=(0.0, 0.15),
        gloss=(0.0, 0.3),
    ),
    "melanoma": Appearance(
        diameter=(4.0, 13.0),
        irregular=(0.03, 0.15),
        thickness=(0.35, 3.4),
        normal={"thickness": (1.44, 0.8)},  # C
        shapes={"melanoma": 1.0},  # A, C: flat and fusiform when thin, rounder and less distinct when thick
        border=(0.04, 0.16),
        elevation=(0.0, 1.3),
        echo=(-25.0, -16.0),
        uneven_echo=(0.4, 1.6),  # A: homogeneous, no shadow, no strong entry echo
        flow=(0.3, 0.8),
        pigment=(0.06, 0.48),
        uneven_pigment=(0.12, 0.6),
        lopsided=(0.0, 0.7),
        fade=(0.05, 0.25),
        amelanotic_chance=0.10,
        blue_chance=0.35,
        blood=(0.0, 0.03),
        halo=(0.0, 0.25),
        gloss=(0.0, 0.3),
        ulcer_chance=0.12,
    ),
    "basal cell carcinoma": Appearance(
        diameter=(4.0, 12.0),
        irregular=(0.02, 0.10),
        thickness=(0.35, 1.6),  # B: reaches the subcutis in a fifth
        shapes={"oval": 0.6, "strip": 0.4},
        base_noise=(0.02, 0.15),
        border=(0.04, 0.16),
        elevation=(0.1, 1.4),
        rolled=(0.0, 0.7),
        echo=(-24.0, -14.0),
        uneven_echo=(1.0, 3.0),
        spots=(1, 9),
        spots_chance=0.8,  # B: in most
        cavities_chance=0.2,  # B: in a fifth
        flow=(0.2, 0.6),
        pigment=(0.0, 0.08),
        uneven_pigment=(0.2, 0.6),
        blood=(0.002, 0.03),
        halo=(0.0, 0.25),
        gloss=(0.05, 0.5),
        pearly=(0.05, 0.5),
        vessels=(1, 5),
        vessels_chance=0.65,
        keratin=(0.04, 0.12),
        keratin_cover=(0.1, 0.4),
        keratin_chance=0.15,  # crusts
        whiteness=(0.2, 0.6),
        ulcer_chance=0.33,  # B: the epidermis is broken in a third
    ),
    "squamous cell carcinoma": Appearance(
        diameter=(5.0, 14.0),
        irregular=(0.03, 0.12),
        thickness=(0.8, 3.8),  # B: often to the subcutis
        shapes={"oval": 1.0},
        base_noise=(0.1, 0.5),  # B: irregular base
        border=(0.06, 0.25),
        elevation=(0.3, 2.2),
        rolled=(0.0, 0.5),
        echo=(-23.0, -13.0),
        uneven_echo=(1.8, 4.5),  # B: inhomogeneous
        spots=(1, 5),
        spots_chance=0.3,
        flow=(0.5, 1.0),  # B: high
        pigment=(0.0, 0.05),
        blood=(0.004, 0.045),
        halo=(0.0, 0.35),
        gloss=(0.0, 0.3),
        keratin=(0.05, 0.40),
        keratin_cover=(0.15, 0.7),
        keratin_chance=0.8,  # B: bright surface
        whiteness=(0.2, 0.9),
        warts=(0.01, 0.12),
        ulcer_chance=0.45,
    ),
    "seborrhoeic keratosis": Appearance(
        diameter=(4.0, 13.0),
        irregular=(0.02, 0.12),
        thickness=(0.15, 0.9),
        shapes={"flat": 0.78, "oval": 0.22},  # A: flat bottom in 78 %
        elevation=(0.1, 1.3),
        plateau=(0.1, 1.0),
        echo=(-21.0, -11.0),
        uneven_echo=(1.2, 3.2),
        spots=(1, 8),
        spots_chance=0.6,
        pigment=(0.03, 0.45),
        uneven_pigment=(0.10, 0.6),
        lopsided=(0.0, 0.6),
        fade=(0.03, 0.2),
        blue_chance=0.10,
        blood=(0.0, 0.02),
        halo=(0.0, 0.15),
        gloss=(0.0, 0.35),
        keratin=(0.03, 0.22),  # A: hyperkeratosis, posterior attenuation, bright focus
        keratin_cover=(0.2, 1.0),
        keratin_chance=0.88,
        whiteness=(0.0, 0.4),
        warts=(0.0, 0.08),
    ),
    "dermatofibroma": Appearance(
        diameter=(3.5, 13.0),
        normal={"diameter": (7.3, 2.9)},  # G
        irregular=(0.02, 0.08),
        top=(0.1, 0.6),
        thickness=(0.6, 2.0),  # G: mid and lower dermis
        shapes={"oval": 0.7, "strip": 0.3},
        base_noise=(0.02, 0.2),
        border=(0.07, 0.32),  # G: ill-defined in 84 %
        elevation=(0.0, 0.9),
        echo=(-20.0, -11.0),
        uneven_echo=(1.4, 3.6),  # G: heterogeneous
        absorbs=(0.1, 0.5),
        absorbs_chance=0.5,
        flow=(0.0, 0.3),
        pigment=(0.03, 0.26),
        uneven_pigment=(0.08, 0.35),
        lopsided=(0.0, 0.3),
        fade=(0.1, 0.4),
        pale_middle_chance=0.35,
        blood=(0.0, 0.02),
        halo=(0.0, 0.2),
    ),
    "epidermal cyst": _dome_over_fat(
        shapes={"oval": 1.0},
        top=(0.7, 1.8),
        thickness=(2.2, 5.0),
        echo=(-11.0, 1.0),  # against fat, which is itself darker than the dermis
        border=(0.02, 0.06),  # E: circumscribed, ovoid
        uneven_echo=(0.8, 3.0),
        absorbs=(-0.50, -0.20),
        absorbs_chance=0.92,  # E: posterior enhancement in 92 %
        rim_chance=0.7,  # E
        flow=(0.0, 0.05),
    ),
    "lipoma": _dome_over_fat(
        shapes={"fusiform": 1.0},  # F: spindle along the skin, iso- to hyperechoic, no flow
        top=(1.2, 2.4),
        thickness=(2.0, 4.2),
        echo=(-1.0, 8.0),
        border=(0.05, 0.15),
        striae_chance=0.8,
        flow=(0.0, 0.05),
    ),
    "haemangioma": Appearance(
        diameter=(3.5, 11.0),
        irregular=(0.02, 0.10),
        thickness=(0.5, 2.8),  # A: dermis, with or without subcutis
        shapes={"oval": 0.7, "strip": 0.3},
        base_noise=(0.02, 0.2),
        border=(0.05, 0.2),
        elevation=(0.0, 1.3),
        echo=(-23.0, -13.0),
        uneven_echo=(1.0, 3.0),
        absorbs=(-0.35, -0.1),
        absorbs_chance=0.5,  # A: some enhance
        flow=(0.6, 1.0),  # A: strong
        pigment=(0.0, 0.08),
        blood=(0.03, 0.40),
        halo=(0.0, 0.2),
        lobules=(0.1, 0.6),
        saturation=(0.45, 0.8),
        gloss=(0.0, 0.4),
    ),
}

PREVALENCE: Mapping[str, float] = {
    "naevus": 0.24,
    "melanoma": 0.11,
    "basal cell carcinoma": 0.14,
    "squamous cell carcinoma": 0.05,
    "seborrhoeic keratosis": 0.13,
    "dermatofibroma": 0.09,
    "epidermal cyst": 0.11,
    "lipoma": 0.07,
    "haemangioma": 0.06,
}
"""An assumption: an uneven mix as a clinic with a scanner may see it."""

MALIGNANT = ("basal cell carcinoma", "melanoma", "squamous cell carcinoma")
