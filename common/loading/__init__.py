"""From images to batches on the device: augmentation and loaders. What a dataset holds is in datasets/."""
