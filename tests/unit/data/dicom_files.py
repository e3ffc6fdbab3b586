"""DICOM files made on the fly, for tests; every text element of one is a name that must not come out anywhere."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.uid import (
    ExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    SecondaryCaptureImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
    VLPhotographicImageStorage,
    generate_uid,
)

PLANTED = "Zwiebelfisch"
SOP_CLASSES = {"US": UltrasoundImageStorage, "XC": VLPhotographicImageStorage, "OT": SecondaryCaptureImageStorage}


def smooth(seed: int = 0, rows: int = 40, columns: int = 48) -> np.ndarray:
    """(rows, columns, 3) uint8: a smooth picture."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((columns, rows), Image.Resampling.BICUBIC))


def dicom(pixels: np.ndarray, photometric: str = "RGB", modality: str = "XC", **changes: object) -> Dataset:
    """A data set with these pixels (rows, columns[, 3]) or, with NumberOfFrames, (frames, rows, columns[, 3]).

    Args:
        pixels: unsigned or signed, of 8 or 16 bits.
        photometric: what they mean.
        modality: US, XC, OT or another.
        changes: keyword -> value of further elements, or None to leave one out.
    """
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    several = "NumberOfFrames" in changes
    ds.SOPClassUID = SOP_CLASSES.get(modality, SecondaryCaptureImageStorage)
    if modality == "US" and several:
        ds.SOPClassUID = UltrasoundMultiFrameImageStorage
    ds.SOPInstanceUID = generate_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = generate_uid(), generate_uid()
    ds.file_meta.MediaStorageSOPClassUID, ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPClassUID, ds.SOPInstanceUID
    ds.Modality = modality
    ds.PatientName, ds.PatientID, ds.AccessionNumber = f"{PLANTED}^Otto", f"{PLANTED}1", "A1"
    ds.PatientBirthDate, ds.PatientSex, ds.StudyDate, ds.StudyTime = "19700101", "O", "20240102", "101112"
    ds.StudyID, ds.ReferringPhysicianName, ds.SeriesNumber, ds.InstanceNumber = "7", f"{PLANTED}^Arzt", 1, 1
    ds.Manufacturer, ds.InstitutionName = PLANTED, PLANTED
    shape = pixels.shape[1:] if several else pixels.shape
    ds.Rows, ds.Columns = shape[:2]
    ds.SamplesPerPixel = shape[2] if len(shape) == 3 else 1
    ds.PhotometricInterpretation = photometric
    if ds.SamplesPerPixel > 1:
        ds.PlanarConfiguration = 0
    bits = 8 * pixels.dtype.itemsize
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = bits, bits, bits - 1
    ds.PixelRepresentation = int(pixels.dtype.kind == "i")
    content = pixels.tobytes()
    ds.PixelData = content + b"\0" * (len(content) % 2)
    ds["PixelData"].VR = "OW" if bits == 16 else "OB"
    return changed(ds, **changes)


def changed(ds: Dataset, **changes: object) -> Dataset:
    """The data set with elements set, or left out where the value is None."""
    for keyword, value in changes.items():
        if value is None:
            del ds[keyword]
        else:
            setattr(ds, keyword, value)
    return ds


def region(box: tuple[int, int, int, int] = (8, 4, 39, 35), delta: float = 0.005, **changes: object) -> Dataset:
    """A region of 2-D tissue, calibrated in cm: (left, top, right, low)."""
    ds = Dataset()
    ds.RegionSpatialFormat, ds.RegionDataType, ds.RegionFlags = 1, 1, 0
    ds.RegionLocationMinX0, ds.RegionLocationMinY0, ds.RegionLocationMaxX1, ds.RegionLocationMaxY1 = box
    ds.PhysicalUnitsXDirection = ds.PhysicalUnitsYDirection = 3
    ds.PhysicalDeltaX = ds.PhysicalDeltaY = delta
    return changed(ds, **changes)


def with_regions(ds: Dataset, *regions: Dataset) -> Dataset:
    ds.SequenceOfUltrasoundRegions = Sequence(regions)
    return ds


def jpeg(ds: Dataset, *frames: np.ndarray) -> Dataset:
    """The data set with its pixels as baseline JPEG."""
    streams = []
    for frame in frames:
        stream = io.BytesIO()
        Image.fromarray(frame).save(stream, "JPEG", quality=95, subsampling=0)
        streams.append(stream.getvalue())
    ds.PixelData = encapsulate(streams)
    ds["PixelData"].VR, ds["PixelData"].is_undefined_length = "OB", True
    ds.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    return ds


def content_of(ds: Dataset, **options: object) -> bytes:
    """The bytes of the data set as a file."""
    stream = io.BytesIO()
    syntax = ds.file_meta.TransferSyntaxUID
    options = {"implicit_vr": syntax.is_implicit_VR, "little_endian": syntax.is_little_endian, **options}
    pydicom.dcmwrite(stream, ds, enforce_file_format=True, **options)
    return stream.getvalue()


def save(path: Path, ds: Dataset) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content_of(ds))
    return path


def palette(bits: int, entries: int = 256, **changes: object) -> Dataset:
    """A palette image: red rises, green falls, no blue."""
    ramp = np.arange(entries, dtype=np.uint16) * (257 if bits == 16 else 1)
    ds = dicom(np.ascontiguousarray(smooth()[..., 0]), "PALETTE COLOR")
    for name, values in (("Red", ramp), ("Green", ramp[::-1]), ("Blue", np.zeros_like(ramp))):
        setattr(ds, f"{name}PaletteColorLookupTableDescriptor", [entries, 0, bits])
        data = values.astype(np.uint16 if bits == 16 else np.uint8).tobytes()
        setattr(ds, f"{name}PaletteColorLookupTableData", data)
    return changed(ds, **changes)
