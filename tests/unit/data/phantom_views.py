"""A fixed skin and shot, so that a test changes one thing at a time."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from agfnet.data.phantom.settings import SITES, draw_shot, draw_skin

SKIN = replace(
    draw_skin(SITES["north"], np.random.default_rng(0)),
    skin_type="II", melanosomes=0.025, blood=0.006, mottled=0.03, freckles=0.0, hairs=0.0, epidermis=0.1, dermis=1.5,
    fat=-21.0, sun_band=0.0,
)  # fmt: skip
SHOT = replace(
    draw_shot("north", np.random.default_rng(0)),
    scanner="H20", camera="reflex", field=24.0, photo_x=0.0, photo_y=0.0, scan_offset=0.0, scan_shift=0.0, gel=0.8,
    tilt=0.0, gain=0.0, tgc_slope=0.0, white_red=0.0, white_blue=0.0, exposure=1.0, vignette=0.0, blur=0.5, quality=92,
    marks_photo="none", marks_scan="none", ring_light=False,
)  # fmt: skip
