"""Steps that shape the embeddings or the head before a logit score: ReAct, ASH, SCALE, DICE and others."""
