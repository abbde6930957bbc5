"""The machine below it all: processes, devices, random numbers, signals, files. Nothing here knows of images."""
