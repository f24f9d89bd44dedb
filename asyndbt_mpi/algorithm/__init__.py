"""The mathematics of AsynDBT: numpy and scipy only, no messages, files, clocks or models."""
