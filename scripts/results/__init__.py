"""From run folders to tables and plots."""

import os

# Notebooks set a backend of their own for the programs that they start. Without it, matplotlib cannot be imported.
os.environ["MPLBACKEND"] = "agg"
