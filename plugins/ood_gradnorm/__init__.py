"""The norm of the gradient that pulls a prediction towards the uniform one, as a score."""
