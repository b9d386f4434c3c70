"""Do clips that begin at reference frames teach as well as clips that begin anywhere?

The direction world, whose answer lies in motion alone, is learned by C3D from both, some seeds
each, and tested on the same clips. Prints accuracies; takes some minutes, so `make bench` leaves
it out.

    python tests/bench/aligned.py [--seeds N] [--steps N]
"""

import argparse
import tempfile
from pathlib import Path
from statistics import mean, stdev

from clipmill import api


def accuracy(data: str, runs: str, *, aligned: bool, seed: int, steps: int) -> float:
    """Train once and test."""
    name = f"{'aligned' if aligned else 'anywhere'}-{seed}"
    api.train(
        "demo_c3d",
        [
            f"data.path={data}", f"data.aligned={str(aligned).lower()}", f"run.name={name}",
            f"run.folder={runs}", f"train.seed={seed}", f"train.steps={steps}", "train.workers=0",
            "train.threads=2", "track.register=null",
        ],
    )  # fmt: skip
    return float(api.evaluate(name, folder=runs)["metrics"]["accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(description="Aligned clips against clips from anywhere.")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=150)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        videos, data, runs = (str(Path(folder) / name) for name in ("videos", "data", "runs"))
        api.worlds_make("direction", videos, videos=600, size=64, seed=0)
        api.ingest(videos, data)
        for aligned in (False, True):
            found = [
                accuracy(data, runs, aligned=aligned, seed=seed, steps=asked.steps)
                for seed in range(asked.seeds)
            ]
            spread = stdev(found) if len(found) > 1 else 0.0
            told = " ".join(f"{each:.3f}" for each in found)
            print(f"aligned={aligned}: {mean(found):.3f} +- {spread:.3f} ({told})", flush=True)


if __name__ == "__main__":
    main()
