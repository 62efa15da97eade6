"""Makes editor_net.pth as the authors' code saves its network: the state dict of a ModuleDict of
networks by shape, here of two modules of (20, 32), rank 2, one block. Every element is a multiple of
1/64, so that any number type holds it; test_convert_editor.py knows the rule. PyTorch 2.15.0:

    python3 make_net.py editor_net.pth"""
import sys

import torch
from torch import nn

SIZE, RANK, MODULES = 20 + 32, 2, 2


def empty(*shape):
    return nn.Parameter(torch.empty(shape))


normalizer = nn.Module()
for part, shape in (("n", 1), ("mean", SIZE), ("var", SIZE), ("std", SIZE)):
    normalizer.register_buffer(part, torch.empty(shape))
block = nn.Module()
block.A, block.B, block.bias = empty(SIZE, RANK), empty(RANK, SIZE), empty(SIZE)
block.scale, block.shift = nn.Embedding(MODULES, SIZE), nn.Embedding(MODULES, SIZE)
net = nn.Module()
net.normalizer, net.blocks = normalizer, nn.ModuleList([block])
net.lr, net.lamda = nn.Embedding(MODULES, 1), nn.Embedding(MODULES, 1)
state = nn.ModuleDict({"(20, 32)": net}).state_dict()
for name, value in state.items():
    steps = (7 * torch.arange(value.numel()) + 13 * len(name)) % 101 + 1
    value.copy_(steps.reshape(value.shape) / 64)
torch.save(state, sys.argv[1])
