"""Colours for heatmaps: one table a name, from a few anchor colours or a formula."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

# Seventeen steps apart on the 256 colours of each map, as their authors published them: turbo (Mikhailov 2019),
# viridis and inferno (van der Walt and Smith 2015, CC0). Between anchors at most 7 of 255 levels off.
_ANCHORS = {
    "turbo": "30123b 4143a7 4771e9 3e9bfe 22c5e2 1ae4b6 46f884 88ff4e b9f635 e1dd37 faba39 fd8d27 f05b12 d63506 af1801 7a0403",
    "viridis": "440154 481a6c 472f7d 414487 39568c 31688e 2a788e 23888e 1f988b 22a884 35b779 54c568 7ad151 a5db36 d2e21b fde725",
    "inferno": "000004 0c0826 240c4f 420a68 5d126e 781c6d 932667 ae305c c73e4c dd513a ed6925 f8850f fca50a fac62d f2e661 fcffa4",
    "gray": "000000 ffffff",
}


@cache
def table(name: str) -> NDArray[np.uint8]:
    """The 256 colours of a map, uint8[256, 3], from the lowest value to the highest.

    Raises:
        KeyError: no map of that name; `onnxplain.facts.options.Colormap` lists them.
    """
    levels = np.linspace(0, 1, 256)
    if name == "jet":  # three trapezoids, a quarter apart
        colours = np.stack([1.5 - np.abs(4 * levels - peak) for peak in (3, 2, 1)], axis=1).clip(0, 1) * 255
    else:
        anchors = np.array([list(bytes.fromhex(colour)) for colour in _ANCHORS[name].split()])
        places = np.linspace(0, 1, len(anchors))
        colours = np.stack([np.interp(levels, places, channel) for channel in anchors.T], axis=1)
    result: NDArray[np.uint8] = colours.round().astype(np.uint8)
    result.setflags(write=False)
    return result
