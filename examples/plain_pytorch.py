"""Plain PyTorch: an optimizer, a scheduler and a loop of one's own, trained from a teleported point."""

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import nteleport
from nteleport.data.files import read_digits

torch.manual_seed(0)
images, labels = (torch.from_numpy(array) for array in read_digits("train"))
images, labels = images.flatten(1) / 255, labels.long()
network = nn.Sequential(nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10))
optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=10)

quiver = nteleport.analyze(network, images[:2])
teleported = nteleport.attach(optimizer, network, quiver)
teleported.teleport(nteleport.sample_cob(quiver.cob_size, 0.9, "inter_landscape"))
for _ in range(10):
    for batch in torch.randperm(len(images)).split(64):
        optimizer.zero_grad()
        cross_entropy(network(images[batch]), labels[batch]).backward()
        teleported.clip_grad_norm_(1.0)  # of the gradients that the optimizer gets
        optimizer.step()
    scheduler.step()
teleported.detach()  # the optimizer is an ordinary one again

with torch.no_grad():
    accuracy = (network(images).argmax(1) == labels).float().mean()
print(f"training accuracy {accuracy:.3f}")
