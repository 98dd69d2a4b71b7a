"""How a weight matrix becomes values of few bits: scales of blocks, and GPTQ."""
