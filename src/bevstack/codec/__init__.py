"""Learned image codec: networks, entropy coder, bitstream, evaluation. Nothing here imports torch unless a network is asked for."""
