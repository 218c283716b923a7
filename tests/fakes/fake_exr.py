"""EXR images as renderers write them: 32-bit floats, ZIP compression, channels by their names."""

import io

import numpy as np
import OpenEXR


def exr(windows=None, **channels):
    """Encode arrays (H, W), given by the names of their channels.

    Windows are the data window and the display window, each as the first and the last pixel (x, y).
    """
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    for key, window in zip(("dataWindow", "displayWindow"), windows or (), strict=False):
        header[key] = tuple(np.array(corner, np.int32) for corner in window)
    buffer = io.BytesIO()
    OpenEXR.File(header, {name: np.ascontiguousarray(values) for name, values in channels.items()}).write(buffer)
    return buffer.getvalue()
