"""What uses networks and batches: optimizer, evaluation, predictions, metrics, and the check for NaN."""
