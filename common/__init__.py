"""What all methods share, as a ladder: each folder imports only what stands below it in this list.

trained    the network of a finished run, for programs that use it
build      from flags to images, views, loaders' options, network, optimizer and schedule
run        one run: where it resumes, its steps and epochs, its end
records/   what a run writes into its folder, and what a person sees of it
cli/       the command line
training/  the optimizer, evaluation, predictions, averages of metrics, and the guard against what is not finite
networks/  backbones, the classifier on them, adapters, BatchNorm, averages of weights
loading/   augmentation and batches
datasets/  what the datasets are, where their files come from, and which images are labeled
system/    processes, devices, random numbers, signals, files and checkpoints
wide_resnet    Wide ResNets for small images; exports name this file, so it stays here
errors     the two ways in which a run ends early on purpose, and what other libraries' errors say
"""
