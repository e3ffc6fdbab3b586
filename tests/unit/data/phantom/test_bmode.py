from __future__ import annotations

import numpy as np
import pytest

from agfnet.data.phantom.bmode import (
    Probe,
    attenuate,
    beam_deviation,
    electronic_noise,
    envelope,
    log_compress,
    path_loss,
    pulse_spectrum,
    radio_frequency,
)

PROBE = Probe()
STEP = (0.008, 0.03)


@pytest.fixture(scope="module")
def speckle():
    """Envelope of a fully developed speckle field, 8 mm deep and 12 mm wide."""
    field = np.random.default_rng(0).standard_normal((1000, 400))
    return envelope(radio_frequency(field, STEP, PROBE))


def test_wavelength_at_20_mhz():
    assert PROBE.wavelength == pytest.approx(0.077, abs=1e-4)


def test_fully_developed_speckle_is_rayleigh(speckle):
    """Mean over deviation is sqrt(pi / (4 - pi)) = 1.91 at every depth, before compression."""
    inner = speckle[50:-50, 50:-50]
    snr = inner.mean() / inner.std()
    near_focus = speckle[300:450, 50:-50]
    assert near_focus.mean() / near_focus.std() == pytest.approx(1.91, rel=0.05)
    assert snr == pytest.approx(1.91, rel=0.08)  # the mean falls off focus, which adds a little to the deviation


def test_a_unit_field_gives_unit_variance_in_focus(speckle):
    """The envelope of a signal of unit variance has a mean square of 2."""
    assert (speckle[340:410, 50:-50] ** 2).mean() == pytest.approx(2.0, rel=0.15)


@pytest.mark.parametrize("depth", [3.0, 6.0])
def test_a_point_is_as_wide_as_pulse_and_beam_say(depth):
    field = np.zeros((1000, 401))
    row = round(depth / STEP[0] - 0.5)
    field[row, 200] = 1.0
    spot = envelope(radio_frequency(field, STEP, PROBE))
    lateral, axial = spot[row], spot[:, 200]
    for profile, step, deviation in (
        (lateral, STEP[1], float(beam_deviation(depth, PROBE))),
        (axial, STEP[0], PROBE.axial_deviation),
    ):
        # The square of a Gaussian is narrower by the root of two, and blind to the far tails of the Hilbert transform.
        place, power = np.arange(len(profile)) * step, profile**2
        mean = (power * place).sum() / power.sum()
        measured = np.sqrt(2.0 * (power * (place - mean) ** 2).sum() / power.sum())
        assert measured == pytest.approx(deviation, rel=0.05)


def test_the_beam_widens_off_focus():
    widths = beam_deviation([1.0, 3.0, 5.0], PROBE)
    assert widths[1] < widths[0]
    assert widths[0] == pytest.approx(widths[2])
    assert 2.355 * widths[1] == pytest.approx(PROBE.wavelength * PROBE.f_number, rel=1e-3)


def test_a_coarse_grid_is_refused():
    with pytest.raises(ValueError, match="too coarse"):
        pulse_spectrum(100, 0.05, PROBE)


def test_shadow_follows_beer_lambert():
    """2 mm of 3 dB/(cm MHz) more than around it, at 20 MHz, there and back: 24 dB darker below."""
    attenuation = np.full((1000, 400), 0.5)
    attenuation[200:450, 150:250] += 3.0
    loss = path_loss(attenuation, STEP[0], PROBE)
    assert loss[900, 200] - loss[900, 20] == pytest.approx(24.0, rel=1e-6)
    field = np.random.default_rng(1).standard_normal((1000, 400))
    signal = attenuate(radio_frequency(field, STEP, PROBE), loss, path_loss(np.full((1000, 400), 0.5), STEP[0], PROBE))
    amplitude = envelope(signal)
    ratio = (amplitude[600:950, 170:230] ** 2).mean() / (amplitude[600:950, 300:380] ** 2).mean()
    assert 10 * np.log10(ratio) == pytest.approx(-24.0, abs=1.0)


def test_noise_is_in_the_band_and_independent_between_lines():
    noise = electronic_noise((1000, 400), STEP[0], PROBE, np.random.default_rng(2))
    assert noise.std() == pytest.approx(1.0)
    assert abs(np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]) < 0.02
    power = (np.abs(np.fft.rfft(noise, axis=0)) ** 2).mean(axis=1)
    cycles = np.fft.rfftfreq(1000, STEP[0])
    assert cycles[power.argmax()] == pytest.approx(2.0 / PROBE.wavelength, rel=0.15)


def test_the_envelope_of_a_burst():
    """A sine with a Gaussian envelope has that envelope, for even and odd lengths."""
    for rows in (400, 401):
        z = np.arange(rows)[:, None] * 0.01
        shape = np.exp(-(((z - 2.0) / 0.3) ** 2))
        assert np.allclose(envelope(shape * np.sin(2 * np.pi * 15.0 * z)), shape, atol=2e-3)


def test_compensation_undoes_the_mean_loss():
    attenuation = np.full((50, 4), 0.7)
    loss = path_loss(attenuation, 0.1, PROBE)
    assert np.allclose(attenuate(np.ones((50, 4)), loss, loss), 1.0)


def test_log_compression():
    grey = log_compress(np.array([[10.0, 1.0, 10 ** (-30 / 20), 10 ** (-60 / 20), 0.0]]), 1.0, PROBE)
    assert grey.tolist() == [[255, 255, 128, 0, 0]]
