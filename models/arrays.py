"""Arrays by what they hold; how they lie is told by the letters after a name, such as `x_NF`."""

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
