"""Pretraining for as long as one likes, on texts of any size, with NumPy on two cores or XLA on many machines."""
