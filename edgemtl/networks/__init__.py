"""What the models are made of and what is done to a network as a whole: backbones, layers, weights, `prepare`."""
