"""Scoring candidates: train each on every source of data and keep all that its training tells."""
