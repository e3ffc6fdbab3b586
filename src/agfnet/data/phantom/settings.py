"""What does not depend on the diagnosis: the patient's skin, the devices, the light and how they were held.

All ranges here are assumptions of ours, chosen to vary as everyday pictures do. Nothing here knows the class of a
lesion: `tests/statistical` checks that these numbers predict it at chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from agfnet.data.phantom.bmode import Probe
from agfnet.data.phantom.fields import Range, uniform
from agfnet.data.phantom.skin_optics import MELANOSOMES


@dataclass(frozen=True, slots=True, kw_only=True)
class Scanner:
    """An ultrasound device.

    Attributes:
        probe: the transducer.
        width, depth: of the image, mm.
        gain: mean and deviation of the gain that its users choose, dB.
        slope: mean and deviation of the error of time-gain compensation, dB per mm.
        noise: level of the electronics' noise at the face, dB under fully developed speckle of the dermis.
        gamma: of the grey map.
    """

    probe: Probe
    width: float
    depth: float
    gain: Range
    slope: Range
    noise: float
    gamma: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Camera:
    """A camera and how it is used.

    Attributes:
        white: largest relative error of the white balance.
        tint: mean of that error in red and blue.
        contrast: gain of the tones about mid-grey.
        blur: least and greatest standard deviation of the blur, in pixels at 224.
        noise: standard deviation of the noise in white, of full scale; it grows with the root of the light.
        quality: least and greatest JPEG quality.
        exposure: least and greatest mean brightness of lit white.
        ring_light: chance of a ring flash, which casts no shadows.
    """

    white: float
    tint: Range
    contrast: float
    blur: Range
    noise: float
    quality: tuple[int, int]
    exposure: Range
    ring_light: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where patients come from.

    Attributes:
        scanners, cameras: name -> chance.
        skin_types: I to VI -> share.
    """

    scanners: Mapping[str, float]
    cameras: Mapping[str, float]
    skin_types: Mapping[str, float]


SCANNERS: Mapping[str, Scanner] = {
    "H20": Scanner(probe=Probe(), width=14.0, depth=10.0, gain=(0.0, 2.0), slope=(0.0, 0.25), noise=-52.0),
    "L18": Scanner(
        probe=Probe(frequency=18.0, bandwidth=0.65, f_number=2.6, focus=4.0),
        width=16.0, depth=11.0, gain=(1.0, 2.0), slope=(0.0, 0.3), noise=-55.0,
    ),
    "V22": Scanner(
        probe=Probe(frequency=22.0, bandwidth=0.5, f_number=3.5, focus=2.5, dynamic_range=50.0),
        width=12.5, depth=9.0, gain=(5.0, 3.0), slope=(-0.6, 0.5), noise=-44.0, gamma=0.8,
    ),
    "C15": Scanner(
        probe=Probe(frequency=15.0, bandwidth=0.55, f_number=3.2, focus=5.0, dynamic_range=54.0),
        width=18.0, depth=12.0, gain=(-5.0, 3.0), slope=(0.7, 0.4), noise=-48.0, gamma=1.2,
    ),
}  # fmt: skip
CAMERAS: Mapping[str, Camera] = {
    "reflex": Camera(white=0.04, tint=(0.0, 0.0), contrast=1.0, blur=(0.4, 0.8), noise=0.008, quality=(88, 96),
                     exposure=(0.85, 1.1), ring_light=0.3),
    "compact": Camera(white=0.06, tint=(0.02, -0.02), contrast=1.05, blur=(0.5, 1.0), noise=0.014, quality=(80, 92),
                      exposure=(0.8, 1.15), ring_light=0.15),
    "phone": Camera(white=0.12, tint=(0.10, -0.10), contrast=1.2, blur=(0.8, 1.6), noise=0.024, quality=(55, 80),
                    exposure=(0.65, 1.25), ring_light=0.0),
    "phone-cool": Camera(white=0.12, tint=(-0.08, 0.12), contrast=1.15, blur=(0.7, 1.5), noise=0.02,
                         quality=(60, 85), exposure=(0.65, 1.25), ring_light=0.0),
}  # fmt: skip
_LIGHT_MIX = {"I": 0.06, "II": 0.32, "III": 0.34, "IV": 0.18, "V": 0.07, "VI": 0.03}
SITES: Mapping[str, Site] = {
    "north": Site(
        scanners={"H20": 0.8, "L18": 0.2}, cameras={"reflex": 0.7, "compact": 0.3}, skin_types=_LIGHT_MIX
    ),
    "south": Site(
        scanners={"H20": 0.3, "L18": 0.7}, cameras={"reflex": 0.3, "compact": 0.7}, skin_types=_LIGHT_MIX
    ),
    "external": Site(
        scanners={"V22": 0.5, "C15": 0.5},
        cameras={"phone": 0.5, "phone-cool": 0.5},
        skin_types={"I": 0.02, "II": 0.12, "III": 0.20, "IV": 0.28, "V": 0.23, "VI": 0.15},
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Skin:
    """A patient's skin.

    Attributes:
        skin_type: I to VI (Fitzpatrick).
        melanosomes: volume fraction in the epidermis.
        blood: volume fraction in the dermis.
        mottled: relative deviation of both over the skin.
        relief: depth of the furrows, mm.
        freckles: number on 10 cm2.
        hairs: number on 10 cm2.
        hair_grey: 0 black to 1 white.
        epidermis, dermis: thickness, mm.
        fat: level of the subcutis against the dermis, dB.
        sun_band: how much darker the upper dermis is, dB (a sign of sun damage).
    """

    skin_type: str
    melanosomes: float
    blood: float
    mottled: float
    relief: float
    freckles: float
    hairs: float
    hair_grey: float
    epidermis: float
    dermis: float
    fat: float
    sun_band: float


def draw_skin(site: Site, rng: np.random.Generator) -> Skin:
    """Draw a patient's skin from a site's mix."""
    skin_type = str(rng.choice(list(site.skin_types), p=list(site.skin_types.values())))
    return Skin(
        skin_type=skin_type,
        melanosomes=float(MELANOSOMES[skin_type] * np.exp(rng.normal(0.0, 0.15))),
        blood=uniform(rng, (0.003, 0.014)),
        mottled=uniform(rng, (0.02, 0.10)),
        relief=uniform(rng, (0.01, 0.04)),
        freckles=float(rng.choice([0.0, 0.0, 8.0, 30.0])),
        hairs=float(rng.choice([0.0, 6.0, 20.0, 45.0], p=[0.4, 0.3, 0.2, 0.1])),
        hair_grey=float(rng.beta(0.6, 1.2)),
        epidermis=uniform(rng, (0.06, 0.10)),
        dermis=uniform(rng, (1.1, 2.0)),
        fat=uniform(rng, (-25.0, -18.0)),
        sun_band=max(0.0, float(rng.normal(0.0, 3.0))),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shot:
    """How one lesion was photographed and scanned.

    Attributes:
        site, scanner, camera: names.
        field: side of the photo, mm.
        photo_x, photo_y: where the lesion's centre lies in the photo, mm from the middle.
        photo_turn: angle of the camera about its axis, radians.
        light_turn, light_height: where the light comes from, radians.
        ambient: share of the light that comes from everywhere.
        ring_light: a ring flash.
        white_red, white_blue: error of the white balance, relative.
        exposure: brightness of lit white.
        vignette: fall of the light to the corners.
        blur: standard deviation, pixels at 224.
        quality: of the JPEG file.
        shine: strength of highlights of the skin.
        scan_turn: direction of the scan line on the skin, radians.
        scan_offset: of the line from the lesion's centre, as a share of its radius.
        scan_shift: of the lesion along the line from the image's middle, mm.
        gel: thickness over the skin, mm.
        tilt: of the skin in the scan, mm per mm.
        gain: dB.
        tgc_slope: error of the time-gain compensation, dB per mm.
        marks_photo, marks_scan: what is drawn over the image: "none", "ruler", "pen", "calipers", "text".
    """

    site: str
    scanner: str
    camera: str
    field: float
    photo_x: float
    photo_y: float
    photo_turn: float
    light_turn: float
    light_height: float
    ambient: float
    ring_light: bool
    white_red: float
    white_blue: float
    exposure: float
    vignette: float
    blur: float
    quality: int
    shine: float
    scan_turn: float
    scan_offset: float
    scan_shift: float
    gel: float
    tilt: float
    gain: float
    tgc_slope: float
    marks_photo: str
    marks_scan: str


def draw_shot(site_name: str, rng: np.random.Generator) -> Shot:
    """Draw devices, light and geometry. The lesion lies off-centre as often as not, in each view on its own."""
    site = SITES[site_name]
    scanner_name = str(rng.choice(list(site.scanners), p=list(site.scanners.values())))
    camera_name = str(rng.choice(list(site.cameras), p=list(site.cameras.values())))
    scanner, camera = SCANNERS[scanner_name], CAMERAS[camera_name]
    field = uniform(rng, (20.0, 29.0))
    reach = 0.2 * field if rng.uniform() < 0.5 else 0.04 * field
    shift = 0.22 * scanner.width if rng.uniform() < 0.5 else 0.05 * scanner.width
    return Shot(
        site=site_name,
        scanner=scanner_name,
        camera=camera_name,
        field=field,
        photo_x=uniform(rng, (-reach, reach)),
        photo_y=uniform(rng, (-reach, reach)),
        photo_turn=uniform(rng, (0.0, 2.0 * np.pi)),
        light_turn=uniform(rng, (0.0, 2.0 * np.pi)),
        light_height=uniform(rng, (0.6, 1.2)),
        ambient=uniform(rng, (0.35, 0.65)),
        ring_light=bool(rng.uniform() < camera.ring_light),
        white_red=camera.tint[0] + uniform(rng, (-camera.white, camera.white)),
        white_blue=camera.tint[1] + uniform(rng, (-camera.white, camera.white)),
        exposure=uniform(rng, camera.exposure),
        vignette=uniform(rng, (0.0, 0.25)),
        blur=uniform(rng, camera.blur),
        quality=int(rng.integers(camera.quality[0], camera.quality[1] + 1)),
        shine=uniform(rng, (0.01, 0.06)),
        scan_turn=uniform(rng, (0.0, np.pi)),
        scan_offset=uniform(rng, (-0.3, 0.3)),
        scan_shift=uniform(rng, (-shift, shift)),
        gel=uniform(rng, (0.5, 1.3)),
        tilt=float(rng.normal(0.0, 0.02)),
        gain=float(rng.normal(*scanner.gain)),
        tgc_slope=float(rng.normal(*scanner.slope)),
        marks_photo=str(rng.choice(["none", "ruler", "pen"], p=[0.7, 0.2, 0.1])),
        marks_scan=str(rng.choice(["none", "calipers", "text"], p=[0.6, 0.2, 0.2])),
    )
