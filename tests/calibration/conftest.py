"""Tests of calibration use one thread: their tensors are small."""

import torch

torch.set_num_threads(1)
