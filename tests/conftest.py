"""What all tests share."""

import torch

# One thread is as fast on small models, and far faster on a busy machine.
torch.set_num_threads(1)
