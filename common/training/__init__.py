"""What a training needs besides networks and batches: optimizer, evaluation, averages of metrics, and the guard."""
