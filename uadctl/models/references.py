"""Normal images as references: those kept of a stream, their vectors, and what the images say of each other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uadctl.errors import ImageError
from uadctl.models.base import looked_at
from uadctl.progress import Progress, Silent
from uadctl.records import Prediction, Size

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from uadctl.memory import CosineBank, FeatureStore

# What vectors of training images may take in memory while fitting; more is kept in a temporary file.
_MEMORY = 4 * 10**9


@dataclass(frozen=True, slots=True)
class Seen:
    """One image as a detector with references sees it.

    vectors: (n_i, d_i) float32 of each kind, such as patches and windows of two sizes. grid: of the patches.
    size: of the image. prompt, prompts: what words alone say of it, score and (grid) map; 0 and None without words.
    """

    vectors: tuple[NDArray[np.float32], ...]
    grid: Size
    size: Size
    prompt: float = 0.0
    prompts: NDArray[np.float64] | None = None


class Lot:
    """`shots` numbers out of a stream of unknown length, each as likely as any other; None takes them all.

    (Vitter, Random sampling with a reservoir, ACM TOMS 11, 1985, algorithm R.)
    """

    def __init__(self, shots: int | None, *, seed: int) -> None:
        import numpy as np

        self._shots = shots
        self._rng = np.random.default_rng(seed)
        self._kept: list[int] = []

    def offer(self, number: int) -> bool:
        """Whether `number`, the next after those offered before, is kept for now."""
        if self._shots is None or len(self._kept) < self._shots:
            self._kept.append(number)
            return True
        place = int(self._rng.integers(0, number + 1))
        if place < self._shots:
            self._kept[place] = number
        return place < self._shots

    @property
    def kept(self) -> list[int]:
        """The numbers kept so far, ascending."""
        return sorted(self._kept)


class References:
    """A `CosineBank` for each kind of vector.

    kinds: how many there are. shots: how many images are kept, by lot; None: all. n_neighbors: see `CosineBank`.
    """

    def __init__(self, *, kinds: int, shots: int | None, n_neighbors: int, seed: int) -> None:
        self._kinds = kinds
        self._shots = shots
        self._n_neighbors = n_neighbors
        self._seed = seed
        self.banks: tuple[CosineBank, ...] = ()

    def clear(self) -> None:
        """Forget all."""
        self.banks = ()

    def learn(
        self,
        batches: Iterable[Sequence[NDArray[np.uint8]]],
        see: Callable[[Sequence[NDArray[np.uint8]]], Sequence[Seen]],
        *,
        of: object,
        device: Callable[[], str],
        judge: Callable[[Seen, int | None], Prediction] | None,
        left_out: Callable[[Prediction], None] | None,
        progress: Progress | None,
    ) -> tuple[int, list[float]]:
        """Keep references, and judge every image by those that are not itself.

        see: is called for the images that matter. of: the detector, see `looked_at`. device: where to search.
        judge: the prediction for what was seen without the reference of this number; None: nothing is to be judged, and
            only what is kept is looked at.
        Returns how many images there were, and the scores, in order.
        """
        from uadctl.memory import FeatureStore

        lot, count = Lot(self._shots, seed=self._seed), 0
        with ExitStack() as stack:
            memory = _MEMORY // self._kinds
            gathered = _Gathered([stack.enter_context(FeatureStore(memory=memory)) for _ in range(self._kinds)])
            for batch in batches:
                kept = [lot.offer(count + i) for i in range(len(batch))]
                matter = [i for i, keep in enumerate(kept) if keep or judge is not None]
                waiting = iter(matter)
                asked = [[batch[i] for i in matter]] if matter else []
                try:
                    for _, found in looked_at(asked, see, of=of, progress=progress):
                        for seen, i in zip(found, waiting, strict=False):
                            gathered.add(count + i, seen)
                except ImageError as error:
                    if error.number is not None:
                        error.number = count + matter[error.number]
                    raise
                count += len(batch)
            if not count:
                return 0, []
            places = [gathered.numbers.index(number) for number in lot.kept]
            self._hold([[gathered.vectors(place)[kind] for place in places] for kind in range(self._kinds)], device())
            return count, self._judge(gathered, places, judge, left_out, progress or Silent())

    def _hold(self, vectors: Sequence[Sequence[NDArray[np.float32]]], device: str) -> None:
        from uadctl.memory import CosineBank

        self.banks = tuple(CosineBank(n_neighbors=self._n_neighbors, device=device).fit(images) for images in vectors)

    def _judge(
        self,
        gathered: _Gathered,
        places: Sequence[int],
        judge: Callable[[Seen, int | None], Prediction] | None,
        left_out: Callable[[Prediction], None] | None,
        progress: Progress,
    ) -> list[float]:
        """Scores of the images by the references that are not themselves; of an only reference there is none."""
        scores: list[float] = []
        if judge is None:
            return scores
        reference = {place: i for i, place in enumerate(places)}
        with progress.task("calibrating", len(gathered.numbers)) as task:
            for place in range(len(gathered.numbers)):
                own = reference.get(place)
                if own is None or len(places) > 1:
                    prediction = judge(gathered.seen(place), own)
                    scores.append(prediction.score)
                    if left_out is not None:
                        left_out(prediction)
                task.advance()
        return scores

    def distances(self, seen: Seen, *, without: int | None = None) -> list[NDArray[np.float32]]:
        """(n_i,) cosine distances of the vectors of each kind to the nearest of all references, but for one."""
        return [
            bank.distances(vectors, without=without) for bank, vectors in zip(self.banks, seen.vectors, strict=True)
        ]

    def state(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The vectors of each kind, and how many each image has of them."""
        import torch

        return (
            {f"references.{i}": torch.from_numpy(bank.vectors) for i, bank in enumerate(self.banks)},
            {"references": [bank.counts for bank in self.banks]},
        )

    def restore(self, tensors: dict[str, Any], facts: dict[str, Any], *, device: str) -> None:
        """Take over what `state` gave, among other tensors and facts."""
        from uadctl.memory import CosineBank

        banks = []
        for i, counts in enumerate(facts["references"]):
            bank = CosineBank(n_neighbors=self._n_neighbors, device=device)
            bank.restore(tensors[f"references.{i}"].numpy(), counts)
            banks.append(bank)
        self.banks = tuple(banks)

    def facts(self) -> dict[str, Any]:
        """Sizes of the banks, and of how many images they are."""
        return {
            "references": len(self.banks[0].counts) if self.banks else 0,
            "memory_banks": [list(bank.vectors.shape) for bank in self.banks],
        }


class _Gathered:
    """What was seen of training images, by the number of the image; vectors in stores, one a kind."""

    def __init__(self, stores: Sequence[FeatureStore]) -> None:
        self._stores = stores
        self._ends: list[list[int]] = [[0] for _ in stores]
        self._light: list[Seen] = []
        self.numbers: list[int] = []

    def add(self, number: int, seen: Seen) -> None:
        import numpy as np
        import torch

        for store, ends, vectors in zip(self._stores, self._ends, seen.vectors, strict=True):
            store.append(torch.from_numpy(np.ascontiguousarray(vectors)))
            ends.append(len(store))
        self._light.append(Seen((), seen.grid, seen.size, seen.prompt, seen.prompts))
        self.numbers.append(number)

    def vectors(self, place: int) -> tuple[NDArray[np.float32], ...]:
        return tuple(
            store[ends[place] : ends[place + 1]].numpy() for store, ends in zip(self._stores, self._ends, strict=True)
        )

    def seen(self, place: int) -> Seen:
        light = self._light[place]
        return Seen(self.vectors(place), light.grid, light.size, light.prompt, light.prompts)
