"""Codes against principal components: `python -m tests.benchmarks.tables FOLDER [--out FILE]`

FOLDER holds tables as Parquet, numbers beside a `label` that nothing looks at, such as those of ADBench (Han et
al., "ADBench: Anomaly Detection Benchmark", NeurIPS 2022). Of each, rows are drawn to learn from, seven of ten, and
`AutoencoderFeatures` and PCA of the same size bring back the others. Both see features scaled by the mean and
standard deviation of the rows learned from, and R2 is the share of the variance of all features together that comes
back.

Then the ten digits of scikit-learn (Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", 1998): a
logistic regression on 16 codes, on 16 components of the scaled pixels and of the pixels as they are, judged by five
folds, in each of which codes, components and regression learn from the same four. Prints JSON.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import r2_score
from sklearn.model_selection import StratifiedKFold, cross_val_score, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from models.arrays import FloatArray
from models.sklearn import AutoencoderFeatures
from pipeline.connectors.labelled import read_labelled

SEEDS, DIMENSIONS, DIGIT_CODES = (0, 1, 2), (2, 8), 16


def explained(x_NF: FloatArray, reducer: Pipeline) -> float:
    """Return the share of the variance of rows that comes back, features scaled as `reducer` scales them."""
    scaled_NF, steps = reducer[0].transform(x_NF), reducer[1:]
    rebuilt_NF = steps.inverse_transform(steps.transform(scaled_NF))
    return float(r2_score(scaled_NF, rebuilt_NF, multioutput="variance_weighted"))


def table(x_NF: FloatArray, dimensions: int) -> dict[str, Any]:
    """Return what comes back of rows held out, as means over the seeds."""
    codes, components, seconds = [], [], []
    for seed in SEEDS:
        learned_NF, held_out_NF = train_test_split(x_NF, train_size=0.7, random_state=seed)
        began_s = time.process_time()
        reducer = make_pipeline(StandardScaler(), AutoencoderFeatures(dimensions, random_state=seed))
        codes.append(explained(held_out_NF, reducer.fit(learned_NF)))
        seconds.append(time.process_time() - began_s)
        linear = make_pipeline(StandardScaler(), PCA(dimensions)).fit(learned_NF)
        components.append(explained(held_out_NF, linear))
    return {
        "codes": round(float(np.mean(codes)), 4),
        "pca": round(float(np.mean(components)), 4),
        "seeds_ahead": sum(ours > theirs for ours, theirs in zip(codes, components, strict=True)),
        "cpu_s": round(float(np.mean(seconds)), 1),
    }


def probe() -> dict[str, float]:
    """Return the accuracy of a linear probe on codes and on components of digits, as means over folds and seeds."""
    pixels_NF, digit_N = load_digits(return_X_y=True)
    found: dict[str, list[float]] = {}
    for seed in SEEDS:
        reducers = {
            "codes": (StandardScaler(), AutoencoderFeatures(DIGIT_CODES, random_state=seed)),
            "pca": (StandardScaler(), PCA(DIGIT_CODES, random_state=seed)),
            "pca_of_pixels": (FunctionTransformer(), PCA(DIGIT_CODES, random_state=seed)),
        }
        folds = StratifiedKFold(5, shuffle=True, random_state=seed)
        for name, steps in reducers.items():
            probed = make_pipeline(*steps, StandardScaler(), LogisticRegression(max_iter=2000))
            found.setdefault(name, []).append(float(cross_val_score(probed, pixels_NF, digit_N, cv=folds).mean()))
    return {name: round(float(np.mean(each)), 4) for name, each in found.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    tables: dict[str, dict[str, Any]] = {}
    for path in sorted(asked.folder.glob("*.parquet")):
        x_NF = read_labelled(path).x_NF
        sizes = [size for size in DIMENSIONS if size < x_NF.shape[1] and (size == 2 or x_NF.shape[1] > 8)]
        tables[path.stem] = {"rows": len(x_NF), "features": x_NF.shape[1]}
        tables[path.stem] |= {str(size): table(x_NF, size) for size in sizes}
        print(path.stem, tables[path.stem], file=sys.stderr, flush=True)
    ahead = {
        str(size): [
            sum(each[str(size)]["codes"] > each[str(size)]["pca"] for each in tables.values() if str(size) in each),
            sum(str(size) in each for each in tables.values()),
        ]
        for size in DIMENSIONS
    }
    result = {"tables": tables, "ahead_of": ahead, "digits_probe_accuracy": probe()}
    print(json.dumps(result, indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
