"""Everything that is an nn.Module, or changes one. Losses and a method's own state belong in its script."""

from common.networks.batch_norm import frozen_statistics
from common.networks.classifier import ImageClassifier, passes, precision_of_its_own

__all__ = ["ImageClassifier", "frozen_statistics", "passes", "precision_of_its_own"]
