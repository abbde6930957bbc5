"""Everything that is an nn.Module, or changes one. Losses and a method's own state belong in its script."""
