"""What a stage measures of itself while it trains, on samples that it never learns from."""

from collections.abc import Mapping, Sequence

from torch import nn

from shards.selection import Selection
from trainer.distributed import Ranks
from trainer.evaluate import embed_selection
from trainer.evaluations import evaluate_embeddings, named_evaluations
from trainer.label_table import LabelTable
from trainer.learner import Learner
from trainer.loader import Loader
from trainer.loop import Evaluate
from trainer.measure import Draws
from trainer.prepare import Preparer


def dev_evaluation(
    names: Sequence[str],
    selection: Selection,
    table: LabelTable,
    *,
    loader: Loader,
    preparer: Preparer,
    ranks: Ranks,
) -> Evaluate:
    """A function from a learner to metrics on `selection`, the same on every process.

    Raises EvaluationError for an unknown name; so does the function when no sample decodes. Intervals are
    left to `trichord evaluate`.
    """
    evaluations = named_evaluations(names)

    def evaluate(learner: nn.Module) -> Mapping[str, float]:
        assert isinstance(learner, Learner)
        embedded = embed_selection(
            learner, selection, table, evaluations, loader=loader, preparer=preparer, ranks=ranks
        )
        measures = evaluate_embeddings(embedded, evaluations, Draws(resamples=0))
        return {measure.name: measure.value for measure in measures if measure.whole}

    return evaluate
