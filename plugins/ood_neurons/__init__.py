"""How usual the state of each neuron is, as a score."""
