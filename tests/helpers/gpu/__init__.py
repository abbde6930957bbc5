"""A GPU that is none: tensors that say they are on CUDA, whose values the host has and computes.

With it every branch for CUDA is taken, on any machine, and what a GPU would refuse is an error. PyTorch's
`FakeTensorMode` does not do: it has no values and, without a driver, no backward pass.

    with gpu() as device:
        train(...)                        # with --device cuda
        with device.no_waiting():
            model(images).sum().backward()

tensors   `GpuTensor`: shape, type and device of its own, values of the host
device    `Gpu`: computes an operation on the host, and refuses what a GPU refuses
streams   who has waited for whom, and so which accesses to memory are races
backward  the order of autograd's engine, which itself wants a driver
kernels   operations that only CUDA has, written for the host
stand_in  `gpu`: all of it in the place of `torch.cuda`

It knows nothing of time, of memory's size, or of a GPU's rounding: its numbers are the host's, to the last bit.
"""
