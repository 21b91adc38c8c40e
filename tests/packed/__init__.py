"""Packed sequences: recurrent layers with the lengths of their sequences, beside eager PyTorch."""
