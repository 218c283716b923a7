"""The order in which a mixture draws samples from its sets."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mtpano_zoo.data.loading import TrainingSampler

if TYPE_CHECKING:
    from mtpano_zoo.data.mixed import MixedDataset

__all__ = ("MixedSampler",)


class MixedSampler(TrainingSampler):
    """This process's share of the samples that an epoch draws from a `MixedDataset`.

    Args:
        samples: The sets.
        shares: Relative shares of the sets in an epoch.
        count: Samples of an epoch in all processes.
        seed: Seed of the draw.
    """

    def __init__(self, samples: "MixedDataset", shares: Sequence[float], count: int, seed: int) -> None:
        super().__init__(samples, None, seed)
        self.samples = samples
        self.num_samples = -(-count // self.num_replicas)
        self.total_size = self.num_samples * self.num_replicas
        exact = np.asarray(shares, np.float64) / np.sum(shares) * self.total_size
        self.counts = np.floor(exact).astype(int)
        # Largest remainders: counts that add up, each within one of its exact share.
        self.counts[np.argsort(self.counts - exact, kind="stable")[: self.total_size - self.counts.sum()]] += 1

    def draw(self, epoch: int) -> NDArray[np.intp]:
        """Return the indices of an epoch, all processes together."""
        return np.random.default_rng((self.seed, 1, epoch)).permutation(np.concatenate(self.pieces(epoch)))

    def pieces(self, epoch: int) -> list[NDArray[np.intp]]:
        """Return the indices of an epoch by set."""
        drawn = []
        start = 0
        for part, (size, count) in enumerate(zip(self.samples.sizes.values(), self.counts.tolist(), strict=True)):
            # An endless sequence of shuffled sets, of which every epoch takes the next piece.
            places = np.arange(epoch * count, (epoch + 1) * count)
            rounds = places // size
            chosen = places % size
            for r in np.unique(rounds):
                order = np.random.default_rng((self.seed, 0, part, int(r))).permutation(size)
                chosen[rounds == r] = order[chosen[rounds == r]]
            by_sample = np.argsort(chosen, kind="stable")
            turns = np.empty_like(chosen)
            turns[by_sample] = np.arange(count) - np.searchsorted(chosen[by_sample], chosen[by_sample])
            drawn.append(start + chosen + turns * len(self.samples))
            start += size
        return drawn

    def __iter__(self) -> Iterator[int]:
        """Run when the first index is requested, as in `TrainingSampler`."""
        self.samples.set_epoch(self.epoch)
        mine = self.draw(self.epoch)[self.rank : self.total_size : self.num_replicas]
        return iter(mine[self.skipped :].tolist())
