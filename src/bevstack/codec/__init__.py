"""Learned image codec: networks, entropy coder, bitstream, evaluation. Nothing imports torch unless a network is asked for."""
