"""Retrieval among captioned samples as papers on captions measure it: every caption counts, each for its own.

A sample may have several captions (AudioCaps: five), and a caption belongs to one sample, whatever strings
are equal. As in Oncescu et al. (2021) and DCASE's language-based audio retrieval, each caption is a query for
its sample, and a sample has found a text when any of its captions is there.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from trainer.batch import MODALITIES
from trainer.bootstrap import BLOCK, Replicates, Resampling
from trainer.embedded import Embedded, Items
from trainer.evaluations import EvaluationError
from trainer.measure import Draws, Measure, query_numbers
from trainer.metrics import Floats
from trainer.ranking import KS, Ids, Ranking, Vectors, rank

WITHIN = 10  # of mAP@10, as DCASE 2022 task 6b ranks systems


@dataclass(frozen=True, kw_only=True, slots=True)
class CaptionRetrieval:
    """What texts find by their captions, and what finds captions: R@k, mAP@10 and the median rank.

    Items of equal similarity keep the order of samples, and that of their captions. What the bootstrap draws
    again are samples, each with all its captions: those of one sample are not independent.
    """

    answers: tuple[str, ...] = ("audio", "image")  # modalities that texts are compared with
    ks: tuple[int, ...] = KS
    group: str = "captions"

    @property
    def modalities(self) -> tuple[str, ...]:
        return tuple(name for name in MODALITIES if name in {*self.answers, "text"})

    def sentences(self, items: Items) -> Iterable[str]:
        return dict.fromkeys(items.captions)

    def measures(self, embedded: Embedded, draws: Draws) -> Iterator[Measure]:
        there = [name for name in self.answers if {name, "text"} <= embedded.modalities]
        if not there or not embedded.items.captions:
            raise EvaluationError(
                f"{self.group}: no captions to compare with; expected them and a text tower"
            )
        texts = embedded.sentences.of(embedded.items.captions)
        for name in there:
            yield from self._both_ways(name, embedded.rows(name), texts, embedded.items, draws)

    def _both_ways(
        self, name: str, rows: Vectors, texts: Vectors, items: Items, draws: Draws
    ) -> Iterator[Measure]:
        own, ks = np.arange(len(items)), tuple(sorted({*self.ks, WITHIN}))
        asked = rank(texts, rows, items.caption_of, own, ks=ks)
        yield from self._measures(f"text_to_{name}", asked, items.caption_of, items, draws)
        asked = rank(rows, texts, own, items.caption_of, ks=ks)
        yield from self._measures(f"{name}_to_text", asked, own, items, draws)

    def _measures(
        self, direction: str, ranking: Ranking, owners: Ids, items: Items, draws: Draws
    ) -> Iterator[Measure]:
        drawn = _Drawn(of=draws.of(len(items)), owners=owners)
        within = ranking.average_precision_within[WITHIN]
        shares = {f"R@{k}": ranking.hit(k) for k in self.ks} | {f"mAP@{WITHIN}": within}
        for name, value, replicates in query_numbers(shares, ranking.first.astype(np.float64), drawn):
            yield Measure(
                name=f"{self.group}/{direction}/{name}",
                value=value,
                n=len(ranking),
                missing=items.missing,
                replicates=replicates,
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Drawn:
    """Resamples of samples, of values that each belong to one of them."""

    of: Resampling
    owners: Ids  # (Q,) rising; every sample has one or more

    def means(self, values: Floats) -> Replicates:
        """Of a value per query (Q,)."""
        sums = np.bincount(self.owners, values).astype(np.float64)
        counts = np.bincount(self.owners).astype(np.float64)
        replicates: Replicates = self.of.means(sums) / self.of.means(counts)
        return replicates

    def medians(self, values: Floats) -> Replicates:
        """Of a value per query; of an even number, the mean of the two in the middle."""
        order = np.argsort(values, kind="stable")
        starts = range(0, max(1, self.of.resamples), BLOCK)
        return np.concatenate([self._medians(values[order], self.owners[order], start) for start in starts])

    def _medians(self, rising: Floats, owners: Ids, start: int) -> Replicates:
        drawn = self.of.counts[owners, start : start + BLOCK].cumsum(axis=0, dtype=np.int64)
        places = ((drawn[-1] - 1) // 2, drawn[-1] // 2)
        lower, upper = (rising[(drawn <= place).sum(axis=0)] for place in places)
        replicates: Replicates = (lower + upper) / 2
        return replicates
