"""Objectives as a new user would write them, to copy from; `test_objectives.py` runs them all."""

from tests.gumbel.objectives import (
    attention,
    contrastive,
    decoder,
    episodes,
    experts,
    features,
    markov,
    relations,
    topics,
    vector_quantization,
)
from tests.gumbel.objectives.case import Case

__all__ = ["CASES", "Case"]

CASES = {
    module.__name__.rpartition(".")[2]: module.case
    for module in (
        relations,
        attention,
        vector_quantization,
        features,
        episodes,
        contrastive,
        decoder,
        markov,
        experts,
        topics,
    )
}
