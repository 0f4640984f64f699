"""How any function of tensors runs fast: device, precision, compilation, CUDA graphs, threads."""
