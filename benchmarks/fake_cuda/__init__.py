"""A GPU as far as a PyTorch built without CUDA can know one: fake tensors on cuda:0, without values or memory.

They go through autograd, `torch.func`, vmap, autocast and the code generation of `torch.compile`. What a GPU would
refuse raises: two devices in one operation, a value that is read back. `guard.load()` comes before the first
`import torch`, then `emulation.on()`; a `ledger.Ledger` notes kernels, bytes and what a GPU would wait for.
"""
