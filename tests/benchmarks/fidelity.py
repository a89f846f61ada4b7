"""Made-up records against real ones: `python -m tests.benchmarks.fidelity FOLDER [--seeds N] [--out FILE]`

FOLDER holds tables as Parquet, numbers beside a `label` that nothing looks at, such as those of ADBench (Han et
al., "ADBench: Anomaly Detection Benchmark", NeurIPS 2022). Of each, at most 8,000 rows are drawn; half of them are
learned from. Gradient boosting then tells as many samples from the other half (`pipeline.jobs.two_sample`): .5 is
best. Beside it a Gaussian copula: the ranks of each feature as normal scores, their correlation, and samples of
that led back by the same quantiles and onto the same grid (as Patki et al., "The Synthetic Data Vault", DSAA 2016).

How near samples come to rows that were learned from stands beside it, and the same of the rows held out, which
nobody has made up. The method was chosen on other splits of these tables: figures are optimistic. Prints JSON.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.arrays import FloatArray
from models.fidelity import privacy
from models.generating import fit_generator
from models.grid import grids_of, snapped
from models.marginals import Marginals
from pipeline.connectors.labelled import read_labelled
from pipeline.jobs.two_sample import two_sample

MOST_ROWS = 8_000
_JITTER = 1e-6


def by_generator(learned_NF: FloatArray, count: int, seed: int) -> FloatArray:
    names = [f"f{number}" for number in range(learned_NF.shape[1])]
    generator = fit_generator("features", names, {"": [learned_NF]}, seed=seed)
    return np.concatenate(list(generator.records(count, seed)))


def by_copula(learned_NF: FloatArray, count: int, seed: int) -> FloatArray:
    marginals = Marginals.of(learned_NF)
    score_NF = marginals.scores(learned_NF)
    std_F = score_NF.std(axis=0)
    z_NF = score_NF / np.where(std_F > 0, std_F, 1.0)
    root_FF = np.linalg.cholesky(z_NF.T @ z_NF / len(z_NF) + _JITTER * np.eye(z_NF.shape[1]))
    drawn_NF = np.random.default_rng(seed).standard_normal((count, z_NF.shape[1])) @ root_FF.T
    return snapped(grids_of(learned_NF), marginals.values(drawn_NF))


WAYS: dict[str, Callable[[FloatArray, int, int], FloatArray]] = {"generate": by_generator, "copula": by_copula}


def table(x_NF: FloatArray, seeds: int) -> dict[str, Any]:
    """Return what comes of a table, as means over so many seeds."""
    found: dict[str, list[dict[str, float]]] = {name: [] for name in (*WAYS, "held_out")}
    for seed in range(seeds):
        drawn_NF = x_NF[np.random.default_rng(100 + seed).permutation(len(x_NF))[:MOST_ROWS]]
        learned_NF, held_out_NF = np.array_split(drawn_NF, 2)
        for name, make in WAYS.items():
            began_s = time.process_time()
            made_NF = make(learned_NF, len(held_out_NF), seed)
            taken_s = time.process_time() - began_s
            found[name].append(
                {
                    "auroc": two_sample(held_out_NF, made_NF, seed).auroc,
                    "cpu_s": taken_s,
                    **_apart(made_NF, learned_NF),
                }
            )
        found["held_out"].append(_apart(held_out_NF, learned_NF))
    return {
        name: {key: round(float(np.mean([each[key] for each in runs])), 4) for key in runs[0]}
        for name, runs in found.items()
    }


def _apart(made_NF: FloatArray, learned_NF: FloatArray) -> dict[str, float]:
    measured = privacy(made_NF, learned_NF)
    return {
        "nearest": measured.median,
        "nearest_among_training": measured.median_among_training,
        "copies": measured.copies,
        "copies_of_one": measured.copies_of_one,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    tables: dict[str, dict[str, Any]] = {}
    for path in sorted(asked.folder.glob("*.parquet")):
        x_NF = read_labelled(path).x_NF
        tables[path.stem] = {"rows": len(x_NF), "features": x_NF.shape[1], **table(x_NF, asked.seeds)}
        print(path.stem, tables[path.stem], file=sys.stderr, flush=True)
    each = tables.values()
    result = {
        "seeds": asked.seeds,
        "tables": tables,
        "auroc": {name: round(float(np.mean([one[name]["auroc"] for one in each])), 4) for name in WAYS},
        "nearer_to_half_than_copula": [
            sum(abs(one["generate"]["auroc"] - 0.5) < abs(one["copula"]["auroc"] - 0.5) for one in each),
            len(tables),
        ],
        "as_far_apart_as_training_rows": [
            sum(one["generate"]["nearest"] >= one["generate"]["nearest_among_training"] for one in each),
            len(tables),
        ],
    }
    print(json.dumps(result, indent=1))
    if asked.out:
        asked.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
