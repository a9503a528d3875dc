"""Vitreous: from raw cryo-EM movies to labelled, validated particle-picking datasets."""

import os

# Threads that spin while they wait for each other take minutes for a second's work where other programs use the cores, too.
# OpenMP reads this when the array engine is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

__version__ = "0.1.0"
