"""Whether the numbers of a model can be trusted on this machine: what ``learnable doctor`` checks."""
