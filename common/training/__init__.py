"""What training needs besides networks and batches: optimizer, evaluation, metrics, and the check for NaN."""
