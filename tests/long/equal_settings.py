"""How often does select_run.py tell equal settings apart? It should be in 5 % of cases.

    python tests/long/equal_settings.py [--draws 2000] [--cluster-draws 100]

Simulates the scores of settings that are equal on average: on held-out images that some networks find easy and others
hard, and on clusters of features. Prints, for each kind of case, in what share of the draws at least one setting is
told apart from the first. "Seeds vary" means that another seed of the same setting is better or worse by 2.5 points of
deviation. Takes about three minutes of CPU time.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent.parent))

from scripts.results import agreement, intervals

ACCURACY, VARYING = 0.75, 0.025
CLASSES, CLUSTERED = 4, 150  # images


def parse_args(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000, help="of settings on held-out images (default: 2000)")
    parser.add_argument("--cluster-draws", type=int, default=100, help="of settings on clusters (default: 100)")
    return parser.parse_args(argv)


def held_out(
    rng: np.random.Generator,
    settings: int,
    seeds: int,
    images: int,
    deviations: float | list[float],
    shared: bool = False,
    recorded: bool = True,
) -> bool:
    """Whether one draw of equal settings is told apart on held-out images.

    Args:
        deviations: of the accuracy over the seeds, as a share, of all settings or of each.
        shared: whether the seeds have the same images.
        recorded: whether it is known which images each network has right.
    """
    easiness = rng.beta(3 * ACCURACY, 3 * (1 - ACCURACY), size=(1 if shared else seeds, images))
    shifts = rng.normal(size=(settings, seeds, 1)) * np.reshape(deviations, (-1, 1, 1))
    right = rng.random((settings, seeds, images)) < easiness + shifts
    scores = 100 * right.mean(axis=2)
    order = np.argsort(-scores.mean(axis=1), kind="stable")
    right, scores = right[order], scores[order]
    errors = np.zeros((settings, seeds))
    least = seeds > 1 and not shared
    for other in range(1, settings):
        for seed in range(seeds):
            if recorded:
                errors[other, seed] = intervals.paired_error(right[0, seed], right[other, seed])
            else:
                error = intervals.least_error if least else intervals.unpaired_error
                errors[other, seed] = error(scores[0, seed], scores[other, seed], images)
    return any(each.is_clear for each in intervals.to_first(scores, errors, shared))


def clusters(rng: np.random.Generator, seeds: int, deviation: float) -> bool:
    """Whether one draw of two equal settings is told apart by the agreement with clusters; each seed has own images."""
    scores, errors = np.zeros((2, seeds)), np.zeros((2, seeds))
    for seed in range(seeds):
        groups = rng.integers(CLASSES, size=CLUSTERED)
        pair = [_network(rng, groups, 0.2 + deviation * rng.normal()) for _ in range(2)]
        scores[:, seed] = [each.value for each in pair]
        if seeds == 1:
            errors[1] = agreement.error_over_images(*pair)
    scores = scores[np.argsort(-scores.mean(axis=1), kind="stable")]
    return any(each.is_clear for each in intervals.to_first(scores, errors, shared=False))


def _network(rng: np.random.Generator, groups: np.ndarray, wrong: float) -> agreement.Agreement:
    """Features around a center for each group, and predictions of which a share is random."""
    features = 2 * np.eye(CLASSES)[groups] + 0.6 * rng.normal(size=(len(groups), CLASSES))
    random = rng.integers(CLASSES, size=len(groups))
    predictions = np.where(rng.random(len(groups)) < wrong, random, features.argmax(axis=1))
    return agreement.Agreement(features, predictions, CLASSES)


def share(draw: Callable[[np.random.Generator], bool], draws: int) -> float:
    """In percent. Every case has the same random numbers, whichever were asked before it."""
    rng = np.random.default_rng(0)
    return 100 * sum(draw(rng) for _ in range(draws)) / draws


def main(argv=None):
    args = parse_args(argv)
    quantile = intervals.quantile
    known: dict[tuple[int, float], float] = {}
    # It takes a third of a second, and is asked for the same few numbers in every draw.
    intervals.quantile = lambda *key: known[key] if key in known else known.setdefault(key, quantile(*key))
    print(f"told apart, % of {args.draws:,} draws{'':35}seeds are alike   seeds vary")
    for images in (100, 1000):
        for name, given in {
            "2 settings": {"settings": 2},
            "8 settings": {"settings": 8},
            "2 settings, no held_out.csv": {"settings": 2, "recorded": False},
        }.items():
            for seeds in (1, 3):
                case = given | {"seeds": seeds, "images": images}
                _print(f"held-out images: {images}, {name}, seeds: {seeds}", held_out, args.draws, case)
    shared = {"settings": 2, "seeds": 3, "images": 100, "shared": True}
    _print("held-out images: the same 100 in all seeds, 2 settings, seeds: 3", held_out, args.draws, shared)
    uneven = {"settings": 4, "seeds": 3, "images": 1000, "deviations": [0.1, VARYING, VARYING, VARYING]}
    found = share(lambda rng: held_out(rng, **uneven), args.draws)
    print(f"{'held-out images: 1000, 4 settings, one varies by 10 points, seeds: 3':72}{found:23.1f}")
    for seeds in (1, 3):
        name = f"clusters: {CLUSTERED} images, 2 settings, seeds: {seeds} (of {args.cluster_draws} draws)"
        _print(name, clusters, args.cluster_draws, {"seeds": seeds}, "deviation")


def _print(name: str, draw: Callable[..., bool], draws: int, given: dict, deviation: str = "deviations") -> None:
    shares = [share(lambda rng, d=d: draw(rng, **given, **{deviation: d}), draws) for d in (0.0, VARYING)]
    print(f"{name:72}{shares[0]:10.1f}{shares[1]:13.1f}", flush=True)


if __name__ == "__main__":
    main()
