"""How a B-mode image comes about, part by part: pulse, beam, attenuation, envelope, log compression.

Arrays are (depth, lateral), of float32 or float64, which the results keep; row 0 is the transducer's face. Lengths are
in mm, frequencies in MHz, attenuation in dB / (cm MHz), one way. General source: Szabo, Diagnostic Ultrasound Imaging,
2nd ed. (2014); the scatterer model is that of 10.1109/TUFFC.2008.929 and earlier linear simulators: an image is the
scatterer field convolved with the point-spread function.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.fft import ifft, irfft, next_fast_len, rfft

from agfnet.data.phantom.fields import decibels

Grid = NDArray[np.floating]

SPEED_OF_SOUND = 1.540
"""Mean of soft tissue, in mm/us."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """A linear high-frequency transducer.

    Attributes:
        frequency: centre frequency, MHz.
        bandwidth: -6 dB bandwidth over the centre frequency, 0 to 1.
        f_number: focal depth over aperture.
        focus: focal depth, mm.
        dynamic_range: of the display, dB.
    """

    frequency: float = 20.0
    bandwidth: float = 0.6
    f_number: float = 3.0
    focus: float = 3.0
    dynamic_range: float = 60.0

    @property
    def wavelength(self) -> float:
        """In mm: 0.077 at 20 MHz."""
        return SPEED_OF_SOUND / self.frequency

    @property
    def axial_deviation(self) -> float:
        """Standard deviation of the pulse's amplitude envelope along depth, mm (two-way travel counted).

        A Gaussian spectrum that is 6 dB down at half the bandwidth from the centre has the deviation
        sigma_f = bandwidth * frequency / (2 sqrt(2 ln 2)); its envelope in time has 1 / (2 pi sigma_f).
        """
        spectral = self.bandwidth * self.frequency / (2.0 * np.sqrt(2.0 * np.log(2.0)))
        return float(SPEED_OF_SOUND / 2.0 / (2.0 * np.pi * spectral))


def beam_deviation(depth: ArrayLike, probe: Probe) -> Grid:
    """Standard deviation of the two-way lateral beam profile at each depth, mm.

    A Gaussian beam: full width at half maximum of wavelength times f-number in focus, growing off it with the Rayleigh
    length of that waist.

    Args:
        depth: mm, any shape.
        probe: the transducer.
    """
    waist = probe.wavelength * probe.f_number / (2.0 * np.sqrt(2.0 * np.log(2.0)))
    rayleigh = 4.0 * np.pi * waist**2 / probe.wavelength
    off_focus = np.asarray(depth, dtype=np.float64) - probe.focus
    return np.asarray(waist * np.sqrt(1.0 + (off_focus / rayleigh) ** 2))


def pulse_spectrum(samples: int, step: float, probe: Probe) -> NDArray[np.float64]:
    """Spectrum of the received pulse along depth, (samples // 2 + 1,), peak 1.

    Args:
        samples: length of the depth axis.
        step: of the depth axis, mm; at most a quarter of the two-way wavelength.
        probe: the transducer.

    Raises:
        ValueError: the step is too coarse for the carrier.
    """
    carrier = 2.0 / probe.wavelength  # cycles a mm of depth: the echo travels there and back
    if step > 1.0 / (4.0 * carrier):
        raise ValueError(f"depth step {step} mm is too coarse for {probe.frequency} MHz: at most {0.25 / carrier:.4f}")
    cycles = np.fft.rfftfreq(samples, step)
    return np.exp(-0.5 * ((cycles - carrier) * 2.0 * np.pi * probe.axial_deviation) ** 2)


def pulsed(field: Grid, step: float, probe: Probe) -> Grid:
    """A field filtered along depth by the received pulse, same shape, not scaled.

    Args:
        field: (depth, lateral).
        step: of the depth axis, mm.
        probe: the transducer.
    """
    rows = len(field)
    length = next_fast_len(rows + round(8 * probe.axial_deviation / step), real=True)
    spectrum = pulse_spectrum(length, step, probe).astype(field.dtype)
    return np.asarray(irfft(rfft(field, length, axis=0) * spectrum[:, None], length, axis=0)[:rows])


def electronic_noise(shape: tuple[int, int], step: float, probe: Probe, rng: np.random.Generator) -> Grid:
    """Noise of the receiver, in its band, each line on its own: (depth, lateral) float32 of unit variance."""
    noise = pulsed(rng.standard_normal(shape, np.float32), step, probe)
    return np.asarray(noise / noise.std())


def radio_frequency(scatterers: Grid, step: tuple[float, float], probe: Probe) -> Grid:
    """Echo signal of a scatterer field: convolution with the point-spread function, whose width follows the depth.

    Args:
        scatterers: (depth, lateral) reflectivity.
        step: of the depth and lateral axes, mm.
        probe: the transducer.

    Returns:
        (depth, lateral), scaled so that a field of unit variance gives unit variance in focus.
    """
    rows, columns = scatterers.shape
    along = pulsed(scatterers, step[0], probe)
    depth = (np.arange(rows) + 0.5) * step[0]
    deviation = beam_deviation(depth, probe)[:, None]
    across = next_fast_len(columns + round(8 * float(deviation.max()) / step[1]), real=True)
    cycles = np.fft.rfftfreq(across, step[1])[None]
    beam = np.exp(-2.0 * (np.pi * cycles * deviation) ** 2).astype(scatterers.dtype)
    # The beam narrows in focus and keeps its energy, so that echoes there are the strongest.
    focused = irfft(rfft(along, across, axis=1) * beam, across, axis=1)[:, :columns]
    spectrum = pulse_spectrum(2 * rows, step[0], probe)
    gain_axial = np.sqrt(np.mean(np.concatenate([spectrum, spectrum[1:-1]]) ** 2))
    gain_lateral = np.sqrt(step[1] / (2.0 * np.sqrt(np.pi) * float(beam_deviation(probe.focus, probe))))
    return np.asarray(focused / scatterers.dtype.type(gain_axial * gain_lateral))


def envelope(signal: Grid) -> Grid:
    """Amplitude of the analytic signal along depth (Hilbert transform), same shape, 0 or more."""
    rows = signal.shape[0]
    spectrum = np.zeros((rows, *signal.shape[1:]), dtype=np.result_type(signal.dtype, np.complex64))
    half = rfft(signal, axis=0)
    half[1 : (rows + 1) // 2] *= 2.0
    spectrum[: len(half)] = half
    return np.abs(ifft(spectrum, axis=0))


def path_loss(attenuation: Grid, step: float, probe: Probe) -> Grid:
    """Loss of an echo from each position, dB, there and back: Beer-Lambert along each line.

    Args:
        attenuation: (depth, lateral), dB / (cm MHz).
        step: of the depth axis, mm.
        probe: the transducer.

    Returns:
        (depth, lateral) dB; half of a cell's own attenuation counts for the cell.
    """
    per_cell = 2.0 * attenuation * probe.frequency * step / 10.0
    return np.cumsum(per_cell, axis=0) - 0.5 * per_cell


def attenuate(signal: Grid, loss: Grid, compensation: Grid) -> Grid:
    """Apply a loss and the time-gain compensation that the device makes for it, both in dB."""
    return np.asarray(signal * decibels(compensation - loss))


def log_compress(amplitude: Grid, reference: float, probe: Probe) -> NDArray[np.uint8]:
    """Amplitude to grey: `reference` and above is 255, `probe.dynamic_range` dB below it is 0.

    Args:
        amplitude: 0 or more.
        reference: the amplitude shown as white, over 0.
        probe: whose display it is.
    """
    floor = 10.0 ** (-probe.dynamic_range / 20.0)
    decibel = 20.0 * np.log10(np.maximum(amplitude / reference, floor))
    return np.round(255.0 * np.clip(1.0 + decibel / probe.dynamic_range, 0.0, 1.0)).astype(np.uint8)
