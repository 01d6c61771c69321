"""Scores that read the logits alone: softmax, entropy and energy."""
