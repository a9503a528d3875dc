"""Vitreous: from raw cryo-EM movies to labelled, validated particle-picking datasets."""

__version__ = "0.1.0"
