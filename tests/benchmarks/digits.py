"""Handwritten digits as tables, one digit as normal and the nine others as anomalies.

    python -m tests.benchmarks.digits FOLDER
    offkey evaluate FOLDER/digits --setting S --out DIR

Setting S learns from a seeded half of the normal digit's images and scores the rest. The 1,797 images of 8 x 8
come with scikit-learn (Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", 1998).
"""

import sys
from pathlib import Path

import pyarrow
import pyarrow.parquet
from sklearn.datasets import load_digits


def write_digits(folder: Path) -> None:
    """Write `digits/class0.parquet` to `digits/class9.parquet`."""
    digits = load_digits()
    (folder / "digits").mkdir(parents=True, exist_ok=True)
    pixels = {f"p{number:02}": digits.data[:, number] for number in range(digits.data.shape[1])}
    for normal in range(10):
        table = pyarrow.table({"label": (digits.target != normal).astype("int8"), **pixels})
        pyarrow.parquet.write_table(table, folder / "digits" / f"class{normal}.parquet")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("python -m tests.benchmarks.digits FOLDER")
    write_digits(Path(sys.argv[1]))
