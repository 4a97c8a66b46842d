"""Accelerate: attach after ``prepare``, to the optimizer and the network inside its wrappers."""

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import nteleport
from nteleport.data.files import read_digits

torch.manual_seed(0)
images, labels = (torch.from_numpy(array) for array in read_digits("train"))
images, labels = images.flatten(1) / 255, labels.long()
network = nn.Sequential(nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
loader = DataLoader(TensorDataset(images, labels), batch_size=64, shuffle=True)

accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
network, optimizer, loader = accelerator.prepare(
    network, optimizer, loader
)  # moves them to their device first
plain = accelerator.unwrap_model(network)
quiver = nteleport.analyze(plain, images[:2].to(accelerator.device))
teleported = nteleport.attach(optimizer.optimizer, plain, quiver)
torch.manual_seed(1)  # the same change of basis in every process
teleported.teleport(nteleport.sample_cob(quiver.cob_size, 0.9, "inter_landscape"))
for _ in range(10):
    for batch, targets in loader:
        with accelerator.accumulate(network):
            accelerator.backward(cross_entropy(network(batch), targets))
            optimizer.step()
            optimizer.zero_grad()

with torch.no_grad():
    accuracy = (plain(images.to(accelerator.device)).argmax(1).cpu() == labels).float().mean()
accelerator.print(f"training accuracy {accuracy:.3f}")
