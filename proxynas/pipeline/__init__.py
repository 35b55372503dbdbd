"""The whole flow in one run directory: distil, search, rank, report; planned to a budget where one
is given."""
