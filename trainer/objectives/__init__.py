"""What training minimises: callables that give named terms, whose sum is the loss."""

from trainer.objectives.classification import Classification
from trainer.objectives.needs import knows_mixup, labels_needed, modalities_needed, parameters_of
from trainer.objectives.pairwise import Pairwise
from trainer.objectives.sigmoid import Sigmoid

__all__ = [
    "Classification",
    "Pairwise",
    "Sigmoid",
    "knows_mixup",
    "labels_needed",
    "modalities_needed",
    "parameters_of",
]
